"""Durable small files: JSON records that are wholly there or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from actors.model.errors import AgentisoError, HostFailed, NoCapacity
from guest.untrusted import parse

FREE_SPACE = "Free some space: destroy workspaces or snapshots that are no longer needed."
EXHAUSTED = {
    errno.ENOSPC: ("Its disk is full.", FREE_SPACE),
    errno.EDQUOT: ("A disk quota is used up.", "Free some space, or raise the quota."),
    errno.EMFILE: ("This process has too many open files.", "Raise its limit (ulimit -n), or run fewer workspaces."),
    errno.ENFILE: ("It has too many open files.", "Raise the sysctl fs.file-max, or run fewer workspaces."),
    errno.ENOMEM: ("Its memory is used up.", "Destroy workspaces that are no longer needed."),
    errno.EAGAIN: ("It has too many processes.", "Raise the limit (ulimit -u), or run fewer workspaces."),
}
TELLING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR})
"""What is no failure by itself: it tells what there is, and whoever asked knows what that means."""
TEMPORARY = ".new"
"""How the name of a record ends that is about to replace another one."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
RESERVE_BYTES = 256 * 1024
"""Many times a record."""
RESERVE_PIECE_BYTES = 4096
FULL_BYTES = 64 * 1024
"""What is left of a full disk by what was given back since."""
MAX_RECORD_BYTES = 8 * 1024 * 1024
"""A record larger than this was not written by us."""


@contextmanager
def exhaustion_reported() -> Iterator[None]:
    """Raise `NoCapacity` where the host refuses something because it has run out of it, also within a nursery."""
    with _reporting(lambda error: error.errno in EXHAUSTED):
        yield


@contextmanager
def failures_reported() -> Iterator[None]:
    """Do the same, and raise `HostFailed` where the host's files fail otherwise."""
    with _reporting(lambda error: error.errno not in TELLING):
        yield


@contextmanager
def _reporting(concerns: Callable[[OSError], bool]) -> Iterator[None]:
    def is_hosts(error: BaseException) -> bool:
        return isinstance(error, OSError) and concerns(error)

    try:
        yield
    except OSError as error:
        if not is_hosts(error):
            raise
        raise reported(error) from error
    except BaseExceptionGroup as group:
        failures, rest = group.split(is_hosts)
        if failures is None:
            raise
        failure = reported(failures)
        raise (BaseExceptionGroup(group.message, [failure, rest]) if rest else failure) from group


