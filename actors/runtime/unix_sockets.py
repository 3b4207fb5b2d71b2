"""Unix sockets in a machine's directory.

A socket's address holds at most 107 bytes of path (unix(7)), which a state directory may exceed: sockets are named
through a descriptor of their directory instead.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

QMP: Final = "qmp.sock"
CHANNEL: Final = "channel.sock"


def listen(path: Path) -> socket.socket:
    """Bind a listening socket, for QEMU to inherit."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(path) as short:
        listener.bind(short)
    listener.listen(1)
    return listener


def dial(path: Path) -> trio.SocketStream:
    """Connect to a listening socket; instant, since the backlog takes the connection.

    Raises:
        OSError: nobody listens.

    """
    return trio.SocketStream(trio.socket.from_stdlib_socket(connect(path)))


def connect(path: Path) -> socket.socket:
    """Connect to a listening socket, now or not at all; what is returned does not block.

    Raises:
        BlockingIOError: somebody listens, and takes no more connections now.
        OSError: nobody listens.

    """
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.setblocking(False)
        with _short(path) as short:
            stream.connect(short)
    except OSError:
        stream.close()
        raise
    return stream


def peer_pid(stream: trio.SocketStream) -> int:
    """Return the process at the other end, 0 if it is beyond this pid namespace."""
    found = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("3i", found)[0]
    return pid


@contextmanager
def _short(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
