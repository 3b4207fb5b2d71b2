"""`agentiso serve`: a thin front that carries bytes between stdio and the supervisor's socket.

Only protocol bytes reach stdout: the descriptors are moved away first, so that nothing else can write there.  Waiting
is cancellable, so SIGTERM ends it at once even with stdin open.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from actors.model.settings import Settings
from agentiso.client.dialling import connect_as
from agentiso.protocol.greeting import Hello
from agentiso.protocol.sessions import SessionStore

PIPE_BYTES = 4096
"""Writes of at most PIPE_BUF do not block once a pipe is writable (pipe(7))."""


async def run_serve(settings: Settings, config: Path | None, *, session: str, tools: str) -> None:
    """Carry bytes for a session, made on first use, until both ends are done or a signal comes."""
    hello = Hello(SessionStore(settings.state_dir).open(session), tools)
    with claimed_wire() as (read_fd, write_fd):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_on_signal, nursery.cancel_scope)
            async with await connect_as(settings, hello, config=config) as stream:
                nursery.start_soon(_inward, read_fd, stream)
                while data := await stream.receive_some(65536):
                    await _write_all(write_fd, bytes(data))
            nursery.cancel_scope.cancel(reason="the supervisor closed the connection")


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async for number in received:
            scope.cancel(reason=f"signal {number}")
            return


async def _inward(read_fd: int, stream: trio.SocketStream) -> None:
    """Pass input on; at its end the supervisor is told, and answers what is under way before it closes."""
    while True:
        await _ready(read_fd, trio.lowlevel.wait_readable)
        data = os.read(read_fd, 65536)
        if not data:
            await stream.send_eof()
            return
        await stream.send_all(data)


async def _write_all(fd: int, data: bytes) -> None:
    while data:
        await _ready(fd, trio.lowlevel.wait_writable)
        data = data[os.write(fd, data[:PIPE_BYTES]) :]


async def _ready(fd: int, wait: Callable[[int], Awaitable[None]]) -> None:
    try:
        await wait(fd)
    except PermissionError:
        # A regular file is always ready and cannot be waited for.
        await trio.lowlevel.checkpoint()


@contextmanager
def claimed_wire() -> Iterator[tuple[int, int]]:
    """Move stdin and stdout away; what is left in their place is the null device and stderr."""
    read_fd, write_fd = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (0, 1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    try:
        yield read_fd, write_fd
    finally:
        os.dup2(read_fd, 0)
        os.dup2(write_fd, 1)
        os.close(read_fd)
        os.close(write_fd)
