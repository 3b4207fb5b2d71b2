"""A workspace's machine comes and goes: start, stop, pause, suspend, resume, adoption, an end that nobody asked for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import trio

from actors.machine import checkpoint as checkpoints
from actors.machine import pause as standstill
from actors.machine import start
from actors.machine.machine import SHUTDOWN_GRACE_S, Machine
from actors.machine.pause import FileSystem
from actors.machine.qemu import logs
from actors.machine.qemu.process import QemuProcess, is_alive
from actors.machine.storage import integrity
from actors.machine.storage.checkpoint import Checkpoint
from actors.model.errors import AgentisoError, MachineFailed
from actors.model.machine import MachineRecord
from actors.model.names import new_id
from actors.model.record import WorkspaceRecord
from actors.model.states import Event, State
from actors.workspace import launch as launching
from actors.workspace import ports
from actors.workspace.describe import failure_of
from actors.workspace.launch import launch
from actors.workspace.resources import Resources

log = logging.getLogger("agentiso.workspace")
ADOPT_LIMIT_S: Final = 10.0
"""How long a machine may take to answer a supervisor that has just started; it is tried again."""
SEEK_LIMIT_S: Final = 3.0
"""The same of later tries, during which the workspace cannot be changed."""
SEEK_FIRST_S: Final = 1.0
SEEK_MOST_S: Final = 30.0


async def bring_back(own: Resources, source: Checkpoint | None, *, head: str | None) -> None:
    """Start a machine from a checkpoint, or from the disk; the earlier machine runs until that is proven."""
    machine = await launch(own.nursery, own.host, own.record, source)
    resumed = source is not None and source.has_memory
    await _take_over(own, machine, source, head=head, started_by="restore" if resumed else "cold_boot")


async def prepare(own: Resources, source: Checkpoint) -> None:
    """Restore a machine that waits in the pool for its identity."""
    async with own.host.starts:
        prepared = await launching.prepare(own.nursery, own.host, own.record, source)
        await launching.rehearse(prepared, own.host)
        own.prepared = prepared


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
    own: Resources, machine: Machine, source: Checkpoint | None, *, head: str | None, started_by: str
) -> None:
    """Have a proven machine be the workspace's, and end the earlier one; on failure it is ended itself."""
    resumed = source is not None and source.has_memory
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
        )
    except BaseException:
        with trio.CancelScope(shield=True):
            await machine.end()
        raise
    finally:
        own.store.release(f"machine:{machine.spec.uuid}")
    earlier, own.machine = own.machine, machine
    _attend(own, machine)
    with trio.CancelScope(shield=True):
        if earlier is not None:
            await earlier.end()
        await ports.settle(own, machine)


def _attend(own: Resources, machine: Machine) -> None:
    own.host.memory.promise(machine.spec.uuid, own.record.shape.memory_mb)
    own.background("watch over its machine", _watch, own, machine)
    own.background("watch for a full disk", machine.resume_when_stalled)
    own.background("bound its logs", machine.bound_logs)


async def _watch(own: Resources, machine: Machine) -> None:
    """Notice the end of a machine that nobody asked for."""
    await machine.process.wait_exit()
    own.host.memory.forget(machine.spec.uuid)
    if own.machine is not machine:
        return
    end = await machine.why_ended(Path(own.host.settings.qemu_binary))
    if own.machine is machine:
        own.machine = None
        try:
            own.note(
                Event.MACHINE_DIED,
                machine=None,
                layer=machine.layer if machine.doubtful_layer is None else own.last_layer(),
                failure=failure_of(end),
                ended=end,
            )
            # At once: whoever is told of the end finds the logs.
            logs.put_away(machine.spec.directory)
        finally:
            await machine.end()


async def adopt(own: Resources, *, limit_s: float = ADOPT_LIMIT_S) -> None:
    """Take hold of the machine that the record names, or write down that it is gone, or that it cannot be reached.

    It is gone only if its process is: what runs and does not answer runs on.

    Raises:
        OSError: it cannot be told whether the process runs.

    """
    record, machine_record = own.record, own.record.machine
    assert machine_record is not None
    if not is_alive(machine_record.process):
        _bury(own, machine_record)
        return
    try:
        machine = await _take_hold(own, machine_record, limit_s)
    except (AgentisoError, OSError) as error:
        if not is_alive(machine_record.process):
            _bury(own, machine_record)
            return
        log.warning("workspace %s is unreachable: %s", record.name, error)
        if own.lifecycle.state is not State.UNREACHABLE or own.record.failure is None:
            own.note(Event.LOST, failure=_unreachable(record.name, error))
        return
    if machine is None:
        _bury(own, machine_record)
        return
    machine.evidence, machine.start_seconds = record.evidence, record.start_seconds
    own.machine = machine
    found = Event.PAUSED if record.stands_still else Event.RESUMED
    own.note(found if own.lifecycle.state is State.UNREACHABLE else None, layer=machine.layer, failure=None)
    await ports.settle(own, machine, adopted=True)
    _attend(own, machine)


