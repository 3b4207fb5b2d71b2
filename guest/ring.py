"""The last bytes of a stream that nobody may be reading, addressed by their position in the whole stream."""

from __future__ import annotations

from typing import Final

RING_BYTES: Final = 1024 * 1024
SLACK_BYTES: Final = 64 * 1024
"""The front is cut in steps of at least this, so that small pieces do not each move it."""


class Ring:
    """At most `RING_BYTES`, and a little slack, of the end of a stream; ``end`` is the stream's exact length."""

    def __init__(self) -> None:
        self.start = 0
        """The first position that is still held."""
        self._held = bytearray()

    @property
    def end(self) -> int:
        """How many bytes the stream has had."""
        return self.start + len(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, data: bytes) -> None:
        """Take in what comes next in the stream; what is oldest may be dropped for it."""
        self._held += data
        if len(self._held) > RING_BYTES + SLACK_BYTES:
            self.trim(RING_BYTES)

    def trim(self, size: int) -> None:
        """Drop all but the last ``size`` bytes."""
        excess = max(0, len(self._held) - size)
        del self._held[:excess]
        self.start += excess

    def read(self, position: int, limit: int) -> bytes:
        """Return at most ``limit`` bytes from ``position``, which lies between ``start`` and ``end``."""
        at = position - self.start
        return bytes(self._held[at : at + limit])

    def find(self, text: bytes, position: int) -> bool:
        """Tell whether ``text`` is held at or after ``position``."""
        return self._held.find(text, max(0, position - self.start)) >= 0
