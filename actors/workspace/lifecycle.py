"""A workspace's machine comes and goes: start, stop, pause, suspend, resume, adoption, an end that nobody asked for."""

from __future__ import annotations

import contextlib
import shutil
from typing import Any, Final

import trio

from actors.machine import checkpoint as checkpoints
from actors.machine import pause as standstill
from actors.machine import start
from actors.machine.machine import SHUTDOWN_GRACE_S, Machine
from actors.machine.pause import FileSystem
from actors.machine.storage import integrity
from actors.machine.storage.checkpoint import Checkpoint
from actors.model import record as records
from actors.model.errors import AgentisoError, GuestBroken, MachineFailed
from actors.model.files import tail
from actors.model.machine import MachineRecord
from actors.model.names import new_id
from actors.model.record import WorkspaceRecord
from actors.model.states import Event, Lifecycle, State
from actors.workspace import launch as launching
from actors.workspace import ports
from actors.workspace.launch import launch
from actors.workspace.resources import Holdings

ADOPT_LIMIT_S = 20.0
STOP_ANSWER_S: Final = 3.0
"""A guest that does not answer within this is ended without being asked to power off."""
SYNC_LIMIT_S: Final = 30.0
"""For a guest that answers to write what it has to its disk, before it powers off."""
NOT_WRITTEN: Final = (
    "The guest did not answer, so it was ended as by a power cut: what it had not written to its disk is lost."
)
PAUSED_ALONE: Final = (
    "The guest did not answer, so QEMU alone made it stand still: it can be resumed, kept as a snapshot with its "
    "memory, or stopped; what needs a whole disk has to wait until it answers."
)


async def bring_back(own: Holdings, source: Checkpoint | None, *, head: str | None) -> None:
    """Start a machine from a checkpoint, or from the disk; the earlier machine runs until that is proven."""
    machine = await launch(own.nursery, own.host, own.record, source)
    resumed = source is not None and source.has_memory
    await _take_over(own, machine, source, head=head, started_by="restore" if resumed else "cold_boot")


async def prepare(own: Holdings, source: Checkpoint) -> None:
    """Restore a machine that waits in the pool for its identity."""
    async with own.host.starts:
        prepared = await launching.prepare(own.nursery, own.host, own.record, source)
        await launching.rehearse(prepared, own.host)
        own.prepared = prepared


async def claim(own: Holdings, record: WorkspaceRecord) -> None:
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
    own: Holdings, machine: Machine, source: Checkpoint | None, *, head: str | None, started_by: str
) -> None:
    """Have a proven machine be the workspace's, and end the earlier one; or neither, if it cannot be written down."""
    earlier, record, lifecycle = own.machine, own.record, own.lifecycle
    own.machine, own.lifecycle = machine, Lifecycle(lifecycle.state)
    resumed = source is not None and source.has_memory
    try:
        own.lifecycle.move(Event.STARTED)
        own.save(
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
        )
    except BaseException:
        own.machine, own.record, own.lifecycle = earlier, record, lifecycle
        own.hold()
        with trio.CancelScope(shield=True):
            await machine.end()
        raise
    finally:
        own.store.release(f"machine:{machine.spec.uuid}")
    _attend(own, machine)
    with trio.CancelScope(shield=True):
        if earlier is not None:
            await earlier.end()
        await ports.settle(own, machine)


def _attend(own: Holdings, machine: Machine) -> None:
    own.nursery.start_soon(_watch, own, machine)
    own.nursery.start_soon(machine.resume_when_stalled)


async def _watch(own: Holdings, machine: Machine) -> None:
    """Notice the end of a machine that nobody asked for."""
    await machine.process.wait_exit()
    if own.machine is machine and own.lifecycle.state is not State.DESTROYED:
        words, log = machine.console(600).strip() or "nothing", tail(machine.spec.qemu_log, 600).strip() or "nothing"
        own.machine = None
        own.lifecycle.move(Event.MACHINE_DIED)
        own.note(
            machine=None, failure=f"Its machine ended by itself. The console's last words: {words}\nQEMU said: {log}"
        )
        await machine.end()


async def adopt(own: Holdings, machine_record: MachineRecord) -> None:
    """Take hold of the machine that an earlier supervisor started, or write down that it is gone."""
    record, host = own.record, own.host
    try:
        image = await host.load_image(record.image_digest)
        fingerprint = machine_record.fingerprint or await host.fingerprint(
            image, record.shape, record.network, record.channel
        )
        machine = await start.adopt(
            own.nursery,
            host.adopted_spec(image, fingerprint, record, machine_record),
            fingerprint,
            machine_record,
            layer=record.layer or "",
            disk_bytes=record.disk_bytes,
            limit_s=ADOPT_LIMIT_S,
        )
        if machine is not None and record.state is State.PAUSED:
            await standstill.hold(machine, FileSystem.QUIESCED)
        reason = "Its machine ended while no supervisor was running."
    except AgentisoError as error:
        machine, reason = None, f"Its machine could not be adopted: {error}"
        start.kill(machine_record)
    if machine is None:
        shutil.rmtree(machine_record.directory, ignore_errors=True)
        if own.lifecycle.state is not State.FAILED:
            own.lifecycle.move(Event.MACHINE_DIED)
        own.note(machine=None, failure=reason)
        return
    machine.evidence, machine.start_seconds = record.evidence, record.start_seconds
    own.machine = machine
    own.note(layer=machine.layer)
    await ports.settle(own, machine, adopted=True)
    _attend(own, machine)


