"""Tools that run commands and wait for them, in one workspace or in many."""

from __future__ import annotations

import contextlib
import time
from typing import Final

import attrs
import trio

from actors.machine.guest.jobs import new_job_id
from actors.model.errors import AgentisoError, GuestBroken, GuestRefused, InvalidArgument
from actors.model.guest import ExecResult
from agentiso.library.workspace import Workspace
from agentiso.mcp.schema import describe, outline
from agentiso.mcp.tools.output import DEFAULT_BYTES, MAX_BYTES, cut, limit, reporting
from agentiso.mcp.tools.results import JobResult
from agentiso.mcp.tools.tool import COMMAND, LONG, WORKDIR, Call, Tool

KILL_LIMIT_S: Final = 15.0
PARALLEL_BYTES: Final = 4 * 1024
TIMED_OUT: Final = "exec_background has no such limit; with yield_secs, exec has none either."
KEPT: Final = "Kept of each stream: head and tail"


@attrs.frozen
class ExecArguments:
    workspace_id: str
    command: str = describe(COMMAND, maxLength=LONG)
    timeout_secs: float | None = describe(
        "Kill it after this, descendants too. Absent: 120, or none with yield_secs", None, minimum=0.1, maximum=86400
    )
    yield_secs: float | None = describe(
        "Return after this though it runs on: see exec_poll", None, minimum=0, maximum=3600
    )
    workdir: str | None = describe(WORKDIR, None)
    env: dict[str, str] | None = None
    max_output_bytes: int = describe(KEPT, DEFAULT_BYTES, minimum=256, maximum=MAX_BYTES)


@attrs.frozen
class ExecToolResult(JobResult):
    truncated: bool = describe("Output was cut where a mark says so")


@attrs.frozen
class ParallelArguments:
    workspace_ids: list[str] = describe("Names or ids", minItems=1, maxItems=20)
    commands: str | list[str] = describe("One shell command for all, or one for each")
    timeout_secs: float = describe("Kill it after this", 300.0, minimum=0.1, maximum=86400)
    workdir: str | None = describe(WORKDIR, None)
    env: dict[str, str] | None = None
    max_output_bytes: int = describe(KEPT, PARALLEL_BYTES, minimum=256, maximum=MAX_BYTES)


@attrs.frozen
class ParallelItem:
    workspace_id: str
    """As it was given."""
    job_id: str | None
    exit_code: int | None
    stdout: str
    stderr: str
    timed_out: bool
    error: str | None = describe("why it was not run")


@attrs.frozen
class ParallelResult:
    results: list[ParallelItem] = outline("In order")
    succeeded: int = describe("How many exited with 0")
    failed: int = describe("How many did not")
    elapsed_ms: float = describe()


@attrs.frozen
class SetEnvArguments:
    workspace_id: str
    vars: dict[str, str | None] = describe("Values by name; null unsets")


@attrs.frozen
class SetEnvResult:
    count: int = describe("Set now")


async def _run(
    call: Call, ws: Workspace, a: ExecArguments | ParallelArguments, command: str, *, yield_secs: float | None
) -> ExecResult:
    """Run a command as a job that only the client's own word ends: not its death, nor the supervisor's."""
    job_id = new_job_id()
    try:
        async with reporting(call.report) as on_output:
            return await ws.jobs.run(
                command,
                job_id=job_id,
                timeout_s=limit(a.timeout_secs, yield_secs),
                yield_s=yield_secs,
                workdir=a.workdir,
                env=a.env,
                max_output_bytes=a.max_output_bytes,
                on_output=on_output,
            )
    finally:
        if call.cancelled():
            # That it never began, or that its guest is gone, is as good.
            with (
                trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_LIMIT_S),
                contextlib.suppress(GuestRefused, GuestBroken),
            ):
                await ws.jobs.kill(job_id)


def _texts(r: ExecResult) -> tuple[str, str]:
    return (
        cut(r.stdout, r.stdout_bytes, job_id=r.job_id, stream="stdout"),
        cut(r.stderr, r.stderr_bytes, job_id=r.job_id, stream="stderr"),
    )


async def _exec(call: Call, a: ExecArguments) -> ExecToolResult:
    r = await _run(call, await call.workspace(a.workspace_id), a, a.command, yield_secs=a.yield_secs)
    stdout, stderr = _texts(r)
    return ExecToolResult(
        job_id=r.job_id,
        running=r.running,
        exit_code=r.exit_code,
        signal=r.signal,
        stdout=stdout,
        stderr=stderr,
        timed_out=r.timed_out,
        duration_secs=r.duration_s,
        note=f"{r.note} {TIMED_OUT}" if r.timed_out else r.note,
        truncated=r.stdout_bytes > len(r.stdout) or r.stderr_bytes > len(r.stderr),
    )


async def _parallel(call: Call, a: ParallelArguments) -> ParallelResult:
    count = len(a.workspace_ids)
    commands = [a.commands] * count if isinstance(a.commands, str) else a.commands
    if len(commands) != count:
        raise InvalidArgument(
            f"{len(commands)} commands were given for {count} workspaces.", remedy="Give one, or one for each."
        )
    began = time.perf_counter()
    items: dict[int, ParallelItem] = {}

    async def one(index: int) -> None:
        workspace = a.workspace_ids[index]
        try:
            r = await _run(call, await call.workspace(workspace), a, commands[index], yield_secs=None)
        except AgentisoError as error:
            items[index] = ParallelItem(workspace, None, None, "", "", timed_out=False, error=str(error))
            return
        items[index] = ParallelItem(workspace, r.job_id, r.exit_code, *_texts(r), timed_out=r.timed_out, error=None)

    async with trio.open_nursery() as nursery:
        for index in range(count):
            nursery.start_soon(one, index)
    good = sum(item.exit_code == 0 for item in items.values())
    elapsed_ms = (time.perf_counter() - began) * 1000
    return ParallelResult([items[index] for index in range(count)], good, count - good, elapsed_ms)


async def _set_env(call: Call, a: SetEnvArguments) -> SetEnvResult:
    return SetEnvResult(await (await call.workspace(a.workspace_id)).set_env(a.vars))


TOOLS: Final = (
    Tool("exec", "Run a shell command and wait for its end. A non-zero exit_code is no error. For more than a minute: "
         "yield_secs, or exec_background.", ExecArguments, ExecToolResult, _exec, destructive=True, open_world=True),
    Tool("exec_parallel", "Run commands in up to 20 workspaces at once.", ParallelArguments, ParallelResult, _parallel,
         destructive=True, open_world=True),
    Tool("set_env", "Set environment variables of all later commands, such as secrets; kept in the guest's memory "
         "only.", SetEnvArguments, SetEnvResult, _set_env, idempotent=True),
)  # fmt: skip
