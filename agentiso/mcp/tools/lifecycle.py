"""Tools by which a workspace is put away and brought back, and which look at its machine."""

from __future__ import annotations

from typing import Final

import attrs

from agentiso.mcp.schema import describe
from agentiso.mcp.tools.output import last_lines
from agentiso.mcp.tools.results import LifetimeResult, StateResult, state_result
from agentiso.mcp.tools.tool import Call, Tool, WorkspaceArguments

MAX_LINES: Final = 2000
LINE_BYTES: Final = 200
"""What a line of a log is counted with; longer ones mean fewer of them."""


@attrs.frozen
class SuspendArguments:
    workspace_id: str
    keep_in_memory: bool = describe("Only pause: back at once; its memory stays in use", False)


@attrs.frozen
class LifetimeArguments:
    workspace_id: str
    idle_suspend_secs: float | None = describe("Suspend when idle so long; absent: never", None)
    ttl_secs: float | None = describe("Destroy it after this. Absent: never", None)


@attrs.frozen
class IpResult:
    workspace_id: str
    ip: str | None


@attrs.frozen
class LogsArguments:
    workspace_id: str
    log_type: str = describe("Absent: all", "all", enum=["console", "stderr", "all"])
    max_lines: int = describe("The last of each log", 100, minimum=1, maximum=MAX_LINES)


@attrs.frozen
class LogsResult:
    console: str | None
    stderr: str | None


async def _start(call: Call, a: WorkspaceArguments) -> StateResult:
    call.report("booting from the disk")
    return state_result(await (await call.workspace(a.workspace_id)).start())


async def _stop(call: Call, a: WorkspaceArguments) -> StateResult:
    ws = await call.workspace(a.workspace_id)
    call.report("shutting the guest down")
    return state_result(await ws.stop())


async def _suspend(call: Call, a: SuspendArguments) -> StateResult:
    ws = await call.workspace(a.workspace_id)
    call.report("pausing" if a.keep_in_memory else "writing memory and disk out")
    return state_result(await (ws.pause() if a.keep_in_memory else ws.suspend()))


async def _resume(call: Call, a: WorkspaceArguments) -> StateResult:
    ws = await call.workspace(a.workspace_id)
    call.report("bringing it back")
    ran_on = (await ws.info()).state == "paused"
    return state_result(await ws.resume(), started=not ran_on)


async def _set_lifetime(call: Call, a: LifetimeArguments) -> LifetimeResult:
    ws = await call.workspace(a.workspace_id)
    info = await ws.set_lifetime(idle_suspend_s=a.idle_suspend_secs, ttl_s=a.ttl_secs)
    return LifetimeResult(info.idle_suspend_s, info.expires_at)


async def _ip(call: Call, a: WorkspaceArguments) -> IpResult:
    info = await (await call.workspace(a.workspace_id)).info()
    return IpResult(info.workspace_id, info.network.ip)


async def _logs(call: Call, a: LogsArguments) -> LogsResult:
    ws = await call.workspace(a.workspace_id)
    cap = a.max_lines * LINE_BYTES
    console = await ws.console(cap) if a.log_type != "stderr" else None
    qemu = await ws.qemu_log(cap) if a.log_type != "console" else None
    more = f"a larger max_lines, up to {MAX_LINES}, shows more"
    console, qemu = (
        None if text is None else last_lines(text, a.max_lines, cap_bytes=cap, more=more) for text in (console, qemu)
    )
    return LogsResult(console, qemu)


TOOLS: Final = (
    Tool("workspace_start", "Boot a stopped or failed workspace from its disk. A suspended one: workspace_resume.",
         WorkspaceArguments, StateResult, _start),
    Tool("workspace_stop", "Shut the guest down; only the disk is kept. To keep processes: workspace_suspend.",
         WorkspaceArguments, StateResult, _stop, destructive=True),
    Tool("workspace_suspend", "Put a workspace away, processes included: it costs only disk until workspace_resume.",
         SuspendArguments, StateResult, _suspend),
    Tool("workspace_resume", "Have a suspended workspace run on where it was.", WorkspaceArguments, StateResult,
         _resume),
    Tool("workspace_set_lifetime", "Say when a workspace is suspended or destroyed by itself.", LifetimeArguments,
         LifetimeResult, _set_lifetime, idempotent=True),
    Tool("workspace_ip", "The guest's address.", WorkspaceArguments, IpResult, _ip, read_only=True),
    Tool("workspace_logs", "The end of the guest's console and of QEMU's messages: for a machine that failed or is "
         "silent.", LogsArguments, LogsResult, _logs, read_only=True),
)  # fmt: skip
