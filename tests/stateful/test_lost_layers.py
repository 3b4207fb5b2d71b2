"""Disk layers that guests have written to are never lost, and those that nobody needs go by themselves.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors.machine.storage import qcow2
from actors.machine.storage.store import Store
from actors.model import journal as journals
from actors.model import record as records
from actors.model.errors import MachineFailed
from actors.model.files import earlier_of, make_durable
from actors.model.info import WorkspaceInfo
from actors.model.journal import JOURNAL, Journal, Kind
from actors.model.names import new_id
from actors.model.record import WorkspaceRecord
from actors.registry import messages as r
from actors.workspace import messages as w
from actors.workspace import resources
from tests.stateful.simulated import BLANK, DISK, MARK_BYTES, Qmp, World, mark_of
from tests.stateful.supervised import Remains, Site, leave_unswept


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


# -- who ends in the middle of a checkpoint


def after(real: Callable[..., Any], then: Callable[[], None]) -> Callable[..., Any]:
    """Return what does something after a function."""

    def call(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        then()
        return found

    return call


async def instants(site: Site, patch: pytest.MonkeyPatch, change: Callable[[], Awaitable[object]]) -> list[Remains]:
    """Return what would be left by a supervisor that is killed at each step of a change."""
    left: list[Remains] = []

    def look() -> None:
        left.append(site.remains())

    step, finish = World.step, Qmp.finish

    async def step_seen(world: World, qemu: Any) -> None:
        look()
        await step(world, qemu)

    async def finish_seen(qmp: Qmp, pending: Any, **options: Any) -> dict[str, Any]:
        found = await finish(qmp, pending, **options)
        look()
        return found

    with patch.context() as watched:
        watched.setattr(World, "step", step_seen)
        watched.setattr(Qmp, "finish", finish_seen)
        watched.setattr(Journal, "_append", after(Journal._append, look))
        watched.setattr(records, "save", after(records.save, look))
        await change()
        look()
    return left


CHANGES: dict[str, Any] = {
    "snapshot": w.CreateSnapshot("point"),
    "disk snapshot": w.CreateSnapshot("point", with_memory=False),
    "checkpoint": w.TakeCheckpoint("somebody"),
    "suspend": w.Suspend(),
    "policy": w.SetNetworkPolicy(allow_internet=True),
    "fork": r.ForkWorkspace("one", names=("child",)),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_what_a_guest_wrote_survives_the_end_of_qemu_and_its_supervisor_at_every_step_of_a(
    site: Site, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    message = CHANGES[what]
    if what == "policy":
        site.settings = attrs.evolve(site.settings, network="user")
    async with site.supervisor():
        info = await site.create("one", allow_internet=False)
        await site.write("one", "before")
        ask = site.registry.ask if what == "fork" else lambda each: site.tell("one", each)
        left = await instants(site, monkeypatch, lambda: ask(message))
    assert len(left) > 5
    switched = 0
    for remains in left:
        site.put_back(remains)
        expected = _write_late(site, info)
        for qemu in site.world.alive:
            qemu.dead.set()
        switched += site.record(info).layer != _last_layer(site, info)
        async with site.supervisor():
            state = (await site.infos())["one"].state
            assert state in {"failed", "suspended"}
            await site.tell("one", w.Start(None) if state == "failed" else w.Resume())
            memory, disk = await site.read("one")
            assert disk == expected
            assert memory == (BLANK if state == "failed" else "before")
            await site.world.store.collect()
            assert not await site.unneeded()
    # There were instants at which the record did not name the layer that the guest wrote to.
    assert switched > 0


async def test_a_create_that_is_flushed_in_the_middle_of_a_snapshot_settles_nothing_of_that(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    switched, flushed, finish = trio.Event(), trio.Event(), Qmp.finish
    intended: list[str] = []

    async def flush_late(store: Store) -> None:
        await switched.wait()
        await store.flush()
        flushed.set()

    async def finish_and_wait(qmp: Qmp, pending: Any, **options: Any) -> dict[str, Any]:
        found = await finish(qmp, pending, **options)
        if pending[0] == "cont":
            # The disk was switched, and the guest runs on.
            switched.set()
            await flushed.wait()
            await trio.testing.wait_all_tasks_blocked()
            intended.extend(each.name for each in Journal(site.directory(info)).intents())
        return found

    monkeypatch.setattr(Store, "flush_soon", flush_late)
    async with site.supervisor():
        info = await site.create("one")
        monkeypatch.setattr(Qmp, "finish", finish_and_wait)
        await site.tell("one", w.CreateSnapshot("point", with_memory=False))
        # Until the record named it, the journal alone told of the layer that the guest wrote to.
        assert intended == [site.record(info).layer]
        assert Journal(site.directory(info)).intents() == ()


def _write_late(site: Site, info: WorkspaceInfo) -> str:
    """Have the guest of a workspace's machine write to its disk, if it runs; return what the disk has to hold."""
    machine = site.record(info).machine
    qemu = site.world.qemus.get(machine.process.uuid) if machine else None
    if qemu is None or qemu.dead.is_set() or not qemu.running or qemu.held:
        return "before"
    qemu.write(DISK, "late")
    return "late"


