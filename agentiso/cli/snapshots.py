"""Commands for snapshots."""

from __future__ import annotations

import sys
from typing import Any

from agentiso.cli.common import Commands, call_tool, columns, show


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("snapshot", _snapshot, "create, list or restore snapshots")
    made.add_argument("action", choices=("create", "list", "restore"))
    made.add_argument("workspace")
    made.add_argument("name", nargs="?")
    made.add_argument("--disk-only", action="store_true", help="keep the disk without the memory")


def _snapshot(a: Any) -> int:
    if a.action == "list":
        found = call_tool(a, "snapshot_list", workspace_id=a.workspace)["snapshots"]
        rows = [("NAME", "MEMORY", "PARENT")]
        rows += [(s["name"], "yes" if s["has_memory"] else "no", s["parent"] or "-") for s in found]
        return show(a, found, columns(rows))
    if not a.name:
        print("error: a snapshot's name is needed.", file=sys.stderr)
        return 2
    if a.action == "create":
        made = call_tool(a, "snapshot_create", workspace_id=a.workspace, name=a.name, include_memory=not a.disk_only)
        return show(a, made, f"snapshot {a.name} was taken")
    back = call_tool(a, "snapshot_restore", workspace_id=a.workspace, snapshot_name=a.name)
    return show(a, back, f"{back['name']} is back at {a.name} ({back['started_by']} in {back['start_seconds']:.2f} s)")
