"""Which sessions are here: connected, idle since when, or vanished."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from actors.model.info import USER
from agentiso.protocol.sessions import SessionStore

IDLE_S: Final = 60.0
"""A session without a connection for so long has left its workspaces: a restarted client is back sooner."""
VANISHED_S: Final = 24 * 3600.0
"""One that was not seen for so long does not come back."""
NOTE_S: Final = 60.0
"""How often it is written down that a session is here; a supervisor that dies takes at most so much to its grave."""


class Presence:
    """The sessions as one supervisor sees them."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._began = trio.current_time()
        self._connected: Counter[str] = Counter()
        self._left: dict[str, float] = {}
        self._noted: dict[str, float] = {}

    @contextmanager
    def here(self, session: str) -> Iterator[None]:
        """Count a connection, or a request where there is none, of a session."""
        self._connected[session] += 1
        self.note(session)
        try:
            yield
        finally:
            self._connected[session] -= 1
            self._left[session] = trio.current_time()
            self._store.seen(session)

    def note(self, session: str) -> None:
        """Write down now and then that a session is here."""
        now = trio.current_time()
        if now - self._noted.get(session, -NOTE_S) >= NOTE_S:
            self._noted[session] = now
            self._store.seen(session)

    def idle_s(self, session: str) -> float:
        """Return for how long a session has had no connection; a supervisor that just began knows of no longer time.

        A session that exists no more is idle for ever.
        """
        if self._connected[session]:
            return 0.0
        if session != USER and not self._store.exists(session):
            return float("inf")
        return trio.current_time() - self._left.get(session, self._began)

    def vanished(self, session: str) -> bool:
        """Tell whether a session does not come back: its token is worth nothing, or it was not seen for a day."""
        if self._connected[session] or session == USER:
            return False
        info = self._store.info(session)
        return info is None or time.time() - info.last_seen_at >= VANISHED_S
