"""A machine that cannot be reached runs on until another one is proven, or until it is asked to end.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.machine.qemu.command_line import MachineSpec
from actors.machine.storage.checkpoint import Checkpoint
from actors.model import record as records
from actors.model.errors import AgentisoError, CheckpointUnusable, HostFailed
from actors.workspace import launch, lifecycle
from actors.workspace import messages as w
from tests.stateful import simulated
from tests.stateful.simulated import BLANK, Qemu
from tests.stateful.supervised import Site, leave_unswept

CHANGES = pytest.mark.parametrize(
    "message", [w.RestoreSnapshot("point"), w.Undo()], ids=lambda message: type(message).__name__
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    leave_unswept(monkeypatch)
    return Site(tmp_path, monkeypatch)


async def _unreached(site: Site) -> Qemu:
    """Make a workspace that can be restored and undone, whose machine the next supervisor cannot reach."""
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "before")
        await site.tell("one", w.CreateSnapshot("point"))
        await site.tell("one", w.RestoreSnapshot("point"))
        await site.write("one", "precious")
    qemu = site.qemu(info)
    qemu.owned = True
    return qemu


async def _runs_on(site: Site, qemu: Qemu) -> None:
    """See that a workspace still has its machine, and reach that."""
    assert (await site.infos())["one"].state == "unreachable"
    assert site.world.alive == [qemu]
    qemu.owned = False
    await site.wait_for_state("one", "running")
    assert await site.read("one") == ("precious", "precious")


@CHANGES
@pytest.mark.parametrize("obstacle", ["images", "fingerprint", "start", "record"])
async def test_it_runs_on_where_another_machine_cannot_take_its_place(
    site: Site, monkeypatch: pytest.MonkeyPatch, message: Any, obstacle: str
) -> None:
    def unfit(*_arguments: object) -> None:
        raise CheckpointUnusable("It was saved by another QEMU.")

    def unwritten(*_arguments: object, **_options: object) -> None:
        raise HostFailed("The record cannot be written.")

    qemu = await _unreached(site)
    site.images_fail = obstacle == "images"
    async with site.supervisor():
        await site.wait_for_state("one", "unreachable")
        with monkeypatch.context() as patch:
            if obstacle == "fingerprint":
                patch.setattr(launch, "check_fit", unfit)
            elif obstacle == "start":
                site.world.plan_start_failure()
            elif obstacle == "record":
                patch.setattr(records, "save", unwritten)
            with pytest.raises(AgentisoError):
                await site.tell("one", message)
        site.images_fail = False
        await _runs_on(site, qemu)


@CHANGES
async def test_it_runs_until_the_machine_that_takes_its_place_is_there(
    site: Site, monkeypatch: pytest.MonkeyPatch, message: Any
) -> None:
    qemu, boot = await _unreached(site), site.world.boot
    disks = list[Path]()

    def while_it_runs(spec: MachineSpec, checkpoint: Checkpoint | None) -> Qemu:
        assert disks or not qemu.dead.is_set()
        disks.append(spec.disk)
        return boot(spec, checkpoint)

    monkeypatch.setattr(site.world, "boot", while_it_runs)
    async with site.supervisor():
        await site.wait_for_state("one", "unreachable")
        await site.tell("one", message)
        assert qemu.dead.is_set()
        assert not qemu.directory.exists()
        assert qemu.disk not in disks
        assert await site.read("one") == ("before", "before")
        if isinstance(message, w.RestoreSnapshot):
            # What it had on its disk can be had again.
            await site.tell("one", w.Stop())
            told = await site.tell("one", w.Undo())
            assert told.state == "stopped"
            await site.tell("one", w.Start(None))
            assert await site.read("one") == (BLANK, "precious")


async def test_one_that_does_not_end_at_once_is_ended_later_and_its_place_is_taken_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = await _unreached(site)

    async def end(*_arguments: object, **_options: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EMFILE, "Too many open files")

    async with site.supervisor():
        await site.wait_for_state("one", "unreachable")
        with monkeypatch.context() as patch:
            patch.setattr(lifecycle, "end_machines", end)
            await site.tell("one", w.RestoreSnapshot("point"))
        assert await site.read("one") == ("before", "before")
        await qemu.dead.wait()
        assert len(site.world.alive) == 1


async def test_one_that_was_ended_is_stopped_even_if_that_cannot_be_written_down_yet(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu, real = await _unreached(site), simulated.Process.end

    async def end(process: simulated.Process, grace_s: float = 0.0) -> bool:
        patch.setattr(records, "save", unwritten)
        return await real(process, grace_s)

    def unwritten(*_arguments: object, **_options: object) -> None:
        raise HostFailed("The record cannot be written.")

    async with site.supervisor():
        info = await site.wait_for_state("one", "unreachable")
        with monkeypatch.context() as patch:
            patch.setattr(simulated.Process, "end", end)
            told = await site.tell("one", w.Stop())
            assert told.state == "stopped"
            assert "cannot be written" in told.note
            assert qemu.dead.is_set()
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "precious")
        assert site.record(info).state == "running"
