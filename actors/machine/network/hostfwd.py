"""Forwards of host ports into a machine on QEMU's user network, made and looked at over QMP.

They are no part of the device state: a restored machine has none until it is given them.  QEMU has only the human
monitor for this, so what goes into its command lines is integers and our own constants, never text from anywhere else.
Source: QEMU manual, hostfwd_add; restrict=on does not affect them (-netdev user).
"""

from __future__ import annotations

import re
import socket
from typing import Final

from actors.machine.qemu.qmp import QmpClient
from actors.model.errors import NoCapacity, PortTaken, QmpError

HOST_ADDRESS: Final = "127.0.0.1"
NETDEV: Final = "net0"
GUEST_ADDRESS: Final = "10.0.2.15"
"""The guest's address on its own slirp network, which no other machine shares (QEMU manual, -netdev user)."""
FREE_PORT_TRIES: Final = 20

_LISTED: Final = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)")


async def add(qmp: QmpClient, *, guest_port: int, host_port: int) -> None:
    """Forward a host port.

    Raises:
        PortTaken: QEMU cannot listen on it.

    """
    rule = f"tcp:{HOST_ADDRESS}:{host_port:d}-{GUEST_ADDRESS}:{guest_port:d}"
    said = await _monitor(qmp, f"hostfwd_add {NETDEV} {rule}")
    if said:
        raise PortTaken(f"QEMU cannot listen on port {host_port} of the host: {said[:200]}.", remedy="Choose another.")


async def remove(qmp: QmpClient, host_port: int) -> None:
    """Forward a host port no longer; no-op if it was not."""
    said = await _monitor(qmp, f"hostfwd_remove {NETDEV} tcp:{HOST_ADDRESS}:{host_port:d}")
    if not said.endswith(("removed", "not found")):
        raise QmpError(f"QEMU did not take the forward of port {host_port} away: {said[:200]}.")


async def present(qmp: QmpClient) -> dict[int, int]:
    """Return what QEMU forwards: host port to guest port."""
    return {int(host): int(guest) for host, guest in _LISTED.findall(await _monitor(qmp, "info usernet"))}


async def _monitor(qmp: QmpClient, line: str) -> str:
    reply = await qmp.execute("human-monitor-command", {"command-line": line})
    return str(reply.get("return", "")).strip()


def check_free(host_port: int) -> None:
    """Raise `PortTaken` with the reason if nobody can listen on a port of the host now."""
    try:
        _bind(host_port)
    except OSError as error:
        raise PortTaken(
            f"Port {host_port} of the host cannot be listened on: {error.strerror}.",
            remedy="Choose another, or leave it out to get a free one.",
        ) from error


def free_port(taken: set[int]) -> int:
    """Return a port of the host on which nobody listens and that is not among ``taken``.

    Raises:
        NoCapacity: none was found.

    """
    for _ in range(FREE_PORT_TRIES):
        # The kernel gives one of its ephemeral range, which begins far above the privileged ports.
        if (port := _bind(0)) not in taken:
            return port
    raise NoCapacity("No free port of the host was found.", remedy="Name one with host_port.")


def _bind(port: int) -> int:
    with socket.socket() as probe:
        # As QEMU does: a port whose last connections have only just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST_ADDRESS, port))
        return int(probe.getsockname()[1])
