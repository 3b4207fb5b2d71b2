"""A machine that stands still: its processes first, then, where asked, its file system, then its virtual CPUs.

What is checkpointed in this state runs none of its processes in a restored machine before that has proven itself, and
has a disk that is whole without the memory unless the file system was left as it was.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Final, TypeVar

import trio

from actors.machine.machine import Machine, Standstill
from actors.model.errors import CheckpointUnusable, GuestBroken, GuestRefused, MachineFailed

T = TypeVar("T")

RESUME_LIMIT_S: Final = 30.0
"""Bound on a standstill and on its end, which happens whatever else fails."""
QEMU_LOOK_S: Final = 1.0
"""A QEMU that runs answers at once."""
HOLD_TRIES: Final = 3
"""A process that waits for its disk cannot be held at once; where that is needed, it is tried again."""


class FileSystem(Enum):
    """What is done to the root file system once no process runs."""

    AS_IS = auto()
    """Nothing: what it holds in memory belongs to its disk."""
    WRITTEN = auto()
    """All of it is written to the disk, whose journal is replayed where it is used without the memory."""
    QUIESCED = auto()
    """The same, journal included, and it takes no writes until the machine runs on."""


@asynccontextmanager
async def standing_still(machine: Machine, file_system: FileSystem) -> AsyncIterator[Standstill]:
    """Keep a machine still for the block; one that stands still already is left so.

    Not cancellable inside: it is short, and half of it is of no use.

    Raises:
        MachineFailed: it took too long, or QEMU died.
        CheckpointUnusable: its processes cannot be made to stand still, which a whole disk needs.

    """
    if file_system is not FileSystem.AS_IS and machine.held is None:
        # With everything still running this writes most of what would have to be written in the standstill.
        await machine.client.sync_disks()
    with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
        async with machine.pausing:
            if machine.held is not None:
                yield machine.held
                return
            # An idle machine takes a while for its first answer: now, while everything runs on.
            await _answer(machine, machine.client.ping())
            pause, began = Standstill(), time.perf_counter()
            try:
                # Inside: a guest or a QEMU that takes too long to stop has to be resumed as well.
                await _halt(machine, pause, file_system)
                yield pause
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
                    await _run_on(machine)
                    pause.seconds = time.perf_counter() - began
        return
    raise MachineFailed(
        f"The machine could not be held still within {RESUME_LIMIT_S:.0f} s; it was resumed.",
        remedy="Look at QEMU's log; the host's disk may be full or very slow.",
    )


async def hold(machine: Machine, file_system: FileSystem) -> None:
    """Have a machine stand still until `let_go`; if that fails, it runs on."""
    await machine.client.sync_disks()
    async with machine.pausing:
        pause = Standstill()
        try:
            await _halt(machine, pause, file_system)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
                await _run_on(machine)
            raise
        machine.held = pause


async def let_go(machine: Machine) -> None:
    """Have a held machine run on; if that fails it counts as held, whatever its processes do."""
    async with machine.pausing:
        if machine.held:
            machine.held.processes_held = False
        await _run_on(machine)
        machine.held = None


async def _answer(machine: Machine, question: Awaitable[T]) -> T:
    """Return the guest's answer; if there is none and QEMU is mute as well, that is the better reason."""
    try:
        return await question
    except GuestBroken:
        await machine.qmp.execute("query-status", limit_s=QEMU_LOOK_S)
        raise


async def _halt(machine: Machine, pause: Standstill, file_system: FileSystem) -> None:
    whole = file_system is not FileSystem.AS_IS
    for _ in range(HOLD_TRIES if whole else 1):
        freezing = machine.client.freeze(
            write=file_system is FileSystem.WRITTEN, quiesce=file_system is FileSystem.QUIESCED
        )
        pause.processes_held = await _answer(machine, freezing)
        if pause.processes_held:
            break
    if whole and not pause.processes_held:
        raise CheckpointUnusable(
            "The guest's processes could not be made to stand still, so its disk is not consistent now.",
            remedy="Try again, or fork it, which does not need that.",
        )
    await machine.qmp.execute("stop")


async def _run_on(machine: Machine) -> None:
    """Have the machine run on, then its processes, with the clock set right: it stood still as well."""
    resuming = await machine.qmp.begin("cont")
    try:
        # A guest that does not answer is noticed by whoever asks it for something next.
        with contextlib.suppress(GuestBroken, GuestRefused):
            await machine.client.release()
    finally:
        await machine.qmp.finish(resuming)
