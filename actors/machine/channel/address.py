"""The byte stream to a guest agent: where it is reached, behind one interface."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import trio

from actors.model.errors import HostUnfit
from actors.runtime import unix_sockets

RETRY_S: Final = 0.02


@attrs.frozen
class SerialAddress:
    """A virtio-serial port, reached through the Unix socket of QEMU's character device."""

    path: Path

    async def connect(self) -> trio.SocketStream:
        """Connect; QEMU serves one host at a time."""
        await trio.lowlevel.checkpoint()
        return unix_sockets.dial(self.path)


@attrs.frozen
class VsockAddress:
    """A vhost-vsock context id and port."""

    cid: int
    port: int

    async def connect(self) -> trio.SocketStream:
        """Connect to the guest's listener, calling until it is there; the caller bounds the wait.

        Raises:
            HostUnfit: this host has no vsock.

        """
        while True:
            try:
                stream = trio.socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            except OSError as error:
                raise HostUnfit(f"This host has no vsock: {error}.", remedy="Set channel to serial.") from error
            try:
                await stream.connect((self.cid, self.port))
            except OSError:
                # The guest is booting, or has not noticed its restore yet.
                stream.close()
                await trio.sleep(RETRY_S)
            except BaseException:
                stream.close()
                raise
            else:
                return trio.SocketStream(stream)


ChannelAddress: TypeAlias = SerialAddress | VsockAddress
