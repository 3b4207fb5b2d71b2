"""The directories of a state directory belong together, which is written down when they are first used.

One that is missing, or is another one, was moved away or is not mounted.  Nothing may start then: what only it names
would be taken for nobody's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from actors.model.errors import HostFailed
from actors.model.files import read_json, replace_json

PLACES: Final = ("workspaces", "layers", "checkpoints", "templates")
KNOWN: Final = "places.json"
"""Has the inode number of each: a copy has others, but so has whatever else may be there instead."""


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
        replace_json(path, {name: (state_dir / name).stat().st_ino for name in PLACES}, flushed=True)
        return
    except ValueError as error:
        raise HostFailed(f"{path} is damaged: {error}.", remedy=_remedy(path), path=str(path)) from error
    if not isinstance(known, dict):
        raise HostFailed(f"{path} is damaged: it is no record.", remedy=_remedy(path), path=str(path))
    for name in PLACES:
        _check(state_dir / name, known.get(name), path)


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


def _check(place: Path, inode: int | None, path: Path) -> None:
    if not place.is_dir():
        raise HostFailed(
            f"{place} is not there, although this state directory was used before.",
            remedy=f"Mount it, or put it back. {_remedy(path)}",
            path=str(place),
        )
    if place.stat().st_ino != inode:
        raise HostFailed(
            f"{place} is not the directory that belongs to this state directory: it may not be mounted.",
            remedy=f"Mount it, or put it back. {_remedy(path)}",
            path=str(place),
        )


def _remedy(path: Path) -> str:
    return f"If all is as it should be, as after a restored backup, remove {path} and try again."
