"""A state directory that an earlier version of agentiso wrote is taken over whole.

``earlier_state.json`` is what one of its supervisors left: four workspaces with their snapshots and ways back, the
template that the first was made from, two machines that run on, one of them paused.  Its paths begin with ``{state}``,
or with ``{root}`` for the image's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from actors.machine.storage import qcow2
from actors.model import record as records
from actors.registry import messages as r
from actors.workspace import messages as w
from tests.stateful.simulated import BLANK, Qemu
from tests.stateful.supervised import Site

EARLIER: Final = Path(__file__).with_name("earlier_state.json")
MARKS: Final = {
    "running": ("now", "now"),
    "paused": ("paused", "paused"),
    "suspended": ("away", "away"),
    "stopped": (BLANK, "stopped"),
}
"""What their memories and disks hold once they run."""
NODES: Final = {
    "running": {"one": ("first", "first"), "two": (BLANK, "second")},
    "paused": {},
    "suspended": {"own": ("suspended", "suspended")},
    "stopped": {},
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    found = Site(tmp_path, monkeypatch)
    write(found, tmp_path)
    return found


def write(site: Site, root: Path) -> None:
    """Have the site be as an earlier supervisor left it."""
    text = EARLIER.read_text().replace("{state}", str(site.state_dir)).replace("{root}", str(root))
    earlier: dict[str, Any] = json.loads(text)
    site.state_dir.mkdir()
    for name in (*earlier["files"], *earlier["layers"], *earlier["ram"]):
        (site.state_dir / name).parent.mkdir(parents=True, exist_ok=True)
    for name, value in earlier["files"].items():
        (site.state_dir / name).write_text(json.dumps(value, indent=1, sort_keys=True))
    for name, memory in earlier["ram"].items():
        (site.state_dir / name).write_text(memory)
    for name, layer in earlier["layers"].items():
        backing, path = Path(layer["backing"]), site.state_dir / name
        kind = "raw" if backing.suffix == ".raw" else "qcow2"
        qcow2.create_overlay(path, backing=backing, backing_format=kind, virtual_size_bytes=layer["size_bytes"])
        with path.open("a") as file:
            file.write(layer["written"])
    for uuid, machine in earlier["machines"].items():
        directory, disk, ram = (Path(machine.pop(key)) for key in ("directory", "disk", "ram"))
        directory.mkdir(parents=True)
        site.world.qemus[uuid] = Qemu(uuid=uuid, directory=directory, disk=disk, ram=ram, **machine)


async def check_whole(site: Site) -> None:
    """Have every workspace be where it was, with all that it had."""
    infos = await site.infos()
    assert {name: info.state for name, info in infos.items()} == {name: name for name in MARKS}
    for name, info in infos.items():
        assert {snapshot.name for snapshot in info.snapshots} == NODES[name].keys()
        assert len(info.undo) == (name == "running")
        assert info.failure is None
    assert (await site.diagnosis()).healthy
    (template,) = await site.registry.ask(r.ListTemplates())
    assert template.stale is None


async def test_every_workspace_snapshot_and_template_is_there(site: Site) -> None:
    before = site.stored()
    for _ in range(2):
        async with site.supervisor():
            await check_whole(site)
            await site.world.store.collect()
            assert not await site.unneeded()
        assert site.stored() == before
    assert len(site.world.alive) == 2


async def test_every_workspace_goes_on_where_it_was(site: Site) -> None:
    async with site.supervisor():
        assert await site.read("running") == MARKS["running"]
        for name, message in (("paused", w.Resume()), ("suspended", w.Resume()), ("stopped", w.Start(None))):
            await site.tell(name, message)
            assert await site.read(name) == MARKS[name]
        for name, nodes in NODES.items():
            for node, marks in nodes.items():
                await site.tell(name, w.RestoreSnapshot(node))
                assert await site.read(name) == marks
                await site.tell(name, w.Undo())
                assert await site.read(name) == MARKS[name]
        await site.tell("running", w.Undo())
        assert await site.read("running") == ("third", "third")


async def test_a_paused_machine_stands_still_although_its_record_says_nothing_of_that(site: Site) -> None:
    path = next(path for path in site.state_dir.glob("workspaces/*/record.json") if '"paused"' in path.read_text())
    assert "stands_still" not in path.read_text()
    (qemu,) = [qemu for qemu in site.world.alive if qemu.directory.is_relative_to(path.parent)]
    async with site.supervisor():
        assert (await site.infos())["paused"].state == "paused"
        assert (qemu.running, qemu.held) == (False, True)
        await site.tell("paused", w.CreateSnapshot("still"))
        assert records.load(path.parent).stands_still
        assert (qemu.running, qemu.held) == (False, True)
    async with site.supervisor():
        assert (qemu.running, qemu.held) == (False, True)
        await site.tell("paused", w.Resume())
        assert await site.read("paused") == MARKS["paused"]
        assert not records.load(path.parent).stands_still


async def test_machines_of_which_no_fingerprint_was_written_down_are_taken_over(site: Site) -> None:
    for path in site.state_dir.glob("workspaces/*/record.json"):
        record = json.loads(path.read_text())
        if record["machine"] is not None:
            del record["machine"]["fingerprint"]
            path.write_text(json.dumps(record))
    async with site.supervisor():
        await check_whole(site)
        assert await site.read("running") == MARKS["running"]


async def test_a_new_workspace_is_made_from_the_template_that_was_there(site: Site) -> None:
    async with site.supervisor():
        (before,) = await site.registry.ask(r.ListTemplates())
        await site.create("new")
        assert await site.read("new") == (BLANK, BLANK)
        assert await site.registry.ask(r.ListTemplates()) == (before,)


async def test_each_can_be_destroyed_and_in_the_end_only_the_template_is_left(site: Site) -> None:
    async with site.supervisor():
        for name in MARKS:
            await site.registry.ask(r.DestroyWorkspace(name))
        await site.world.store.collect()
        assert not site.world.alive
        assert list((site.state_dir / "workspaces").glob("[!.]*")) == []
        assert len(site.stored()) == 2
