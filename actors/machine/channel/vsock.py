"""Connections of AF_VSOCK to a port of the machine's context id, which break at each restore."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs
import trio

from actors.machine.channel.cids import Cids
from actors.model.errors import HostUnfit
from actors.model.host_check import ProbeResult
from guest.listener import VSOCK_PORT

DEVICE: Final = Path("/dev/vhost-vsock")
RETRY_S: Final = 0.02
TRIES: Final = 5
"""A connection that was made before the guest had noticed its restore is reset, and made again."""


@attrs.frozen
class VsockEndpoint:
    """The context id of one machine, ``None`` if it is not known."""

    cid: int | None
    name: ClassVar[str] = "vsock"
    socket: ClassVar[None] = None
    dialled: ClassVar[bool] = True
    tries: ClassVar[int] = TRIES

    @property
    def arguments(self) -> tuple[str, ...]:
        """QEMU's arguments."""
        return ("-device", f"vhost-vsock-device,guest-cid={self.cid}")

    async def connect(self) -> trio.SocketStream:
        """Connect to the guest's listener, calling until it is there; the caller bounds the wait.

        Raises:
            HostUnfit: this host has no vsock, or the machine's context id is not known.
            OSError: it has no room for a connection.

        """
        if self.cid is None:
            raise HostUnfit("The context id of a machine is not in its record.", remedy="Stop and start the workspace.")
        while True:
            try:
                stream = trio.socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EPROTONOSUPPORT):
                    raise
                raise HostUnfit(f"This host has no vsock: {error}.", remedy="Set channel to serial.") from error
            try:
                await stream.connect((self.cid, VSOCK_PORT))
            except OSError:
                # The guest is booting, or has not noticed its restore yet.
                stream.close()
                await trio.sleep(RETRY_S)
            except BaseException:
                stream.close()
                raise
            else:
                return trio.SocketStream(stream)

    def presence(self, event: str, data: Mapping[str, Any]) -> bool | None:  # noqa: ARG002 - QEMU knows nothing of it
        """Return that nothing was said."""
        return None


class Vsock:
    """Knows which context ids the machines of one supervisor have."""

    name: Final = "vsock"

    def __init__(self, cids: Cids | None = None) -> None:
        self._cids = cids or Cids()

    def probe(self) -> ProbeResult:
        """Look for the device that QEMU needs."""
        if not DEVICE.exists():
            fix = 'modprobe vhost_vsock, if channel = "vsock" is wanted'
            return ProbeResult("channel vsock", None, "absent", f"there is no {DEVICE}", fix)
        if not os.access(DEVICE, os.R_OK | os.W_OK):
            return ProbeResult("channel vsock", None, "no access", f"this user may not open {DEVICE}")
        return ProbeResult("channel vsock", True, "usable", f'{DEVICE}; set channel = "vsock" to use it')

    def open(self, directory: Path) -> VsockEndpoint:  # noqa: ARG002 - it needs no file
        """Give a machine a context id of its own."""
        return VsockEndpoint(self._cids.take())

    def adopt(self, directory: Path, cid: int | None) -> VsockEndpoint:  # noqa: ARG002
        """Return where a machine that runs already is reached, and give its id to no other."""
        if cid is not None:
            self._cids.note(cid)
        return VsockEndpoint(cid)
