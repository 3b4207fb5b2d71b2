"""What is asked of a guest's commands: to start, to follow, to read, to feed and to kill jobs.

The host chooses a job's id, so that it can name the job even if the answer to its start never came.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import attrs
import trio

from actors.machine.guest.calls import REPLY_LIMIT_S, GuestCalls
from actors.machine.guest.files import whole_number
from actors.machine.guest.pulse import MUTE_S, Patience
from actors.model.errors import GuestBroken, GuestRefused, RemoteProtocolError
from actors.model.guest import CommandSpec, ExecResult, InputTaken, JobEnd, JobInfo, JobList, JobOutput
from guest.untrusted import MALFORMED, finite, whole
from guest.wire import DATA_CHUNK_BYTES, STDERR, STDOUT, Message

GRACE_S: Final = 10.0
"""How much later than its time is up a guest may answer."""
KILL_WAIT_S: Final = 5.0
INPUT_PIECE_BYTES: Final = 48 * 1024
MAX_JOBS: Final = 1000
MAX_WAIT_S: Final = 24 * 3600.0

OnOutput = Callable[[int, bytes], None]
Grant = Callable[[int], Awaitable[None]]


def new_job_id() -> str:
    """Return an id that no job has."""
    return secrets.token_hex(4)


class Capped:
    """The head and the tail of a stream, within a cap, and its true length."""

    def __init__(self, cap: int) -> None:
        self._head_cap = cap - cap // 2
        self._tail_cap = cap // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Take in what comes next."""
        self.total += len(data)
        room = self._head_cap - len(self._head)
        self._head += data[:room]
        self._tail += data[max(0, room) :]
        if len(self._tail) > 2 * self._tail_cap + DATA_CHUNK_BYTES:
            del self._tail[: len(self._tail) - self._tail_cap]

    def value(self) -> bytes:
        """Return what is kept."""
        tail = self._tail[-self._tail_cap :] if self._tail_cap else b""
        return bytes(self._head + tail)


@attrs.frozen
class Followed:
    """A job as it was when its following ended, and the positions up to which its output was seen."""

    job: JobInfo
    cursors: tuple[int, int]
    lost: tuple[int, int]


