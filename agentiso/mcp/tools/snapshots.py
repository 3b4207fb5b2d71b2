"""Tools for snapshots."""

from __future__ import annotations

from typing import Final

import attrs

from agentiso.mcp.schema import describe
from agentiso.mcp.tools.results import SnapshotResult, StateResult, snapshot_result, state_result
from agentiso.mcp.tools.tool import WORKSPACE, Call, Tool, WorkspaceArguments


@attrs.frozen
class SnapshotCreateArguments:
    workspace_id: str = describe(WORKSPACE)
    name: str = describe("1-63 of a-z, 0-9 and '-', unique within the workspace.")
    include_memory: bool = describe("Keep running processes too; without it a restore boots cold.", True)


@attrs.frozen
class SnapshotListResult:
    snapshots: list[SnapshotResult] = describe("Oldest first.")


@attrs.frozen
class SnapshotRestoreArguments:
    workspace_id: str = describe(WORKSPACE)
    snapshot_name: str = describe("The snapshot to go back to.")
    disk_only: bool = describe("Leave its memory out and boot from its disk.", False)


@attrs.frozen
class SnapshotDeleteArguments:
    workspace_id: str = describe(WORKSPACE)
    snapshot_name: str = describe("The snapshot to forget.")
    cascade: bool = describe("Forget all that were taken on top of it too; else they become its parent's.", False)


@attrs.frozen
class SnapshotDeleteResult:
    deleted: list[str] = describe("The snapshots that went.")


async def _snapshot_create(call: Call, a: SnapshotCreateArguments) -> SnapshotResult:
    s = await (await call.workspace(a.workspace_id)).snapshots.create(a.name, include_memory=a.include_memory)
    return snapshot_result(s)


async def _snapshot_list(call: Call, a: WorkspaceArguments) -> SnapshotListResult:
    found = await (await call.workspace(a.workspace_id)).snapshots.list()
    return SnapshotListResult([snapshot_result(s) for s in found])


async def _snapshot_restore(call: Call, a: SnapshotRestoreArguments) -> StateResult:
    ws = await call.workspace(a.workspace_id)
    return state_result(await ws.snapshots.restore(a.snapshot_name, disk_only=a.disk_only))


async def _snapshot_delete(call: Call, a: SnapshotDeleteArguments) -> SnapshotDeleteResult:
    ws = await call.workspace(a.workspace_id)
    return SnapshotDeleteResult(list(await ws.snapshots.delete(a.snapshot_name, cascade=a.cascade)))


async def _undo(call: Call, a: WorkspaceArguments) -> StateResult:
    return state_result(await (await call.workspace(a.workspace_id)).undo())


TOOLS: Final = (
    Tool("snapshot_create", "Take a snapshot", "Keep the workspace's present state, processes included, under a name; "
         "it runs on.", SnapshotCreateArguments, SnapshotResult, _snapshot_create),
    Tool("snapshot_list", "List snapshots", "The snapshots of a workspace.", WorkspaceArguments, SnapshotListResult,
         _snapshot_list, read_only=True),
    Tool("snapshot_restore", "Restore a snapshot", "Go back to a snapshot in place. The other snapshots stay; undo "
         "takes it back.", SnapshotRestoreArguments, StateResult, _snapshot_restore, destructive=True),
    Tool("snapshot_delete", "Delete a snapshot", "Forget a snapshot; the workspace itself is not touched.",
         SnapshotDeleteArguments, SnapshotDeleteResult, _snapshot_delete, destructive=True),
    Tool("undo", "Undo a restore", "Go back to where the workspace was before its last snapshot_restore.",
         WorkspaceArguments, StateResult, _undo, destructive=True),
)  # fmt: skip
