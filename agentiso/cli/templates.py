"""Commands for templates."""

from __future__ import annotations

from typing import Any, Final

from agentiso.cli.common import Commands, call_tool, columns, show

EXAMPLES: Final = """\
  agentiso templates
  agentiso templates remove              the stale ones
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add(
        "templates", _templates, "list the templates, or remove some: those named, or the stale ones", EXAMPLES
    )
    made.add_argument("action", nargs="?", choices=("list", "remove"), default="list", help="list if left out")
    made.add_argument("ids", nargs="*", metavar="ID", help="to remove; a prefix will do")


def _templates(a: Any) -> int:
    if a.action == "remove":
        gone = call_tool(a, "template_drop", ids=a.ids or None)["templates"]
        text = "\n".join(f"template {t['id'][:8]} of {t['base_image']} was removed" for t in gone)
        return show(a, gone, text or "no template is stale")
    found = call_tool(a, "template_list")["templates"]
    rows = [("ID", "IMAGE", "VCPUS", "MEMORY", "DISK", "NETWORK", "SIZE", "STALE")]
    rows += [
        (t["id"][:8], t["base_image"], str(t["vcpus"]), f"{t['memory_mb']} MB", f"{t['disk_gb']} GB", t["network"],
         f"{t['size_bytes'] / 2**20:.0f} MiB", t["stale"] or "-")
        for t in found
    ]  # fmt: skip
    return show(a, found, columns(rows))
