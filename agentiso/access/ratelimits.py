"""How often a session may call: token buckets, which let a burst pass and bound what is kept up."""

from __future__ import annotations

from typing import Final

import trio

from actors.model.errors import AgentisoError
from actors.model.settings import Rate, RateLimits

CREATE: Final = frozenset({"workspace_create", "workspace_fork", "workspace_batch_fork", "workspace_import"})
EXEC: Final = frozenset({"exec", "exec_background", "exec_parallel", "exec_input", "git_clone", "git_push"})


class RateLimited(AgentisoError):
    """A session calls too often; ``facts`` has ``retry_after_s``."""

    code = "rate_limited"


def bucket_of(tool: str) -> str:
    """Return the name of the limit that a tool's calls count against."""
    if tool in CREATE:
        return "create"
    return "exec" if tool in EXEC else "default"


class _Bucket:
    """Holds up to ``burst`` tokens and gets ``per_minute`` new ones; a call takes one."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at = trio.current_time()

    def take(self) -> float:
        """Take a token and return 0, or say in how many seconds there is one."""
        now, per_second = trio.current_time(), self._rate.per_minute / 60
        self._tokens = min(self._rate.burst, self._tokens + (now - self._at) * per_second)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / per_second
        self._tokens -= 1
        return 0.0


class Limiter:
    """The buckets of all sessions; one call counts once, however many children it forks."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def count(self, session: str, tool: str) -> None:
        """Count a call of a tool.

        Raises:
            RateLimited: it comes too soon.

        """
        name = bucket_of(tool)
        rate: Rate = getattr(self._limits, name)
        bucket = self._buckets.get((session, name))
        if bucket is None:
            bucket = self._buckets[session, name] = _Bucket(rate)
        wait_s = bucket.take()
        if wait_s:
            raise RateLimited(
                f"Session {session!r} calls too often: {name} calls are limited to {rate.per_minute} a minute, "
                f"{rate.burst} at once.",
                remedy=f"Try again in {wait_s:.1f} s.",
                retry_after_s=round(wait_s, 3),
            )
