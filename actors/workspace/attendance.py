"""The watch over a workspace's machine, from its start to its end."""

from __future__ import annotations

from pathlib import Path

from actors.machine.machine import Machine, process_hindrance
from actors.machine.qemu import logs
from actors.model.info import Hindrance
from actors.model.states import Event
from actors.workspace.describe import failure_of
from actors.workspace.resources import Resources


def attend(own: Resources, machine: Machine) -> None:
    """Watch over a machine that has become the workspace's."""
    own.host.memory.promise(machine.spec.uuid, own.record.shape.memory_mb)
    own.background("watch over its machine", _watch, own, machine)
    own.background("watch for a full disk", machine.resume_when_stalled)
    own.background("bound its logs", machine.bound_logs)


async def _watch(own: Resources, machine: Machine) -> None:
    """Notice the end of a machine that nobody asked for."""
    await machine.process.wait_exit()
    own.host.memory.forget(machine.spec.uuid)
    if own.machine is not machine:
        if machine.overdue:
            await _finish(own, machine)
        return
    end = await machine.why_ended(Path(own.host.settings.qemu_binary))
    if own.machine is machine:
        # Where that cannot be read now, all of this is tried again.
        layer = own.layer_of(machine)
        own.machine = None
        try:
            own.note(
                Event.MACHINE_DIED,
                machine=None,
                checkpoint=None,
                layer=layer,
                failure=failure_of(end),
                ended=end,
            )
            # At once: whoever is told of the end finds the logs.
            logs.put_away(machine.spec.directory)
        finally:
            await machine.end()


async def _finish(own: Resources, machine: Machine) -> None:
    """Do what was left when a machine had been killed and would not end."""
    await machine.end()
    named = own.record.machine
    if named is not None and named.process == machine.process.identity:
        own.note(Event.STOPPED, machine=None, failure=None)


def hindrance(own: Resources) -> Hindrance | None:
    """Return what keeps the machine from answering, as far as that is known."""
    if own.machine is not None:
        return own.machine.hindrance
    return process_hindrance(own.unreached.process) if own.unreached else None