def _last_layer(site: Site, info: WorkspaceInfo) -> str | None:
    """Return the layer to which the machine that a workspace's record names wrote last."""
    record = site.record(info)
    return site.world.qemus[record.machine.process.uuid].disk.stem if record.machine else record.layer


async def test_a_flush_that_ends_in_the_middle_of_a_checkpoint_does_not_have_its_switch_be_forgotten(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_unswept(monkeypatch)
    flush, go_on, finish = Store.flush, trio.Event(), Qmp.finish
    left: list[Remains] = []

    async def flush_later(store: Store) -> None:
        await go_on.wait()
        await flush(store)

    async def finish_and_wait(qmp: Qmp, pending: Any, **options: Any) -> dict[str, Any]:
        found = await finish(qmp, pending, **options)
        if pending[0] == "xen-save-devices-state":
            # The disk has been switched by now.
            go_on.set()
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            left.append(site.remains())
        return found

    monkeypatch.setattr(Store, "flush_soon", flush_later)
    async with site.supervisor():
        info = await site.create("one")
        await site.world.store.flush()
        monkeypatch.setattr(Qmp, "finish", finish_and_wait)
        await site.tell("one", w.CreateSnapshot("point"))
    site.put_back(left[0])
    qemu = site.qemu(info)
    assert qemu.disk.stem != site.record(info).layer
    qemu.write(DISK, "late")
    qemu.dead.set()
    async with site.supervisor():
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "late")


@pytest.mark.parametrize("lost", [(), ("journal",), ("journal", "layer")], ids=["record", "journal", "layer"])
async def test_a_parent_whose_record_a_power_loss_brought_back_never_writes_to_what_its_child_stands_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, lost: tuple[str, ...]
) -> None:
    leave_unswept(monkeypatch)
    async with site.supervisor():
        parent = await site.create("parent")
        await site.write("parent", "before")
        await site.world.store.flush()
        report = (await site.registry.ask(r.ForkWorkspace("parent", names=("child",)))).report
        await site.write("parent", "late")
        remains, store = site.remains(), site.world.store
        frozen = store.load(report.checkpoint_id).layer
    site.put_back(remains)
    path, following = site.directory(parent) / records.RECORD, site.record(parent).layer
    earlier_of(path).rename(path)
    assert site.record(parent).layer == frozen
    if "journal" in lost:
        (path.parent / JOURNAL).unlink()
    if "layer" in lost:
        store.layer(str(following)).unlink()
    for qemu in site.world.alive:
        qemu.dead.set()
    async with site.supervisor():
        await site.tell("parent", w.Start(None))
        assert await site.read("parent") == (BLANK, "before" if lost else "late")
        assert site.record(parent).layer != frozen
        await site.write("parent", "astray")
        assert mark_of(site.world.store.layer(frozen)) == "before"
        await site.tell("child", w.Start(None))
        assert await site.read("child") == (BLANK, "before")


# -- what the journal tells of switches


async def stopped_short(site: Site) -> tuple[WorkspaceInfo, WorkspaceRecord]:
    """Make a workspace whose supervisor and machine have ended."""
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "before")
    record = site.record(info)
    site.qemu(info).dead.set()
    return info, record


def switch(site: Site, info: WorkspaceInfo, over: str, mark: str = "", *, on: str | None = None) -> str:
    """Have a disk be about to be switched from a layer, and perhaps have been, and return where to."""
    layer, path = new_id(), site.state_dir / "layers"
    below = path / f"{on or over}.qcow2"
    made = path / f"{layer}.qcow2"
    qcow2.create_overlay(made, backing=below, backing_format="qcow2", virtual_size_bytes=2**30)
    with made.open("ab") as file:
        file.write(mark.encode().ljust(MARK_BYTES) if mark else b"")
    Journal(site.directory(info)).will(Kind.LAYER, layer, over=over)
    return layer


