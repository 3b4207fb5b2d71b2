"""The byte stream to a guest agent: where it is reached, behind one interface."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TypeAlias

import attrs
import trio

from actors.machine import sockets


@attrs.frozen
class SerialAddress:
    """A virtio-serial port, reached through the Unix socket of QEMU's character device."""

    path: Path

    async def connect(self) -> trio.SocketStream:
        """Connect; QEMU serves one host at a time."""
        await trio.lowlevel.checkpoint()
        return sockets.dial(self.path)


@attrs.frozen
class VsockAddress:
    """A vhost-vsock context id and port."""

    cid: int
    port: int

    async def connect(self) -> trio.SocketStream:
        """Connect to the guest's listener."""
        stream = trio.socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        await stream.connect((self.cid, self.port))
        return trio.SocketStream(stream)


ChannelAddress: TypeAlias = SerialAddress | VsockAddress
