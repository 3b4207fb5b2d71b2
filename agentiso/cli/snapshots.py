"""Commands for snapshots."""

from __future__ import annotations

import time
from typing import Any, Final

from agentiso.cli.common import Commands, add_workspace, call_tool, columns, show
from agentiso.cli.parser import Misuse
from agentiso.display.units import size, span

EXAMPLES: Final = """\
  agentiso snapshot create demo tidy      keep the present state, processes included
  agentiso snapshot restore demo tidy     go back to it; `agentiso undo demo` takes that back
  agentiso snapshot list demo             the same as a tree: agentiso tree demo
  agentiso snapshot delete demo tidy      forget it; with --cascade also all on top of it
"""
DIFF_EXAMPLES: Final = """\
  agentiso diff demo tidy                 what has changed since tidy
  agentiso diff demo tidy later -u        between two snapshots, with the text
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("snapshot", _snapshot, "create, list, restore or delete snapshots", EXAMPLES)
    made.add_argument("action", choices=("create", "list", "restore", "delete"),
                      help="keep the present state, list what is kept, go back to it, or forget it")  # fmt: skip
    add_workspace(made)
    made.add_argument("name", nargs="?", help="the snapshot")
    made.add_argument(
        "--disk-only", action="store_true", help="create: keep the disk alone; restore: boot from the disk alone"
    )
    made.add_argument("--cascade", action="store_true", help="delete: also all that stand on it")
    made = commands.add(
        "diff", _diff, "tell which files differ between a snapshot and another one, or now", DIFF_EXAMPLES
    )
    add_workspace(made)
    made.add_argument("base", help="the snapshot to compare from")
    made.add_argument("other", nargs="?", help="the snapshot to compare with; the workspace as it is now if left out")
    made.add_argument("--path", default="/", metavar="DIRECTORY", help="only below this directory of the guest")
    made.add_argument("-u", "--unified", action="store_true", help="show the changes of text files")


def _diff(a: Any) -> int:
    d = call_tool(
        a, "snapshot_diff", workspace_id=a.workspace, base=a.base, other=a.other, path=a.path, unified=a.unified,
        max_changes=5000,
    )  # fmt: skip
    sign = {"added": "+", "removed": "-", "changed": "~"}
    lines = [
        f"{sign[c['change']]} {c['path']}{'/' if c['kind'] == 'dir' else ''}  {_what(c)}".rstrip() for c in d["changes"]
    ]
    lines += [d["diff"].rstrip("\n")] if d["diff"] else []
    lines += [f"from {a.base} to {a.other or 'now'}: {d['change_count']} changed"]
    lines += ["Some were left out; narrow it with --path."] if d["truncated"] else []
    return show(a, d, "\n".join(lines))


def _what(change: dict[str, Any]) -> str:
    before, after = change["size_before"], change["size_after"]
    parts = []
    if change["kind"] == "file":
        parts.append(" to ".join(size(n) for n in dict.fromkeys((before, after)) if n is not None))
    elif change["kind"] != "dir":
        parts.append(change["kind"])
    return ", ".join(parts + ([f"mode {change['mode_change']}"] if change["mode_change"] else []))


def _snapshot(a: Any) -> int:
    if a.action == "list":
        return _list(a)
    if not a.name:
        raise Misuse("The snapshot's name is missing.", remedy=f"Use: agentiso snapshot {a.action} WORKSPACE NAME")
    if a.action == "create":
        made = call_tool(a, "snapshot_create", workspace_id=a.workspace, name=a.name, include_memory=not a.disk_only)
        cost = f"in {made['duration_secs']:.2f} s; {a.workspace} stood still for {made['pause_ms']:.0f} ms"
        notes = [made["note"]] if made["note"] else []
        if not made["has_memory"] and not a.disk_only:
            notes.append("the disk alone: no machine ran whose memory could be kept")
        note = f" ({'; '.join(notes)})" if notes else ""
        return show(a, made, f"snapshot {a.name} was taken {cost}{note}")
    if a.action == "delete":
        gone = call_tool(a, "snapshot_delete", workspace_id=a.workspace, snapshot_name=a.name, cascade=a.cascade)
        return show(a, gone, f"deleted: {', '.join(gone['deleted'])}")
    back = call_tool(a, "snapshot_restore", workspace_id=a.workspace, snapshot_name=a.name, disk_only=a.disk_only)
    return show(a, back, f"{back['name']} is back at {a.name} ({back['note']})")


def _list(a: Any) -> int:
    found, now = call_tool(a, "snapshot_list", workspace_id=a.workspace)["snapshots"], time.time()
    rows = [("NAME", "MEMORY", "PARENT", "AGE", "")]
    rows += [
        (s["name"], size(s["size_bytes"]) if s["has_memory"] else "no", s["parent"] or "-", span(now - s["created_at"]),
         "here" if s["is_head"] else "")
        for s in found
    ]  # fmt: skip
    return show(a, found, columns(rows))
