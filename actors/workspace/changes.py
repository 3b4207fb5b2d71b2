"""Which workspaces have changed since somebody looked.  Nothing here polls: who waits is woken by the change itself."""

from __future__ import annotations

import math

import trio
from trio_util import AsyncValue


class Changes:
    """Counts the changes of all workspaces, and remembers which was the last of each."""

    def __init__(self) -> None:
        self._count = AsyncValue(0)
        self._last: dict[str, int] = {}

    def note(self, workspace_id: str) -> None:
        """Count a change that others can see: of its record, its owner, its being there."""
        count = self._last[workspace_id] = self._count.value + 1
        self._count.value = count

    def forget(self, workspace_id: str) -> None:
        """Count a workspace's end, its last change."""
        self.note(workspace_id)
        del self._last[workspace_id]

    async def wait(self, since: int | None, workspace_id: str | None) -> int:
        """Wait for a change, of one workspace or of any, beyond the first ``since``; return how many there are then.

        Without ``since`` it returns at once.  A workspace that is not known has changed: it is not there.
        """
        if since is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._count.wait_value(lambda _: self._latest(workspace_id) > since)
        count: int = self._count.value
        return count

    def _latest(self, workspace_id: str | None) -> float:
        count: float = self._count.value
        return count if workspace_id is None else self._last.get(workspace_id, math.inf)
