"""All workspaces as a forest: forks hang where they were forked, snapshots where they were taken.

Made of what the tool ``workspace_info`` returns, so that the command line, which has nothing else, and the server's
resource show the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

import attrs

from agentiso.display.units import size, span

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

Facts = Mapping[str, Any]
"""One workspace, or one snapshot, as the tools describe it."""
COLOURS: Final = {"running": "green", "failed": "red"}
PLAIN_WIDTH: Final = 160


@attrs.frozen
class Node:
    """A workspace or a snapshot, and what came of it."""

    kind: str
    """``workspace`` or ``snapshot``."""
    facts: Facts
    children: tuple[Node, ...] = ()


def grow(workspaces: Sequence[Facts]) -> tuple[Node, ...]:
    """Return the roots: workspaces that were not forked, or whose parent is gone or not among these."""
    known = {w["workspace_id"] for w in workspaces}
    roots = [w for w in workspaces if not w["forked_from"] or w["forked_from"]["workspace_id"] not in known]
    return tuple(_workspace(w, workspaces) for w in roots)


def _workspace(facts: Facts, workspaces: Sequence[Facts]) -> Node:
    forks = [w for w in workspaces if w["forked_from"] and w["forked_from"]["workspace_id"] == facts["workspace_id"]]
    names = {s["name"] for s in facts["snapshots"]}
    placed: dict[str | None, list[Node]] = {}
    for fork in forks:
        snapshot = fork["forked_from"]["snapshot"]
        placed.setdefault(snapshot if snapshot in names else None, []).append(_workspace(fork, workspaces))
    return Node("workspace", facts, (*_snapshots(facts["snapshots"], None, placed), *placed.get(None, ())))


def _snapshots(
    snapshots: Sequence[Facts], parent: str | None, forks: Mapping[str | None, list[Node]]
) -> Iterable[Node]:
    for s in snapshots:
        if s["parent"] == parent:
            yield Node("snapshot", s, (*_snapshots(snapshots, s["name"], forks), *forks.get(s["name"], ())))


def pick(roots: Iterable[Node], workspace: str) -> Node | None:
    """Return the node of a workspace, by name or id."""
    for node in roots:
        if node.kind == "workspace" and workspace in (node.facts["name"], node.facts["workspace_id"]):
            return node
        if (found := pick(node.children, workspace)) is not None:
            return found
    return None


def to_plain(node: Node) -> dict[str, Any]:
    """Return a node for programs."""
    facts = {key: value for key, value in node.facts.items() if key not in ("snapshots", "undo", "evidence")}
    return {"kind": node.kind, **facts, "children": [to_plain(child) for child in node.children]}


# -- drawing


def draw(node: Node, now: float) -> Tree:
    """Return a node as a tree for a console."""
    from rich.tree import Tree

    tree = Tree(_label(node, now))
    for child in node.children:
        tree.add(draw(child, now))
    return tree


def to_text(roots: Iterable[Node], now: float) -> str:
    """Return nodes as plain text, a line each."""
    from rich.console import Console

    console = Console(file=StringIO(), width=PLAIN_WIDTH, color_system=None, legacy_windows=False)
    for root in roots:
        console.print(draw(root, now))
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _label(node: Node, now: float) -> Text:
    from rich.text import Text

    f = node.facts
    if node.kind == "workspace":
        came = f["forked_from"]
        point = f" at {came['snapshot']}" if came and came["snapshot"] else ""
        origin = f"  forked from {came['name']}{point}" if came else ""
        return Text.assemble(
            (f["name"], "bold"),
            "  ",
            (f["state"], COLOURS.get(f["state"], "yellow")),
            (f"  {f['resources']['memory_mb']} MB  {span(now - f['created_at'])} old{origin}", "dim"),
        )
    what = f"memory {size(f['size_bytes'])}" if f["has_memory"] else "disk only"
    return Text.assemble(
        ("● " if f["is_head"] else "○ ", "cyan"),
        (f["name"], "cyan"),
        (f"  {what}  {span(now - f['created_at'])} ago", "dim"),
        ("  (here)" if f["is_head"] else "", "bold"),
    )
