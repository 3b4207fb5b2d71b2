"""Tools that carry workspaces to files and back, for the command line alone: the files are the host's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from actors.model.errors import InvalidArgument
from actors.model.text import shown
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import Call, Tool


@attrs.frozen
class ExportArguments:
    workspace_id: str
    path: str = describe("Absolute path of the host's file to write")
    snapshot_name: str | None = describe("This snapshot; absent: as it is now", None)


@attrs.frozen
class ExportResult:
    size_bytes: int = describe("Size of the file")
    has_memory: bool = describe("Whether running processes are in it")
    seconds: float = describe("How long it took")


@attrs.frozen
class ImportArguments:
    path: str = describe("Absolute path of the host's file to read")
    name: str | None = describe("Name of the workspace; absent: the one that it had", None)


@attrs.frozen
class ImportResult:
    workspace_id: str = describe("Its id")
    name: str = describe("Its name")
    started_by: str = describe("restore (memory kept) or cold_boot")
    memory_kept: bool = describe("Whether it goes on where it was")
    note: str = describe("Why not")
    seconds: float = describe("How long it took")


def _absolute(path: str) -> Path:
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"{shown(path)} is not an absolute path.", remedy="Begin it with /.")
    return Path(path)


async def _export(call: Call, a: ExportArguments) -> ExportResult:
    ws = await call.workspace(a.workspace_id)
    report = await ws.export(_absolute(a.path), snapshot=a.snapshot_name, on_progress=call.report)
    return ExportResult(report.size_bytes, report.has_memory, report.seconds)


async def _import(call: Call, a: ImportArguments) -> ImportResult:
    made = await call.system.import_workspace(
        _absolute(a.path), a.name, on_progress=call.report, owner=call.client.session
    )
    report = made.report
    return ImportResult(
        made.workspace.id, made.workspace.name, report.workspace.started_by, report.memory_kept, report.note,
        report.seconds,
    )  # fmt: skip


TOOLS: Final = (
    Tool("workspace_export", "Write a workspace or a snapshot to a file of the host.", ExportArguments, ExportResult,
         _export, hidden=True),
    Tool("workspace_import", "Make a workspace of an exported file.", ImportArguments, ImportResult, _import,
         hidden=True),
)  # fmt: skip
