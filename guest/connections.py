"""TCP connections that a restored guest has no peer for any more: they end at once instead of when somebody waits.

Sources: sock_diag(7); struct inet_diag_req_v2 and SOCK_DESTROY in linux/inet_diag.h and linux/sock_diag.h.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
SOCK_DESTROY: Final = 21
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP: Final = 0x300
CONNECTED: Final = 0xFFF & ~(1 << 10) & ~(1 << 6)
"""All TCP states but LISTEN and TIME_WAIT, in which nobody waits for anything."""
ANY: Final = bytes(48)
LOOPBACK: Final = {socket.AF_INET: b"\x7f", socket.AF_INET6: bytes(15) + b"\x01"}
RECEIVE_BYTES: Final = 65536
NONE_IN_USE: Final = {
    "/proc/net/sockstat": b"TCP: inuse 0 orphan 0 tw 0 alloc 0 ",
    "/proc/net/sockstat6": b"TCP6: inuse 0\n",
}
"""What the kernel's counts (proc(5)) say when there is not even a listening socket: then nothing has to be searched."""
COUNT_BYTES: Final = 4096

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48s")


class Connections:
    """The TCP connections of this machine."""

    def __init__(self) -> None:
        self._counts: list[tuple[int, bytes]] = []
        for path, none in NONE_IN_USE.items():
            # A kernel without IPv6 has no such count.
            with contextlib.suppress(FileNotFoundError):
                self._counts.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), none))

    def close_all(self) -> int:
        """End every TCP connection but those within this machine; return how many there were.

        Raises:
            OSError: the kernel cannot do it.

        """
        if all(none in os.pread(fd, COUNT_BYTES, 0) for fd, none in self._counts):
            return 0
        return _close_all()


def _close_all() -> int:
    closed = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as control:
        control.settimeout(1.0)
        for family in (socket.AF_INET, socket.AF_INET6):
            for identity in [identity for identity in _connections(control, family) if not _is_local(family, identity)]:
                request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, CONNECTED, identity)
                _send(control, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, request)
                for _kind, _payload in _answers(control):
                    closed += 1
    return closed


def _connections(control: socket.socket, family: int) -> Iterator[bytes]:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, CONNECTED, ANY)
    _send(control, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, request)
    for _kind, payload in _answers(control):
        yield payload[4:52]


def _is_local(family: int, identity: bytes) -> bool:
    return identity[20:36].startswith(LOOPBACK[socket.AddressFamily(family)])


def _send(control: socket.socket, kind: int, flags: int, payload: bytes) -> None:
    control.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, 1, 0) + payload)


def _answers(control: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Return the kernel's messages up to the last one, which for a command is its acknowledgement."""
    while True:
        data = control.recv(RECEIVE_BYTES)
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            payload, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                (number,) = struct.unpack_from("=i", payload)
                if number:
                    raise OSError(-number, os.strerror(-number))
                yield kind, payload
                return
            yield kind, payload
