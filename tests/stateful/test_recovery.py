"""What a supervisor makes of the workspaces that it finds: nothing that it cannot read or reach is taken for gone.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.machine import machine as machines
from actors.machine import pause, start
from actors.machine.machine import Machine
from actors.model import record as records
from actors.model.errors import (
    AgentisoError,
    CheckpointUnusable,
    GuestBroken,
    HostFailed,
    MachineFailed,
    Unfinished,
)
from actors.model.info import WorkspaceInfo
from actors.model.journal import JOURNAL
from actors.registry import messages as r
from actors.workspace import adoption
from actors.workspace import messages as w
from actors.workspace.actor import WorkspaceActor
from tests.stateful.simulated import BLANK
from tests.stateful.supervised import READING, SOON_S, Site, unreadable


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The machines, by UUID, whose guests do not answer whoever adopts them."""
    found, adopt = set[str](), start.adopt

    async def adopt_unless_mute(nursery: trio.Nursery, place: Any, *arguments: Any, **options: Any) -> Machine | None:
        await trio.lowlevel.checkpoint()
        if place.uuid in found:
            raise GuestBroken("The guest does not answer.")
        return await adopt(nursery, place, *arguments, **options)

    monkeypatch.setattr(start, "adopt", adopt_unless_mute)
    return found


async def made(site: Site) -> WorkspaceInfo:
    """Make a workspace with a snapshot and marks, and leave it to the next supervisor."""
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "before")
        await site.tell("one", w.CreateSnapshot("point"))
        await site.write("one", "after")
    return info


# -- images that cannot be read


async def test_machines_are_adopted_while_no_image_can_be_read(site: Site) -> None:
    info = await made(site)
    qemu, site.images_fail = site.qemu(info), True
    async with site.supervisor():
        assert (await site.infos())["one"].state == "running"
        assert await site.read("one") == ("after", "after")
        assert site.qemu(info) is qemu
        with pytest.raises(AgentisoError, match="images cannot be read"):
            await site.registry.ask(r.ForkWorkspace("one"))
        await site.tell("one", w.Suspend())
        with pytest.raises(AgentisoError, match="images cannot be read"):
            await site.tell("one", w.Resume())
        site.images_fail = False
        await site.tell("one", w.Resume())
        assert await site.read("one") == ("after", "after")


async def test_a_machine_whose_record_names_no_fingerprint_runs_on_until_its_image_can_be_read(site: Site) -> None:
    info = await made(site)
    site.alter(info, lambda record: record["machine"].pop("fingerprint"))
    qemu, site.images_fail = site.qemu(info), True
    async with site.supervisor():
        found = (await site.infos())["one"]
        assert found.state == "unreachable"
        assert "images cannot be read" in (found.failure or "")
        assert not qemu.dead.is_set()
        site.images_fail = False
        await site.wait_for_state("one", "running")
        assert await site.read("one") == ("after", "after")
        assert site.qemu(info) is qemu


async def test_a_template_is_kept_while_no_image_can_be_read(site: Site) -> None:
    await made(site)
    site.images_fail = True
    async with site.supervisor():
        (template,) = await site.registry.ask(r.ListTemplates())
    site.images_fail = False
    async with site.supervisor():
        (template,) = await site.registry.ask(r.ListTemplates())
        assert template.stale is None


# -- machines that do not answer


@pytest.mark.parametrize("paused", [False, True])
async def test_a_machine_whose_guest_is_mute_runs_on_and_is_adopted_once_it_answers(
    virtual_time: object, site: Site, mute: set[str], paused: bool
) -> None:
    info = await made(site)
    qemu = site.qemu(info)
    if paused:
        async with site.supervisor():
            await site.tell("one", w.Pause())
    mute.add(qemu.uuid)
    async with site.supervisor():
        found = (await site.infos())["one"]
        assert found.state == "unreachable"
        assert "does not answer" in (found.failure or "")
        assert [trouble.what for trouble in (await site.diagnosis()).unreachable] == ["workspace one"]
        mute.clear()
        await site.wait_for_state("one", "paused" if paused else "running")
        assert (qemu.running, qemu.held) == (not paused, paused)
        if paused:
            await site.tell("one", w.Resume())
        assert await site.read("one") == ("after", "after")
        assert (await site.infos())["one"].failure is None
        assert (await site.diagnosis()).healthy
    assert site.qemu(info) is qemu


