"""A disk that keeps only what was flushed: what a loss of power leaves of a directory, as bad as it may be.

What a file held, and which files a directory named, is on stable storage as of its last flush.  Of what came later
nothing may be there, or all names may be but not what the files hold, or some of it and some not.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from tests.stateful.file_work import Work
from tests.stateful.lives import as_nobody

PIECE: Final = 64 * 1024


@attrs.frozen
class Held:
    """What a file holds: its size, its data without the holes, and when it was changed last."""

    size: int
    data: tuple[tuple[int, bytes], ...]
    changed_ns: int
    mode: int

    @classmethod
    def of(cls, path: Path) -> Held:
        """Read a file."""
        facts = path.stat()
        with path.open("rb", buffering=0) as file:
            return cls(facts.st_size, tuple(_data(file.fileno(), facts.st_size)), facts.st_mtime_ns, facts.st_mode)

    def write(self, path: Path) -> None:
        """Make a file that holds this."""
        with path.open("xb", buffering=0) as file:
            for offset, data in self.data:
                os.pwrite(file.fileno(), data, offset)
            os.ftruncate(file.fileno(), self.size)
        path.chmod(self.mode)
        os.utime(path, ns=(self.changed_ns, self.changed_ns))


def _data(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < size:
        try:
            position = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, position, os.SEEK_HOLE)
        while position < end:
            piece = os.pread(fd, min(PIECE, end - position), position)
            if piece.strip(b"\0"):
                yield position, piece
            position += len(piece)


class _Facts:
    """What the system knows of a file, but for when it knew: no rewriting can set that back."""

    def __init__(self, facts: os.stat_result) -> None:
        self._facts = facts
        self.st_ctime_ns = facts.st_mtime_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._facts, name)


def forget_change_times(patch: pytest.MonkeyPatch) -> None:
    """Have a file that was put back be taken for the one that it was."""
    real: Any = os.stat
    patch.setattr(os, "stat", lambda path, **options: _Facts(real(path, **options)))


Tree = dict[str, "Tree | Held"]
Forget = Callable[[Held, Held | None], Held]
"""Makes of what a file holds, and of what it held when it was flushed, what is left of it."""


def zeroed(now: Held, flushed: Held | None) -> Held:
    """Have a file be as long as it was, and what was not flushed be zeros."""
    return attrs.evolve(now, data=flushed.data if flushed else ())


def cut(now: Held, flushed: Held | None) -> Held:
    """Have a file be as it was flushed, or empty."""
    return flushed or attrs.evolve(now, size=0, data=())


Names = dict[str, tuple[int, bool]]
"""What a directory names: inodes, and whether they are directories."""


class StableDisk:
    """Remembers what was flushed below a directory, and what every directory named since."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[int, Held] = {}
        """What files held when they were flushed, by inode."""
        self._names: dict[int, list[Names]] = {}
        """What each directory named when it was flushed, and after each change since then, by inode."""
        self._changing: set[Path] = set()

    @as_nobody
    def note(self, work: Work) -> None:
        """Take note of what is about to be done, and of what was done before."""
        self._note_changes()
        if work.kind == "fsync":
            self.flush(work.path)
        elif work.kind in NAMING:
            self._changing = {path.parent for path in (work.path, work.target) if path is not None}

    def _note_changes(self) -> None:
        for directory in self._changing:
            if directory.is_dir():
                self._names.setdefault(directory.stat().st_ino, [{}]).append(_named(directory))
        self._changing = set()

    @as_nobody
    def flush(self, path: Path) -> None:
        """Have a file, or the names in a directory, be on stable storage."""
        if path.is_dir():
            self._names[path.stat().st_ino] = [_named(path)]
        elif path.exists():
            self._held[path.stat().st_ino] = Held.of(path)

    # -- the loss

    @as_nobody
    def lose(self, how: str, chance: random.Random) -> None:
        """Have the directory be what a loss of power leaves: see `WAYS`."""
        self._note_changes()
        holds = self._holding()
        choose, forget = WAYS[how](chance)
        # What is right below the root was made long before.
        top = {name: of for name, of in _named(self._root).items() if of[1]}
        tree = {name: self._left(*of, holds, choose, forget) for name, of in top.items()}
        for path in self._root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        _write(self._root, tree)

    def _holding(self) -> dict[int, Held]:
        """Return what all files that are there hold now, by inode."""
        files = [path for path in self._root.rglob("*") if path.is_file()]
        return {path.stat().st_ino: Held.of(path) for path in files}

    def _left(
        self, inode: int, is_directory: bool, holds: Mapping[int, Held], choose: Choose, forget: Forget
    ) -> Tree | Held:
        if is_directory:
            names = choose(self._names.get(inode, [{}]))
            return {name: self._left(*of, holds, choose, forget) for name, of in names.items()}
        flushed = self._held.get(inode)
        now = holds.get(inode, flushed) or NOTHING
        same = flushed is not None and (flushed.size, flushed.data) == (now.size, now.data)
        return now if same else forget(now, flushed)


NAMING: Final = frozenset({"create", "mkdir", "rename", "link", "remove", "rmdir"})
"""Kinds of work that change what a directory names."""
NOTHING: Final = Held(0, (), 0, 0o600)
Choose = Callable[[list[Names]], Names]


def _first(versions: list[Names]) -> Names:
    return versions[0]


def _last(versions: list[Names]) -> Names:
    return versions[-1]


def _some(chance: random.Random) -> tuple[Choose, Forget]:
    def forget(now: Held, flushed: Held | None) -> Held:
        return chance.choice((zeroed, cut, lambda *_held: now))(now, flushed)

    return chance.choice, forget


WAYS: Final[dict[str, Callable[[random.Random], tuple[Choose, Forget]]]] = {
    "nothing unflushed is there": lambda _chance: (_first, cut),
    "names are, contents are zeros": lambda _chance: (_last, zeroed),
    "names are, contents are not": lambda _chance: (_last, cut),
    "some of it is": _some,
}
"""What may be there of that which was not flushed; the changes of one directory come in their order."""


def _named(directory: Path) -> Names:
    return {
        entry.name: (entry.inode(), entry.is_dir()) for entry in sorted(os.scandir(directory), key=lambda e: e.name)
    }


def _write(directory: Path, tree: Tree) -> None:
    for name, what in tree.items():
        if isinstance(what, Held):
            what.write(directory / name)
        else:
            (directory / name).mkdir(mode=0o700)
            _write(directory / name, what)
