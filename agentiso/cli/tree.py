"""Commands that show what there is: the tree of all workspaces, and one workspace with all that is known of it."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from agentiso.cli.common import Commands, add_workspace, call_tool, show
from agentiso.client.tools import ToolFailed
from agentiso.display.tree import draw, grow, pick, to_plain
from agentiso.display.units import size, span

TREE_EXAMPLES: Final = """\
  agentiso snapshot restore demo tidy   go to a node; the others stay
  agentiso undo demo                    and back again
  agentiso fork demo --snapshot tidy    a new workspace from a node

Forks hang below their parent, below a snapshot if they were forked from one; a snapshot hangs
below the one that the workspace stood on when it was taken. The filled circle is where the
workspace stands now.
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("tree", _tree, "draw the workspaces, their forks and snapshots", TREE_EXAMPLES)
    made.add_argument("workspace", nargs="?", help="only this one and its forks")
    add_workspace(commands.add("info", _info, "describe a workspace"))


def _tree(a: Any) -> int:
    known = []
    for summary in call_tool(a, "workspace_list")["workspaces"]:
        try:
            known.append(call_tool(a, "workspace_info", workspace_id=summary["workspace_id"]))
        except ToolFailed as error:
            # Destroyed meanwhile.
            if error.facts.get("code") != "not_found":
                raise
    roots = list(grow(known))
    if a.workspace:
        wanted = call_tool(a, "workspace_info", workspace_id=a.workspace)
        roots = [node for node in [pick(roots, wanted["workspace_id"])] if node is not None]
    if a.json:
        print(json.dumps([to_plain(node) for node in roots]))
        return 0
    from rich.console import Console

    console, now = Console(highlight=False), time.time()
    for node in roots:
        console.print(draw(node, now))
    if not roots:
        console.print("There are no workspaces. Make one: agentiso create demo")
    return 0


def _info(a: Any) -> int:
    w = call_tool(a, "workspace_info", workspace_id=a.workspace)
    lines = [f"{w['name']}  {w['workspace_id']}"]
    lines += [f"  {title:<10} {text}" for title, text in _facts(w, time.time()) if text]
    return show(a, w, "\n".join(lines))


def _facts(w: dict[str, Any], now: float) -> list[tuple[str, str]]:
    shape, life, came = w["resources"], w["lifetime"], w["forked_from"]
    used = f", {size(w['disk_used_bytes'])} used on this host" if w["disk_used_bytes"] is not None else ""
    ends = f"destroyed in {span(life['expires_at'] - now)}" if life["expires_at"] else ""
    idles = f"suspended when idle for {span(life['idle_suspend_secs'])}" if life["idle_suspend_secs"] else ""
    facts = [
        ("state", w["state"] + (f", by {life['suspended_by']}" if life["suspended_by"] else "")),
        ("ended", w["ended"] or ""),
        ("failure", w["failure"] or ""),
        ("mute", f"its guest has not answered for {span(now - w['mute_since'])}" if w["mute_since"] else ""),
        ("started", f"{w['started_by']} in {w['start_seconds']:.2f} s, under {w['accelerator']}"),
        ("proven", _proof(w["evidence"])),
        ("created", f"{span(now - w['created_at'])} ago, from image {w['base_image']}"),
        ("size", f"{shape['vcpus']} vCPUs, {shape['memory_mb']} MB memory, {shape['disk_gb']} GB disk{used}"),
        ("network", f"{w['ip'] or 'none'}, {'internet allowed' if w['network']['allow_internet'] else 'no internet'}"),
        *[("forward", f"127.0.0.1:{f['host_port']} to port {f['guest_port']}") for f in w["network"]["port_forwards"]],
        ("forked", (f"from {came['name']}" + (f" at {came['snapshot']}" if came["snapshot"] else "")) if came else ""),
        ("lifetime", "; ".join(part for part in (idles, ends) if part)),
    ]
    for s in w["snapshots"]:
        what = f"memory {size(s['size_bytes'])}" if s["has_memory"] else "disk only"
        on = f", on {s['parent']}" if s["parent"] else ""
        here = " (here)" if s["is_head"] else ""
        facts.append(("snapshot", f"{s['name']}{here}: {what}, {span(now - s['created_at'])} ago{on}"))
    facts += [("undo", f"{step['before']}, {span(now - step['created_at'])} ago") for step in reversed(w["undo"])]
    return facts


def _proof(evidence: dict[str, Any] | None) -> str:
    if evidence is None:
        return ""
    parts = {
        "nonce_matched": "its memory",
        "rng_reseeded": "fresh randomness",
        "processes_held": "held processes",
    }
    shown = [text for key, text in parts.items() if evidence[key]]
    return ", ".join([*shown, f"a clock right to {evidence['clock_error_ms']:.1f} ms"])
