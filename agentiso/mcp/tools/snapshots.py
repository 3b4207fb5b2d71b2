"""Tools for snapshots."""

from __future__ import annotations

from typing import Final

import attrs

from agentiso.mcp.schema import describe
from agentiso.mcp.tools.results import SnapshotResult, WorkspaceResult, snapshot_result, workspace_result
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


async def _snapshot_create(call: Call, a: SnapshotCreateArguments) -> SnapshotResult:
    s = await (await call.workspace(a.workspace_id)).snapshots.create(a.name, include_memory=a.include_memory)
    return snapshot_result(s)


async def _snapshot_list(call: Call, a: WorkspaceArguments) -> SnapshotListResult:
    found = await (await call.workspace(a.workspace_id)).snapshots.list()
    return SnapshotListResult([snapshot_result(s) for s in found])


async def _snapshot_restore(call: Call, a: SnapshotRestoreArguments) -> WorkspaceResult:
    return workspace_result(await (await call.workspace(a.workspace_id)).snapshots.restore(a.snapshot_name))


TOOLS: Final = (
    Tool("snapshot_create", "Take a snapshot", "Keep the workspace's present state, processes included, under a name; "
         "it runs on.", SnapshotCreateArguments, SnapshotResult, _snapshot_create),
    Tool("snapshot_list", "List snapshots", "The snapshots of a workspace.", WorkspaceArguments, SnapshotListResult,
         _snapshot_list, read_only=True),
    Tool("snapshot_restore", "Restore a snapshot", "Go back to a snapshot in place. What came after it is lost unless "
         "it was kept in another snapshot; the other snapshots stay.", SnapshotRestoreArguments, WorkspaceResult,
         _snapshot_restore, destructive=True),
)  # fmt: skip
