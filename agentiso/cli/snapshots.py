"""Commands for snapshots."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

from agentiso.cli.common import Commands, call_tool, columns, show
from agentiso.units import size, span

HELP: Final = """\
  agentiso snapshot create demo tidy      keep the present state, processes included
  agentiso snapshot restore demo tidy     go back to it; the others stay; `agentiso undo demo` takes it back
  agentiso snapshot list demo             the same as a tree: agentiso tree demo
  agentiso snapshot delete demo tidy      forget it; with --cascade also all that were taken on top of it
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("snapshot", _snapshot, "create, list, restore or delete snapshots")
    made.epilog = HELP
    made.add_argument("action", choices=("create", "list", "restore", "delete"))
    made.add_argument("workspace")
    made.add_argument("name", nargs="?", help="the snapshot")
    made.add_argument(
        "--disk-only", action="store_true", help="create: keep the disk alone; restore: boot from the disk alone"
    )
    made.add_argument("--cascade", action="store_true", help="delete: also all that stand on it")


def _snapshot(a: Any) -> int:
    if a.action == "list":
        return _list(a)
    if not a.name:
        print("error: a snapshot's name is needed.", file=sys.stderr)
        return 2
    if a.action == "create":
        made = call_tool(a, "snapshot_create", workspace_id=a.workspace, name=a.name, include_memory=not a.disk_only)
        return show(a, made, f"snapshot {a.name} was taken")
    if a.action == "delete":
        gone = call_tool(a, "snapshot_delete", workspace_id=a.workspace, snapshot_name=a.name, cascade=a.cascade)
        return show(a, gone, f"deleted: {', '.join(gone['deleted'])}")
    back = call_tool(a, "snapshot_restore", workspace_id=a.workspace, snapshot_name=a.name, disk_only=a.disk_only)
    return show(a, back, f"{back['name']} is back at {a.name} ({back['started_by']} in {back['start_seconds']:.2f} s)")


def _list(a: Any) -> int:
    found, now = call_tool(a, "snapshot_list", workspace_id=a.workspace)["snapshots"], time.time()
    rows = [("NAME", "MEMORY", "PARENT", "AGE", "")]
    rows += [
        (s["name"], size(s["size_bytes"]) if s["has_memory"] else "no", s["parent"] or "-", span(now - s["created_at"]),
         "here" if s["is_head"] else "")
        for s in found
    ]  # fmt: skip
    return show(a, found, columns(rows))
