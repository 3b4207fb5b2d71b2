"""The directories of a state directory belong together, which is written down when they are first used.

One that is missing, or is another one, was moved away or is not mounted.  Nothing may start then: what only it names
would be taken for nobody's.  Nor where all of it was moved while its machines, or its layers, name it by its path.
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import Any, Final

from actors.machine.qemu.process import find_machines
from actors.machine.storage.qcow2_layers import SUFFIX, Qcow2Layers
from actors.model.errors import HostFailed, NoCapacity
from actors.model.files import read_json, replace_json
from actors.model.names import is_id, new_id

PLACES: Final = ("workspaces", "layers", "checkpoints", "templates")
CACHE: Final = "templates"
"""The one without which a supervisor can do: where it cannot be read nothing is collected, and all else goes on."""
KNOWN: Final = "places.json"
"""Has the path of the state directory, and the id and the inode number of each of its directories.

A copy has another number; another file system that is mounted there may well have the same one, and has another id.
"""
PATH: Final = "path"
MARK: Final = ".place"
"""The file in each that has its id."""


def claim(state_dir: Path) -> None:
    """Make what is missing of a new state directory; make sure that one that was used before is whole, and in place.

    Raises:
        HostFailed: one of its directories is missing, or is another one; or all of it was moved, and cannot be used.
        OSError: one cannot be read or made.

    """
    path = state_dir / KNOWN
    try:
        known = read_json(path)
    except FileNotFoundError:
        _begin(state_dir)
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
    before = known.get(PATH)
    if isinstance(before, str) and not _is_same(state_dir, Path(before)):
        _settle_in(state_dir, Path(before))
        _write_down(state_dir)
    elif before is None or not all(isinstance(known[name], dict) for name in PLACES):
        # It can do without; the next start tries it again.
        with contextlib.suppress(NoCapacity, HostFailed, OSError):
            _write_down(state_dir)


def _begin(state_dir: Path) -> None:
    """Make what is missing of a state directory that is new, or a copy that is to be used."""
    for name in PLACES:
        (state_dir / name).mkdir(exist_ok=True, mode=0o700)
    # What the layers of a copy name is the original's; those of one that was moved name what is not there any more.
    for backing in list(Qcow2Layers(state_dir).astray().values())[:1]:
        _settle_in(state_dir, backing.parents[1 if backing.suffix == SUFFIX else 2])
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
    known = {name: _identity(state_dir / name) for name in PLACES}
    replace_json(state_dir / KNOWN, {PATH: str(state_dir.resolve()), **known}, flushed=True)


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
    return (
        f"If all is as it should be, as in a restored backup or a copy, remove {path} and try again. Machines of the "
        "original are none of a copy's, and run on; a workspace that had one has its disk here, as after a power cut "
        "when it was copied."
    )


def _is_same(state_dir: Path, before: Path) -> bool:
    """Tell whether the path at which a state directory was leads to it still, be it by a link or a mount."""
    try:
        return state_dir.samefile(before)
    except OSError:
        return False


def _settle_in(state_dir: Path, before: Path) -> None:
    """Have nothing in a state directory that was moved need it to be where it was before.

    Raises:
        HostFailed: something does.
        OSError: it cannot be told.

    """
    layers = Qcow2Layers(state_dir)
    if machines := sum(1 for _ in find_machines(state_dir)):
        why = f"{machines} of its machines run, and know it by that path"
        then = "To have it live here, stop or suspend its workspaces there first."
    else:
        layers.bring_home()
        if not (left := layers.standing_in(before)):
            return
        why = f"{len(left)} of its disk layers stand on what they know by that path, and what is not here"
        then = "To have it live here, move that too."
    here, there = shlex.quote(str(state_dir.resolve())), shlex.quote(str(before))
    raise HostFailed(
        f"{state_dir} was {before} when it was last used, and was moved: {why}.",
        remedy=f"Put it back, or have that path lead to it (`ln -s {here} {there}`, or a bind mount). {then}",
        path=str(state_dir),
    )
