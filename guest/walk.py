"""A look at every file of one file system: what each is, and a digest of those in doubt.

Other file systems that are mounted below are left out; so are files that vanish meanwhile or cannot be named.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from typing import Any, Final

from guest.filework import KINDS, InvalidRequest, checked_path

BATCH: Final = 64
"""Entries looked at before anything else may be done: some milliseconds under software emulation."""
READ_BYTES: Final = 256 * 1024
MAX_DIGESTS: Final = 1000


def walk(body: dict[str, Any]) -> tuple[dict[str, Any], Iterator[bytes]]:
    """Return the facts of a walk, which are complete at its end, and its lines, JSON each, a batch a piece.

    Each line is [path, kind, size, mode, mtime in ns, ctime in ns, inode, target of a symlink].  It ends early, and
    says so in ``truncated``, after ``max_entries``.
    """
    top, limit = checked_path(body.get("path")), int(body["max_entries"])
    facts: dict[str, Any] = {"truncated": False}
    try:
        device = os.stat(top).st_dev
    except FileNotFoundError:
        return facts, iter(())
    return facts, _batches(top, device, limit, facts)


def _batches(top: str, device: int, limit: int, facts: dict[str, Any]) -> Iterator[bytes]:
    lines: list[bytes] = []
    for count, line in enumerate(_lines(top, device)):
        if count == limit:
            facts["truncated"] = True
            break
        lines.append(line)
        if len(lines) == BATCH:
            yield b"".join(lines)
            lines.clear()
    if lines:
        yield b"".join(lines)


def _lines(top: str, device: int) -> Iterator[bytes]:
    waiting = [top]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    try:
                        facts = entry.stat(follow_symlinks=False)
                        target = os.readlink(entry.path) if entry.is_symlink() else None
                    except OSError:
                        continue
                    if facts.st_dev != device:
                        continue
                    if stat.S_ISDIR(facts.st_mode):
                        waiting.append(entry.path)
                    yield _line(entry.path, facts, target)
        except OSError:
            continue


def _line(path: str, facts: os.stat_result, target: str | None) -> bytes:
    kind, mode = KINDS.get(stat.S_IFMT(facts.st_mode), "other"), stat.S_IMODE(facts.st_mode)
    what = [path, kind, facts.st_size, mode, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, target]
    return json.dumps(what).encode() + b"\n"


def digests(body: dict[str, Any]) -> Iterator[bytes]:
    """Return a line, JSON, for each path: its digest, or null if it cannot be read; empty lines pass the time."""
    paths = body.get("paths")
    if not isinstance(paths, list) or len(paths) > MAX_DIGESTS:
        raise InvalidRequest(f"paths is not a list of at most {MAX_DIGESTS}")
    return _digests([checked_path(path) for path in paths])


def _digests(paths: list[str]) -> Iterator[bytes]:
    for path in paths:
        digest = hashlib.sha256()
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                # A device or a pipe that took the file's place might never end.
                regular = stat.S_ISREG(os.fstat(fd).st_mode)
                while regular and (piece := os.read(fd, READ_BYTES)):
                    digest.update(piece)
                    yield b"\n"
            finally:
                os.close(fd)
            yield json.dumps(digest.hexdigest() if regular else None).encode() + b"\n"
        except OSError:
            yield b"null\n"
