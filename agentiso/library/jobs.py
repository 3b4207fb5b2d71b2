"""The jobs of a workspace's guest: commands that outlive who began them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from actors.machine.guest.jobs import Window
from actors.model.guest import CommandSpec, ExecResult, InputTaken, JobEnd, JobInfo, JobList, JobOutput
from actors.runtime import open_plain_nursery
from actors.workspace import job_messages as j
from actors.workspace import messages as w

WINDOW_BYTES: Final = 256 * 1024
"""Of output that was not consumed yet; then the command waits."""
READ_BYTES: Final = 1024 * 1024
"""The most that the guest sends of each stream at once."""


@attrs.frozen
class OutputEvent:
    """A piece of a command's output."""

    stream: int
    """1 for stdout, 2 for stderr."""
    data: bytes


class Output:
    """A job's output as it comes: an async iterator of `OutputEvent`; ``job`` is the job as it was at the end."""

    def __init__(self) -> None:
        self.job: JobInfo | None = None
        self.lost: tuple[int, int] = (0, 0)
        """Bytes of stdout and stderr that were not kept any more when this began."""
        self._window = Window(WINDOW_BYTES)
        # What may be in it is bounded by the window.
        self._coming, self._pieces = trio.open_memory_channel[OutputEvent](math.inf)

    def __aiter__(self) -> Output:
        return self

    async def __anext__(self) -> OutputEvent:
        event = await anext(self._pieces)
        await self._window.consumed(len(event.data))
        return event

    async def _run(self, ref: w.WorkspaceRef, job_id: str, cursors: tuple[int, int]) -> None:
        followed = await ref.ask(j.FollowJob(job_id, self._take, cursors, window=self._window))
        self.job, self.lost = followed.job, followed.lost
        self._coming.close()

    def _take(self, stream: int, data: bytes) -> None:
        self._coming.send_nowait(OutputEvent(stream, data))


class Jobs:
    """``workspace.jobs``.

    A job goes on when its caller, its client or the supervisor ends, through suspend and resume, and with another id in
    a fork.  Of its output the guest keeps the last MiB of each stream, and counts all of it.
    """

    def __init__(self, ref: w.WorkspaceRef) -> None:
        self._ref = ref

    async def start(
        self,
        command: str | Sequence[str],
        *,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
        timeout_s: float | None = None,
        stdin: bool = False,
        terminal: tuple[int, int] | None = None,
        job_id: str | None = None,
    ) -> JobInfo:
        """Start a command and return at once.

        With ``stdin`` it can be given input, with ``terminal`` (rows, columns) it has a terminal instead of pipes.
        ``job_id`` names it beforehand, so that it can be found whatever becomes of this call.
        """
        words = command if isinstance(command, str) else tuple(command)
        return await self._ref.ask(j.StartJob(CommandSpec(words, workdir, env, timeout_s, stdin, terminal), job_id))

    async def run(
        self,
        command: str | Sequence[str],
        *,
        job_id: str | None = None,
        timeout_s: float | None = None,
        yield_s: float | None = None,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
        max_output_bytes: int = 262144,
        on_output: j.OnOutput | None = None,
    ) -> ExecResult:
        """Run a command like `Workspace.exec`, but have it go on when this call is cancelled.

        ``job_id`` names it beforehand, so that it can be found then.
        """
        spec = CommandSpec(command if isinstance(command, str) else tuple(command), workdir, env, timeout_s)
        return await self._ref.ask(j.Exec(spec, yield_s, max_output_bytes, on_output, job_id, keep=True))

    async def poll(self, job_id: str, *, cursors: tuple[int, int] = (0, 0), max_bytes: int = 65536) -> JobOutput:
        """Return a piece of a job's output now: at most ``max_bytes`` of each stream, from ``cursors`` on."""
        return await self._ref.ask(j.ReadJob(job_id, cursors, max_bytes))

    async def wait(
        self,
        job_id: str,
        *,
        wait_s: float = 60.0,
        text: str | None = None,
        output: bool = False,
        cursors: tuple[int, int] = (0, 0),
        max_bytes: int = 65536,
    ) -> JobOutput:
        """Wait for a job's end, for ``text`` in what follows the cursors, or with ``output`` for anything to follow.

        After ``wait_s`` it returns in any case; ``result.job.running`` and ``result.matched`` tell what happened.
        """
        return await self._ref.ask(j.ReadJob(job_id, cursors, max_bytes, wait_s, text, output))

    @asynccontextmanager
    async def follow(self, job_id: str, *, cursors: tuple[int, int] = (0, 0)) -> AsyncIterator[Output]:
        """Yield a job's `Output` as it comes; the job waits for a slow reader, and goes on after the block."""
        output = Output()
        async with open_plain_nursery() as nursery:
            nursery.start_soon(output._run, self._ref, job_id, cursors)
            yield output
            nursery.cancel_scope.cancel(reason="nobody follows the job any more")

    async def kill(self, job_id: str, signal: int = 9, *, wait_s: float = 5.0) -> JobEnd:
        """Signal a job's whole process group, with SIGKILL all its descendants, and wait for its end."""
        return await self._ref.ask(j.KillJob(job_id, signal, wait_s))

    async def input(self, job_id: str, data: bytes | str = b"", *, end: bool = False) -> InputTaken:
        """Write to a job's standard input, and with ``end`` close it; waits while the job does not read."""
        return await self._ref.ask(j.FeedJob(job_id, data.encode() if isinstance(data, str) else data, end))

    async def resize(self, job_id: str, rows: int, cols: int) -> None:
        """Tell a job's terminal its size."""
        await self._ref.ask(j.ResizeJob(job_id, rows, cols))

    async def list(self) -> JobList:
        """Describe all jobs that the guest knows, oldest first."""
        return await self._ref.ask(j.ListJobs())

    async def release(self, job_id: str) -> None:
        """Forget a finished job and its output."""
        await self._ref.ask(j.ReleaseJob(job_id))

    async def text(self, job_id: str) -> str:
        """Return all output of a job that is kept, for people and models to read."""
        pieces, lost, cursors = [bytearray(), bytearray()], [0, 0], (0, 0)
        while True:
            found = await self.poll(job_id, cursors=cursors, max_bytes=READ_BYTES)
            cursors = found.cursors
            for index, data in enumerate((found.stdout, found.stderr)):
                pieces[index] += data
                lost[index] += found.lost[index]
            # A job that writes faster than it is read would never be at its end.
            if not (found.stdout or found.stderr) or max(map(len, pieces)) > 2 * READ_BYTES:
                break
        parts = []
        for name, kept, missing in zip(("stdout", "stderr"), pieces, lost, strict=True):
            gap = f", {missing} bytes of it are not kept any more" if missing else ""
            if kept or missing:
                parts.append(f"--- {name}{gap}\n{kept.decode(errors='replace')}")
        return "\n".join(parts)
