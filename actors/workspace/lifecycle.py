"""A workspace's machine comes and goes: start, stop, pause, suspend, resume, adoption, an end that nobody asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from actors.machine import checkpoint as checkpoints
from actors.machine import pause as standstill
from actors.machine.machine import SHUTDOWN_GRACE_S, Machine
from actors.machine.pause import FileSystem
from actors.machine.qemu import logs
from actors.machine.qemu.orphans import end_machines
from actors.machine.storage import integrity
from actors.machine.storage.checkpoint import Checkpoint
from actors.model.errors import AgentisoError, GuestBroken, GuestRefused, MachineFailed, NoCapacity
from actors.model.machine import MachineRecord
from actors.model.names import new_id
from actors.model.record import WorkspaceRecord
from actors.model.states import Event
from actors.workspace import launch as launching
from actors.workspace import ports
from actors.workspace.adoption import give_up_process, left_over
from actors.workspace.attendance import attend
from actors.workspace.launch import discard, launch
from actors.workspace.resources import Resources

log = logging.getLogger("agentiso.workspace")
STOP_ANSWER_S: Final = 3.0
"""A guest that does not answer within this is ended without being asked to power off."""
SYNC_LIMIT_S: Final = 30.0
"""For a guest that answers to write what it has to its disk, before it powers off."""
NOT_WRITTEN: Final = (
    "The guest did not answer, so it was ended as by a power cut: what it had not written to its disk is lost."
)
DISK_REFUSED: Final = "The guest could not write to its disk, and what it had not written is lost: {}"
RUNS_ALONE: Final = (
    "Its guest does not answer, and is told that it runs on once it does. undo, snapshot_restore and workspace_stop "
    "need no answer."
)
PAUSED_ALONE: Final = (
    "The guest did not answer, so QEMU alone made it stand still: it can be resumed, kept as a snapshot with its "
    "memory, or stopped; what needs a whole disk has to wait until it answers."
)


async def bring_back(own: Resources, source: Checkpoint | None, *, head: str | None, **changes: Any) -> None:
    """Start a machine from a checkpoint, or from the disk; the earlier machine runs until that is proven.

    Then all ``changes`` of the record, by which it is started, come to pass at once.
    """
    machine = await launch(own.nursery, own.host, attrs.evolve(own.record, **changes), source)
    resumed = source is not None and source.has_memory
    await _take_over(own, machine, source, head=head, started_by="restore" if resumed else "cold_boot", **changes)


async def prepare(own: Resources, source: Checkpoint) -> None:
    """Restore a machine that waits in the pool for its identity."""
    async with own.host.starts:
        prepared = await launching.prepare(own.nursery, own.host, own.record, source)
        await launching.rehearse(prepared, own.host)
        own.prepared = prepared
    own.background("watch over what waits in the pool", _watch_prepared, own, prepared)


async def _watch_prepared(own: Resources, prepared: launching.Prepared) -> None:
    """Notice the end of a machine that nobody has claimed."""
    await prepared.machine.process.wait_exit()
    if own.prepared is prepared:
        own.prepared = None
        await discard(own.host, prepared)
        own.host.unpooled(own.record.id)


async def claim(own: Resources, record: WorkspaceRecord) -> None:
    """Have the machine that waits in the pool be that of the workspace ``record``; if it fails, it is ended.

    Raises:
        MachineFailed: it is gone, or does not answer.
        RestoreUnproven: it could not prove what it is.

    """
    prepared, own.prepared = own.prepared, None
    if prepared is None:
        raise MachineFailed("The machine that was restored ahead is gone.", remedy="Create the workspace again.")
    own.record = record
    # What was done ahead costs nobody anything any more.
    prepared.machine.start_seconds = 0.0
    machine = await launching.complete(own.host, record, prepared)
    await _take_over(own, machine, prepared.source, head=None, started_by="pool")


async def _take_over(
    own: Resources, machine: Machine, source: Checkpoint | None, *, head: str | None, started_by: str, **changes: Any
) -> None:
    """Have a proven machine be the workspace's, and end the earlier one; on failure it is ended itself."""
    resumed, unreached = source is not None and source.has_memory, own.unreached
    try:
        own.save(
            Event.STARTED,
            layer=machine.layer,
            disk_bytes=machine.disk_bytes,
            checkpoint=source.id if source and resumed else None,
            machine=machine.record,
            evidence=machine.evidence,
            started_by=started_by,
            start_seconds=machine.start_seconds,
            head=head,
            failure=None,
            suspended=None,
            suspended_by=None,
            stands_still=False,
            **changes,
        )
    except BaseException:
        with trio.CancelScope(shield=True):
            await machine.end()
        raise
    finally:
        own.store.release(f"machine:{machine.spec.uuid}")
    earlier, own.machine = own.machine, machine
    attend(own, machine)
    with trio.CancelScope(shield=True):
        if earlier is not None:
            await earlier.end()
        await end_unreached(own, unreached)
        await ports.settle(own, machine)


async def end_unreached(own: Resources, machine_record: MachineRecord | None) -> None:
    """End the process of a machine that could not be reached and that the record does not name any more, now or soon.

    It writes to nothing that anybody uses now.
    """
    if machine_record is None:
        return
    directory = Path(machine_record.directory)
    try:
        with trio.CancelScope(shield=True):
            await end_machines(own.host.state_dir, directory)
    except (AgentisoError, OSError) as error:
        log.warning("workspace %s: the machine that was given up may run still: %s", own.record.name, error)
        own.given_up.add(directory)
    else:
        logs.put_away(directory)


