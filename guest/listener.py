"""The guest agent's end of a channel that is made of connections: one host at a time, the newest that holds the key.

AF_VSOCK knows no permissions, so anybody on the host can connect.  Until a caller has shown the key's token it is heard
apart, within bounds, and disturbs nobody; then it takes the place of the host before it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import Final

from guest.link import Link

VSOCK_PORT: Final = 5000
BACKLOG: Final = 8
MAX_CALLERS: Final = 8
"""More who have not shown the key push out the oldest; the host shows it with its first bytes."""
MAX_STRANGE_BYTES: Final = 4096


def listen_vsock() -> socket.socket:
    """Return a socket that listens on every context id that this machine will ever have."""
    listening = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listening.bind((socket.VMADDR_CID_ANY, VSOCK_PORT))
    listening.listen(BACKLOG)
    return listening


class Listener:
    """A listening socket and who has called but not shown the key yet."""

    def __init__(self, listening: socket.socket, selector: selectors.BaseSelector) -> None:
        self._listening = listening
        self._selector = selector
        self._callers: list[Link] = []
        listening.setblocking(False)
        selector.register(listening, selectors.EVENT_READ, self)

    def accept(self, key: bytes) -> None:
        """Take in a caller, whom `hear` will hear."""
        # Who called may have given up, or this process may have no descriptor left: the next caller is as good.
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            if len(self._callers) >= MAX_CALLERS:
                self._callers.pop(0).close()
            self._callers.append(Link(connection.detach(), key, self._selector, ends=True))

    def hear(self, caller: Link, key: bytes) -> bool:
        """Read what a caller has sent and tell whether it is the host; then it is a caller no more."""
        caller.set_key(key)
        if caller.receive():
            self._callers.remove(caller)
            return True
        if caller.over or caller.strange_bytes > MAX_STRANGE_BYTES:
            self._callers.remove(caller)
            caller.close()
        return False
