"""Commands that run something in a workspace."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from agentiso.cli.common import Commands, call_tool


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("exec", _exec, "run a command in a workspace; exits with its status")
    made.add_argument("workspace")
    made.add_argument("--timeout-secs", type=float, default=120.0)
    made.add_argument("--workdir")
    made.add_argument("command", nargs=argparse.REMAINDER, help="after --, the command")


def _exec(a: Any) -> int:
    import shlex

    words = a.command[1:] if a.command[:1] == ["--"] else a.command
    if not words:
        print("error: no command was given. Use: agentiso exec WORKSPACE -- COMMAND", file=sys.stderr)
        return 2
    command = words[0] if len(words) == 1 else shlex.join(words)
    result = call_tool(
        a, "exec", workspace_id=a.workspace, command=command, timeout_secs=a.timeout_secs, workdir=a.workdir,
        max_output_bytes=262144,
    )  # fmt: skip
    if a.json:
        print(json.dumps(result))
    else:
        sys.stdout.write(result["stdout"])
        sys.stderr.write(result["stderr"] + (result["note"] + "\n" if result["note"] else ""))
    return int(result["exit_code"]) if result["exit_code"] is not None else 128 + int(result["signal"])
