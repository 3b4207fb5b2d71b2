"""The directories of a state directory belong together, which is written down when they are first used.

One that is missing, or is another one, was moved away or is not mounted.  Nothing may start then: what only it names
would be taken for nobody's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from actors.model.errors import HostFailed
from actors.model.files import read_json, replace_json
from actors.model.names import is_id, new_id

PLACES: Final = ("workspaces", "layers", "checkpoints", "templates")
CACHE: Final = "templates"
"""The one without which a supervisor can do: where it cannot be read nothing is collected, and all else goes on."""
KNOWN: Final = "places.json"
"""Has the id and the inode number of each.

A copy has another number; another file system that is mounted there may well have the same one, and has another id.
"""
MARK: Final = ".place"
"""The file in each that has its id."""


def claim(state_dir: Path) -> None:
    """Make what is missing of a new state directory; make sure that one that was used before is whole.

    Raises:
        HostFailed: one of its directories is missing, or is another one.
        OSError: one cannot be read or made.

    """
    path = state_dir / KNOWN
    try:
        known = read_json(path)
    except FileNotFoundError:
        for name in PLACES:
            (state_dir / name).mkdir(exist_ok=True, mode=0o700)
        _write_down(state_dir)
        return
    except ValueError as error:
        raise HostFailed(f"{path} is damaged: {error}.", remedy=_remedy(path), path=str(path)) from error
    if not isinstance(known, dict):
        raise HostFailed(f"{path} is damaged: it is no record.", remedy=_remedy(path), path=str(path))
    for name in PLACES:
        try:
            _check(state_dir / name, known.get(name), path)
        except OSError:
            if name != CACHE:
                raise
    if not all(isinstance(known[name], dict) for name in PLACES):
        _write_down(state_dir)


def check(state_dir: Path) -> None:
    """Make sure that a state directory is whole, or new, and change nothing; errors as of `claim`."""
    path = state_dir / KNOWN
    try:
        known = read_json(path)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise HostFailed(f"{path} is damaged: {error}.", remedy=_remedy(path), path=str(path)) from error
    for name in PLACES:
        _check(state_dir / name, known.get(name) if isinstance(known, dict) else None, path)


def is_whole(state_dir: Path) -> bool:
    """Tell whether a state directory that was used before is there, with all its directories.

    Raises:
        OSError: that cannot be looked at.

    """
    path = state_dir / KNOWN
    try:
        known = read_json(path)
        for name in PLACES:
            _check(state_dir / name, known[name], path)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, HostFailed):
        return False
    return True


def _write_down(state_dir: Path) -> None:
    """Mark the places that are not, and write down which they are."""
    for name in PLACES:
        if _mark_of(state_dir / name) is None:
            replace_json(state_dir / name / MARK, new_id(), flushed=True)
    replace_json(state_dir / KNOWN, {name: _identity(state_dir / name) for name in PLACES}, flushed=True)


def _identity(place: Path) -> dict[str, Any]:
    return {"id": _mark_of(place), "inode": place.stat().st_ino}


def _mark_of(place: Path) -> str | None:
    """Return the id of a place, or ``None`` if it has none."""
    try:
        mark = read_json(place / MARK)
    except (FileNotFoundError, ValueError):
        return None
    return mark if isinstance(mark, str) and is_id(mark) else None


def _check(place: Path, known: Any, path: Path) -> None:
    if not place.is_dir():
        raise HostFailed(
            f"{place} is not there, although this state directory was used before.",
            remedy=f"Mount it, or put it back. {_remedy(path)}",
            path=str(place),
        )
    # An agentiso that marked none wrote the number alone.
    found: Any = place.stat().st_ino if isinstance(known, int) else _identity(place)
    if found != known:
        raise HostFailed(
            f"{place} is not the directory that belongs to this state directory: it may not be mounted.",
            remedy=f"Mount it, or put it back. {_remedy(path)}",
            path=str(place),
        )


def _remedy(path: Path) -> str:
    return f"If all is as it should be, as after a restored backup, remove {path} and try again."