async def test_a_paused_machine_whose_guest_is_mute_stands_still_for_the_next_supervisor_too(
    virtual_time: object, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((pause, "ANSWER_S"), (machines, "RELEASE_LIMIT_S"), (machines, "STALL_RETRY_S")):
        monkeypatch.setattr(module, name, 0.1)
    site.world.longest_silence_s, site.world.holds_processes = 0.1, False
    info = await made(site)
    qemu = site.qemu(info)
    qemu.mute = True
    async with site.supervisor():
        assert (await site.infos())["one"].state == "unreachable"
        qemu.mute = False
        await site.wait_for_state("one", "running")
        qemu.mute = True
        await site.tell("one", w.Pause())
    async with site.supervisor():
        assert (await site.infos())["one"].state == "paused"
        assert not qemu.running
        with pytest.raises(CheckpointUnusable, match="without its guest"):
            await site.tell("one", w.CreateSnapshot("disk", with_memory=False))
        qemu.mute = False
        await site.tell("one", w.Resume())
        assert await site.read("one") == ("after", "after")
        await site.tell("one", w.Pause())
    async with site.supervisor():
        # It answers, so it takes its part again.
        assert (await site.infos())["one"].state == "paused"
        assert (qemu.running, qemu.held) == (False, True)
        await site.tell("one", w.CreateSnapshot("disk", with_memory=False))


async def test_a_machine_that_is_slow_to_answer_is_given_more_time_at_each_try(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = await made(site)
    limits: list[float] = []
    adopt = start.adopt

    async def slow(*arguments: Any, limit_s: float, **options: Any) -> Machine | None:
        limits.append(limit_s)
        if limit_s <= 2 * adoption.ADOPT_LIMIT_S:
            raise GuestBroken("The guest does not answer.")
        return await adopt(*arguments, limit_s=limit_s, **options)

    monkeypatch.setattr(start, "adopt", slow)
    async with site.supervisor():
        await site.wait_for_state("one", "running")
    assert sorted(limits[1:]) == limits[1:]
    assert not site.qemu(info).dead.is_set()


async def test_no_change_waits_for_a_machine_that_is_sought(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await made(site)
    tries, sought = 0, trio.Event()

    async def in_vain(*_arguments: Any, **_options: Any) -> Machine | None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise GuestBroken("The guest does not answer.")
        sought.set()
        await trio.sleep_forever()
        return None

    monkeypatch.setattr(start, "adopt", in_vain)
    async with site.supervisor():
        await sought.wait()
        await site.tell("one", w.Stop())
        assert (await site.infos())["one"].state == "stopped"
    assert site.world.alive == []


# -- machines that do not end


async def test_a_stop_whose_machine_does_not_end_says_so_and_is_finished_when_it_has(site: Site) -> None:
    info = await made(site)
    async with site.supervisor():
        qemu = site.qemu(info)
        qemu.hangs = True
        for expected in (Unfinished, MachineFailed):
            with pytest.raises(expected, match="does not end"):
                await site.tell("one", w.Stop())
            found = (await site.infos())["one"]
            assert found.state == "unreachable"
            assert "does not end" in (found.failure or "")
        # Nothing else is started on its disk.
        with pytest.raises(AgentisoError):
            await site.tell("one", w.Start(None))
        assert site.world.alive == [qemu]
        assert qemu.directory.exists()
        qemu.dead.set()
        await site.wait_for_state("one", "stopped")
        assert (await site.infos())["one"].failure is None
        assert not qemu.directory.exists()
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "after")


async def test_a_restore_beside_a_machine_that_does_not_end_writes_nothing_that_this_writes(site: Site) -> None:
    info = await made(site)
    async with site.supervisor():
        earlier = site.qemu(info)
        earlier.hangs = True
        with pytest.raises(Unfinished):
            await site.tell("one", w.Stop())
        await site.tell("one", w.RestoreSnapshot("point"))
        assert await site.read("one") == ("before", "before")
        (later,) = [qemu for qemu in site.world.alive if qemu is not earlier]
        assert later.disk != earlier.disk
        earlier.dead.set()
        await site.wait_until(lambda _infos: not earlier.directory.exists())
        assert await site.read("one") == ("before", "before")
    assert site.world.alive == [later]


async def test_a_suspension_whose_machine_does_not_end_says_so_and_can_be_resumed(site: Site) -> None:
    info = await made(site)
    async with site.supervisor():
        qemu = site.qemu(info)
        qemu.hangs = True
        with pytest.raises(Unfinished, match="is suspended"):
            await site.tell("one", w.Suspend())
        assert (await site.infos())["one"].state == "suspended"
        assert qemu.directory.exists()
        await site.tell("one", w.Resume())
        assert await site.read("one") == ("after", "after")
        qemu.dead.set()
        await site.wait_until(lambda _infos: not qemu.directory.exists())
        assert (await site.infos())["one"].state == "running"


async def test_a_snapshot_of_a_machine_whose_memory_image_is_gone_does_not_say_that_it_ended(site: Site) -> None:
    info = await made(site)
    async with site.supervisor():
        site.qemu(info).ram.unlink()
        with pytest.raises(HostFailed, match="is not there"):
            await site.tell("one", w.CreateSnapshot("another"))
        assert await site.read("one") == ("after", "after")


async def test_a_machine_that_somebody_else_holds_runs_on_and_is_adopted_once_it_is_let_go(site: Site) -> None:
    info = await made(site)
    qemu = site.qemu(info)
    qemu.owned = True
    async with site.supervisor():
        assert (await site.infos())["one"].state == "unreachable"
    async with site.supervisor():
        assert (await site.infos())["one"].state == "unreachable"
        qemu.owned = False
        await site.wait_for_state("one", "running")
        assert await site.read("one") == ("after", "after")
    assert site.qemu(info) is qemu


async def test_a_machine_that_ends_while_it_cannot_be_reached_has_failed_and_its_disk_is_whole(
    virtual_time: object, site: Site, mute: set[str]
) -> None:
    info = await made(site)
    mute.add(site.qemu(info).uuid)
    async with site.supervisor():
        await site.wait_for_state("one", "unreachable")
        site.qemu(info).dead.set()
        await site.wait_for_state("one", "failed")
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "after")


async def test_a_machine_that_cannot_be_reached_can_be_stopped(
    virtual_time: object, site: Site, mute: set[str]
) -> None:
    info = await made(site)
    mute.add(site.qemu(info).uuid)
    async with site.supervisor():
        await site.tell("one", w.Stop())
        assert (await site.infos())["one"].state == "stopped"
        assert not site.world.alive
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "after")


