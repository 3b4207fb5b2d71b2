"""A machine is made to stand still, whole or not at all, and runs on whatever happens."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from actors.machine import pause as standstill
from actors.machine.machine import Machine
from actors.machine.pause import FileSystem
from actors.model.errors import CheckpointUnusable
from guest import filesystem


class StandIn:
    """A guest and a QEMU that note what is asked of them; the guest's processes can be held, or not."""

    def __init__(self, *, holds: bool) -> None:
        self.asked: list[str] = []
        self.holds = holds
        self.machine = cast("Machine", SimpleNamespace(client=self, qmp=self, held=None, pausing=trio.Lock()))

    async def _note(self, what: str) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(what)

    async def ping(self) -> None:
        await self._note("ping")

    async def sync_disks(self) -> None:
        await self._note("sync")

    async def freeze(self, *, write: bool, quiesce: bool) -> bool:
        await self._note("write" if write else "quiesce" if quiesce else "freeze")
        return self.holds

    async def release(self) -> float:
        await self._note("release")
        return 0.0

    async def execute(self, command: str, **_: Any) -> None:
        await self._note(command)

    async def begin(self, command: str) -> None:
        await self._note(command)

    async def finish(self, _pending: None) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("file_system", [FileSystem.WRITTEN, FileSystem.QUIESCED])
async def test_processes_that_cannot_be_held_refuse_a_whole_disk_and_go_on(file_system: FileSystem) -> None:
    guest = StandIn(holds=False)
    with pytest.raises(CheckpointUnusable, match="could not be made to stand still"):
        async with standstill.standing_still(guest.machine, file_system):
            raise AssertionError("a machine that does not stand still was given out")
    assert "stop" not in guest.asked
    assert guest.asked[-2:] == ["cont", "release"]


async def test_a_fork_needs_no_whole_disk_and_says_that_processes_were_not_held() -> None:
    guest = StandIn(holds=False)
    async with standstill.standing_still(guest.machine, FileSystem.AS_IS) as pause:
        assert not pause.processes_held
        assert guest.asked == ["ping", "freeze", "stop"]
    assert guest.asked[3:] == ["cont", "release"]


async def test_a_machine_runs_on_after_whatever_failed_while_it_stood_still() -> None:
    guest = StandIn(holds=True)

    async def fail() -> None:
        async with standstill.standing_still(guest.machine, FileSystem.QUIESCED) as pause:
            assert pause.processes_held
            raise ValueError("a failure of any kind")

    with pytest.raises(ValueError, match="of any kind"):
        await fail()
    assert guest.asked == ["sync", "ping", "quiesce", "stop", "cont", "release"]


def test_the_root_file_system_alone_is_written_out_while_processes_stand_still(monkeypatch: Any) -> None:
    written: list[Path] = []

    class Library:
        def __init__(self, *_: object, **__: object) -> None: ...

        def syncfs(self, fd: int) -> int:
            written.append(Path(f"/proc/self/fd/{fd}").readlink())
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    filesystem.write_out()
    assert written == [Path("/")]
