"""Frames are sent whole, one after the other, whatever becomes of those who send them.

Half a frame would spoil the stream for all that comes after it.  So whoever is cancelled before the first byte of its
frame went has sent nothing, and what was begun is finished without its sender, by a task in the channel's nursery:
nobody is kept from leaving by a guest that does not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

BULK_BYTES: Final = 4096
"""A smaller frame is taken by what lies between, whether the guest lives or not."""


class FrameSender:
    """The sending half of a channel."""

    def __init__(self, stream: trio.abc.Stream, took: Callable[[], None]) -> None:
        self._stream = stream
        self._took = took
        """Called when some bytes of a large frame were taken."""
        self._turn = trio.Lock()
        self._whole = trio.Event()
        """Set while no frame is half sent."""
        self._whole.set()
        self._scope = trio.CancelScope()
        """Of the sending under way."""
        self._broken = False
        self._bulk = False
        """Whether the frame under way is a large one."""

    async def send(self, nursery: trio.Nursery, frame: bytes) -> None:
        """Send one frame, or if cancelled before its first byte nothing.

        Raises:
            BrokenResourceError: it cannot be sent, or `give_up` was called.

        """
        async with self._turn:
            await self._whole.wait()
            rest, self._bulk = memoryview(frame), len(frame) >= BULK_BYTES
            if not self._broken and isinstance(self._stream, trio.SocketStream):
                with trio.CancelScope() as self._scope:
                    rest = await self._send_some(self._stream, rest)
            if rest and not self._broken:
                self._whole = trio.Event()
                self._scope = trio.CancelScope()
                nursery.start_soon(self._finish, rest, self._scope)
                await self._whole.wait()
            if self._broken:
                raise trio.BrokenResourceError

    async def _send_some(self, stream: trio.SocketStream, rest: memoryview) -> memoryview:
        try:
            count = await stream.socket.send(rest)
        except (trio.ClosedResourceError, OSError):
            self._broken = True
            return rest
        if self._bulk:
            self._took()
        return rest[count:]

    async def _finish(self, rest: memoryview, scope: trio.CancelScope) -> None:
        finished = False
        try:
            with scope:
                if isinstance(self._stream, trio.SocketStream):
                    while rest and not self._broken:
                        rest = await self._send_some(self._stream, rest)
                else:
                    await self._stream.send_all(rest)
                finished = True
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        finally:
            # Also when the whole channel is being cancelled.
            self._broken = self._broken or not finished
            self._whole.set()

    def give_up(self) -> None:
        """Fail what is being sent, and all that shall be."""
        self._broken = True
        self._scope.cancel(reason="the channel was given up")
        self._whole.set()
