"""How often the actors are asked: what one has answered is not asked for again.  And what a fork says of its memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.runtime.mailbox import Envelope, Mailbox
from actors.workspace import messages as w
from agentiso.access.gate import Gate
from agentiso.library.system import System
from tests.standins import Caller, caller
from tests.stateful.simulated import MEMORY
from tests.stateful.supervised import Site

CHILDREN = 4
SESSION = "ann"


@attrs.frozen
class House:
    """A supervisor, as programs and agents use it, and what its actors were asked."""

    site: Site
    system: System
    tool: Caller
    asked: list[str]


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    site, asked, put = Site(tmp_path, monkeypatch), list[str](), Mailbox.put

    def put_counted(mailbox: Mailbox, name: str, envelope: Envelope) -> None:
        asked.append(type(envelope.message).__name__)
        put(mailbox, name, envelope)

    monkeypatch.setattr(Mailbox, "put", put_counted)
    async with site.supervisor():
        system, gate = System(site.registry, site.settings), Gate(site.settings)
        gate.sessions.open(SESSION)
        async with caller(system, gate, SESSION) as tool:
            # The first one boots a template.
            await system.create("box", owner=SESSION)
            yield House(site, system, tool, asked)


async def test_a_creation_asks_the_registry_and_the_new_workspace(house: House) -> None:
    house.asked.clear()
    made = await house.system.create("made")
    assert house.asked == ["CreateWorkspace", "Start"]
    assert (await made.info()).name == "made"
    house.asked.clear()
    assert (await house.tool("workspace_create", name="tooled"))["note"].startswith("restore in ")
    assert house.asked == ["CreateWorkspace", "Start"]


@pytest.mark.parametrize("snapshot", [None, "point"])
async def test_a_fork_asks_the_registry_its_parent_and_each_child(house: House, snapshot: str | None) -> None:
    box = await house.system.get("box")
    await box.files.write(MEMORY, "here")
    await box.snapshots.create("point")
    point = "FindSnapshot" if snapshot else "TakeCheckpoint"
    house.asked.clear()
    fork = await box.fork(CHILDREN, snapshot=snapshot)
    assert house.asked == ["ForkWorkspace", point, *["Start"] * CHILDREN]
    assert [child.id for child in fork] == [child.workspace_id for child in fork.report.children]
    assert [(await child.files.read(MEMORY)).content for child in fork] == [b"here"] * CHILDREN
    assert fork.report.note == ""
    house.asked.clear()
    await house.tool("workspace_fork", workspace_id="box", count=CHILDREN, snapshot_name=snapshot, name_prefix="tooled")
    # The tool looks up whose the workspace is.
    assert house.asked == ["FindWorkspace", "ForkWorkspace", point, *["Start"] * CHILDREN]


async def test_a_fork_in_which_a_child_fails_has_the_handles_of_the_others(house: House) -> None:
    box = await house.system.get("box")
    house.site.world.plan_start_failure()
    fork = await box.fork(3)
    (failed,) = [child for child in fork.report.children if child.error]
    assert [child.name for child in fork] == [each.name for each in fork.report.children if each is not failed]


async def test_a_batch_of_workers_asks_for_nothing_more(house: House) -> None:
    await (await house.system.get("box")).snapshots.create("golden")
    house.asked.clear()
    done = await house.tool("workspace_batch_fork", workspace_id="box", count=CHILDREN)
    assert house.asked == ["FindWorkspace", "ForkWorkspace", "FindSnapshot", *["Start"] * CHILDREN]
    assert (done["success_count"], done["note"]) == (CHILDREN, "")


async def test_an_export_and_an_import_ask_the_registry_and_one_workspace(house: House, tmp_path: Path) -> None:
    box = await house.system.get("box")
    house.asked.clear()
    await box.export(tmp_path / "bundle")
    assert house.asked == ["ExportWorkspace", "TakeCheckpoint"]
    house.asked.clear()
    made = await house.system.import_workspace(tmp_path / "bundle", "again")
    assert house.asked == ["ImportWorkspace", "Start"]
    assert (await made.workspace.info()).name == "again"


async def test_a_snapshot_that_is_found_is_held_although_it_is_deleted_at_once(house: House) -> None:
    box = await house.system.get("box")
    await box.snapshots.create("point")
    taken = await house.site.tell("box", w.FindSnapshot("point", "somebody"))
    await box.snapshots.delete("point")
    assert taken.checkpoint.id in house.site.stored()


# -- a parent without a machine, or a snapshot without memory


async def fork_notes(house: House, **options: Any) -> tuple[str, str]:
    """Fork the box; return what programs and agents are told of its children."""
    box = await house.system.get("box")
    fork = await box.fork(1, **options)
    assert (await fork[0].info()).started_by == "cold_boot"
    assert fork.report.children[0].error is None
    told = await house.tool(
        "workspace_fork", workspace_id="box", new_name="tooled", snapshot_name=options.get("snapshot")
    )
    return fork.report.note, told["note"]


async def test_a_fork_of_a_stopped_workspace_says_that_it_has_no_memory(house: House) -> None:
    await (await house.system.get("box")).stop()
    expected = "box had no running machine (it is stopped), so its children boot from its disk, without its memory."
    assert await fork_notes(house) == (expected, expected)


async def test_a_fork_of_a_failed_workspace_says_how_its_machine_ended(house: House) -> None:
    house.site.qemu((await house.site.infos())["box"]).dead.set()
    failed = await house.site.wait_for_state("box", "failed")
    assert failed.ended is not None
    expected = "box had no running machine (it failed), so its children boot from its disk, without its memory."
    note, told = await fork_notes(house)
    assert note == told
    assert note.startswith(f"{expected} {failed.ended.sentence}")


async def test_a_fork_from_a_snapshot_without_memory_says_so(house: House) -> None:
    await (await house.system.get("box")).snapshots.create("golden", include_memory=False)
    expected = "Snapshot golden of box has no memory, so the children boot from its disk."
    assert await fork_notes(house, snapshot="golden") == (expected, expected)
    assert (await house.tool("workspace_batch_fork", workspace_id="box", count=1))["note"] == expected


async def test_a_fork_of_a_suspended_workspace_has_its_memory_and_nothing_to_say(house: House) -> None:
    box = await house.system.get("box")
    await box.suspend()
    fork = await box.fork(1)
    assert (fork.report.note, (await fork[0].info()).started_by) == ("", "restore")
