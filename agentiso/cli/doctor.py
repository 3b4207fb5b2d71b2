"""Commands that look after what is kept: what is wrong, and what is not needed any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from actors.model.errors import AgentisoError, HostFailed
from actors.registry import places
from agentiso.cli.common import Commands, call_tool, show
from agentiso.display.units import size
from agentiso.library.config import load_settings

DOCTOR_EXAMPLES: Final = """\
  agentiso doctor                exit status 1 if anything needs a look
"""
GC_EXAMPLES: Final = """\
  agentiso gc --dry-run          what would go, and what keeps each other file
  agentiso gc
"""
PARTS: Final = {
    "damaged": "damaged or not understood, and left alone",
    "unreachable": "does not answer",
    "half_done": "not finished yet",
    "collection": "keeps unneeded files",
    "failed": "has failed",
    "host": "in the way",
}
DIRECTORIES: Final = ("", "workspaces", "layers", "checkpoints", "templates")


def register(commands: Commands) -> None:
    """Add these commands."""
    commands.add("doctor", _doctor, "tell what is damaged, unreachable or half-done, and what mends it",
                 DOCTOR_EXAMPLES)  # fmt: skip
    made = commands.add("gc", _gc, "remove disk layers and checkpoints that nobody needs", GC_EXAMPLES)
    made.add_argument("--dry-run", action="store_true", help="remove nothing; tell who keeps what")


def _doctor(a: Any) -> int:
    try:
        found = call_tool(a, "doctor")
    except (AgentisoError, OSError) as error:
        found = _without_supervisor(load_settings(a.config).state_dir, error)
    text = "\n\n".join(_told(found)) or "nothing is wrong"
    show(a, found, text)
    return 0 if found["healthy"] else 1


def _told(found: dict[str, Any]) -> Iterator[str]:
    for part, meaning in PARTS.items():
        # A supervisor of an earlier version does not know each part.
        for trouble in found.get(part, []):
            place = f"\n  at   {trouble['path']}" if trouble["path"] else ""
            yield f"{trouble['what']}: {meaning}{place}\n  why  {trouble['why']}\n  do   {trouble['remedy']}"


def _without_supervisor(state_dir: Path, error: AgentisoError | OSError) -> dict[str, Any]:
    """Tell why the supervisor does not start, or answer, as far as that can be seen from here."""
    remedy = error.remedy if isinstance(error, AgentisoError) else "Look at its disk and its rights."
    unread = list(_unreadable(state_dir)) or list(_misplaced(state_dir))
    why = error.message if isinstance(error, AgentisoError) else f"{error}."
    troubles = unread or [{"what": "the supervisor", "path": str(state_dir), "why": why, "remedy": remedy}]
    return {"healthy": False, **{part: [] for part in PARTS}, "damaged": troubles}


def _unreadable(state_dir: Path) -> Iterator[dict[str, str]]:
    for name in DIRECTORIES:
        path = state_dir / name
        try:
            for _ in path.iterdir():
                pass
        except FileNotFoundError:
            continue
        except OSError as error:
            yield {
                "what": f"the directory {name or 'of the state'}", "path": str(path),
                "why": f"No supervisor can start, since it cannot be read: {error.strerror}.",
                "remedy": "Mend its disk or its rights; nothing of it was changed. Machines that run, run on.",
            }  # fmt: skip


def _misplaced(state_dir: Path) -> Iterator[dict[str, str]]:
    """Tell of a directory that is missing, or another one: the supervisor's log has that below all else."""
    try:
        places.check(state_dir)
    except HostFailed as error:
        path = str(error.facts.get("path", state_dir))
        why = f"No supervisor can start: {error.message} Machines that run, run on."
        yield {"what": f"the directory {Path(path).name}", "path": path, "why": why, "remedy": error.remedy}
    except OSError:
        # What cannot be read is told already.
        return


def _gc(a: Any) -> int:
    found = call_tool(a, "collect", dry_run=a.dry_run)
    show(a, found, "\n".join(_collected(found, dry_run=a.dry_run)))
    return 1 if found["blocked"] else 0


def _collected(found: dict[str, Any], *, dry_run: bool) -> Iterator[str]:
    # A supervisor of an earlier version does not tell what may be needed.
    doubtful = [each for each in found["pieces"] if not each["kept_by"] and each.get("maybe_kept_by")]
    gone = [each for each in found["pieces"] if not each["kept_by"] and each not in doubtful]
    for piece in gone:
        yield _piece("would go" if dry_run else "removed", piece)
    if dry_run:
        for piece in doubtful:
            yield f"{_piece('unknown ', piece)}  may be needed by {', '.join(piece['maybe_kept_by'])}"
        for piece in found["pieces"]:
            if piece["kept_by"]:
                yield f"{_piece('kept    ', piece)}  by {', '.join(piece['kept_by'])}"
    yield f"{len(gone)} {'not needed' if dry_run else 'removed'}, {_total(gone)}"
    if doubtful:
        yield f"{len(doubtful)} may be needed, {_total(doubtful)}"
    for trouble in found["blocked"]:
        yield f"{trouble['why']} {trouble['remedy']}"


def _piece(fate: str, piece: dict[str, Any]) -> str:
    return f"{fate}  {size(piece['size_bytes']):>8}  {piece['kind']} {piece['id']}"


def _total(pieces: list[dict[str, Any]]) -> str:
    return size(sum(piece["size_bytes"] for piece in pieces))
