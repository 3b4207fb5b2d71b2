"""A directory tree as a stream of records, read from a file system and written to one; both sides of the wire use it.

A record is a tag and its data: ``E`` and a JSON object begin an entry (a directory, a file, a symbolic link), ``C`` and
bytes go on with the content of the file begun last.  Whoever writes a tree trusts nothing in it: every path is walked
component by component without following a link, so that neither the stream nor what lies in the target already leads
out of the target.  Devices, sockets and pipes are neither read nor made.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Final

from guest.filework import InvalidRequest
from guest.newfile import NewFile, temporary_name
from guest.wire import DATA_CHUNK_BYTES

ENTRY: Final = b"E"
CONTENT: Final = b"C"
MAX_PATH_BYTES: Final = 4096
MAX_NAME_BYTES: Final = 255
MAX_DEPTH: Final = 128
MAX_NAMED_SKIPS: Final = 20
HOST_MODE: Final = 0o755
"""Of what comes from a guest nothing is writable for others on the host, or runs as somebody else."""


class Notes:
    """What was left out of a tree, and why: all are counted, some are named."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[str] = []

    def skip(self, path: str, why: str) -> None:
        """Leave one entry out."""
        self.count += 1
        if len(self.named) < MAX_NAMED_SKIPS:
            self.named.append(f"{printable(path)}: {why}"[:500])


def printable(path: str) -> str:
    """Return a path as text that can be written anywhere."""
    return path.encode("utf-8", "replace").decode()


def excluded(path: str, patterns: Sequence[str]) -> bool:
    """Tell whether a pattern matches a path within the tree, or its last name."""
    name = path.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(name, each) or fnmatch.fnmatchcase(path, each.strip("/")) for each in patterns)


def _entry(path: str, kind: str, facts: os.stat_result, target: str = "") -> bytes:
    body = {"path": path, "kind": kind, "mode": stat.S_IMODE(facts.st_mode), "mtime": facts.st_mtime, "target": target}
    return ENTRY + json.dumps(body, separators=(",", ":")).encode("ascii")


def read(root: str, exclude: Sequence[str], notes: Notes) -> Generator[bytes, None, None]:
    """Return the records of what a directory holds; links are not followed, and what cannot be read is left out."""

    def failed(error: OSError) -> None:
        notes.skip(str(error.filename), error.strerror or "cannot be read")

    for here, directories, files, fd in os.fwalk(root, onerror=failed):
        within = os.path.relpath(here, root)
        prefix = "" if within == "." else within + "/"
        directories[:] = sorted(name for name in directories if not excluded(prefix + name, exclude))
        if prefix.count("/") >= MAX_DEPTH:
            notes.skip(prefix, "it is too deep")
            directories.clear()
            continue
        for name in [*directories, *sorted(name for name in files if not excluded(prefix + name, exclude))]:
            try:
                yield from _read_one(prefix + name, name, fd, notes)
            except OSError as error:
                notes.skip(prefix + name, error.strerror or "cannot be read")


def _read_one(path: str, name: str, parent: int, notes: Notes) -> Iterator[bytes]:
    facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISDIR(facts.st_mode):
        yield _entry(path, "dir", facts)
    elif stat.S_ISLNK(facts.st_mode):
        yield _entry(path, "symlink", facts, os.readlink(name, dir_fd=parent))
    elif stat.S_ISREG(facts.st_mode):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        with os.fdopen(fd, "rb", buffering=0) as file:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise OSError(0, "it is not a regular file any more")
            yield _entry(path, "file", facts)
            # As far as it reached at first: a file that grows comes to an end.
            remaining = facts.st_size
            while remaining > 0 and (piece := file.read(min(remaining, DATA_CHUNK_BYTES))):
                remaining -= len(piece)
                yield CONTENT + piece
    else:
        notes.skip(path, "it is a device, a socket or a pipe")