async def _take_hold(own: Resources, machine_record: MachineRecord, limit_s: float) -> Machine | None:
    """Connect to a machine, which runs on or stands still as its record says; ``None`` if its process has ended."""
    record, host = own.record, own.host
    fingerprint = machine_record.fingerprint
    if fingerprint is None:
        # Written down by an agentiso that did not note it.
        image = await host.load_image(record.image_digest)
        fingerprint = await host.fingerprint(image, record.shape, record.network, record.channel)
    machine = await start.adopt(
        own.nursery,
        host.adopted_place(record, machine_record),
        fingerprint,
        machine_record,
        layer=record.layer or "",
        disk_bytes=record.disk_bytes,
        limit_s=limit_s,
    )
    if machine is not None and record.stands_still:
        try:
            await standstill.hold(machine, FileSystem.QUIESCED)
        except BaseException:
            await machine.release()
            raise
    return machine


def _bury(own: Resources, machine_record: MachineRecord) -> None:
    """Write down that the machine's process has ended while nobody watched it."""
    end = start.look_back(machine_record, Path(own.host.settings.qemu_binary))
    own.note(
        Event.MACHINE_DIED,
        machine=None,
        layer=own.last_layer(),
        stands_still=False,
        failure=f"{failure_of(end)} It happened while no supervisor watched it.",
        ended=end,
    )
    logs.put_away(Path(machine_record.directory))


def _unreachable(name: str, error: Exception) -> str:
    return (
        f"Its machine runs and cannot be reached: {error} It is left alone and tried again. To give it up: "
        f"`agentiso stop {name}` (its disk stays), restore a snapshot, or destroy the workspace."
    )


async def seek(own: Resources, changing: trio.Lock) -> None:
    """Try again and again to take hold of a machine that cannot be reached, until it is found or given up."""
    pause_s = SEEK_FIRST_S
    while own.lifecycle.state is State.UNREACHABLE:
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, SEEK_MOST_S)
        async with changing:
            if own.lifecycle.state is State.UNREACHABLE:
                await adopt(own, limit_s=SEEK_LIMIT_S)


async def give_up_process(own: Resources) -> None:
    """End the process of a machine that cannot be reached, if there is one: the workspace has failed then.

    Raises:
        MachineFailed: the process does not end.

    """
    machine_record = own.record.machine
    if own.machine is not None or machine_record is None:
        return
    with trio.CancelScope(shield=True):
        process = QemuProcess.adopt(machine_record.process)
        if process is not None:
            await process.end()
            process.release()
        if is_alive(machine_record.process):
            raise MachineFailed(
                f"Process {machine_record.process.pid} does not end.", remedy="The host's kernel holds it; try again."
            )
        own.note(
            Event.MACHINE_DIED,
            machine=None,
            layer=own.last_layer(),
            stands_still=False,
            failure="Its machine could not be reached, and was given up.",
            ended=None,
        )
        logs.put_away(Path(machine_record.directory))


async def stop(own: Resources) -> None:
    """End the machine after its guest has written its disks; of a suspended workspace only the disk is kept."""
    machine = own.machine
    if own.has_process:
        await give_up_process(own)
        own.save(Event.STOPPED, checkpoint=None, failure=None)
        return
    if machine is None:
        source = own.store.load(own.record.suspended or "")
        settle_on(own, source, head=own.record.head)
        await own.store.collect()
        return
    if machine.held:
        await standstill.let_go(machine)
        own.note(Event.RESUMED, stands_still=False)
    await _leave(own, machine, Event.STOPPED, grace_s=SHUTDOWN_GRACE_S)


async def _leave(own: Resources, machine: Machine, event: Event, *, grace_s: float = 0.0, **changes: Any) -> None:
    """Write down that the workspace has no machine any more, and end it; not cancellable."""
    with trio.CancelScope(shield=True):
        own.save(event, machine=None, checkpoint=None, layer=machine.layer, stands_still=False, **changes)
        own.machine = None
        await machine.end(grace_s=grace_s)


def settle_on(own: Resources, source: Checkpoint, *, head: str | None) -> None:
    """Have a workspace be stopped, its disk on a fresh layer over a checkpoint's; the caller ends its machine."""
    layer = new_id()
    with own.store.held(layer, source.id):
        own.store.layers.create(layer, over=source.layer, size_bytes=source.disk_bytes)
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
        )


async def pause(own: Resources) -> None:
    """Have the machine stand still; its memory stays on the host."""
    await standstill.hold(own.live(), FileSystem.QUIESCED)
    own.note(Event.PAUSED, stands_still=True)


async def suspend(own: Resources, by: str) -> None:
    """Checkpoint the machine and end it; nothing of it runs after the checkpoint, or it would be done twice."""
    machine, owner = own.live(), f"suspend:{new_id()}"
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
                with trio.CancelScope(shield=True, deadline=trio.current_time() + standstill.RESUME_LIMIT_S):
                    await standstill.let_go(machine)
        raise
    with trio.CancelScope(shield=True):
        # Nobody may have asked for it who would wait for that.
        await own.store.flush()
    own.background("digest", integrity.add_digest_later, own.store, taken.checkpoint)


async def resume(own: Resources) -> None:
    """Have a paused machine run on, or restore the machine of a suspended workspace."""
    if own.machine is not None:
        await standstill.let_go(own.machine)
        own.note(Event.RESUMED, stands_still=False)
        return
    await bring_back(own, own.store.load(own.record.suspended or ""), head=own.record.head)
    await own.store.collect()