async def test_a_machine_that_cannot_be_reached_can_be_left_for_a_snapshot_and_that_undone(
    virtual_time: object, site: Site, mute: set[str]
) -> None:
    info = await made(site)
    mute.add(site.qemu(info).uuid)
    async with site.supervisor():
        await site.tell("one", w.RestoreSnapshot("point"))
        assert await site.read("one") == ("before", "before")
        assert len(site.world.alive) == 1


async def test_a_machine_that_cannot_be_reached_can_be_left_by_an_undo(
    virtual_time: object, site: Site, mute: set[str]
) -> None:
    info = await made(site)
    async with site.supervisor():
        await site.tell("one", w.RestoreSnapshot("point"))
        await site.write("one", "astray")
    mute.add(site.qemu(info).uuid)
    async with site.supervisor():
        await site.wait_for_state("one", "unreachable")
        await site.tell("one", w.Undo())
        assert await site.read("one") == ("after", "after")
        assert len(site.world.alive) == 1


async def test_a_workspace_that_cannot_be_reached_can_be_destroyed(
    virtual_time: object, site: Site, mute: set[str]
) -> None:
    info = await made(site)
    mute.add(site.qemu(info).uuid)
    async with site.supervisor():
        await site.registry.ask(r.DestroyWorkspace("one"))
        assert not site.world.alive
        assert not site.directory(info).exists()
        assert not await site.unneeded()


