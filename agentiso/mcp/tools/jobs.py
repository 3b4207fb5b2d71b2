"""Tools for commands that go on by themselves."""

from __future__ import annotations

import base64
import binascii
from typing import Final

import attrs

from actors.model.errors import InvalidArgument
from actors.model.guest import JobInfo
from agentiso.mcp.schema import describe, outline
from agentiso.mcp.tools.output import DEFAULT_BYTES, MAX_BYTES, whole
from agentiso.mcp.tools.results import JobResult
from agentiso.mcp.tools.tool import COMMAND, LONG, WORKDIR, Call, Tool, WorkspaceArguments


@attrs.frozen
class BackgroundArguments:
    workspace_id: str
    command: str = describe(COMMAND, maxLength=LONG)
    workdir: str | None = describe(WORKDIR, None)
    env: dict[str, str] | None = None
    timeout_secs: float | None = describe("Kill it after this. Absent: never", None, minimum=0.1, maximum=86400)
    stdin: bool = describe("Whether exec_input will feed it", default=False)


@attrs.frozen
class Started:
    job_id: str = describe("For exec_poll, exec_kill, exec_input")
    status: str = describe()


@attrs.frozen
class PollArguments:
    workspace_id: str
    job_id: str
    stdout_cursor: int = describe("Read from this byte on", 0, minimum=0)
    stderr_cursor: int = describe("Read from this byte on", 0, minimum=0)
    wait_secs: float = describe("Wait so long for its end or the text", 0.0, minimum=0, maximum=3600)
    wait_for_text: str | None = describe("Return once this appears", None, minLength=1, maxLength=1000)
    max_output_bytes: int = describe("Of each stream", DEFAULT_BYTES, minimum=256, maximum=MAX_BYTES)


@attrs.frozen
class PollResult(JobResult):
    stdout_cursor: int
    stderr_cursor: int
    left_bytes: int = describe("More that can be read now")
    lost_bytes: int = describe("Of output no longer kept")
    text_found: bool = describe()


@attrs.frozen
class KillArguments:
    workspace_id: str
    job_id: str
    signal: int = describe("9 kills descendants too; others the process group", 9, minimum=1, maximum=64)


@attrs.frozen
class KillResult:
    job_id: str
    status: str = describe("killed, signalled (it runs on) or already_ended")
    exit_code: int | None = describe()
    signal: int | None = describe()
    note: str = describe()


@attrs.frozen
class InputArguments:
    workspace_id: str
    job_id: str
    input: str = describe("A line needs its newline", "", maxLength=1048576)
    encoding: str = describe("Of input", "utf-8", enum=["utf-8", "base64"])
    end: bool = describe("Close its input then", default=False)


@attrs.frozen
class InputResult:
    taken_bytes: int = describe("Less than given if it does not read")
    closed: bool = describe("Nobody reads it any more")


@attrs.frozen
class Listed:
    job_id: str
    command: str
    running: bool
    exit_code: int | None
    signal: int | None
    started_at: float = describe("Unix time")
    duration_secs: float = describe()
    stdout_bytes: int = describe()
    stderr_bytes: int = describe()
    carried_from: str | None = describe("its id in the parent")


@attrs.frozen
class ListResult:
    jobs: list[Listed] = outline("Newest first, at most 50")
    note: str = describe()
    """Whether earlier ones were lost, or are not listed."""


MAX_LISTED: Final = 50


async def _background(call: Call, a: BackgroundArguments) -> Started:
    ws = await call.workspace(a.workspace_id)
    job = await ws.jobs.start(a.command, workdir=a.workdir, env=a.env, timeout_s=a.timeout_secs, stdin=a.stdin)
    return Started(job.job_id, "started")


async def _poll(call: Call, a: PollArguments) -> PollResult:
    ws = await call.workspace(a.workspace_id)
    found = await ws.jobs.wait(
        a.job_id,
        wait_s=a.wait_secs,
        text=a.wait_for_text,
        cursors=(a.stdout_cursor, a.stderr_cursor),
        max_bytes=a.max_output_bytes,
    )
    job, texts, cursors, left = found.job, [], [], []
    totals = (job.stdout_bytes, job.stderr_bytes)
    for data, cursor, total in zip((found.stdout, found.stderr), found.cursors, totals, strict=True):
        # The rest of a character that is still to come is read together with its beginning.
        size = whole(data) if job.running or cursor < total else len(data)
        texts.append(data[:size].decode(errors="replace"))
        cursors.append(cursor - len(data) + size)
        left.append(total - cursors[-1])
    return PollResult(
        job_id=job.job_id,
        running=job.running,
        exit_code=job.exit_code,
        signal=job.signal,
        stdout=texts[0],
        stderr=texts[1],
        timed_out=job.timed_out,
        duration_secs=job.duration_s,
        note=job.note,
        stdout_cursor=cursors[0],
        stderr_cursor=cursors[1],
        left_bytes=sum(left),
        lost_bytes=sum(found.lost),
        text_found=found.matched,
    )


async def _kill(call: Call, a: KillArguments) -> KillResult:
    end = await (await call.workspace(a.workspace_id)).jobs.kill(a.job_id, a.signal)
    status = "already_ended" if not end.signalled else "killed" if end.gone else "signalled"
    return KillResult(a.job_id, status, end.job.exit_code, end.job.signal, end.job.note)


async def _input(call: Call, a: InputArguments) -> InputResult:
    try:
        data = base64.b64decode(a.input, validate=True) if a.encoding == "base64" else a.input.encode()
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidArgument(f"input cannot be decoded: {error}.", remedy="Mend it and try again.") from error
    taken = await (await call.workspace(a.workspace_id)).jobs.input(a.job_id, data, end=a.end)
    return InputResult(taken.taken_bytes, taken.closed)


async def _list(call: Call, a: WorkspaceArguments) -> ListResult:
    found = await (await call.workspace(a.workspace_id)).jobs.list()
    newest = sorted(found.jobs, key=lambda job: job.started_at, reverse=True)[:MAX_LISTED]
    notes = ["The guest agent ended and began anew; earlier jobs and variables are lost."] if found.began_anew else []
    if len(newest) < len(found.jobs):
        notes.append(f"There are {len(found.jobs)} jobs; exec_poll tells of the older ones by their ids.")
    return ListResult([_listed(job) for job in newest], " ".join(notes))


def _listed(job: JobInfo) -> Listed:
    return Listed(
        job_id=job.job_id,
        command=job.command,
        running=job.running,
        exit_code=job.exit_code,
        signal=job.signal,
        started_at=job.started_at,
        duration_secs=job.duration_s,
        stdout_bytes=job.stdout_bytes,
        stderr_bytes=job.stderr_bytes,
        carried_from=job.carried_from,
    )


TOOLS: Final = (
    Tool("exec_background", "Start a shell command as a job and return at once. It outlives this call, this client and "
         "suspension.", BackgroundArguments, Started, _background, destructive=True, open_world=True),
    Tool("exec_poll", "Read a job's output and state: now, at its end, or when wait_for_text appears.", PollArguments,
         PollResult, _poll, read_only=True),
    Tool("exec_kill", "Signal a job and see it end.", KillArguments, KillResult, _kill, destructive=True),
    Tool("exec_input", "Write to the standard input of a job started with stdin.", InputArguments, InputResult, _input),
    Tool("exec_list", "List a workspace's jobs, finished ones too.", WorkspaceArguments, ListResult, _list,
         read_only=True),
)  # fmt: skip
