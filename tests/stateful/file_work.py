"""File work: everything that a supervisor does to the files below a directory, as it is done.

Python's audit events tell of most of it before it is done, and what an audit hook raises is what comes of it.  For the
rest (reading, writing, flushing, looking) functions are replaced.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from tests.stateful import lives

E: Final = errno
ALWAYS: Final = frozenset({E.EIO, E.EACCES})
POSSIBLE: Final[dict[str, frozenset[int]]] = {
    "open": ALWAYS | {E.EMFILE},
    "create": ALWAYS | {E.EMFILE, E.ENOSPC},
    "scandir": ALWAYS | {E.EMFILE},
    "mkdir": ALWAYS | {E.ENOSPC},
    "rename": ALWAYS | {E.ENOSPC},
    "link": ALWAYS | {E.ENOSPC},
    "remove": ALWAYS,
    "rmdir": ALWAYS,
    "chmod": ALWAYS,
    "stat": ALWAYS,
    "truncate": frozenset({E.EIO, E.ENOSPC}),
    "write": frozenset({E.EIO, E.ENOSPC}),
    "read": frozenset({E.EIO}),
    "fsync": frozenset({E.EIO, E.ENOSPC}),
}
"""What may come of each kind of work (the manual pages of the system calls)."""
CHANGES: Final = frozenset({"create", "mkdir", "rename", "link", "remove", "rmdir", "truncate", "write", "fsync"})
"""Kinds of work that change something, or say that it is to stay."""


@attrs.frozen
class Work:
    """One piece of it."""

    kind: str
    path: Path
    target: Path | None = None
    """Where it is moved or linked to."""
    data: bytes | None = None

    def fails(self, number: int) -> OSError:
        """Return the error of that number."""
        return OSError(number, os.strerror(number), str(self.path))


class Torn(BaseException):
    """Raised by a hook to have half of a write be done before ``error`` comes of it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


Hook = Callable[[Work], None]
"""Called before a piece of work; what it raises comes of that."""

_hook: tuple[Path, Hook] | None = None
_real: str = ""
"""What the system calls the watched directory, which may have been named otherwise."""
_installed = False


@contextmanager
def watched(root: Path, hook: Hook) -> Iterator[None]:
    """Have a hook be called before everything that a supervisor does to files below a directory."""
    global _hook, _real
    with pytest.MonkeyPatch.context() as patch:
        _install()
        _replace(patch)
        _hook, _real = (root, hook), os.path.realpath(root)
        try:
            yield
        finally:
            _hook = None


def _install() -> None:
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _hook is not None and (reader := EVENTS.get(event)) is not None and lives.CURRENT.get() is not None:
        reader(*args)


def _do(kind: str, path: Any, directory: int = -1, *, to: Any = None, data: bytes | None = None) -> None:
    """Tell the hook of work on a path, or on what a descriptor stands for, if that is its business."""
    if _hook is None or lives.CURRENT.get() is None:
        return
    root, hook = _hook
    found = _resolve(path, directory)
    if found is None or not found.is_relative_to(root):
        return
    with lives.nobody():
        target = None if to is None else _resolve(to, -1)
    hook(Work(kind, found, target, data))


def _resolve(path: Any, directory: int) -> Path | None:
    """Return the path of a name or a descriptor; ``None`` if it has none."""
    if isinstance(path, int):
        try:
            text = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115 - this is called very often
        except OSError:
            return None
        inside = _hook is not None and text.startswith(_real)
        return Path(f"{_hook[0]}{text[len(_real) :]}" if inside and _hook else text)
    text = os.fsdecode(path)
    if directory >= 0 and not text.startswith("/"):
        above = _resolve(directory, -1)
        return above / text if above else None
    return Path(text)


def _opened(path: Any, _mode: Any, flags: int) -> None:
    if not isinstance(path, int):
        _do("create" if flags & os.O_CREAT else "open", path)


EVENTS: Final[dict[str, Callable[..., None]]] = {
    "open": _opened,
    "os.listdir": lambda path: _do("scandir", path),
    "os.scandir": lambda path: _do("scandir", path),
    "os.mkdir": lambda path, _mode, directory: _do("mkdir", path, directory),
    "os.rename": lambda path, to, directory, _to: _do("rename", path, directory, to=to),
    "os.link": lambda path, to, directory, _to: _do("link", path, directory, to=to),
    "os.remove": lambda path, directory: _do("remove", path, directory),
    "os.rmdir": lambda path, directory: _do("rmdir", path, directory),
    "os.chmod": lambda path, _mode, directory: _do("chmod", path, directory),
    "os.truncate": lambda path, _length: _do("truncate", path),
}


def _replace(patch: pytest.MonkeyPatch) -> None:
    def before(name: str, kind: str) -> None:
        real = getattr(os, name)

        def replaced(path: Any, *args: Any, **options: Any) -> Any:
            _do(kind, path)
            return real(path, *args, **options)

        patch.setattr(os, name, replaced)

    for name, kind in (("fsync", "fsync"), ("pread", "read"), ("stat", "stat")):
        before(name, kind)
    pwrite, copy = os.pwrite, os.copy_file_range

    def write_at(fd: int, data: Any, offset: int) -> int:
        try:
            _do("write", fd, data=bytes(data))
        except Torn as torn:
            pwrite(fd, bytes(data)[: len(data) // 2], offset)
            raise torn.error from None
        return pwrite(fd, data, offset)

    def copy_range(source: int, target: int, *args: Any, **options: Any) -> int:
        _do("read", source)
        try:
            _do("write", target, data=b"")
        except Torn as torn:
            raise torn.error from None
        return copy(source, target, *args, **options)

    patch.setattr(os, "pwrite", write_at)
    patch.setattr(os, "copy_file_range", copy_range)
    patch.setattr(io, "open", _open)


class _File(io.FileIO):
    """A file whose reading and writing is told of."""

    def readinto(self, buffer: Any) -> int | None:
        _do("read", self.fileno())
        return super().readinto(buffer)

    def readall(self) -> bytes:
        _do("read", self.fileno())
        return super().readall()

    def read(self, size: int | None = -1) -> Any:
        _do("read", self.fileno())
        return super().read(-1 if size is None else size)

    def write(self, data: Any) -> int:
        try:
            _do("write", self.fileno(), data=bytes(data))
        except Torn as torn:
            super().write(bytes(data)[: len(data) // 2])
            raise torn.error from None
        return super().write(data)


_real_open = io.open


def _open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """Open a file of the watched directory so that what is done to it is told; any other as ever."""
    path = _resolve(file, -1) if _hook is not None and lives.CURRENT.get() is not None else None
    if path is None or _hook is None or not path.is_relative_to(_hook[0]) or opener is not None:
        return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _File(file, mode.replace("b", "").replace("t", ""), closefd)
    if "b" in mode and buffering == 0:
        return raw
    kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
    buffered = kind(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)
