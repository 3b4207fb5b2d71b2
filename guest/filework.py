"""The agent's work on files: reading in pieces, writing and editing atomically, listing.

Only regular files are read or replaced, so that nothing here can block.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from typing import Any, Final

from guest.newfile import NewFile
from guest.wire import DATA_CHUNK_BYTES

MAX_UNSIZED_BYTES: Final = 16 * 1024 * 1024
MAX_EDITED_BYTES: Final = 16 * 1024 * 1024
KINDS: Final = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}


class InvalidRequest(ValueError):
    """The request is malformed."""


def checked_path(path: Any) -> str:
    """Return an absolute path without NUL bytes."""
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"{path!r} is not an absolute path")
    return path


def read(body: dict[str, Any]) -> tuple[dict[str, Any], Iterator[bytes]]:
    """Return the facts of a file and its content in pieces."""
    path = checked_path(body.get("path"))
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    facts = os.fstat(fd)
    if stat.S_ISDIR(facts.st_mode):
        os.close(fd)
        raise IsADirectoryError(21, "Is a directory", path)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        raise InvalidRequest(f"{path} is not a regular file")
    offset, limit = int(body.get("offset") or 0), body.get("limit")
    # As far as it reaches now: a file that grows comes to an end.  Those of the kernel's own say that they are empty.
    remaining = (facts.st_size or MAX_UNSIZED_BYTES) if limit is None else int(limit)
    return {"size": facts.st_size, "mode": stat.S_IMODE(facts.st_mode)}, _pieces(fd, offset, remaining)


def _pieces(fd: int, offset: int, remaining: int) -> Iterator[bytes]:
    try:
        while remaining > 0:
            piece = os.pread(fd, min(remaining, DATA_CHUNK_BYTES), offset)
            if not piece:
                return
            offset += len(piece)
            remaining -= len(piece)
            yield piece
    finally:
        os.close(fd)


class Writing:
    """A file being replaced: written beside its place, then renamed into it."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.path = os.path.realpath(checked_path(body.get("path")))
        if os.path.isdir(self.path):
            raise IsADirectoryError(21, "Is a directory", self.path)
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise InvalidRequest(f"{self.path} is not a regular file")
        mode, before = body.get("mode"), os.stat(self.path) if os.path.exists(self.path) else None
        if mode is None:
            mode = stat.S_IMODE(before.st_mode) if before else 0o644
        self.size = 0
        directory = os.path.dirname(self.path)
        os.makedirs(directory, exist_ok=True)
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._file = NewFile(self._directory, self.path)
        except BaseException:
            os.close(self._directory)
            raise
        try:
            if before:
                os.fchown(self._file.fd, before.st_uid, before.st_gid)
            # After that: a change of owner takes some modes away.
            os.fchmod(self._file.fd, int(mode))
        except BaseException:
            self.abandon()
            raise

    def write(self, data: bytes) -> None:
        """Append a piece."""
        self._file.write(data)
        self.size += len(data)

    def finish(self) -> dict[str, Any]:
        """Put the whole file in place."""
        self._file.put()
        os.close(self._directory)
        return {"size": self.size}

    def abandon(self) -> None:
        """Leave the file as it was."""
        self._file.discard()
        os.close(self._directory)


def look(body: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a file, a directory or whatever else is there; a link is followed if that is wanted."""
    path = checked_path(body.get("path"))
    return _facts(os.path.basename(path), os.stat(path, follow_symlinks=bool(body.get("follow"))))


def edit(body: dict[str, Any]) -> dict[str, Any]:
    """Replace text in a file, atomically; more than one hit has to be wanted."""
    old, new = str(body["old"]).encode(), str(body["new"]).encode()
    facts, pieces = read({"path": body.get("path")})
    if facts["size"] > MAX_EDITED_BYTES:
        raise InvalidRequest(f"a file of {facts['size']} bytes cannot be edited; up to {MAX_EDITED_BYTES} can")
    content = b"".join(pieces)
    hits = content.count(old) if old else 0
    if hits == 0:
        raise InvalidRequest(f"the text to be replaced does not occur in {body['path']}; read the file for its words")
    if hits > 1 and not body.get("replace_all"):
        raise InvalidRequest(
            f"the text to be replaced occurs {hits} times in {body['path']}; "
            "give more of what surrounds it, or set replace_all"
        )
    writing = Writing({"path": body.get("path"), "mode": None})
    try:
        writing.write(content.replace(old, new))
        writing.finish()
    except BaseException:
        writing.abandon()
        raise
    return {"replacements": hits, "size": writing.size}


def entries(body: dict[str, Any]) -> Iterator[bytes]:
    """Return the lines, JSON each, that describe a directory's entries, sorted by name."""
    with os.scandir(checked_path(body.get("path"))) as found:
        listed = sorted(found, key=lambda entry: entry.name)
    return _lines(listed)


def _lines(listed: list[os.DirEntry[str]]) -> Iterator[bytes]:
    for entry in listed:
        try:
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield json.dumps(_facts(entry.name, facts)).encode() + b"\n"


def _facts(name: str, facts: os.stat_result) -> dict[str, Any]:
    return {
        "name": name.encode("utf-8", "replace").decode(),
        "kind": KINDS.get(stat.S_IFMT(facts.st_mode), "other"),
        "size": facts.st_size,
        "mode": stat.S_IMODE(facts.st_mode),
        "mtime": facts.st_mtime,
    }