class Window:
    """How much output of a followed job may be on its way before its consumer has taken what came earlier."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._consumed = 0
        self._unread = 0
        self._grant: Grant | None = None

    def bind(self, grant: Grant) -> None:
        """Belong to a request, whose other end is told by ``grant`` how many bytes more it may send."""
        self._grant, self._consumed, self._unread = grant, 0, 0

    def came(self, size: int) -> None:
        """Count what came; a guest that sends more than it may breaks its channel."""
        self._unread += size
        if self._unread > self.size:
            raise RemoteProtocolError(f"more than the {self.size} bytes came that may be on their way")

    async def consumed(self, size: int) -> None:
        """Allow as much again to come; the other end is told in steps of half the window."""
        self._consumed += size
        self._unread -= size
        if self._grant is not None and self._consumed >= self.size // 2:
            more, self._consumed = self._consumed, 0
            await self._grant(more)


class GuestJobs:
    """``client.jobs``."""

    def __init__(self, client: GuestCalls) -> None:
        self._client = client
        self._ends: dict[str, float] = {}
        """When jobs that were started here with a time limit are over, in trio's time."""

    async def exec(
        self,
        command: CommandSpec,
        *,
        job_id: str | None = None,
        yield_s: float | None = None,
        keep: bool = False,
        max_output_bytes: int = 262144,
        on_output: OnOutput | None = None,
    ) -> ExecResult:
        """Run a command to its end, or for ``yield_s``; cancelling this kills it unless it is to be kept.

        Raises:
            GuestRefused: it could not be started.
            GuestBroken: the channel broke; whether the command ran on is unknown.

        """
        chosen = job_id or new_job_id()
        streams = {STDOUT: Capped(max_output_bytes), STDERR: Capped(max_output_bytes)}

        def on_data(stream: int, data: bytes) -> None:
            streams[_known(stream)].add(data)
            if on_output is not None:
                on_output(stream, data)

        limits = [limit for limit in (command.timeout_s, yield_s) if limit is not None]
        limit_s = min(limits, default=math.inf) + GRACE_S
        try:
            reply = await self._client.call(
                {"op": "exec", "job": chosen, "wait_s": yield_s, **_body(command)},
                on_data,
                limit_s=limit_s,
                patience=_patience(min(limits, default=None)),
            )
        except GuestRefused:
            raise
        except GuestBroken as broken:
            broken.remedy = f"If its machine still runs, so may job {chosen}: ask for its output."
            raise
        except BaseException:
            # Whoever waited is gone, alone or in a group of exceptions.
            if not keep:
                await self._kill_quietly(chosen)
            raise
        followed = self._followed(reply)
        return ExecResult(
            exit_code=followed.job.exit_code,
            signal=followed.job.signal,
            stdout=streams[STDOUT].value(),
            stderr=streams[STDERR].value(),
            stdout_bytes=streams[STDOUT].total,
            stderr_bytes=streams[STDERR].total,
            timed_out=followed.job.timed_out,
            duration_s=followed.job.duration_s,
            note=followed.job.note,
            job_id=chosen,
            running=followed.job.running,
        )

    async def _kill_quietly(self, job_id: str) -> None:
        """Kill a command nobody waits for any more; that it has ended meanwhile, or the guest has, is as good."""
        with (
            trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_WAIT_S),
            contextlib.suppress(GuestRefused, GuestBroken),
        ):
            await self.kill(job_id)

    async def start(self, command: CommandSpec, job_id: str | None = None) -> JobInfo:
        """Start a command that nobody waits for; cancelling this takes it back."""
        chosen, limit_s = job_id or new_job_id(), command.timeout_s
        body = {"op": "job_start", "job": chosen, **_body(command)}
        # A mute guest is not waited for longer than the command may take.
        patience = None if limit_s is None else _patience(limit_s)
        try:
            info = self._info(await self._client.call(body, limit_s=REPLY_LIMIT_S, patience=patience))
        except (GuestRefused, GuestBroken):
            raise
        except BaseException:
            await self._kill_quietly(chosen)
            raise
        if limit_s is not None:
            while len(self._ends) >= MAX_JOBS:
                self._ends.pop(next(iter(self._ends)))
            self._ends[chosen] = trio.current_time() + limit_s
        return info

    async def follow(
        self,
        job_id: str,
        on_output: OnOutput,
        *,
        cursors: Sequence[int] = (0, 0),
        wait_s: float | None = None,
        window: Window | None = None,
    ) -> Followed:
        """Get all output from ``cursors`` on as it comes, until the job's end or for ``wait_s``.

        The job waits for this follower if that is slow; with a ``window``, if what came is not consumed.
        """
        request_id = self._client.new_request_id()
        if window is not None:
            window.bind(functools.partial(self._grant, request_id))
        body = {
            "op": "job_follow", "job": job_id, "cursors": list(cursors), "wait_s": wait_s,
            "credit": None if window is None else window.size,
        }  # fmt: skip

        def on_data(stream: int, data: bytes) -> None:
            if window is not None:
                window.came(len(data))
            on_output(_known(stream), data)

        limit_s, patience = math.inf if wait_s is None else wait_s + GRACE_S, _patience(wait_s)
        if wait_s is None and job_id in self._ends:
            patience = _patience(max(0.0, self._ends[job_id] - trio.current_time()))
        followed = self._followed(
            await self._client.call(body, on_data, limit_s=limit_s, request_id=request_id, patience=patience)
        )
        if not followed.job.running:
            self._ends.pop(job_id, None)
        return followed

    async def _grant(self, request_id: int, more_bytes: int) -> None:
        body = {"op": "job_credit", "target": request_id, "bytes": more_bytes}
        # Its answer belongs to nobody.
        await self._client.send(Message({**body, "id": self._client.new_request_id()}))

    async def read(
        self,
        job_id: str,
        *,
        cursors: Sequence[int] = (0, 0),
        max_bytes: int = 65536,
        wait_s: float = 0.0,
        text: str | None = None,
        eager: bool = False,
    ) -> JobOutput:
        """Get at most ``max_bytes`` of each stream from ``cursors`` on.

        The answer comes when the job is over, when ``text`` appears in what follows the cursors, with ``eager`` as
        soon as there is any output, and at the latest after ``wait_s``.
        """
        pieces = {STDOUT: bytearray(), STDERR: bytearray()}

        def on_data(stream: int, data: bytes) -> None:
            kept = pieces[_known(stream)]
            kept += data
            if len(kept) > max_bytes:
                raise RemoteProtocolError(f"more than the {max_bytes} bytes came that were asked for")

        body = {
            "op": "job_read", "job": job_id, "cursors": list(cursors), "limit": max_bytes, "wait_s": wait_s,
            "text": text, "eager": eager,
        }  # fmt: skip
        limit_s = wait_s + GRACE_S + self.slack_s
        reply = await self._client.call(body, on_data, limit_s=limit_s, patience=_patience(wait_s))
        followed = self._followed(reply)
        return JobOutput(
            job=followed.job,
            stdout=bytes(pieces[STDOUT]),
            stderr=bytes(pieces[STDERR]),
            cursors=followed.cursors,
            lost=followed.lost,
            matched=reply.get("matched") is True,
        )

    slack_s: Final = 20.0
    """A guest that is busy, on a busy host, is not dead."""

    async def kill(self, job_id: str, number: int = 9, *, wait_s: float = KILL_WAIT_S) -> JobEnd:
        """Signal a job's whole process group, with SIGKILL all its descendants, and wait for its end.

        Raises:
            GuestRefused: no such job is known.

        """
        body = {"op": "job_kill", "job": job_id, "signal": number, "wait_s": wait_s}
        limit_s = wait_s + GRACE_S + self.slack_s
        reply = await self._client.call(body, limit_s=limit_s, patience=_patience(wait_s))
        return JobEnd(self._info(reply), reply.get("signalled") is not False, reply.get("gone") is True)

    async def feed(self, job_id: str, data: bytes, *, end: bool = False, wait_s: float = 10.0) -> InputTaken:
        """Write to a job's standard input, piece by piece as it takes them; ``end`` closes it then.

        A piece that is not taken within ``wait_s`` is given up: the result says how much was taken.
        """
        taken = 0
        while True:
            piece = data[taken : taken + INPUT_PIECE_BYTES]
            last = taken + len(piece) == len(data)
            body = {
                "op": "job_input", "job": job_id, "data": base64.b64encode(piece).decode(), "end": end and last,
                "wait_s": wait_s,
            }  # fmt: skip
            limit_s = wait_s + GRACE_S + self.slack_s
            reply = await self._client.call(body, limit_s=limit_s, patience=_patience(wait_s))
            count, closed = whole_number(reply, "taken"), reply.get("closed") is True
            if count > len(piece):
                raise self._client.broke("it took more input than it was given")
            taken += count
            if closed or last or count < len(piece):
                return InputTaken(taken, closed)

    async def resize(self, job_id: str, rows: int, cols: int) -> None:
        """Tell a job's terminal its size."""
        await self._client.call({"op": "job_resize", "job": job_id, "rows": rows, "cols": cols})

    async def list(self) -> JobList:
        """Describe all jobs that are known, oldest first."""
        reply = await self._client.call({"op": "job_list"})
        try:
            jobs = list(reply["jobs"])[:MAX_JOBS]
        except MALFORMED as error:
            raise self._client.broke(f"its list of jobs is malformed: {error!r}") from error
        return JobList(tuple(self._info(job) for job in jobs), reply.get("began_anew") is True)

    async def release(self, job_id: str) -> None:
        """Forget a finished job."""
        self._ends.pop(job_id, None)
        await self._client.call({"op": "job_release", "job": job_id})

    async def set_env(self, variables: dict[str, str | None]) -> int:
        """Set, or with ``None`` unset, variables of all later commands; return how many are set then."""
        return whole_number(await self._client.call({"op": "set_env", "vars": variables}), "count")

    def _followed(self, reply: dict[str, Any]) -> Followed:
        info = self._info(reply)
        try:
            out, err = (whole(position) for position in reply["cursors"])
            lost_out, lost_err = (whole(count) for count in reply["lost"])
        except MALFORMED as error:
            raise self._client.broke(f"its answer about a job is malformed: {error!r}") from error
        return Followed(info, (out, err), (lost_out, lost_err))

    def _info(self, facts: Any) -> JobInfo:
        try:
            return JobInfo(
                job_id=str(facts["job"])[:32],
                command=str(facts["command"])[:200],
                running=facts["running"] is True,
                exit_code=_optional_int(facts["exit_code"]),
                signal=_optional_int(facts["signal"]),
                timed_out=facts["timed_out"] is True,
                started_at=finite(facts["started_at"]),
                duration_s=finite(facts["duration_s"]),
                stdout_bytes=whole(facts["stdout_bytes"]),
                stderr_bytes=whole(facts["stderr_bytes"]),
                note=str(facts["note"])[:500],
                carried_from=None if facts["carried_from"] is None else str(facts["carried_from"])[:32],
            )
        except MALFORMED as error:
            raise self._client.broke(f"its answer about a job is malformed: {error!r}") from error


def _patience(limit_s: float | None) -> Patience:
    """Wait for a mute guest as long as the caller allowed for its work, and hardly longer; without a limit a while."""
    return Patience() if limit_s is None else Patience(MUTE_S, limit_s + 1.0)


def _body(command: CommandSpec) -> dict[str, Any]:
    asked = command.command
    what = {"command": asked} if isinstance(asked, str) else {"argv": list(asked)}
    size = command.terminal
    return {
        **what,
        "timeout_s": command.timeout_s,
        "workdir": command.workdir,
        "env": command.env,
        "stdin": command.stdin,
        "pty": None if size is None else {"rows": size[0], "cols": size[1]},
    }


def _known(stream: int) -> int:
    if stream not in (STDOUT, STDERR):
        raise RemoteProtocolError(f"output came on stream {stream}")
    return stream


def _optional_int(value: object) -> int | None:
    return None if value is None else whole(value)
