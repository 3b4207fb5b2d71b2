"""Frames over a stream, in both directions: a bounded queue towards the peer, typed frames from it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from trio_util import AsyncValue

from actors.model.errors import NoCapacity
from actors.runtime import open_plain_nursery
from agentiso.protocol.frames import Frame, from_body, to_body
from agentiso.protocol.wire import Codec, encode

ROOM_BYTES: Final = 4 * 1024 * 1024
"""Beyond so much unsent, whoever can wait does."""
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
"""Callbacks cannot wait; a peer that does not read loses its connection before it costs more memory than this."""
RECEIVE_BYTES: Final = 256 * 1024


class Link:
    """One connection, used within `sending`."""

    def __init__(self, stream: trio.abc.Stream, *, export: Callable[[Any], int], resolve: Callable[[int], Any]) -> None:
        self._stream = stream
        self._export = export
        self._codec = Codec(resolve)
        # Bounded by its bytes.
        self._queue, self._unsent = trio.open_memory_channel[bytes](math.inf)
        self._unsent_bytes = AsyncValue(0)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[trio.Nursery]:
        """Send what is queued until the end of the block, in which a cancelled caller can still say goodbye."""
        # Shielded: the block's end alone decides when nothing more is to be sent.
        scope = trio.CancelScope(shield=True)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._send_all, scope)
            try:
                yield nursery
            finally:
                scope.cancel(reason="the connection ends")

    async def send(self, frame: Frame) -> None:
        """Queue a frame once there is room; a cancelled send has queued nothing."""
        while self._unsent_bytes.value > ROOM_BYTES:
            await self._unsent_bytes.wait_value(_leaves_room)
        await trio.lowlevel.checkpoint_if_cancelled()
        self.send_nowait(frame)

    def send_nowait(self, frame: Frame) -> None:
        """Queue a frame.

        Raises:
            NoCapacity: the peer has not read for long.
            LocalProtocolError: the frame cannot be carried.

        """
        if self._unsent_bytes.value > MAX_UNSENT_BYTES:
            raise NoCapacity(
                f"{self._unsent_bytes.value} bytes wait for the library's client, which does not read them.",
                remedy="Take output faster, or leave on_output out.",
            )
        data = encode(to_body(frame), self._export)
        self._queue.send_nowait(data)
        self._unsent_bytes.value += len(data)

    async def _send_all(self, scope: trio.CancelScope) -> None:
        with scope:
            async for data in self._unsent:
                # A peer that is gone is noticed by `receive`.
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_all(data)
                self._unsent_bytes.value -= len(data)

    async def flush(self) -> None:
        """Wait until all that was queued is sent, or the peer is gone."""
        await self._unsent_bytes.wait_value(0)

    async def receive(self) -> Frame | None:
        """Return the next frame, ``None`` when the peer is gone.

        Raises:
            RemoteProtocolError: the peer broke the protocol.

        """
        while (body := self._codec.next_body()) is None:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._codec.receive_data(data)
        return from_body(body)


def _leaves_room(unsent_bytes: int) -> bool:
    return unsent_bytes <= ROOM_BYTES