@pytest.mark.parametrize(
    "message",
    [
        w.CreateSnapshot("other"), w.CreateSnapshot("other", with_memory=False), w.TakeCheckpoint("somebody"),
        w.Suspend(), w.Pause(), w.SetNetworkPolicy(allow_internet=False),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
async def test_what_needs_the_machine_is_refused_where_that_cannot_be_reached(
    virtual_time: object, site: Site, mute: set[str], message: Any
) -> None:
    info = await made(site)
    mute.add(site.qemu(info).uuid)
    async with site.supervisor():
        before = site.record(info)
        with pytest.raises(AgentisoError, match="unreachable") as caught:
            await site.tell("one", message)
        assert "tried again" in caught.value.remedy
        with pytest.raises(AgentisoError, match="unreachable"):
            await site.registry.ask(r.ForkWorkspace("one"))
        assert site.record(info).layer == before.layer
        assert not site.qemu(info).dead.is_set()


async def test_a_fork_of_a_snapshot_needs_no_machine(virtual_time: object, site: Site, mute: set[str]) -> None:
    info = await made(site)
    mute.add(site.qemu(info).uuid)
    async with site.supervisor():
        await site.registry.ask(r.ForkWorkspace("one", names=("child",), snapshot="point"))
        assert await site.read("child") == ("before", "before")


# -- records that cannot be read at the start


@pytest.fixture
def adopting(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Have every adoption wait until this is set."""
    go_on, adopt = trio.Event(), start.adopt

    async def adopt_later(*arguments: Any, **options: Any) -> Machine | None:
        await go_on.wait()
        return await adopt(*arguments, **options)

    monkeypatch.setattr(start, "adopt", adopt_later)
    return go_on


async def test_an_expired_workspace_removes_nothing_of_one_that_is_still_being_taken_up(
    site: Site, adopting: trio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        await site.create("kept")
        await site.tell("kept", w.CreateSnapshot("point"))
        await site.write("kept", "mark")
        brief = await site.create("brief")
        await site.tell("brief", w.Stop())
    site.alter(brief, lambda record: record.update(expires_at=time.time() - 1))
    before = site.stored()
    told, taken_up = trio.Event(), WorkspaceActor.setup

    async def set_up(actor: WorkspaceActor) -> None:
        await taken_up(actor)
        if actor.name == "workspace brief":
            told.set()

    monkeypatch.setattr(WorkspaceActor, "setup", set_up)
    async with trio.open_nursery() as nursery:

        async def look() -> None:
            await told.wait()
            for _ in range(10):
                await site.world.store.collect()
                await trio.sleep(SOON_S)
            assert site.stored() == before
            adopting.set()

        nursery.start_soon(look)
        async with site.supervisor():
            await site.wait_until(lambda infos: infos.keys() == {"kept"})
            await site.tell("kept", w.RestoreSnapshot("point"))
            assert await site.read("kept") == (BLANK, BLANK)
            await site.tell("kept", w.Undo())
            assert await site.read("kept") == ("mark", "mark")


async def test_a_damaged_record_keeps_everything_is_told_and_ends_no_machine(site: Site) -> None:
    async with site.supervisor():
        kept = await site.create("kept")
        await site.write("kept", "mark")
        await site.tell("kept", w.CreateSnapshot("point"))
        brief = await site.create("brief")
    whole, path = site.record(kept), site.directory(kept) / records.RECORD
    text, before, qemu = path.read_text(), site.stored(), site.qemu(kept)
    path.write_text("{")
    site.alter(brief, lambda record: record.update(expires_at=time.time() - 1))
    async with site.supervisor():
        await site.wait_until(lambda infos: not infos)
        await site.registry.ask(r.Collect())
        told = await site.diagnosis()
        assert str(path) in " ".join(trouble.why for trouble in told.damaged)
        assert any("Nothing is removed" in trouble.why for trouble in told.collection)
        assert any(f"kill {qemu.pid}" in trouble.remedy for trouble in told.damaged)
        assert not told.healthy
        assert before <= site.stored()
        assert not qemu.dead.is_set()
    path.write_text(text)
    async with site.supervisor():
        assert (await site.infos())["kept"].state == "running"
        assert await site.read("kept") == ("mark", "mark")
        assert (await site.diagnosis()).healthy
        assert site.record(kept).needs == whole.needs
        assert site.qemu(kept) is qemu


@pytest.mark.parametrize("error", READING)
@pytest.mark.parametrize("name", [records.RECORD, JOURNAL])
async def test_a_record_that_cannot_be_read_at_the_start_keeps_everything(site: Site, name: str, error: int) -> None:
    info = await made(site)
    (site.directory(info) / JOURNAL).touch()
    before, qemu = site.stored(), site.qemu(info)
    with unreadable(error, site.directory(info) / name):
        async with site.supervisor():
            await site.registry.ask(r.Collect())
            assert not (await site.diagnosis()).healthy
    assert before <= site.stored()
    assert not qemu.dead.is_set()
    async with site.supervisor():
        await site.wait_for_state("one", "running")
        assert await site.read("one") == ("after", "after")


# -- records that cannot be read again


@pytest.mark.parametrize("error", READING)
@pytest.mark.parametrize("name", [records.RECORD, JOURNAL])
async def test_an_actor_that_cannot_read_back_what_it_wrote_holds_everything_and_comes_back_once_it_can(
    site: Site, name: str, error: int
) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.tell("one", w.CreateSnapshot("point"))
        await site.write("one", "mark")
        (site.directory(info) / JOURNAL).touch()
        needs, before, qemu = site.record(info).needs, site.stored(), site.qemu(info)
        with unreadable(error, site.directory(info) / name):
            site.world.plan(0, _crash)
            with pytest.raises(AgentisoError, match="crashed"):
                await site.read("one")
            await _wait_given_up(site, "one")
            await site.world.store.collect()
            assert needs <= site.world.store.holds.needed
            assert before <= site.stored()
            assert not qemu.dead.is_set()
            assert (await site.infos())["one"].state == "unreachable"
            assert not (await site.diagnosis()).healthy
        await site.wait_for_state("one", "running")
        assert await site.read("one") == ("mark", "mark")
        assert site.qemu(info) is qemu
        assert site.record(info).needs == needs
        await site.tell("one", w.RestoreSnapshot("point"))
        assert await site.read("one") == (BLANK, BLANK)


def _crash(_qemu: object) -> None:
    raise RuntimeError("a bug")


async def _wait_given_up(site: Site, name: str) -> None:
    """Wait until the restarts of an actor are used up."""
    ref = (await site.registry.ask(r.FindWorkspace(name))).ref
    await ref.stopped.wait()


async def test_a_journal_that_is_damaged_keeps_the_workspace_and_its_machine(site: Site) -> None:
    info = await made(site)
    journal = site.directory(info) / JOURNAL
    journal.write_text("nothing of ours\n")
    before, qemu = site.stored(), site.qemu(info)
    async with site.supervisor():
        assert any(str(journal) in trouble.why for trouble in (await site.diagnosis()).damaged)
        await site.registry.ask(r.Collect())
    assert before <= site.stored()
    assert not qemu.dead.is_set()
    journal.unlink()
    async with site.supervisor():
        assert await site.read("one") == ("after", "after")