async def stop(own: Holdings) -> str:
    """End the machine after its guest has written its disks, and say if it had not.

    Of a suspended workspace only the disk is kept.
    """
    machine = own.machine
    if machine is None:
        source = own.store.load(own.record.suspended or "")
        settle_on(own, source, head=own.record.head)
        await own.store.sweep()
        return ""
    if machine.held is not None:
        if machine.held.whole and not machine.unsettled:
            await _leave(own, machine, Event.STOPPED)
            return ""
        # What it had not written when it was paused may be written now.
        with contextlib.suppress(AgentisoError):
            await standstill.let_go(machine)
            own.lifecycle.move(Event.RESUMED)
            own.note()
    writes = await _writes(machine)
    written = await _leave(own, machine, Event.STOPPED, grace_s=SHUTDOWN_GRACE_S if writes else 0.0)
    return "" if written else NOT_WRITTEN


async def _writes(machine: Machine) -> bool:
    """Have the guest write its disks while it may still take its time; tell whether it answers."""
    if machine.held is not None or not await standstill.guest_answers(machine, STOP_ANSWER_S):
        return False
    with contextlib.suppress(GuestBroken):
        await machine.client.sync_disks(SYNC_LIMIT_S)
    return True


async def _leave(own: Holdings, machine: Machine, event: Event, *, grace_s: float = 0.0, **changes: Any) -> bool:
    """Write down that the workspace has no machine any more, and end it; not cancellable.

    Returns whether the guest wrote its disks within ``grace_s``.
    """
    with trio.CancelScope(shield=True):
        own.machine = None
        own.lifecycle.move(event)
        try:
            own.save(machine=None, checkpoint=None, layer=machine.layer, **changes)
        finally:
            written = await machine.end(grace_s=grace_s)
    return written


def settle_on(own: Holdings, source: Checkpoint, *, head: str | None) -> None:
    """Have a workspace be stopped, its disk on a fresh layer over a checkpoint's; the caller ends its machine."""
    layer = new_id()
    with own.store.held(layer, source.id):
        own.store.new_overlay(
            layer, backing=own.store.layer(source.layer), backing_format="qcow2", size_bytes=source.disk_bytes
        )
        own.lifecycle.move(Event.STOPPED)
        own.save(
            machine=None,
            checkpoint=None,
            layer=layer,
            disk_bytes=source.disk_bytes,
            suspended=None,
            suspended_by=None,
            head=head,
            failure=None,
        )


async def pause(own: Holdings) -> str:
    """Have the machine stand still, its memory kept on the host; say if its guest had no part in that."""
    pause = await standstill.hold(own.live(), FileSystem.QUIESCED, guest_needed=False)
    own.lifecycle.move(Event.PAUSED)
    own.note()
    return PAUSED_ALONE if pause.alone else ""


async def suspend(own: Holdings, by: str) -> None:
    """Checkpoint the machine and end it; nothing of it runs after the checkpoint, or it would be done twice.

    Raises:
        GuestBroken: the guest does not answer, as it would have to when it is resumed; nothing was changed.

    """
    machine, owner = own.live(), f"suspend:{new_id()}"
    was_held = machine.held is not None
    if not was_held:
        await standstill.hold(machine, FileSystem.WRITTEN)
    try:
        with own.store.held(machine.layer) as owner:
            taken = await checkpoints.take(machine, own.store, with_memory=True, durable=True)
            own.store.hold(owner, {taken.checkpoint.id})
            await _leave(own, machine, Event.SUSPENDED, suspended=taken.checkpoint.id, suspended_by=by)
    except BaseException:
        if own.machine is machine:
            own.note(layer=machine.layer)
            if not was_held:
                await standstill.give_up(machine)
        raise
    with trio.CancelScope(shield=True):
        # Nobody may have asked for it who would wait for that.
        await own.store.flush()
    own.nursery.start_soon(integrity.add_digest_later, own.store, taken.checkpoint)


async def resume(own: Holdings) -> None:
    """Have a paused machine run on, or restore the machine of a suspended workspace."""
    if own.machine is not None:
        await standstill.let_go(own.machine)
        own.lifecycle.move(Event.RESUMED)
        own.note()
        return
    await bring_back(own, own.store.load(own.record.suspended or ""), head=own.record.head)
    await own.store.sweep()


async def destroy(own: Holdings) -> None:
    """End the machine and remove all that the workspace owns."""
    if own.lifecycle.state is State.DESTROYED:
        return
    with trio.CancelScope(shield=True):
        own.lifecycle.move(Event.DESTROYED)
        # Written down first: whoever finds the record after a crash goes on with what is left of this.
        own.note()
        # A disk that is broken, or full, is no reason to keep a workspace.
        with contextlib.suppress(OSError):
            await own.store.flush()
        ports.release(own)
        if own.prepared is not None:
            await launching.discard(own.host, own.prepared)
            own.prepared = None
        if own.machine is not None:
            await own.machine.end()
            own.machine = None
        await trio.to_thread.run_sync(records.remove, own.directory)
        own.store.release(own.owner)
