"""What tells that a resource has changed: a watch on what the supervisor knows, and one on a job's output.

A watch holds still until something happens: the supervisor's own changes wake it, and for a job's output one request
waits in the guest.  Whoever uses it pauses `INTERVAL_S` after each change; what happens meanwhile is one change more.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from actors.model.errors import AgentisoError, GuestRefused, IllegalState, NotFound
from agentiso.access.gate import NotOwner
from agentiso.library.system import System
from agentiso.library.workspace import Workspace

INTERVAL_S: Final = 0.5
"""Between two announcements of one resource, however often it changes: a client would read it no faster."""
WAIT_S: Final = 3600.0
"""For how long one request for output waits in a guest."""
RETRY_S: Final = 10.0
"""After which a guest that did not answer is asked again if nothing was heard of its workspace."""
GONE: Final = (NotFound, NotOwner)
"""A resource that is not there any more, or is not the client's any more."""


class Watch(ABC):
    """A watch on one resource."""

    @abstractmethod
    async def begin(self) -> None:
        """Note how the resource is now; raise what reading it would raise."""

    @abstractmethod
    async def next(self) -> bool:
        """Wait until a reader would find it changed since; return ``False`` if that was its last change."""


class RecordWatch(Watch):
    """On what the supervisor knows; ``look`` returns it as far as it can be compared."""

    def __init__(self, system: System, look: Callable[[], Awaitable[object]], workspace_id: str | None = None) -> None:
        self._system = system
        self._look = look
        self._workspace_id = workspace_id
        self._seen: int | None = None
        self._shown: object = None

    async def begin(self) -> None:
        """Note how the resource is now."""
        self._seen = await self._system.wait_changed()
        self._shown = await self._look()

    async def next(self) -> bool:
        """Wait until it is different from how it was."""
        while True:
            shown: object = None
            try:
                self._seen = await self._system.wait_changed(self._seen, workspace_id=self._workspace_id)
                shown = await self._look()
            except GONE:
                return False
            except AgentisoError:
                # An actor crashed and is being restarted: how it is now is not known.
                pass
            if shown != self._shown:
                self._shown = shown
                return True
            await trio.sleep(INTERVAL_S)


class JobWatch(Watch):
    """On the output of a job; ``find`` returns its workspace as long as the client may read of it.

    What there is at first counts as a change, so that a client need not know where it stands.  After a machine's end
    the watch goes on with the next one, from a snapshot perhaps, in which the job may never have been.
    """

    def __init__(
        self, system: System, find: Callable[[], Awaitable[Workspace]], workspace_id: str, job_id: str
    ) -> None:
        self._system = system
        self._find = find
        self._workspace_id = workspace_id
        self._job_id = job_id
        self._cursors = (0, 0)

    async def begin(self) -> None:
        """See that there is such a job."""
        await (await self._find()).jobs.poll(self._job_id, max_bytes=1)

    async def next(self) -> bool:
        """Wait for output beyond what there was, or for the end."""
        while True:
            since = await self._system.wait_changed()
            try:
                found = await (await self._find()).jobs.wait(
                    self._job_id, wait_s=WAIT_S, output=True, cursors=self._cursors, max_bytes=1
                )
            except GONE:
                return False
            except GuestRefused:
                if self._cursors == (0, 0):
                    return False
                # Back at a snapshot it has written less.
                self._cursors = (0, 0)
            except AgentisoError as error:
                self._cursors = (0, 0)
                await self._wait_for_guest(since, error)
            else:
                written = (found.job.stdout_bytes, found.job.stderr_bytes)
                if written != self._cursors or not found.job.running:
                    self._cursors = written
                    return found.job.running

    async def _wait_for_guest(self, since: int, error: AgentisoError) -> None:
        """Wait until the workspace has changed; one whose state allows no job need not be asked any sooner."""
        with trio.move_on_after(math.inf if isinstance(error, IllegalState) else RETRY_S):
            await self._system.wait_changed(since, workspace_id=self._workspace_id)