class Writing:
    """A tree being written into a directory, which is made if it is missing.

    ``trusted`` is what a guest does with a tree from its host: links may lead anywhere and modes are kept whole.
    Otherwise links that lead out of the tree are left out, and modes are cut to `HOST_MODE`.
    """

    def __init__(self, root: str, *, trusted: bool, max_entries: int, max_bytes: int) -> None:
        os.makedirs(root, exist_ok=True)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._trusted = trusted
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._parent = ("", os.dup(self._root))
        self._file: tuple[NewFile, dict[str, Any]] | None = None
        """The file begun last, and its facts."""
        self._modes: list[tuple[str, int, float]] = []
        self.notes = Notes()
        self.entries = 0
        self.bytes = 0

    def take(self, record: bytes) -> None:
        """Write the next record.

        Raises:
            InvalidRequest: the stream is malformed, would leave the target, or is larger than allowed.
            OSError: it cannot be written.

        """
        tag, data = record[:1], record[1:]
        if tag == CONTENT:
            self.bytes += len(data)
            if self.bytes > self._max_bytes:
                raise InvalidRequest(f"the tree has more than {self._max_bytes} bytes")
            self._write(data)
        elif tag == ENTRY:
            self._end_file()
            self.entries += 1
            if self.entries > self._max_entries:
                raise InvalidRequest(f"the tree has more than {self._max_entries} entries")
            self._begin(_checked(data))
        else:
            raise InvalidRequest("a record of a tree is neither an entry nor content")

    def finish(self) -> dict[str, Any]:
        """Write what is left, modes of directories above all, and say what was done."""
        self._end_file()
        for path, mode, mtime in reversed(self._modes):
            # What replaced it meanwhile keeps its own.
            with contextlib.suppress(OSError, InvalidRequest):
                fd = self._open_directory(path)
                os.fchmod(fd, mode)
                os.utime(fd, (mtime, mtime))
                os.close(fd)
        self._close()
        return {
            "entries": self.entries,
            "bytes": self.bytes,
            "skipped": self.notes.named,
            "skipped_count": self.notes.count,
        }

    def abandon(self) -> None:
        """Stop; whole files that were written stay, half a file does not."""
        if self._file is not None:
            self._file[0].discard()
            self._file = None
        self._close()

    def _close(self) -> None:
        os.close(self._parent[1])
        os.close(self._root)

    def _open_directory(self, path: str) -> int:
        """Open a directory of the tree without following any link on the way."""
        fd = os.dup(self._root)
        for name in path.split("/") if path else ():
            try:
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def _begin(self, facts: dict[str, Any]) -> None:
        path, kind = facts["path"], facts["kind"]
        directory, _, name = path.rpartition("/")
        try:
            if directory != self._parent[0]:
                fd = self._open_directory(directory)
                os.close(self._parent[1])
                self._parent = (directory, fd)
            if kind == "dir":
                self._make_directory(path, name, facts)
            elif kind == "symlink":
                self._make_link(path, name, facts["target"])
            else:
                self._file = (NewFile(self._parent[1], path), facts)
        except (FileExistsError, NotADirectoryError, IsADirectoryError, FileNotFoundError) as error:
            self.notes.skip(path, f"something else is in its place ({error.strerror})")
        except OSError as error:
            # A link where a directory is needed: opening it without following it fails in this way.
            if error.errno != errno.ELOOP:
                raise
            self.notes.skip(path, "its directory is a symbolic link")

    def _make_directory(self, path: str, name: str, facts: dict[str, Any]) -> None:
        parent = self._parent[1]
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise
        mode = facts["mode"] & (0o7777 if self._trusted else HOST_MODE) | (0 if self._trusted else 0o700)
        self._modes.append((path, mode, facts["mtime"]))

    def _make_link(self, path: str, name: str, target: str) -> None:
        if not self._trusted and not stays_within(path, target):
            self.notes.skip(path, f"the link leads out of the tree, to {printable(target)[:200]}")
            return
        temporary, parent = temporary_name(), self._parent[1]
        os.symlink(target, temporary, dir_fd=parent)
        try:
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            os.unlink(temporary, dir_fd=parent)
            raise

    def _write(self, data: bytes) -> None:
        # Otherwise it is the content of a file that was left out.
        if self._file is not None:
            self._file[0].write(data)

    def _end_file(self) -> None:
        if self._file is None:
            return
        file, facts = self._file
        os.fchmod(file.fd, facts["mode"] & (0o7777 if self._trusted else HOST_MODE) | (0 if self._trusted else 0o600))
        os.utime(file.fd, (facts["mtime"], facts["mtime"]))
        try:
            file.put()
        except IsADirectoryError:
            file.discard()
            self.notes.skip(facts["path"], "a directory is in its place")
        self._file = None


def stays_within(path: str, target: str) -> bool:
    """Tell whether a link at ``path`` leads to somewhere in the tree, whatever other links the tree has.

    Only leading ``..`` count: after a name, which may be a link itself, one could lead anywhere.
    """
    names = target.split("/")
    up = next((index for index, name in enumerate(names) if name != ".."), len(names))
    return not target.startswith("/") and ".." not in names[up:] and up <= path.count("/")


def _checked(data: bytes) -> dict[str, Any]:
    """Return the facts of an entry that is well formed."""
    try:
        facts = json.loads(data)
        path, kind, target = facts["path"], facts["kind"], facts["target"]
        mode, mtime = int(facts["mode"]), float(facts["mtime"])
        names = path.split("/")
        long = len(os.fsencode(path)) > MAX_PATH_BYTES or max(len(os.fsencode(each)) for each in names) > MAX_NAME_BYTES
        os.fsencode(target)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidRequest(f"an entry of a tree is malformed: {error!r}") from None
    if long or len(names) > MAX_DEPTH or "\0" in path + target or {"", ".", ".."} & set(names):
        raise InvalidRequest(f"{printable(path)[:200]!r} is not a path within a tree")
    if kind not in {"file", "dir", "symlink"} or (kind == "symlink" and not target) or not 0 <= mode <= 0o7777:
        raise InvalidRequest(f"{printable(path)[:200]!r} has an impossible kind, mode or target")
    if not 0 <= mtime < 2**40:
        mtime = 0.0
    return {"path": path, "kind": kind, "mode": mode, "mtime": mtime, "target": target}
