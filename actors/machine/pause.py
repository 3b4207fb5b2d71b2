"""A machine that stands still: its processes first, then, where asked, its file system, then its virtual CPUs.

What is checkpointed in this state runs none of its processes in a restored machine before that has proven itself, and
has a disk that is whole without the memory unless the file system was left as it was.

Whether the virtual CPUs stand still is never believed: `Machine.held` says what is wanted, QEMU says what is so, and
`Machine.unsettled` is set from before a command that changes it until QEMU has confirmed that.  Whatever ends in
between leaves the doubt to the next operation, or to the machine's own attendant, which `settle` it by asking QEMU.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Final

import trio

from actors.machine.guest.pulse import ANSWER_S
from actors.machine.machine import QEMU_LOOK_S, Machine, Standstill
from actors.model.errors import AgentisoError, CheckpointUnusable, GuestBroken, GuestRefused, MachineFailed

RESUME_LIMIT_S: Final = 30.0
"""Bound on a standstill and on its end, which happens whatever else fails."""
QEMU_LIMIT_S: Final = 10.0
"""Bound on a command to QEMU that may wait for its disk."""
HOLD_TRIES: Final = 3
"""A process that waits for its disk cannot be held at once; where that is needed, it is tried again."""
WAYS_BACK: Final = (
    "What needs no answer: workspace_suspend with keep_in_memory, snapshot_create with its memory, workspace_stop, "
    "snapshot_restore, undo, and a fork or export of one of its snapshots."
)

NOT_WHOLE: Final = "What needs no whole disk: a fork of it, snapshot_restore, undo, and a fork or export of a snapshot."


class FileSystem(Enum):
    """What is done to the root file system once no process runs."""

    AS_IS = auto()
    """Nothing: what it holds in memory belongs to its disk."""
    WRITTEN = auto()
    """All of it is written to the disk, whose journal is replayed where it is used without the memory."""
    QUIESCED = auto()
    """The same, journal included, and it takes no writes until the machine runs on."""


@asynccontextmanager
async def standing_still(
    machine: Machine, file_system: FileSystem, *, guest_needed: bool = True, answer_s: float = ANSWER_S
) -> AsyncIterator[Standstill]:
    """Keep a machine still for the block; one that stands still already is left so.

    Not cancellable inside: it is short, and half of it is of no use.  Unless the guest is needed, QEMU alone makes a
    machine stand still whose guest does not answer within ``answer_s``.

    Raises:
        GuestBroken: the guest does not answer, and is needed; nothing was changed.
        MachineFailed: it took too long, or QEMU died or does not answer.
        CheckpointUnusable: its processes cannot be made to stand still, which a whole disk needs.

    """
    answers = machine.held is None and await _prepare(
        machine, file_system, guest_needed=guest_needed, answer_s=answer_s
    )
    with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
        async with machine.pausing:
            if machine.held is not None or machine.unsettled:
                # What was held once may have been made to run by a command whose answer never came.
                await machine.settle(limit_s=QEMU_LIMIT_S)
            if machine.held is not None:
                _check(machine.held, file_system, guest_needed=guest_needed)
                yield machine.held
                return
            pause, began = Standstill(), time.perf_counter()
            try:
                # Inside: a guest or a QEMU that takes too long to stop has to be resumed as well.
                await _halt(machine, pause, file_system, answers=answers, guest_needed=guest_needed)
                yield pause
            finally:
                # A guest that had no part in it has no process to let go, and is not waited for.
                await _run_on_shielded(machine, told=not pause.alone)
                pause.seconds = time.perf_counter() - began
        return
    raise _too_long(machine)


async def hold(machine: Machine, file_system: FileSystem, *, guest_needed: bool = True) -> Standstill:
    """Have a machine stand still until `let_go`; if that fails or is cancelled, it runs on.  Errors as above."""
    answers = await _prepare(machine, file_system, guest_needed=guest_needed)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
        async with machine.pausing:
            if machine.unsettled:
                await machine.settle(limit_s=QEMU_LIMIT_S)
            pause = Standstill()
            try:
                await _halt(machine, pause, file_system, answers=answers, guest_needed=guest_needed)
            except BaseException:
                await _run_on_shielded(machine)
                raise
            machine.held = pause
            return pause
    raise _too_long(machine)


async def hold_anew(machine: Machine) -> None:
    """Have the guest take its part in the standstill of a machine that QEMU alone holds, if it answers.

    Whether it does or not, the machine stands still afterwards; nobody else may use it yet.

    Raises:
        QmpError, MachineFailed: QEMU does not have it run, or does not answer.

    """
    alone, machine.held = machine.held, None
    try:
        async with machine.pausing:
            await machine.settle()
        if await guest_answers(machine, ANSWER_S):
            with contextlib.suppress(GuestBroken, GuestRefused):
                # An earlier supervisor may have had its processes and its file system stand still.
                await machine.release_processes()
                await _hold_somehow(machine)
    finally:
        if machine.held is None:
            machine.held = alone
            await _settle_shielded(machine)


async def _hold_somehow(machine: Machine) -> None:
    try:
        await hold(machine, FileSystem.QUIESCED, guest_needed=False)
    except CheckpointUnusable:
        # Its processes cannot be held for a whole disk: they stand still with the virtual CPUs.
        await hold(machine, FileSystem.AS_IS, guest_needed=False)


async def _settle_shielded(machine: Machine) -> None:
    """Have the virtual CPUs do what is wanted, now or else as soon as QEMU answers."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + QEMU_LIMIT_S):
        async with machine.pausing:
            try:
                await machine.settle()
            except AgentisoError:
                machine.doubt()


