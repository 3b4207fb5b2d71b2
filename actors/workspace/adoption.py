"""Machines that an earlier supervisor started, or an earlier life of the actor: taken hold of, sought, given up.

A machine is gone only if its process is.  What runs and cannot be reached runs on, and is tried again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import trio

from actors.machine import pause as standstill
from actors.machine import start
from actors.machine.machine import Machine
from actors.machine.qemu import logs
from actors.machine.qemu.process import QemuProcess, is_alive, is_machine_of
from actors.model.errors import AgentisoError, MachineFailed, Unfinished
from actors.model.machine import MachineRecord
from actors.model.states import Event, State
from actors.workspace import ports
from actors.workspace.attendance import attend
from actors.workspace.describe import failure_of
from actors.workspace.resources import Resources

log = logging.getLogger("agentiso.workspace")
ADOPT_LIMIT_S: Final = 10.0
"""How long a machine may take to answer a supervisor that has just started; it is tried again."""
SEEK_LIMIT_S: Final = 3.0
"""The same of the next try, which ends for whoever wants a change; each later one is given twice as long."""
SEEK_FIRST_S: Final = 1.0
SEEK_MOST_S: Final = 30.0
ELSEWHERE: Final = (
    "The machine that its record names, QEMU's process {}, is that of another state directory, of which this one is a "
    "copy or a backup: it was left alone. The disk here is as after a power cut when it was copied."
)


async def adopt(own: Resources, *, limit_s: float = ADOPT_LIMIT_S) -> None:
    """Take hold of the machine that the record names, or write down that it is gone, or that it cannot be reached.

    It is gone only if its process is: what runs and does not answer runs on.  `Resources.search` may be cancelled.

    Raises:
        OSError: it cannot be told whether the process runs.

    """
    record, machine_record = own.record, own.record.machine
    assert machine_record is not None
    if not _is_there(machine_record):
        _bury(own, machine_record)
        return
    try:
        with trio.CancelScope() as own.search:
            machine = await _take_hold(own, machine_record, limit_s)
        if own.search.cancelled_caught:
            return
    except (AgentisoError, OSError) as error:
        if not _is_there(machine_record):
            _bury(own, machine_record)
            return
        log.warning("workspace %s is unreachable: %s", record.name, error)
        if own.lifecycle.state is not State.UNREACHABLE or own.record.failure is None:
            own.note(Event.LOST, failure=_unreachable(error))
        return
    if machine is None:
        _bury(own, machine_record)
        return
    machine.evidence, machine.start_seconds = record.evidence, record.start_seconds
    own.machine = machine
    found = Event.PAUSED if record.stands_still else Event.RESUMED
    own.note(found if own.lifecycle.state is State.UNREACHABLE else None, layer=machine.layer, failure=None)
    await ports.settle(own, machine, adopted=True)
    attend(own, machine)


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
        stands_still=record.stands_still,
        limit_s=limit_s,
    )
    if machine is not None and record.stands_still:
        try:
            await standstill.hold_anew(machine)
        except BaseException:
            await machine.release()
            raise
    return machine


def _is_there(machine_record: MachineRecord) -> bool:
    return is_machine_of(machine_record.process, Path(machine_record.directory))


def _bury(own: Resources, machine_record: MachineRecord) -> None:
    """Write down that the machine's process has ended while nobody watched it, or is not this workspace's."""
    end, failure = None, ELSEWHERE.format(machine_record.process.pid)
    if not is_alive(machine_record.process):
        end = start.look_back(machine_record, Path(own.host.settings.qemu_binary))
        failure = f"{failure_of(end)} It happened while no supervisor watched it."
    own.note(
        Event.MACHINE_DIED,
        machine=None,
        checkpoint=None,
        layer=own.last_layer(),
        stands_still=False,
        failure=failure,
        ended=end,
    )
    logs.put_away(Path(machine_record.directory))


def _unreachable(error: AgentisoError | OSError) -> str:
    # What comes after it are the last lines of its logs, which are there to be read, and what to do about a start.
    why = error.message.partition("\n")[0] if isinstance(error, AgentisoError) else f"{error}."
    return f"Its machine runs and cannot be reached: {why} It is left alone and tried again."


async def seek(own: Resources, changing: trio.Lock) -> None:
    """Try again and again to take hold of a machine that cannot be reached, until it is found or given up."""
    pause_s, limit_s = SEEK_FIRST_S, SEEK_LIMIT_S
    while own.lifecycle.state is State.UNREACHABLE:
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, SEEK_MOST_S)
        async with changing:
            if own.lifecycle.state is State.UNREACHABLE:
                await adopt(own, limit_s=limit_s)
        limit_s = min(2 * limit_s, SEEK_MOST_S)


async def give_up_process(own: Resources) -> None:
    """End the process of a machine that cannot be reached, if there is one: the workspace has failed then.

    Raises:
        MachineFailed: the process does not end.

    """
    machine_record = own.record.machine
    if own.machine is not None or machine_record is None:
        return
    with trio.CancelScope(shield=True):
        process = QemuProcess.adopt(machine_record.process, Path(machine_record.directory))
        if process is not None:
            await process.end()
            process.release()
        if _is_there(machine_record):
            raise MachineFailed(
                f"Process {machine_record.process.pid} does not end.", remedy="The host's kernel holds it; try again."
            )
        if own.record.machine is None:
            # It was seen by who had waited for that.
            return
        own.note(
            Event.MACHINE_DIED,
            machine=None,
            checkpoint=None,
            layer=own.last_layer(),
            stands_still=False,
            failure="Its machine could not be reached, and was given up.",
            ended=None,
        )
        logs.put_away(Path(machine_record.directory))


def left_over(own: Resources, machine: Machine) -> Unfinished:
    """Return the error of a stop or a suspension whose machine was killed and has not ended (`Machine.overdue`).

    The record goes on naming it where its disk is the workspace's, so that no other is started on that.
    """
    said = f"QEMU's process {machine.process.pid} was killed and does not end: the host's kernel holds it."
    if own.record.suspended:
        return Unfinished(
            f"The workspace is suspended. {said}", remedy="It can be resumed; its memory is free once that has ended."
        )
    own.note(Event.LOST, machine=machine.record, failure=f"{said} The workspace is stopped when it has.")
    return Unfinished(f"{said} The workspace is stopped when it has, and until then unreachable.")
