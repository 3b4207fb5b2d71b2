"""Looks into what a workspace is: they disturb nothing of it, and nothing disturbs them.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.machine.qemu.command_line import MachineSpec
from actors.machine.qemu.orphans import remove_others
from actors.machine.storage import qcow2
from actors.machine.storage.checkpoint import Checkpoint
from actors.workspace import chores, compare
from actors.workspace import messages as w
from tests.stateful.simulated import BLANK, Qemu
from tests.stateful.supervised import Site, leave_unswept

MEET_S = 0.5
"""How long the two wait for each other that must not meet."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    async def walk(*_arguments: object) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {}

    monkeypatch.setattr(compare, "_walk", walk)
    leave_unswept(monkeypatch)
    return Site(tmp_path, monkeypatch)


async def test_what_is_removed_of_earlier_machines_is_never_that_of_a_helper_that_starts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing, starting, removed = threading.Event(), threading.Event(), threading.Event()
    boot = site.world.boot

    def remove_late(*arguments: Any) -> None:
        removing.set()
        starting.wait(MEET_S)
        remove_others(*arguments)
        removed.set()

    def boot_late(spec: MachineSpec, checkpoint: Checkpoint | None) -> Qemu:
        # Its directory is there, and QEMU is not yet.
        starting.set()
        removed.wait(MEET_S)
        assert spec.directory.exists()
        return boot(spec, checkpoint)

    async with site.supervisor():
        await site.create("one")
        await site.tell("one", w.CreateSnapshot("point"))
        monkeypatch.setattr(chores, "remove_others", remove_late)
        monkeypatch.setattr(site.world, "boot", boot_late)
        await site.tell("one", w.SetOwner("somebody"))
        await trio.to_thread.run_sync(removing.wait, 10.0)
        await site.tell("one", w.CompareNodes("point", "point"))


async def test_looks_into_a_stopped_workspace_and_its_snapshots_put_nothing_on_its_disk(site: Site) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "marked")
        await site.tell("one", w.CreateSnapshot("point"))
        await site.tell("one", w.Stop())
        layer = site.record(info).layer
        for name in ("first", "second"):
            await site.tell("one", w.CompareNodes("point", None))
            await site.tell("one", w.CreateSnapshot(name))
        assert site.record(info).layer == layer


async def test_a_machine_never_writes_to_what_a_snapshot_of_the_stopped_workspace_stands_on(site: Site) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "kept")
        await site.tell("one", w.Stop())
        await site.tell("one", w.CreateSnapshot("point"))
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "kept")
        await site.write("one", "later")
        await site.tell("one", w.Stop())
        layer = site.record(info).layer
        assert layer is not None
        assert len(qcow2.backing_chain(site.world.store.layer(layer))) >= 2
        await site.tell("one", w.Start(None))
        # Nothing stands on that one.
        assert site.record(info).layer == layer
        assert await site.read("one") == (BLANK, "later")
        await site.tell("one", w.RestoreSnapshot("point"))
        assert await site.read("one") == (BLANK, "kept")
