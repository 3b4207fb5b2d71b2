"""The forest of workspaces, and quantities for people."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentiso.display.tree import Node, grow, pick, to_plain, to_text
from agentiso.display.units import size, span

NOW = 1_000_000.0


def workspace(name: str, *, parent: str | None = None, at: str | None = None, snapshots: Any = ()) -> dict[str, Any]:
    return {
        "workspace_id": f"id-{name}",
        "name": name,
        "state": "running",
        "resources": {"memory_mb": 512},
        "created_at": NOW - 60,
        "forked_from": parent and {"workspace_id": f"id-{parent}", "name": parent, "snapshot": at},
        "snapshots": list(snapshots),
    }


def snapshot(name: str, parent: str | None, *, head: bool = False, memory: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "parent": parent,
        "is_head": head,
        "has_memory": memory,
        "size_bytes": 3 * 2**20,
        "created_at": NOW - 5,
    }


def test_forks_hang_where_they_were_forked_and_snapshots_where_they_were_taken() -> None:
    nodes = [snapshot("a", None), snapshot("b", "a", head=True), snapshot("c", "a", memory=False)]
    roots = grow(
        [
            workspace("demo", snapshots=nodes),
            workspace("from-b", parent="demo", at="b"),
            workspace("live", parent="demo"),
            workspace("grandchild", parent="live"),
            workspace("orphan", parent="gone"),
        ]
    )
    assert [line.rstrip() for line in to_text(roots, NOW).splitlines()] == [
        "demo  running  512 MB  1 min old",
        "├── ○ a  memory 3.0 MB  5 s ago",
        "│   ├── ● b  memory 3.0 MB  5 s ago  (here)",
        "│   │   └── from-b  running  512 MB  1 min old  forked from demo at b",
        "│   └── ○ c  disk only  5 s ago",
        "└── live  running  512 MB  1 min old  forked from demo",
        "    └── grandchild  running  512 MB  1 min old  forked from live",
        "orphan  running  512 MB  1 min old  forked from gone",
    ]
    found = pick(roots, "from-b")
    assert found is not None
    assert to_plain(found)["children"] == []
    assert pick(roots, "b") is None


def test_a_fork_from_a_snapshot_that_was_deleted_hangs_below_its_parent() -> None:
    (root,) = grow([workspace("demo"), workspace("child", parent="demo", at="deleted")])
    assert [child.facts["name"] for child in root.children] == ["child"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=10))
def test_every_workspace_and_snapshot_is_in_the_forest_exactly_once(plan: list[tuple[int, int]]) -> None:
    """A parent is older than its children; some parents are gone."""
    known = []
    for number, (parent, count) in enumerate(plan):
        nodes = [snapshot(f"s{n}", f"s{n // 2}" if n else None) for n in range(count)]
        origin = f"w{parent}" if parent < number or parent > len(plan) else None
        known.append(workspace(f"w{number}", parent=origin, at=f"s{parent}", snapshots=nodes))

    def walk(nodes: Any) -> list[Node]:
        return [found for node in nodes for found in (node, *walk(node.children))]

    everything = walk(grow(known))
    names = [node.facts["name"] for node in everything if node.kind == "workspace"]
    assert sorted(names) == sorted(w["name"] for w in known)
    assert sum(node.kind == "snapshot" for node in everything) == sum(count for _, count in plan)


def test_quantities_are_short() -> None:
    assert [size(n) for n in (0, 1023, 1024, 34 * 2**20, 5 * 2**30)] == ["0 B", "1023 B", "1.0 KB", "34 MB", "5.0 GB"]
    assert [span(s) for s in (-1, 59, 61, 7200, 86400 * 3)] == ["0 s", "59 s", "1 min", "2 h", "3 d"]
