"""Tools that run commands and wait for them, in one workspace or in many."""

from __future__ import annotations

import contextlib
import time
from typing import Final

import attrs
import trio

from actors.errors import AgentisoError, GuestBroken, GuestRefused, InvalidArgument
from actors.guest_model import ExecResult
from actors.machine.guest_jobs import new_job_id
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.output import DEFAULT_BYTES, MAX_BYTES, cut, limit, reporting
from agentiso.mcp.tools.tool import WORKSPACE, Call, Tool
from agentiso.workspace import Workspace

KILL_LIMIT_S: Final = 15.0
PARALLEL_BYTES: Final = 4 * 1024


@attrs.frozen
class ExecArguments:
    workspace_id: str = describe(WORKSPACE)
    command: str = describe("Shell command, run by /bin/sh -c as root.")
    timeout_secs: float | None = describe(
        "After this it and all its descendants are killed. 120 if absent; none with yield_secs.",
        None, minimum=0.1, maximum=86400,
    )  # fmt: skip
    yield_secs: float | None = describe(
        "Return after this even if it runs; exec_poll has the rest.", None, minimum=0, maximum=3600
    )
    workdir: str | None = describe("Absolute directory to run in; / if absent.", None)
    env: dict[str, str] | None = describe("Additional environment.", None)
    max_output_bytes: int = describe(
        "Kept of each stream, head and tail.", DEFAULT_BYTES, minimum=256, maximum=MAX_BYTES
    )


@attrs.frozen
class ExecToolResult:
    job_id: str = describe("For exec_poll, exec_kill and exec_input.")
    running: bool = describe("Whether it goes on, after yield_secs.")
    exit_code: int | None = describe("Exit status; null if it runs or a signal ended it. Non-zero is no error.")
    signal: int | None = describe("The signal that ended it.")
    stdout: str = describe("Standard output; a mark stands where it was cut.")
    stderr: str = describe("Standard error, likewise.")
    stdout_bytes: int = describe("True size of the standard output.")
    stderr_bytes: int = describe("True size of the standard error.")
    truncated: bool = describe("Whether anything was cut.")
    timed_out: bool = describe("Whether the time limit ended it.")
    duration_secs: float = describe("How long it ran.")
    note: str = describe("What was killed and why, if anything was.")


@attrs.frozen
class ParallelArguments:
    workspace_ids: list[str] = describe("Names or ids.", minItems=1, maxItems=20)
    commands: str | list[str] = describe("One shell command for all, or one for each workspace.")
    timeout_secs: float = describe("After this a command is killed.", 300.0, minimum=0.1, maximum=86400)
    workdir: str | None = describe("Absolute directory to run in; / if absent.", None)
    env: dict[str, str] | None = describe("Additional environment.", None)
    max_output_bytes: int = describe(
        "Kept of each stream, head and tail.", PARALLEL_BYTES, minimum=256, maximum=MAX_BYTES
    )


@attrs.frozen
class ParallelItem:
    workspace_id: str = describe("As it was given.")
    job_id: str | None = describe("For exec_poll; null if it did not run.")
    exit_code: int | None = describe("Exit status.")
    stdout: str = describe("Standard output.")
    stderr: str = describe("Standard error.")
    timed_out: bool = describe("Whether the time limit ended it.")
    error: str | None = describe("Why it could not be run; the others are not affected.")


@attrs.frozen
class ParallelResult:
    results: list[ParallelItem] = describe("In the order of workspace_ids.")
    succeeded: int = describe("How many exited with 0.")
    failed: int = describe("How many did not.")
    elapsed_ms: float = describe("How long all took.")


@attrs.frozen
class SetEnvArguments:
    workspace_id: str = describe(WORKSPACE)
    vars: dict[str, str | None] = describe("Values by name; null unsets.")


@attrs.frozen
class SetEnvResult:
    count: int = describe("How many are set now.")


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
        stdout_bytes=r.stdout_bytes,
        stderr_bytes=r.stderr_bytes,
        truncated=r.stdout_bytes > len(r.stdout) or r.stderr_bytes > len(r.stderr),
        timed_out=r.timed_out,
        duration_secs=r.duration_s,
        note=r.note,
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
    Tool("exec", "Run a command", "Run a shell command and wait for its end. For what takes longer than a minute use "
         "yield_secs or exec_background: it goes on as a job.", ExecArguments, ExecToolResult, _exec, destructive=True,
         open_world=True),
    Tool("exec_parallel", "Run commands in many", "Run commands in up to 20 workspaces at once.", ParallelArguments,
         ParallelResult, _parallel, destructive=True, open_world=True),
    Tool("set_env", "Set variables", "Set environment variables of all later commands, such as secrets; kept in the "
         "guest's memory only.", SetEnvArguments, SetEnvResult, _set_env, idempotent=True),
)  # fmt: skip
