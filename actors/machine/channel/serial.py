"""A virtio-serial port on a Unix socket of QEMU: works everywhere, and keeps its place in the stream over a restore."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs
import trio

from actors.machine import descriptors
from actors.model.host_check import ProbeResult
from actors.runtime import unix_sockets

PORT_NAME: Final = "agentiso.0"
"""By which the guest's agent finds the port."""
PORT_ID: Final = "agent"
"""By which QEMU's VSERPORT_CHANGE events name it."""
ARGUMENTS: Final = (
    *("-chardev", f"socket,id=channel,fd={descriptors.CHANNEL},server=on,wait=off"),
    *("-device", "virtio-serial-device"),
    *("-device", f"virtserialport,chardev=channel,name={PORT_NAME},id={PORT_ID}"),
)


@attrs.frozen
class SerialEndpoint:
    """The port of one machine."""

    socket: Path
    name: ClassVar[str] = "serial"
    arguments: ClassVar[tuple[str, ...]] = ARGUMENTS
    cid: ClassVar[None] = None
    dialled: ClassVar[bool] = False
    tries: ClassVar[int] = 1

    async def connect(self) -> trio.SocketStream:
        """Connect; QEMU serves one host at a time, and takes the next one in turn."""
        return await unix_sockets.dial(self.socket)

    def presence(self, event: str, data: Mapping[str, Any]) -> bool | None:
        """Return whether the agent has the port open, which QEMU says whenever that changes."""
        if event != "VSERPORT_CHANGE" or data.get("id") != PORT_ID:
            return None
        return bool(data.get("open"))


class Serial:
    """The default."""

    name: Final = "serial"

    def probe(self) -> ProbeResult:
        """Return that it works."""
        return ProbeResult("channel serial", True, "works everywhere", "virtio-serial on a Unix socket; the default")

    def open(self, directory: Path) -> SerialEndpoint:
        """Return a machine's port."""
        return SerialEndpoint(directory / unix_sockets.CHANNEL)

    def adopt(self, directory: Path, cid: int | None) -> SerialEndpoint:  # noqa: ARG002 - it has none
        """Return the same."""
        return self.open(directory)
