"""Forwards of host ports into a machine on QEMU's user network, made and looked at over QMP.

They are no part of the device state: a restored machine has none until it is given them.  QEMU has only the human
monitor for this, so what goes into its command lines is integers and our own constants, never text from anywhere else.
Source: QEMU manual, hostfwd_add; restrict=on does not affect them (-netdev user).
"""

from __future__ import annotations

import re
from typing import Final

from actors.machine.network.host_ports import HOST_ADDRESS
from actors.machine.network.protocol import NETDEV, Link, Monitor
from actors.model.errors import PortTaken, QmpError

_LISTED: Final = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)")


class HostForwards:
    """The forwards of the user network, all of which QEMU itself knows."""

    async def add(self, monitor: Monitor, link: Link, *, guest_port: int, host_port: int) -> None:
        """Forward a host port.

        Raises:
            PortTaken: QEMU cannot listen on it.

        """
        assert link.identity is not None
        rule = f"tcp:{HOST_ADDRESS}:{host_port:d}-{link.identity.address}:{guest_port:d}"
        if said := await _ask(monitor, f"hostfwd_add {NETDEV} {rule}"):
            raise PortTaken(
                f"QEMU cannot listen on port {host_port} of the host: {said[:200]}.", remedy="Choose another."
            )

    async def remove(self, monitor: Monitor, link: Link, host_port: int) -> None:  # noqa: ARG002 - QEMU has only one
        """Forward a host port no longer; no-op if it was not."""
        said = await _ask(monitor, f"hostfwd_remove {NETDEV} tcp:{HOST_ADDRESS}:{host_port:d}")
        if not said.endswith(("removed", "not found")):
            raise QmpError(f"QEMU did not take the forward of port {host_port} away: {said[:200]}.")

    async def present(self, monitor: Monitor, link: Link) -> dict[int, int]:  # noqa: ARG002
        """Return what QEMU forwards: host port to guest port."""
        return {int(host): int(guest) for host, guest in _LISTED.findall(await _ask(monitor, "info usernet"))}


async def _ask(monitor: Monitor, line: str) -> str:
    reply = await monitor.execute("human-monitor-command", {"command-line": line})
    return str(reply.get("return", "")).strip()
