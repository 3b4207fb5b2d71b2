"""Somebody who asks for a job's output: either all of it as it comes, or a piece once there is a reason to answer."""

from __future__ import annotations

import time
from typing import Any, Final

from guest.filework import InvalidRequest
from guest.job import Job
from guest.wire import DATA_CHUNK_BYTES

HOLD_BYTES: Final = 256 * 1024
"""A command whose output is followed waits when its follower is so far behind."""
MAX_PIECE_BYTES: Final = 1024 * 1024
MAX_TEXT_BYTES: Final = 4096


class Reader:
    """One request for output.

    ``cursors`` are the positions up to which each stream was sent.  A follower gets everything, at its own pace if it
    gives ``credit``, and holds the command up when it is slow.  Others are sent at most ``limit`` bytes of each stream
    once the job is over, or ``text`` appears, or there is any output if ``eager``, or their time is up.
    """

    def __init__(self, request_id: int, job: Job, body: dict[str, Any], *, follow: bool) -> None:
        self.request_id = request_id
        self.job = job
        self.follow = follow
        self.gone = bool(body.get("gone"))
        """Whether the end of all descendants is waited for."""
        given = body.get("cursors") or [0] * len(job.rings)
        self.cursors = {stream: int(position) for stream, position in zip(job.rings, given)}  # noqa: B905 - old Pythons
        if any(not 0 <= position <= job.rings[stream].end for stream, position in self.cursors.items()):
            raise InvalidRequest("a cursor is beyond the end of its stream")
        self.lost = dict.fromkeys(self.cursors, 0)
        self.limit = min(int(body.get("limit", 0)), MAX_PIECE_BYTES)
        self._left = dict.fromkeys(self.cursors, self.limit)
        self.credit: int | None = body.get("credit")
        self.eager = bool(body.get("eager"))
        self._text = str(body.get("text") or "").encode()[:MAX_TEXT_BYTES]
        self._searched = dict(self.cursors)
        self.matched = False
        wait_s = body.get("wait_s")
        self.deadline = None if wait_s is None else time.monotonic() + wait_s
        self._answering = False

    def behind(self, stream: int) -> bool:
        """Whether a command has to wait with more output."""
        return self.follow and self.job.rings[stream].end - self.cursors[stream] >= HOLD_BYTES

    def next_piece(self) -> tuple[int, bytes] | None:
        """Return the next (stream, bytes) to send, or ``None`` if there is nothing to send now."""
        if not self.follow and not self._answering:
            self._answering = self._has_reason()
            if not self._answering:
                return None
        if self.follow and self._late():
            return None
        for stream, ring in self.job.rings.items():
            if self.cursors[stream] < ring.start:
                self.lost[stream] += ring.start - self.cursors[stream]
                self.cursors[stream] = ring.start
            room = DATA_CHUNK_BYTES if self.follow else min(self._left[stream], DATA_CHUNK_BYTES)
            if self.credit is not None:
                room = min(room, self.credit)
            if room > 0 and self.cursors[stream] < ring.end:
                piece = ring.read(self.cursors[stream], room)
                self.cursors[stream] += len(piece)
                self._left[stream] -= len(piece)
                if self.credit is not None:
                    self.credit -= len(piece)
                return stream, piece
        return None

    def done(self) -> bool:
        """Whether, with nothing to send now, the answer is due."""
        if not self.follow:
            return self._answering
        sent = all(self.cursors[stream] == ring.end for stream, ring in self.job.rings.items())
        return (sent and self._over()) or self._late()

    def _has_reason(self) -> bool:
        if self._text and not self.matched:
            for stream, ring in self.job.rings.items():
                self.matched |= ring.find(self._text, self._searched[stream])
                self._searched[stream] = max(self._searched[stream], ring.end - len(self._text) + 1)
        fresh = any(self.cursors[stream] < ring.end for stream, ring in self.job.rings.items())
        return self._over() or self.matched or (self.eager and fresh) or self._late()

    def _over(self) -> bool:
        return self.job.gone if self.gone else self.job.over

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def result(self) -> dict[str, Any]:
        """Describe the job and what was sent of its output."""
        return {
            **self.job.facts(),
            "cursors": list(self.cursors.values()),
            "lost": list(self.lost.values()),
            "matched": self.matched,
            "gone": self.job.gone,
        }
