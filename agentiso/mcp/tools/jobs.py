"""Tools for commands that go on by themselves."""

from __future__ import annotations

import base64
import binascii
from typing import Final

import attrs

from actors.errors import InvalidArgument
from actors.guest_model import JobInfo
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.output import DEFAULT_BYTES, MAX_BYTES, whole
from agentiso.mcp.tools.tool import WORKSPACE, Call, Tool, WorkspaceArguments

JOB: Final = "The job_id of exec or exec_background."


@attrs.frozen
class BackgroundArguments:
    workspace_id: str = describe(WORKSPACE)
    command: str = describe("Shell command, run by /bin/sh -c as root.")
    workdir: str | None = describe("Absolute directory to run in; / if absent.", None)
    env: dict[str, str] | None = describe("Additional environment.", None)
    timeout_secs: float | None = describe("Kill it after this; absent: never.", None, minimum=0.1, maximum=86400)
    stdin: bool = describe("Whether exec_input will write to it; else its input is empty.", default=False)


@attrs.frozen
class Started:
    job_id: str = describe("For exec_poll, exec_kill and exec_input.")
    status: str = describe("started.")


@attrs.frozen
class PollArguments:
    workspace_id: str = describe(WORKSPACE)
    job_id: str = describe(JOB)
    stdout_cursor: int = describe("Read stdout from this byte on.", 0, minimum=0)
    stderr_cursor: int = describe("Read stderr from this byte on.", 0, minimum=0)
    wait_secs: float = describe("Wait so long for its end, or for the text.", 0.0, minimum=0, maximum=3600)
    wait_for_text: str | None = describe(
        "Return once this appears after the cursors.", None, minLength=1, maxLength=1000
    )
    max_output_bytes: int = describe("At most this of each stream.", DEFAULT_BYTES, minimum=256, maximum=MAX_BYTES)


@attrs.frozen
class PollResult:
    job_id: str = describe("The job.")
    running: bool = describe("Whether it runs.")
    exit_code: int | None = describe("Exit status.")
    signal: int | None = describe("The signal that ended it.")
    stdout: str = describe("From stdout_cursor on.")
    stderr: str = describe("From stderr_cursor on.")
    stdout_cursor: int = describe("Where to read on.")
    stderr_cursor: int = describe("Where to read on.")
    stdout_left: int = describe("Bytes that can be read already.")
    stderr_left: int = describe("Bytes that can be read already.")
    lost_bytes: int = describe("Skipped since only the last MiB of a stream is kept.")
    text_found: bool = describe("Whether wait_for_text appeared.")
    timed_out: bool = describe("Whether its time limit ended it.")
    duration_secs: float = describe("How long it has run.")
    note: str = describe("What was killed and why, if anything was.")


@attrs.frozen
class KillArguments:
    workspace_id: str = describe(WORKSPACE)
    job_id: str = describe(JOB)
    signal: int = describe("9 kills it and all descendants; others go to its process group.", 9, minimum=1, maximum=64)


@attrs.frozen
class KillResult:
    job_id: str = describe("The job.")
    status: str = describe("killed, signalled (it still runs) or already_ended.")
    exit_code: int | None = describe("Exit status.")
    signal: int | None = describe("The signal that ended it.")
    note: str = describe("What was signalled.")


@attrs.frozen
class InputArguments:
    workspace_id: str = describe(WORKSPACE)
    job_id: str = describe(JOB)
    input: str = describe("What to write; a line needs its newline.", "", maxLength=1048576)
    encoding: str = describe("How input is encoded.", "utf-8", enum=["utf-8", "base64"])
    end: bool = describe("Close its input then.", default=False)


@attrs.frozen
class InputResult:
    taken_bytes: int = describe("How much it took; less if it does not read.")
    closed: bool = describe("Whether nobody reads its input any more.")


@attrs.frozen
class Listed:
    job_id: str = describe("The job.")
    command: str = describe("Its beginning.")
    running: bool = describe("Whether it runs.")
    exit_code: int | None = describe("Exit status.")
    signal: int | None = describe("The signal that ended it.")
    started_at: float = describe("Seconds since the Unix epoch.")
    duration_secs: float = describe("How long it has run.")
    stdout_bytes: int = describe("Written so far.")
    stderr_bytes: int = describe("Written so far.")
    carried_from: str | None = describe("Its id in the workspace this was forked from.")


@attrs.frozen
class ListResult:
    jobs: list[Listed] = describe("Newest first, at most 50.")
    note: str = describe("Whether earlier ones were lost.")


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
        stdout_cursor=cursors[0],
        stderr_cursor=cursors[1],
        stdout_left=left[0],
        stderr_left=left[1],
        lost_bytes=sum(found.lost),
        text_found=found.matched,
        timed_out=job.timed_out,
        duration_secs=job.duration_s,
        note=job.note,
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
    note = "The guest agent ended and began anew; earlier jobs and variables are lost." if found.began_anew else ""
    return ListResult([_listed(job) for job in newest], note)


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
    Tool("exec_background", "Start a command", "Start a shell command as a job and return at once. It outlives this "
         "call, this client and suspension.", BackgroundArguments, Started, _background, destructive=True,
         open_world=True),
    Tool("exec_poll", "Read a job", "Read a job's output and state, now or once it has ended or wait_for_text has "
         "appeared.", PollArguments, PollResult, _poll, read_only=True),
    Tool("exec_kill", "Kill a job", "Signal a job and see it end.", KillArguments, KillResult, _kill, destructive=True),
    Tool("exec_input", "Feed a job", "Write to the standard input of a job started with stdin.", InputArguments,
         InputResult, _input),
    Tool("exec_list", "List jobs", "List a workspace's jobs, finished ones too.", WorkspaceArguments, ListResult, _list,
         read_only=True),
)  # fmt: skip
