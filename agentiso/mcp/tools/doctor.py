"""Tools that look after what a supervisor keeps, for the command line alone."""

from __future__ import annotations

from typing import Final

import attrs

from actors.machine.storage.holds import is_block
from actors.model.info import Diagnosis, StoredPiece, Trouble
from actors.registry import messages as r
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import Call, Tool


@attrs.frozen
class DoctorArguments:
    again: bool = describe("Try first what there was trouble with", True)


@attrs.frozen
class TroubleResult:
    what: str = describe("Which workspace, template, machine or file")
    path: str = describe("Where it is on the host")
    why: str = describe("What is the matter")
    remedy: str = describe("What mends it")


@attrs.frozen
class DoctorResult:
    healthy: bool = describe("Whether there is nothing to tell")
    damaged: list[TroubleResult] = describe("What cannot be read, or is not understood")
    unreachable: list[TroubleResult] = describe("Workspaces that do not answer")
    half_done: list[TroubleResult] = describe("What was begun and is tried again")
    collection: list[TroubleResult] = describe("Why unneeded files are not removed")
    failed: list[TroubleResult] = describe("Workspaces whose machine ended by itself")
    host: list[TroubleResult] = describe("What of the host is in the way, as a full disk")


@attrs.frozen
class CollectArguments:
    dry_run: bool = describe("Tell of all files, and remove none", False)


@attrs.frozen
class PieceResult:
    id: str = describe("Its id")
    kind: str = describe("layer or checkpoint")
    path: str = describe("Where it is on the host")
    size_bytes: int = describe("Bytes that it alone occupies")
    kept_by: list[str] = describe("Who needs it")
    maybe_kept_by: list[str] = describe("What cannot be read now and may need it; it stays until that can be")


@attrs.frozen
class CollectResult:
    pieces: list[PieceResult] = describe("What went; in a dry run all that there is")
    blocked: list[TroubleResult] = describe("Why nothing, or not all, is removed")


def doctor_result(found: Diagnosis) -> DoctorResult:
    """Return a diagnosis as tools and resources tell it."""
    parts = (found.damaged, found.unreachable, found.half_done, found.collection, found.failed, found.host)
    return DoctorResult(found.healthy, *([_trouble(trouble) for trouble in part] for part in parts))


def _trouble(trouble: Trouble) -> TroubleResult:
    return TroubleResult(trouble.what, trouble.path, trouble.why, trouble.remedy)


async def _doctor(call: Call, a: DoctorArguments) -> DoctorResult:
    return doctor_result(await call.system.registry.ask(r.Diagnose(again=a.again)))


async def _collect(call: Call, a: CollectArguments) -> CollectResult:
    names = {f"workspace:{info.workspace_id}": f"workspace {info.name}" for info in await call.system.list()}
    pieces = await call.system.registry.ask(r.Collect(a.dry_run))
    found = await call.system.registry.ask(r.Diagnose(again=False))
    return CollectResult([_piece(piece, names) for piece in pieces], [_trouble(each) for each in found.collection])


def _piece(piece: StoredPiece, names: dict[str, str]) -> PieceResult:
    keepers = {"work under way" if is_block(keeper) else names.get(keeper, keeper) for keeper in piece.kept_by}
    doubtful = list(piece.maybe_kept_by)
    return PieceResult(piece.id, piece.kind, piece.path, piece.size_bytes, sorted(keepers), doubtful)


TOOLS: Final = (
    Tool("doctor", "What is not as it should be.", DoctorArguments, DoctorResult, _doctor, read_only=True, hidden=True),
    Tool("collect", "Remove what nobody needs.", CollectArguments, CollectResult, _collect, destructive=True,
         hidden=True),
)  # fmt: skip
