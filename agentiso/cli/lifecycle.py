"""Commands by which a workspace is put away and brought back, and which look at its machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from agentiso.cli.common import Commands, add_workspace, call_tool, show
from agentiso.cli.parser import seconds
from agentiso.display.units import span

MOVES: Final = {
    "start": ("workspace_start", {}, "boot a stopped or failed workspace from its disk"),
    "stop": ("workspace_stop", {}, "shut a workspace down; its disk and snapshots stay, its processes do not"),
    "pause": ("workspace_suspend", {"keep_in_memory": True}, "have a workspace stand still; its memory stays in use"),
    "suspend": ("workspace_suspend", {}, "put a workspace away, processes and all: it costs only disk then"),
    "resume": ("workspace_resume", {}, "have a paused or suspended workspace run on where it was"),
    "undo": ("undo", {}, "go back to where a workspace was before its last snapshot restore"),
}
LIFETIME_EXAMPLES: Final = """\
  agentiso lifetime demo --idle-suspend 600   suspended when idle, woken by use
  agentiso lifetime demo --ttl 86400          destroyed in a day
  agentiso lifetime demo                      lives for ever: what is left out is switched off
"""
LOG_EXAMPLES: Final = """\
  agentiso logs demo                          the guest's console and QEMU's messages
  agentiso logs demo --of console -n 20
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    for name, (tool, arguments, text) in MOVES.items():
        add_workspace(commands.add(name, _mover(tool, arguments), text))
    made = commands.add(
        "lifetime", _lifetime, "say when a workspace is suspended or destroyed by itself", LIFETIME_EXAMPLES
    )
    add_workspace(made)
    add_lifetime(made)
    made = commands.add("logs", _logs, "print the end of a machine's logs", LOG_EXAMPLES)
    add_workspace(made)
    made.add_argument(
        "--of", choices=("console", "stderr", "all"), default="all", help="the guest's console, or QEMU's"
    )
    made.add_argument("-n", "--lines", type=int, default=100, help="how many of each log; 100 if left out")


def add_lifetime(parser: Any) -> None:
    """Add the options of a lifetime to a command."""
    parser.add_argument("--idle-suspend", type=seconds, metavar="SECONDS", help="suspend it when idle for so long")
    parser.add_argument("--ttl", type=seconds, metavar="SECONDS", help="destroy it after so long")


def _mover(tool: str, arguments: dict[str, Any]) -> Callable[[Any], int]:
    def move(a: Any) -> int:
        result = call_tool(a, tool, workspace_id=a.workspace, **arguments)
        note = f" ({result['note']})" if result["note"] else ""
        return show(a, result, f"{result['name']} is {result['state']}{note}")

    return move


def _lifetime(a: Any) -> int:
    result = call_tool(
        a, "workspace_set_lifetime", workspace_id=a.workspace, idle_suspend_secs=a.idle_suspend, ttl_secs=a.ttl
    )
    idle = f"is suspended when idle for {span(a.idle_suspend)}" if a.idle_suspend else "is never suspended by itself"
    end = f"is destroyed in {span(a.ttl)}" if a.ttl else "lives until it is destroyed"
    return show(a, result, f"{a.workspace} {idle} and {end}")


def _logs(a: Any) -> int:
    result = call_tool(a, "workspace_logs", workspace_id=a.workspace, log_type=a.of, max_lines=a.lines)
    parts = {"console": "the guest's console", "stderr": "QEMU"}
    text = [f"== {title}\n{result[key]}" for key, title in parts.items() if result[key] is not None]
    return show(a, result, "\n".join(text) if a.of == "all" else result[a.of])
