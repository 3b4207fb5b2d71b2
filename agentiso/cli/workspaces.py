"""Commands for the life of workspaces."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from actors.model.errors import AgentisoError
from agentiso.cli.common import Commands, add_workspace, call_tool, columns, error_object, show
from agentiso.cli.doctor import PARTS
from agentiso.cli.lifecycle import add_lifetime
from agentiso.cli.words import in_commands
from agentiso.client.tools import ToolFailed
from agentiso.display.units import size

CONFIGURED: Final = "as configured if left out"
CREATE_EXAMPLES: Final = """\
  agentiso create demo
  agentiso create big --vcpus 4 --memory-mb 4096 --disk-gb 40
  agentiso create guest --no-internet --ttl 3600
"""
FORK_EXAMPLES: Final = """\
  agentiso fork demo                          demo-fork-1 goes on from the same instant
  agentiso fork demo -n 3 --name-prefix try   try-1, try-2 and try-3
  agentiso fork demo --snapshot tidy
"""
ADOPT_EXAMPLES: Final = """\
  agentiso adopt demo                         it is yours, whosever it was
  agentiso adopt demo --session ann
"""
DESTROY_EXAMPLES: Final = """\
  agentiso destroy demo demo-fork-1
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("create", _create, "make a workspace", CREATE_EXAMPLES)
    made.add_argument("name", nargs="?", help="1 to 63 of a-z, 0-9 and -; made up if left out")
    made.add_argument("--image", dest="base_image", metavar="NAME", help=f"what it starts from; {CONFIGURED}")
    made.add_argument("--vcpus", type=int, metavar="COUNT", help=f"virtual CPUs; {CONFIGURED}")
    made.add_argument("--memory-mb", type=int, metavar="MB", help=f"memory; {CONFIGURED}")
    made.add_argument("--disk-gb", type=int, metavar="GB", help=f"disk, which takes what is written; {CONFIGURED}")
    internet = made.add_mutually_exclusive_group()
    internet.add_argument("--allow-internet", action="store_true", default=None, help=f"let it out; {CONFIGURED}")
    internet.add_argument("--no-internet", action="store_false", dest="allow_internet", default=None,
                          help="do not, even if the configuration does")  # fmt: skip
    add_lifetime(made)
    commands.add("list", _list, "list the workspaces")
    made = commands.add("fork", _fork, "fork a workspace, memory and disk, while it runs", FORK_EXAMPLES)
    add_workspace(made)
    made.add_argument("-n", "--count", type=int, default=1, help="how many children; 1 if left out")
    made.add_argument("--snapshot", metavar="NAME", help="fork from this snapshot instead of the running machine")
    made.add_argument("--name-prefix", metavar="NAME", help="the children are NAME-1 and on; WORKSPACE-fork-1 and on")
    made = commands.add("adopt", _adopt, "have a workspace be yours, or a session's", ADOPT_EXAMPLES)
    add_workspace(made)
    made.add_argument("--session", metavar="NAME", help="the session that is to have it")
    made = commands.add("destroy", _destroy, "destroy workspaces for good", DESTROY_EXAMPLES)
    made.add_argument("workspaces", nargs="+", metavar="WORKSPACE", help="its name or id; forks of it live on")


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
        (w["name"], w["state"] + (f" ({w['ended']})" if w["ended"] else ""), w["base_image"],
         f"{w['resources']['memory_mb']} MB", str(w["snapshot_count"]),
         w["forked_from"] or "-", w["owner"], w["workspace_id"][:8])
        for w in found
    ]  # fmt: skip
    _hint(a)
    return show(a, found, columns(rows))


def _hint(a: Any) -> None:
    """Say on stderr, in a line, that something needs a look, if anything does."""
    try:
        troubles = call_tool(a, "doctor", again=False)
    except AgentisoError:
        # Whoever could answer the list has just ended, or is older than this question.
        return
    count = sum(len(troubles.get(part, [])) for part in PARTS)
    if count:
        print(f"{count} thing{'s need' if count > 1 else ' needs'} a look: agentiso doctor", file=sys.stderr)


def _fork(a: Any) -> int:
    result = call_tool(
        a,
        "workspace_fork",
        workspace_id=a.workspace,
        count=a.count,
        snapshot_name=a.snapshot,
        name_prefix=a.name_prefix,
    )
    lines = [w["error"] or f"{w['name']} was ready in {w['ready_ms']:.0f} ms" for w in result["workers"]]
    if result["pause_ms"] is not None:
        copied = size(result["copied_bytes"])
        lines.append(f"the parent stood still for {result['pause_ms']:.0f} ms, in which {copied} of memory were copied")
    if result["dropped_forwards"]:
        ports = ", ".join(map(str, result["dropped_forwards"]))
        lines.append(f"the parent's forwarded ports are not theirs: {ports}")
    # A supervisor of an earlier version does not tell.
    if note := result.get("note"):
        lines.append(note)
    show(a, result, "\n".join(lines))
    return 1 if any(worker["error"] for worker in result["workers"]) else 0


def _adopt(a: Any) -> int:
    result = call_tool(a, "workspace_adopt", session=a.session, workspace_id=a.workspace, force=True)
    whose = f"session {a.session}'s" if a.session else "yours"
    return show(a, result, f"{result['name']} is {whose}" + ("" if result["adopted"] else ", as it was before"))


def _destroy(a: Any) -> int:
    """Destroy each; one that cannot be does not save those after it."""
    outcomes: list[dict[str, Any]] = []
    for name in a.workspaces:
        try:
            done = call_tool(a, "workspace_destroy", workspace_id=name)
        except ToolFailed as error:
            if len(a.workspaces) == 1:
                raise
            outcomes.append({"workspace": name, "message": "", "error": error_object(error)})
            if not a.json:
                print(f"error: {in_commands(str(error))}", file=sys.stderr)
        else:
            outcomes.append({"workspace": name, "message": done["message"], "error": None})
            if not a.json:
                print(done["message"])
    if a.json:
        print(json.dumps(outcomes))
    return 1 if any(outcome["error"] for outcome in outcomes) else 0
