"""How long nobody has asked a workspace for anything, and when it has therefore to be put away.

What is under way counts as use, so a workspace with a command that somebody waits for is never idle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from trio_util import RepeatedEvent


class Idleness:
    """The clock of one workspace's idleness; times are trio's, in seconds."""

    def __init__(self) -> None:
        self._users = 0
        self._since = trio.current_time()
        self._changed = RepeatedEvent()

    @contextmanager
    def use(self) -> Iterator[None]:
        """Count the block as use."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self.touch()

    def touch(self) -> None:
        """Begin to count anew."""
        self._since = trio.current_time()
        self._changed.set()

    @property
    def seconds(self) -> float:
        """For how long it has been idle."""
        return 0.0 if self._users else trio.current_time() - self._since

    async def wait(self, limit_s: float | None) -> None:
        """Wait until it has been idle for ``limit_s``, for ever with ``None``; a changed limit needs a new wait."""
        limit = math.inf if limit_s is None else limit_s
        while trio.current_time() < (until := math.inf if self._users else self._since + limit):
            with trio.move_on_at(until):
                await self._changed.wait()
