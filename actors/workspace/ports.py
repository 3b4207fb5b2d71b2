"""A workspace's forwarded ports: wanted by its record, given to every machine that it gets.

A host port belongs to the workspace whose record has it, whether that runs or not.  What cannot be opened keeps its
place in the record together with the reason, and is tried again with the next machine.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from actors.machine.machine import Machine
from actors.machine.network.host_ports import check_free, free_port
from actors.machine.network.protocol import Forwards
from actors.model.errors import AgentisoError, InvalidArgument, NoCapacity, NotFound, PortTaken
from actors.model.info import PortForward
from actors.workspace.resources import Resources

MIN_HOST_PORT: Final = 1024
"""Ports below are the system's own services."""
MAX_PORT: Final = 65535
MAX_FORWARDS: Final = 64
"""Of one workspace; each is a descriptor of QEMU's."""
RACES: Final = 3
"""How often another program may snatch the free port that was found."""


def claim(own: Resources) -> None:
    """Have the host ports of a record that was taken up, and no others, be this workspace's."""
    wanted = {forward.host_port for forward in own.record.forwards}
    # An earlier life of its actor may have crashed before it wrote one down; whoever adopts its machine closes that.
    for port in [port for port, whose in own.host.forwarded.items() if whose == own.record.id and port not in wanted]:
        del own.host.forwarded[port]
    for port in wanted:
        own.host.forwarded.setdefault(port, own.record.id)


async def add(own: Resources, guest_port: int, host_port: int | None) -> PortForward:
    """Forward a port of the host, a free one unless it is named; what is forwarded already is only made sure of.

    Raises:
        InvalidArgument: a port is out of range, the guest port has another forward, or there is no network.
        PortTaken: somebody else has the host port; it was not forwarded.

    """
    _check(own, guest_port, host_port)
    known = _find(own, guest_port)
    if known is not None:
        if host_port not in (None, known.host_port):
            raise InvalidArgument(
                f"Guest port {guest_port} is forwarded from port {known.host_port} of the host already.",
                remedy="Remove that forward first.",
            )
        return await _open_again(own, known)
    for _ in range(1 if host_port else RACES):
        chosen = host_port or free_port(set(own.host.forwarded))
        try:
            return await _add(own, PortForward(guest_port, chosen))
        except PortTaken as error:
            taken = error
    raise taken


async def _add(own: Resources, forward: PortForward) -> PortForward:
    if forward.host_port in own.host.forwarded:
        raise PortTaken(
            f"Port {forward.host_port} of the host is forwarded to another guest port or workspace.",
            remedy="Choose another, or leave it out to get a free one.",
        )
    check_free(forward.host_port)
    own.host.forwarded[forward.host_port] = own.record.id
    before = own.record.forwards
    try:
        # Written down first: an adopting supervisor closes what no record has, and opens what one has.
        own.save(forwards=(*before, forward))
        if own.machine is not None:
            await _open(own, own.machine, forward)
    except BaseException:
        own.note(forwards=before)
        _give_back(own, forward.host_port)
        raise
    return forward


async def _open_again(own: Resources, forward: PortForward) -> PortForward:
    if not forward.fault or own.machine is None:
        return forward
    await _open(own, own.machine, forward)
    mended = attrs.evolve(forward, fault="")
    # It is open, whether or not that can be written down.
    own.note(forwards=tuple(mended if known is forward else known for known in own.record.forwards))
    return mended


async def remove(own: Resources, guest_port: int) -> PortForward:
    """Forward to a guest port no longer; connections that are open stay so.

    What is returned has a ``fault`` if the port is not closed yet.

    Raises:
        NotFound: it is not forwarded.

    """
    forward = _find(own, guest_port)
    if forward is None:
        known = ", ".join(str(each.guest_port) for each in own.record.forwards) or "none"
        raise NotFound(f"Guest port {guest_port} is not forwarded; forwarded are: {known}.", remedy="List them.")
    own.save(forwards=tuple(each for each in own.record.forwards if each is not forward))
    if own.machine is not None and not await _close(own, own.machine, forward.host_port):
        return attrs.evolve(forward, fault="QEMU has not closed the port yet; it is tried again.")
    _give_back(own, forward.host_port)
    return attrs.evolve(forward, fault="")