async def test_a_switch_that_did_not_happen_does_not_hide_the_one_that_followed_it(site: Site) -> None:
    info, record = await stopped_short(site)
    assert record.layer is not None
    switch(site, info, record.layer)
    last = switch(site, info, record.layer, "late")
    async with site.supervisor():
        assert site.record(info).layer == last
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "late")


async def test_switches_that_followed_one_another_are_followed_to_the_last(site: Site) -> None:
    info, record = await stopped_short(site)
    assert record.layer is not None
    last = switch(site, info, switch(site, info, record.layer, "later"), "last")
    async with site.supervisor():
        assert site.record(info).layer == last
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "last")


async def test_a_layer_that_took_up_the_one_before_is_found_where_a_power_loss_brought_the_record_back(
    site: Site,
) -> None:
    info, record = await stopped_short(site)
    assert record.layer is not None
    below = site.world.store.layers.depends_on(record.layer)[0]
    last = switch(site, info, record.layer, "late", on=below)
    async with site.supervisor():
        assert site.record(info).layer == last
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "late")


async def test_a_layer_that_cannot_be_read_is_not_passed_over(site: Site) -> None:
    info, record = await stopped_short(site)
    assert record.layer is not None
    path = site.world.store.layer(switch(site, info, record.layer, "late"))
    whole = path.read_bytes()
    path.write_bytes(b"")
    async with site.supervisor():
        found = (await site.infos())["one"]
        assert found.state == "unreachable"
        assert path.name in (found.failure or "")
        assert await site.registry.ask(r.Collect()) == ()
        assert path.exists()
        assert any(path.stem in told.why for told in (await site.diagnosis()).collection)
        path.write_bytes(whole)
        await site.wait_for_state("one", "failed")
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "late")


async def test_a_layer_is_on_stable_storage_before_the_intent_that_names_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power loss between the two would leave an intent of a layer that is not whole."""
    done: list[str] = []
    append = Journal._append

    async def flushed(*paths: Path) -> None:
        await make_durable(*paths)
        done.extend(path.suffix for path in paths)

    def appended(journal: Journal, fact: dict[str, Any]) -> None:
        done.append(fact["do"])
        append(journal, fact)

    async with site.supervisor():
        await site.create("one")
        monkeypatch.setattr(resources, "make_durable", flushed)
        monkeypatch.setattr(Journal, "_append", appended)
        await site.tell("one", w.CreateSnapshot("point"))
    assert done[:2] == [".qcow2", "will"]


async def test_a_journal_does_not_grow_with_the_life_of_its_workspace(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "FRESH_BYTES", 1000)
    async with site.supervisor():
        info = await site.create("one")
        for number in range(12):
            await site.tell("one", w.CreateSnapshot(f"point-{number}"))
        path = site.directory(info) / JOURNAL
        assert not path.exists() or path.stat().st_size < 1500


# -- what is left of it


async def test_what_a_killed_checkpoint_has_left_goes_at_the_next_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "before")
        left = await instants(site, monkeypatch, lambda: site.tell("one", w.CreateSnapshot("point")))
    for remains in left:
        site.put_back(remains)
        async with site.supervisor():
            needs = site.record(info).needs
            assert not await site.unneeded()
            assert {path.name for path in (site.state_dir / "checkpoints").glob("[!.]*")} - needs <= _templates(site)
            assert await site.read("one") == ("before", "before")


async def test_a_stop_whose_disk_stands_nobody_knows_where_loses_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Qmp.finish

    async def unheard(qmp: Qmp, pending: tuple[str, dict[str, Any]], **options: Any) -> dict[str, Any]:
        answer = await finish(qmp, pending, **options)
        if pending[0] in ("blockdev-snapshot-sync", "query-block"):
            raise MachineFailed("QEMU did not answer.")
        return answer

    async with site.supervisor():
        info = await site.create("one")
        with monkeypatch.context() as patch:
            patch.setattr(Qmp, "finish", unheard)
            with pytest.raises(MachineFailed):
                await site.tell("one", w.CreateSnapshot("point"))
            await site.write("one", "late")
            assert site.qemu(info).disk.stem != site.record(info).layer
            await site.tell("one", w.Stop())
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "late")


def _templates(site: Site) -> set[str]:
    owners = site.world.store.holds.holders()
    return {name for name, held_by in owners.items() if any(owner.startswith("template:") for owner in held_by)}
