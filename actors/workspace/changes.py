"""Which workspaces have changed since somebody looked.  Nothing here polls: who waits is woken by the change itself."""

from __future__ import annotations

import math

import trio


class Changes:
    """Counts the changes of all workspaces, and remembers which was the last of each."""

    def __init__(self) -> None:
        self._count = 0
        self._last: dict[str, int] = {}
        self._noted = trio.Event()

    def note(self, workspace_id: str) -> None:
        """Count a change that others can see: of its record, its owner, its being there."""
        self._count += 1
        self._last[workspace_id] = self._count
        self._noted.set()
        self._noted = trio.Event()

    def forget(self, workspace_id: str) -> None:
        """Count a workspace's end, its last change."""
        self.note(workspace_id)
        del self._last[workspace_id]

    async def wait(self, since: int | None, workspace_id: str | None) -> int:
        """Wait for a change, of one workspace or of any, beyond the first ``since``; return how many there are then.

        Without ``since`` it returns at once.  A workspace that is not known has changed: it is not there.
        """
        await trio.lowlevel.checkpoint()
        while since is not None and self._latest(workspace_id) <= since:
            await self._noted.wait()
        return self._count

    def _latest(self, workspace_id: str | None) -> float:
        return self._count if workspace_id is None else self._last.get(workspace_id, math.inf)