async def let_go(machine: Machine) -> None:
    """Have a held machine run on; not cancellable once it has begun.

    Raises:
        QmpError, MachineFailed: QEMU does not have it run on; it is held as before, or made so once QEMU answers.

    """
    async with machine.pausing:
        if machine.held is not None:
            machine.held.broken()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
            try:
                await _run_on(machine)
            except AgentisoError:
                # Its answer may have come too late: then it is done.
                if not await _runs_after_all(machine):
                    raise
                machine.unsettled = False
            machine.held = None
            return
    raise _too_long(machine)


async def give_up(machine: Machine) -> None:
    """Have a machine run on that was held for what came to nothing, now or else as soon as QEMU answers."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
        machine.held = None
        async with machine.pausing:
            with contextlib.suppress(AgentisoError):
                await _run_on(machine)


async def guest_answers(machine: Machine, limit_s: float) -> bool:
    """Tell whether the guest of a running machine answers within a time."""
    try:
        with trio.fail_after(limit_s):
            # After a moment's wait, if its agent is being started again.
            await (await machine.live_client()).ping(limit_s)
    except (trio.TooSlowError, GuestBroken):
        return False
    return True


async def _prepare(
    machine: Machine, file_system: FileSystem, *, guest_needed: bool, answer_s: float = ANSWER_S
) -> bool:
    """Do all that can be done before the pause; tell whether the guest answers, which it may be needed for."""
    # An idle machine takes a while for its first answer: now, while everything runs on.
    alive = await guest_answers(machine, answer_s)
    if alive and file_system is not FileSystem.AS_IS:
        try:
            # With everything still running this writes most of what would have to be written in the standstill.
            await machine.client.sync_disks()
        except GuestRefused:
            # It is tried once more in the standstill, where that matters.
            pass
        except GuestBroken:
            alive = False
    if not alive:
        # If QEMU is mute as well, that is the better reason.
        await machine.runs()
        if guest_needed:
            known = machine.hindrance
            raise GuestBroken(
                f"The guest did not answer within {answer_s:.0f} s{f' ({known.why})' if known else ''}, without which "
                "this cannot be done; nothing was changed.",
                remedy=f"{known.remedy} {WAYS_BACK}" if known else WAYS_BACK,
            )
    return alive


async def _halt(
    machine: Machine, pause: Standstill, file_system: FileSystem, *, answers: bool, guest_needed: bool
) -> None:
    whole = file_system is not FileSystem.AS_IS
    try:
        for _ in range(HOLD_TRIES if whole and answers else 1 if answers else 0):
            pause.processes_held = await machine.client.freeze(
                write=file_system is FileSystem.WRITTEN, quiesce=file_system is FileSystem.QUIESCED
            )
            if pause.processes_held:
                break
    except GuestRefused as refused:
        refused.remedy = f"Its kernel cannot write its disk.  {NOT_WHOLE}"
        raise
    except GuestBroken as broken:
        await machine.runs()
        if guest_needed:
            broken.remedy = WAYS_BACK
            raise
        answers = False
    if answers and whole and not pause.processes_held:
        raise CheckpointUnusable(
            "The guest's processes could not be made to stand still, so its disk is not consistent now.",
            remedy="Try again, or fork it, which does not need that.",
        )
    pause.alone, pause.whole = not answers, whole and answers
    await _stop(machine)


def _check(held: Standstill, file_system: FileSystem, *, guest_needed: bool) -> None:
    """Raise `CheckpointUnusable` unless a standstill from before is enough for what is wanted now."""
    if file_system is not FileSystem.AS_IS and guest_needed and not held.whole:
        raise CheckpointUnusable(
            "The machine was made to stand still without its guest, so what that had not written is not on its disk.",
            remedy="Resume it and try again, or fork it or keep a snapshot with its memory, which do not need that.",
        )


async def _stop(machine: Machine) -> None:
    """Stop the virtual CPUs, and have QEMU say that they stand still: asked in one go, it takes no longer."""
    machine.unsettled = True
    stopping, asking = await machine.qmp.begin("stop"), await machine.qmp.begin("query-status")
    try:
        await machine.qmp.finish(stopping, limit_s=QEMU_LIMIT_S)
    finally:
        status = await machine.qmp.finish(asking, limit_s=QEMU_LOOK_S)
    if status.get("running") is not False:
        raise MachineFailed("QEMU says that it has stopped the machine, and that it runs.")
    machine.unsettled = False


async def _run_on(machine: Machine, *, told: bool = True) -> None:
    """Have the machine run on, then its processes, with the clock set right: it stood still as well.

    Unless the guest is to be ``told`` now, it is once it answers.
    """
    machine.unsettled = True
    try:
        resuming = await machine.qmp.begin("cont")
        try:
            # A guest that does not answer is noticed by whoever asks it for something next.
            with contextlib.suppress(GuestBroken, GuestRefused):
                await machine.release_processes(wait=told)
        finally:
            await machine.qmp.finish(resuming, limit_s=QEMU_LIMIT_S)
    except BaseException:
        machine.doubt()
        raise
    machine.unsettled = False


async def _run_on_shielded(machine: Machine, *, told: bool = True) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
        await _run_on(machine, told=told)


async def _runs_after_all(machine: Machine) -> bool:
    try:
        return await machine.runs()
    except AgentisoError:
        return False


def _too_long(machine: Machine) -> MachineFailed:
    wanted = "runs on" if machine.held is None else "stands still as before"
    doubt = ", which QEMU has yet to confirm" if machine.unsettled else ""
    return MachineFailed(
        f"What was to be done with the machine was not done within {RESUME_LIMIT_S:.0f} s; it {wanted}{doubt}.",
        remedy="Look at QEMU's log; the host's disk may be full or very slow.",
    )
