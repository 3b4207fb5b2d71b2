"""`agentiso serve`: a thin front that carries messages between stdio and the supervisor's socket.

It outlives its supervisor: when that is killed the next one is started at once, when it was ended on purpose the
client's next request starts it, and in either case one that somebody else has started is taken.  What the client is
owed then is up to its `Conversation`.

Only protocol bytes reach stdout: the descriptors are moved away first, so that nothing else can write there.  Waiting
is cancellable, so SIGTERM ends it at once even with stdin open.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from actors.model.errors import AgentisoError, SupervisorGone
from actors.model.files import failures_reported
from actors.model.settings import Settings
from agentiso.client.conversation import Conversation
from agentiso.client.dialling import connect, is_running
from agentiso.client.silence import SILENCE_S, check_answers
from agentiso.client.stopping import ended_in_order
from agentiso.protocol.greeting import Greeting
from agentiso.protocol.lines import INVALID_REQUEST, TOO_LONG, Line, error_line, id_of
from agentiso.protocol.sessions import SessionStore

Write = Callable[[bytes], Awaitable[None]]
PIPE_BYTES: Final = 4096
"""Writes of at most PIPE_BUF do not block once a pipe is writable (pipe(7))."""
RECEIVE_BYTES: Final = 65536
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
"""Beyond so much that waits for a supervisor no more is read."""
LOOK_S: Final = 2.0
"""How often it is looked whether somebody has started the next supervisor."""
STEADY_S: Final = 10.0
"""A supervisor that lived so long did not die of its start."""
FIRST_PAUSE_S: Final = 0.25
LAST_PAUSE_S: Final = 10.0
EAGER_DEATHS: Final = 8
"""After so many quick deaths in a row the next supervisor is started only for somebody who waits."""


async def run_serve(settings: Settings, config: Path | None, *, session: str, tools: str) -> None:
    """Carry messages for a session, made on first use, until the client is done or a signal comes."""
    greeting = Greeting(token=SessionStore(settings.state_dir).open(session), tools=tools)
    with claimed_wire() as (read_fd, write_fd):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_on_signal, nursery.cancel_scope)
            stream, _ = await connect(settings, greeting, config=config)
            front = Front(settings, config, greeting, partial(_write_all, write_fd), nursery.cancel_scope)
            nursery.start_soon(front.read_client, read_fd)
            await front.carry(stream)
            nursery.cancel_scope.cancel(reason="the client is done")


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async for number in received:
            scope.cancel(reason=f"signal {number}")
            return


class Front:
    """One client, and one supervisor after the other."""

    def __init__(
        self, settings: Settings, config: Path | None, greeting: Greeting, write: Write, whole: trio.CancelScope
    ) -> None:
        self._settings = settings
        self._config = config
        self._greeting = greeting
        self._write = write
        self._whole = whole
        self._conversation = Conversation()
        self._client_is_done = False
        self._news = trio.Event()
        self._writing = trio.Lock()
        self._quick_deaths = 0

    # -- the client's side

    async def read_client(self, read_fd: int) -> None:
        """Take in what the client says, until its end."""
        async for line in _lines(read_fd):
            if line.too_long:
                await self._tell([error_line(id_of(line.text), INVALID_REQUEST, TOO_LONG)])
            elif line.content.strip():
                self._conversation.hear_client(line.content + b"\n")
                self._note_news()
            while self._conversation.unsent_bytes > MAX_UNSENT_BYTES:
                await self._news.wait()
        self._client_is_done = True
        self._note_news()

    async def _tell(self, lines: list[bytes]) -> None:
        async with self._writing:
            try:
                for line in lines:
                    await self._write(line)
            except BrokenPipeError:
                self._whole.cancel(reason="the client reads no more")

    def _note_news(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # -- the supervisors' side

    async def carry(self, stream: trio.SocketStream | None) -> None:
        """Carry messages, beginning with a supervisor that is there, until the client is done."""
        while not self._client_is_done:
            if stream is not None:
                began = trio.current_time()
                lost = await self._converse(stream)
                if self._client_is_done:
                    return
                await self._tell(self._conversation.lose(lost))
                self._quick_deaths = 0 if trio.current_time() - began > STEADY_S else self._quick_deaths + 1
            stream = await self._next_supervisor()

    async def _converse(self, stream: trio.SocketStream) -> str:
        """Carry messages to and from a supervisor until it is gone, or has taken leave of a client that is done.

        Return what became of it.
        """
        self._conversation.begin()
        rest, lost = bytearray(), "ended"
        async with stream, trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal lost
                while True:
                    await trio.sleep(SILENCE_S)
                    if self._conversation.is_owed:
                        try:
                            await check_answers(self._settings)
                        except SupervisorGone:
                            lost = "came to a standstill"
                            nursery.cancel_scope.cancel(reason="the supervisor is mute")

            nursery.start_soon(watch)
            nursery.start_soon(self._send, stream)
            while data := await _receive(stream):
                rest += data
                if b"\n" not in data:
                    continue
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    await self._tell(self._conversation.hear_supervisor(bytes(line) + b"\n"))
                self._note_news()
            nursery.cancel_scope.cancel(reason="the supervisor is gone")
        return lost

    async def _send(self, stream: trio.SocketStream) -> None:
        """Pass on what the client says; at its end the supervisor is told, takes back what is under way, and closes."""
        while True:
            while (item := self._conversation.next_to_send()) is not None:
                try:
                    await stream.send_all(item.line)
                except BaseException as error:
                    # Without its end a line means nothing.
                    self._conversation.take_back(item)
                    if isinstance(error, trio.BrokenResourceError):
                        return
                    raise
                self._note_news()
            if self._client_is_done:
                await _send_eof(stream)
                return
            await self._news.wait()

    async def _next_supervisor(self) -> trio.SocketStream | None:
        """Connect to the next supervisor once it is time; if there is none to be had, all who wait are told."""
        try:
            with failures_reported():
                await self._wait_for_need()
            if self._client_is_done:
                return None
            stream, _ = await connect(self._settings, self._greeting, config=self._config)
        except AgentisoError as error:
            self._quick_deaths += 1
            await self._tell(self._conversation.refuse(error))
            self._note_news()
            return None
        return stream

    async def _wait_for_need(self) -> None:
        """Wait until somebody needs a supervisor, or one is there, or the last one was killed; pause between deaths."""
        if self._quick_deaths:
            # Bounded by itself: a power of two that counts deaths for ever overflows.
            doublings = min(self._quick_deaths, EAGER_DEATHS) - 1
            with trio.move_on_after(min(FIRST_PAUSE_S * 2**doublings, LAST_PAUSE_S)):
                while not self._client_is_done:
                    await self._news.wait()
        while not self._conversation.waits and not self._client_is_done:
            if is_running(self._settings):
                return
            ended = ended_in_order(self._settings)
            if ended is False and self._quick_deaths <= EAGER_DEATHS:
                return
            with trio.move_on_after(LOOK_S if ended is not None else FIRST_PAUSE_S):
                await self._news.wait()


async def _receive(stream: trio.SocketStream) -> bytes:
    """Receive some bytes, none once the supervisor is gone."""
    try:
        return bytes(await stream.receive_some(RECEIVE_BYTES))
    except trio.BrokenResourceError:
        return b""


async def _send_eof(stream: trio.SocketStream) -> None:
    try:
        await stream.send_eof()
    except trio.BrokenResourceError:
        # It is gone, which is noticed where it is read from.
        return


async def _lines(read_fd: int) -> AsyncIterator[Line]:
    """Yield the lines of a descriptor; a last one without an end counts too."""
    line = Line()
    while True:
        await _ready(read_fd, trio.lowlevel.wait_readable)
        data = os.read(read_fd, RECEIVE_BYTES)
        first, *more = data.split(b"\n")
        line.add(first)
        for part in more:
            yield line
            line = Line()
            line.add(part)
        if not data:
            yield line
            return


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
