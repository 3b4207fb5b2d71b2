"""Ports of the host's loopback address, on which forwards listen."""

from __future__ import annotations

import socket
from typing import Final

from actors.model.errors import NoCapacity, PortTaken

HOST_ADDRESS: Final = "127.0.0.1"
FREE_PORT_TRIES: Final = 20


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
