"""Commands for the life of workspaces."""

from __future__ import annotations

from typing import Any

from agentiso.cli.common import Commands, call_tool, columns, show
from agentiso.cli.lifecycle import add_lifetime


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("create", _create, "make a workspace")
    made.add_argument("name", nargs="?")
    made.add_argument("--image", dest="base_image")
    made.add_argument("--vcpus", type=int)
    made.add_argument("--memory-mb", type=int)
    made.add_argument("--disk-gb", type=int)
    made.add_argument("--allow-internet", action="store_true", default=None)
    add_lifetime(made)
    commands.add("list", _list, "list the workspaces")
    made = commands.add("fork", _fork, "fork a workspace, memory and disk, while it runs")
    made.add_argument("workspace")
    made.add_argument("-n", "--count", type=int, default=1)
    made.add_argument("--snapshot", help="fork from this snapshot instead of the running machine")
    made.add_argument("--name-prefix")
    made = commands.add("adopt", _adopt, "have a workspace be yours, or a session's")
    made.add_argument("workspace")
    made.add_argument("--session", metavar="NAME", help="the session that is to have it")
    made = commands.add("destroy", _destroy, "destroy workspaces for good")
    made.add_argument("workspaces", nargs="+")


def _create(a: Any) -> int:
    result = call_tool(
        a, "workspace_create", name=a.name, base_image=a.base_image, vcpus=a.vcpus, memory_mb=a.memory_mb,
        disk_gb=a.disk_gb, allow_internet=a.allow_internet, idle_suspend_secs=a.idle_suspend, ttl_secs=a.ttl,
    )  # fmt: skip
    return show(a, result, f"{result['name']} is running ({result['note']})")


def _list(a: Any) -> int:
    found = call_tool(a, "workspace_list")["workspaces"]
    rows = [("NAME", "STATE", "IMAGE", "MEMORY", "SNAPSHOTS", "FORKED FROM", "OWNER", "ID")]
    rows += [
        (w["name"], w["state"], w["base_image"], f"{w['resources']['memory_mb']} MB", str(w["snapshot_count"]),
         w["forked_from"] or "-", w["owner"], w["workspace_id"][:8])
        for w in found
    ]  # fmt: skip
    return show(a, found, columns(rows))


def _fork(a: Any) -> int:
    result = call_tool(
        a,
        "workspace_fork",
        workspace_id=a.workspace,
        count=a.count,
        snapshot_name=a.snapshot,
        name_prefix=a.name_prefix,
    )
    pause = "" if result["pause_ms"] is None else f"; the parent stood still for {result['pause_ms']:.0f} ms"
    lines = [w["error"] or f"{w['name']} was ready in {w['ready_ms']:.0f} ms" for w in result["workers"]]
    show(a, result, "\n".join(lines) + pause)
    return 1 if any(worker["error"] for worker in result["workers"]) else 0


def _adopt(a: Any) -> int:
    result = call_tool(a, "workspace_adopt", session=a.session, workspace_id=a.workspace, force=True)
    whose = f"session {a.session}'s" if a.session else "yours"
    return show(a, result, f"{result['name']} is {whose}" + ("" if result["adopted"] else ", as it was before"))


def _destroy(a: Any) -> int:
    done = [call_tool(a, "workspace_destroy", workspace_id=name)["message"] for name in a.workspaces]
    return show(a, done, "\n".join(done))