async def stop(own: Resources) -> str:
    """End the machine after its guest has written its disks, and say if it had not.

    Of a suspended workspace only the disk is kept.
    """
    machine = own.machine
    if own.unreached is not None:
        await give_up_process(own)
        # Whether or not it can be written down, there is no machine any more.
        own.note(Event.STOPPED, failure=None)
        return NOT_WRITTEN
    if machine is None:
        settle_on(own, own.store.load(own.record.suspended or ""), head=own.record.head)
        return ""
    if machine.held is not None and machine.held.whole and not machine.unsettled:
        await _leave(own, machine, Event.STOPPED)
        return ""
    async with _released(own, machine):
        note = await _writes(machine)
        answers = note is not NOT_WRITTEN
        written = await _leave(own, machine, Event.STOPPED, grace_s=SHUTDOWN_GRACE_S if answers else 0.0)
    return note or ("" if written else NOT_WRITTEN)


@asynccontextmanager
async def _released(own: Resources, machine: Machine) -> AsyncIterator[None]:
    """Have a held machine run, to write what it had not when it was paused; if the block fails, it is held again.

    Raises:
        MachineFailed: the block failed or was cancelled, and it could not be held again: it runs.

    """
    was_held = machine.held is not None
    try:
        if was_held:
            with contextlib.suppress(AgentisoError):
                await standstill.let_go(machine)
        yield
    except BaseException as error:
        if was_held and machine.held is None and own.machine is machine:
            try:
                with trio.CancelScope(shield=True):
                    await standstill.hold(machine, FileSystem.AS_IS, guest_needed=False)
            except AgentisoError as failure:
                own.note(Event.RESUMED, stands_still=False)
                raise MachineFailed(
                    f"Workspace {own.record.name} was not stopped, and could not be paused again: it runs. "
                    f"{failure.message}",
                    remedy="Pause it again, or stop it.",
                ) from error
        raise


async def _writes(machine: Machine) -> str:
    """Have the guest write its disks while it may still take its time; say what keeps it from that."""
    if machine.held is not None or not await standstill.guest_answers(machine, STOP_ANSWER_S):
        return NOT_WRITTEN
    try:
        with contextlib.suppress(GuestBroken):
            await machine.client.sync_disks(SYNC_LIMIT_S)
    except GuestRefused as error:
        return DISK_REFUSED.format(error.message)
    return ""


async def _leave(own: Resources, machine: Machine, event: Event, *, grace_s: float = 0.0, **changes: Any) -> bool:
    """Write down that the workspace has no machine any more, and end it; not cancellable.

    Returns whether the guest wrote its disks within ``grace_s``.  If it cannot be written down, nothing has happened.
    """
    with trio.CancelScope(shield=True):
        own.save(event, machine=None, checkpoint=None, layer=own.layer_of(machine), stands_still=False, **changes)
        own.machine = None
        written = await machine.end(grace_s=grace_s)
        if machine.overdue:
            raise left_over(own, machine)
    return written


def settle_on(own: Resources, source: Checkpoint, *, head: str | None, **changes: Any) -> None:
    """Have a workspace be stopped, its disk on a fresh layer over a checkpoint's; the caller ends its machine."""
    layer = new_id()
    with own.store.held(layer, source.id):
        _create_somehow(own, layer, source)
        own.save(
            Event.STOPPED,
            machine=None,
            stands_still=False,
            checkpoint=None,
            layer=layer,
            disk_bytes=source.disk_bytes,
            suspended=None,
            suspended_by=None,
            head=head,
            failure=None,
            **changes,
        )


def _create_somehow(own: Resources, layer: str, source: Checkpoint) -> None:
    """Create an empty layer, on a full disk in the room of the reserve: it is there for giving back far more."""
    try:
        own.store.layers.create(layer, over=source.layer, size_bytes=source.disk_bytes)
    except NoCapacity:
        own.host.reserve.unlink(missing_ok=True)
        own.store.layers.create(layer, over=source.layer, size_bytes=source.disk_bytes)


async def pause(own: Resources) -> str:
    """Have the machine stand still, its memory kept on the host; say if its guest had no part in that."""
    pause = await standstill.hold(own.live(), FileSystem.QUIESCED, guest_needed=False)
    own.note(Event.PAUSED, stands_still=True)
    return PAUSED_ALONE if pause.alone else ""


async def suspend(own: Resources, by: str) -> None:
    """Checkpoint the machine and end it; nothing of it runs after the checkpoint, or it would be done twice.

    Raises:
        GuestBroken: the guest does not answer, as it would have to when it is resumed; nothing was changed.

    """
    machine = own.live()
    was_held = machine.held is not None
    if not was_held:
        await standstill.hold(machine, FileSystem.WRITTEN)
    try:
        with own.store.held(machine.layer) as owner:
            taken = await checkpoints.take(machine, own.store, with_memory=True, durable=True, intend=own.intend_layer)
            own.store.hold(owner, {taken.checkpoint.id})
            await _leave(own, machine, Event.SUSPENDED, suspended=taken.checkpoint.id, suspended_by=by)
    except BaseException:
        if own.machine is machine:
            own.settle_layer(machine)
            if not was_held:
                await standstill.give_up(machine)
        raise
    # Nobody may have asked for it who would wait for that.
    await own.settle()
    own.background("digest", integrity.add_digest_later, own.store, taken.checkpoint)


async def resume(own: Resources) -> str:
    """Have a paused machine run on, and say if its guest does not answer; or restore that of a suspended workspace."""
    if own.machine is not None:
        await standstill.let_go(own.machine)
        own.note(Event.RESUMED, stands_still=False)
        return RUNS_ALONE if own.machine.owes_release else ""
    await bring_back(own, own.store.load(own.record.suspended or ""), head=own.record.head)
    return ""
