"""Tools for snapshots."""

from __future__ import annotations

from typing import Final

import attrs

from actors.model.guest import FileChange
from agentiso.mcp.schema import describe, outline
from agentiso.mcp.tools.results import (
    NodeResult,
    SnapshotCreateResult,
    StateResult,
    node_result,
    state_result,
    taken_result,
)
from agentiso.mcp.tools.tool import Call, Tool, WorkspaceArguments

MAX_DIFF_CHARS: Final = 48 * 1024
"""About 12,000 tokens."""


@attrs.frozen
class SnapshotCreateArguments:
    workspace_id: str
    name: str = describe("1-63 of a-z, 0-9, '-'; unique in the workspace")
    include_memory: bool = describe("Keep processes too; the default", True)


@attrs.frozen
class SnapshotListResult:
    snapshots: list[NodeResult] = outline("Oldest first")


@attrs.frozen
class SnapshotRestoreArguments:
    workspace_id: str
    snapshot_name: str = describe("To go back to")
    disk_only: bool = describe("Boot from its disk, without its memory", False)


@attrs.frozen
class SnapshotDeleteArguments:
    workspace_id: str
    snapshot_name: str = describe("To forget")
    cascade: bool = describe("Also all on top of it; else they become its parent's", False)


@attrs.frozen
class SnapshotDeleteResult:
    deleted: list[str]


@attrs.frozen
class DiffArguments:
    workspace_id: str
    base: str = describe("The snapshot to compare from")
    other: str | None = describe("The one to compare with. Absent: now", None)
    path: str = describe("Only below this directory", "/")
    unified: bool = describe("Changes of text too", False)
    max_changes: int = describe("List at most so many", 200, minimum=1, maximum=5000)


@attrs.frozen
class Change:
    path: str
    change: str = describe("added, removed or changed")
    kind: str = describe()
    size_before: int | None = describe("bytes")
    size_after: int | None = describe()
    mode_change: str | None = describe()


@attrs.frozen
class DiffResult:
    changes: list[Change] = outline("By path")
    change_count: int = describe("Listed or not")
    diff: str = describe("If unified")
    truncated: bool = describe("Narrow path for the rest")


async def _snapshot_diff(call: Call, a: DiffArguments) -> DiffResult:
    call.report("comparing")
    ws = await call.workspace(a.workspace_id)
    found = await ws.snapshots.diff(a.base, a.other, path=a.path, unified=a.unified)
    text = ""
    cut = found.text_truncated or len(found.changes) > a.max_changes
    for change in found.changes:
        if len(text) + len(change.text) > MAX_DIFF_CHARS:
            cut = True
            break
        text += change.text
    listed = [_change(change) for change in found.changes[: a.max_changes]]
    return DiffResult(listed, len(found.changes), text, cut)


def _change(c: FileChange) -> Change:
    there = c.after or c.before
    modes = f"{c.before.mode:04o} to {c.after.mode:04o}" if c.before and c.after else None
    return Change(
        path=c.path,
        change=c.change,
        kind=there.kind if there else "other",
        size_before=c.before.size_bytes if c.before else None,
        size_after=c.after.size_bytes if c.after else None,
        mode_change=modes if c.before and c.after and c.before.mode != c.after.mode else None,
    )


async def _snapshot_create(call: Call, a: SnapshotCreateArguments) -> SnapshotCreateResult:
    ws = await call.workspace(a.workspace_id)
    call.report("keeping memory and disk" if a.include_memory else "keeping the disk")
    return taken_result(await ws.snapshots.create(a.name, include_memory=a.include_memory))


async def _snapshot_list(call: Call, a: WorkspaceArguments) -> SnapshotListResult:
    found = await (await call.workspace(a.workspace_id)).snapshots.list()
    return SnapshotListResult([node_result(s) for s in found])


async def _snapshot_restore(call: Call, a: SnapshotRestoreArguments) -> StateResult:
    ws = await call.workspace(a.workspace_id)
    call.report(f"going back to {a.snapshot_name}")
    return state_result(await ws.snapshots.restore(a.snapshot_name, disk_only=a.disk_only))


async def _snapshot_delete(call: Call, a: SnapshotDeleteArguments) -> SnapshotDeleteResult:
    ws = await call.workspace(a.workspace_id)
    return SnapshotDeleteResult(list(await ws.snapshots.delete(a.snapshot_name, cascade=a.cascade)))


async def _undo(call: Call, a: WorkspaceArguments) -> StateResult:
    ws = await call.workspace(a.workspace_id)
    call.report("going back to before the last restore")
    return state_result(await ws.undo())


TOOLS: Final = (
    Tool("snapshot_create", "Keep the workspace's present state, processes included, under a name; it runs on.",
         SnapshotCreateArguments, SnapshotCreateResult, _snapshot_create),
    Tool("snapshot_list", "The snapshots of a workspace.", WorkspaceArguments, SnapshotListResult, _snapshot_list,
         read_only=True),
    Tool("snapshot_restore", "Go back to a snapshot in place. The other snapshots stay; undo takes it back.",
         SnapshotRestoreArguments, StateResult, _snapshot_restore, destructive=True),
    Tool("snapshot_delete", "Forget a snapshot; the workspace itself is not touched.", SnapshotDeleteArguments,
         SnapshotDeleteResult, _snapshot_delete, destructive=True),
    Tool("snapshot_diff", "Which files differ between a snapshot and another one, or now.", DiffArguments, DiffResult,
         _snapshot_diff, read_only=True),
    Tool("undo", "Go back to where the workspace was before its last snapshot_restore.", WorkspaceArguments,
         StateResult, _undo, destructive=True),
)  # fmt: skip
