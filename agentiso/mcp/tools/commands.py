"""Tools that run commands."""

from __future__ import annotations

from typing import Final

import attrs

from actors.model import ExecResult
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import WORKSPACE, Call, Tool

DEFAULT_OUTPUT_BYTES: Final = 16 * 1024


@attrs.frozen
class ExecArguments:
    workspace_id: str = describe(WORKSPACE)
    command: str = describe("Shell command, run by /bin/sh -c as root.")
    timeout_secs: float = describe("After this its whole process group is killed.", 120.0, minimum=0.1, maximum=86400)
    workdir: str | None = describe("Absolute directory to run in; / if absent.", None)
    env: dict[str, str] | None = describe("Additional environment.", None)
    max_output_bytes: int = describe(
        "Kept of each stream, head and tail.", DEFAULT_OUTPUT_BYTES, minimum=256, maximum=262144
    )


@attrs.frozen
class ExecToolResult:
    exit_code: int | None = describe("Exit status; null if a signal ended it. Non-zero is a result, not an error.")
    signal: int | None = describe("The signal that ended it.")
    stdout: str = describe("Standard output; a mark stands where it was cut.")
    stderr: str = describe("Standard error, likewise.")
    stdout_bytes: int = describe("True size of the standard output.")
    stderr_bytes: int = describe("True size of the standard error.")
    truncated: bool = describe("Whether anything was cut.")
    timed_out: bool = describe("Whether the time limit ended it.")
    duration_secs: float = describe("How long it ran.")
    note: str = describe("What was killed and why, if anything was.")


def cut(data: bytes, total: int) -> str:
    """Return output as text, with a mark in the middle if bytes are missing there."""
    if total <= len(data):
        return data.decode(errors="replace")
    half = len(data) - len(data) // 2
    mark = f"\n[... {total - len(data)} of {total} bytes cut here; redirect to a file and use file_read ...]\n"
    return data[:half].decode(errors="replace") + mark + data[half:].decode(errors="replace")


async def _exec(call: Call, a: ExecArguments) -> ExecToolResult:
    ws = await call.workspace(a.workspace_id)
    r: ExecResult = await ws.exec(
        a.command, timeout_s=a.timeout_secs, workdir=a.workdir, env=a.env, max_output_bytes=a.max_output_bytes
    )
    return ExecToolResult(
        exit_code=r.exit_code,
        signal=r.signal,
        stdout=cut(r.stdout, r.stdout_bytes),
        stderr=cut(r.stderr, r.stderr_bytes),
        stdout_bytes=r.stdout_bytes,
        stderr_bytes=r.stderr_bytes,
        truncated=r.stdout_bytes > len(r.stdout) or r.stderr_bytes > len(r.stderr),
        timed_out=r.timed_out,
        duration_secs=r.duration_s,
        note=r.note,
    )


TOOLS: Final = (
    Tool("exec", "Run a command", "Run a shell command in a workspace and wait for its end. Start servers with '&' and "
         "their output redirected.", ExecArguments, ExecToolResult, _exec, destructive=True, open_world=True),
)  # fmt: skip