def reported(error: BaseException) -> AgentisoError:
    """Return what an `OSError`, or the first one in a group, is to whoever knows nothing better to make of it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OSError)
    if error.errno not in EXHAUSTED:
        return HostFailed(f"The host's files fail: {error}.", path=error.filename)
    what, remedy = EXHAUSTED[error.errno]
    return NoCapacity(f"The host has no room left: {what}", remedy=remedy, path=error.filename)


def replace_json(
    path: Path, value: Any, *, earlier: Path | None = None, flushed: bool = False, reserve: Path | None = None
) -> None:
    """Replace a record atomically (temporary file, rename); a crash of this process loses nothing.

    Power loss may, and leave a record empty, until `make_durable` has waited for it, unless it is ``flushed`` here,
    which blocks; what stood there before is kept as ``earlier``, if that is given.  Where the disk is full, the file
    that is in ``reserve`` becomes the record (`keep_reserve`).  On failure the old record stands.

    Raises:
        NoCapacity: the disk is full.

    """
    temporary = temporary_of(path)
    with failures_reported():
        try:
            lent = _write_new(temporary, value, flushed=flushed, reserve=reserve)
            if earlier is not None:
                with contextlib.suppress(FileNotFoundError):
                    path.rename(earlier)
            temporary.rename(path)
            if lent and reserve is not None:
                # At once: what the record did not take is given to whoever writes next.
                keep_reserve(reserve)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if earlier is not None and not path.exists():
                with contextlib.suppress(OSError):
                    earlier.rename(path)
            raise
        if flushed:
            make_durable_here(path.parent)


def _write_new(path: Path, value: Any, *, flushed: bool, reserve: Path | None) -> bool:
    """Write a record, and tell whether that took the reserve."""
    data = json.dumps(value, indent=1, sort_keys=True).encode()
    try:
        _write(path, data, os.O_TRUNC, flushed=flushed)
    except OSError as error:
        if reserve is None or error.errno not in NO_ROOM:
            raise
        try:
            reserve.rename(path)
        except FileNotFoundError:
            raise error from None
        # Its blocks are this user's already: nobody else can take them, as they could what is only given back.
        _write(path, data, 0, flushed=flushed)
        return True
    return False


def _write(path: Path, data: bytes, how: int, *, flushed: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.truncate()
        if flushed:
            file.flush()
            os.fsync(file.fileno())


def keep_reserve(path: Path) -> None:
    """Have a file take up some room in which a record can be written on a full disk, as much of it as there is.

    Without it what makes room (a snapshot deleted, a workspace stopped) could not be written down for want of room.
    """
    # Where it cannot be had, such a record is refused on a full disk, and nothing else is amiss.
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            while (lacking := RESERVE_BYTES - os.fstat(fd).st_size) > 0:
                # What no file system compresses, or keeps as a hole.
                os.write(fd, os.urandom(min(lacking, RESERVE_PIECE_BYTES)))
        finally:
            os.close(fd)


def temporary_of(path: Path) -> Path:
    """Return where a record is written before it takes its place."""
    return path.with_name(f".{path.name}{TEMPORARY}")


def sweep_temporaries(directory: Path) -> None:
    """Remove what was left in a directory of records that were being replaced, by whoever nobody else is any more."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.name.startswith(".") and path.name.endswith(TEMPORARY):
                path.unlink(missing_ok=True)


def earlier_of(path: Path) -> Path:
    """Return where the record before the one at ``path`` is kept until that has reached stable storage."""
    return path.with_name(f".{path.name}.earlier")


def read_json(path: Path) -> Any:
    """Read a record.

    Raises:
        ValueError: it is not JSON, or too large to be a record.
        OSError: it cannot be read.

    """
    if path.stat().st_size > MAX_RECORD_BYTES:
        raise ValueError(f"{path} is larger than {MAX_RECORD_BYTES} bytes")
    return parse(path.read_bytes())


async def make_durable(*paths: Path) -> None:
    """Flush files, and the directories that name them, to stable storage; what is gone by now needs no more."""
    await trio.to_thread.run_sync(lambda: make_durable_here(*paths))


def make_durable_here(*paths: Path) -> None:
    """Do so in this thread, which is blocked meanwhile."""
    # Files before the directories that name them.
    deepest_first = sorted(paths, key=lambda path: len(path.parts), reverse=True)
    for path in (*deepest_first, *{path.parent for path in paths}):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.fsync(fd)
        except OSError as error:
            # Not every file system knows how to flush a directory.
            if error.errno != errno.EINVAL or not path.is_dir():
                raise
        finally:
            os.close(fd)


def is_full(path: Path) -> bool:
    """Tell whether next to nothing more fits on the disk that a path is on; not if that cannot be told."""
    try:
        facts = os.statvfs(path)
    except OSError:
        return False
    return facts.f_bavail * facts.f_frsize < FULL_BYTES


def tail(path: Path, max_bytes: int = 4096) -> str:
    """Return the end of a log as text that begins with a whole character; an absent log is empty."""
    try:
        with path.open("rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - max_bytes)
            file.seek(begin)
            end = file.read(max_bytes)
    except FileNotFoundError:
        return ""
    # Of a character that began before, up to three bytes are left, which have these two bits alone.
    left = next((at for at, byte in enumerate(end[:3]) if byte & 0xC0 != 0x80), 3) if begin else 0
    return end[left:].decode(errors="replace")