async def settle(own: Resources, machine: Machine, *, adopted: bool = False) -> None:
    """Give a machine the forwards of the record, and take others away; what fails is noted and fails nothing else."""
    network = own.host.networks.get(own.record.network)
    if network is None or network.forwards is None or not (own.record.forwards or adopted):
        return
    link = machine.spec.link
    settled: list[PortForward] = []
    try:
        present = await network.forwards.present(machine.qmp, link) if adopted else {}
        wanted = {forward.host_port: forward.guest_port for forward in own.record.forwards}
        for host_port in present.keys() - wanted.keys():
            await _close(own, machine, host_port)
        for forward in own.record.forwards:
            fault = "" if forward.host_port in present else await _fault(own, machine, forward)
            settled.append(attrs.evolve(forward, fault=fault))
    except AgentisoError as error:
        settled += [attrs.evolve(each, fault=error.message) for each in own.record.forwards[len(settled) :]]
    if tuple(settled) != own.record.forwards:
        own.note(forwards=tuple(settled))


async def _fault(own: Resources, machine: Machine, forward: PortForward) -> str:
    """Open a forward; return why it could not be."""
    try:
        check_free(forward.host_port)
        await _open(own, machine, forward)
    except PortTaken as error:
        return error.message
    return ""


async def _open(own: Resources, machine: Machine, forward: PortForward) -> None:
    """Open a forward; if that fails or is cancelled, it is closed, now or later."""
    forwards, link = _forwards(own), machine.spec.link
    try:
        if forward.host_port in own.closing:
            await forwards.remove(machine.qmp, link, forward.host_port)
            own.closing.discard(forward.host_port)
        await forwards.add(machine.qmp, link, guest_port=forward.guest_port, host_port=forward.host_port)
    except PortTaken:
        raise
    except BaseException:
        # QEMU may have done it, or be about to.
        await _close(own, machine, forward.host_port)
        raise


async def _close(own: Resources, machine: Machine, host_port: int) -> bool:
    """Have a machine not forward a host port; tell whether that is done already.  Not cancellable."""
    own.closing.add(host_port)
    with trio.CancelScope(shield=True):
        try:
            await _forwards(own).remove(machine.qmp, machine.spec.link, host_port)
        except AgentisoError:
            own.due()
            return False
    own.closing.discard(host_port)
    return True


async def close_left(own: Resources) -> None:
    """Close what could not be closed before; a machine that has ended has closed it.

    Raises:
        QmpError, MachineFailed: it cannot be closed now either.

    """
    for host_port in tuple(own.closing):
        if own.machine is not None:
            await _forwards(own).remove(own.machine.qmp, own.machine.spec.link, host_port)
        own.closing.discard(host_port)
        _give_back(own, host_port)


def _give_back(own: Resources, host_port: int) -> None:
    """Have a host port be anybody's again, unless the record has it, or the machine may still forward it."""
    wanted = {forward.host_port for forward in own.record.forwards} | own.closing
    if host_port not in wanted and own.host.forwarded.get(host_port) == own.record.id:
        del own.host.forwarded[host_port]


def _forwards(own: Resources) -> Forwards:
    """Return how ports are forwarded on the workspace's network.

    Raises:
        InvalidArgument: they cannot be.

    """
    network = own.network
    if network.forwards is None:
        able = next(known.name for known in own.host.networks if known.forwards is not None)
        lack = f"the {network.name} network, which forwards no ports" if network.wired else "no network"
        raise InvalidArgument(
            f"Workspace {own.record.name} has {lack}.", remedy=f'Create one with network="{able}" to forward ports.'
        )
    return network.forwards


def _check(own: Resources, guest_port: int, host_port: int | None) -> None:
    _forwards(own)
    if not 1 <= guest_port <= MAX_PORT:
        raise InvalidArgument(f"{guest_port} is not a port.", remedy=f"Use 1 to {MAX_PORT}.")
    if host_port is not None and not MIN_HOST_PORT <= host_port <= MAX_PORT:
        raise InvalidArgument(
            f"Port {host_port} of the host cannot be forwarded: those below {MIN_HOST_PORT} are the system's.",
            remedy=f"Use {MIN_HOST_PORT} to {MAX_PORT}, or leave it out to get a free one.",
        )
    if len(own.record.forwards) >= MAX_FORWARDS and _find(own, guest_port) is None:
        raise NoCapacity(f"Workspace {own.record.name} has {MAX_FORWARDS} forwards already.", remedy="Remove some.")


def _find(own: Resources, guest_port: int) -> PortForward | None:
    return next((forward for forward in own.record.forwards if forward.guest_port == guest_port), None)
