"""A lock on a file of a state directory, which the kernel gives back when its holder ends, however that ends.

What stands in the file is for people: the holder's pid, nothing after an orderly end, and the pid of one that was
killed.  Who really holds it is read from the kernel (proc(5), ``lock`` in fdinfo), so that a pid which belongs to
somebody else by now is never taken for the holder's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

LOCK: Final = "lock"
"""Held by whoever runs the actors of a state directory."""


@attrs.frozen
class Holder:
    """The process that holds a lock."""

    pid: int
    command: str
    """Its arguments, for people."""

    def __str__(self) -> str:
        return f"pid {self.pid}: {self.command}" if self.command else f"pid {self.pid}"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock for the length of a block.

    Raises:
        BlockingIOError: another process holds it.

    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    in_order = False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It is for people alone: a full disk is no reason not to start.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
        in_order = True
        yield
    except Exception:
        in_order = False
        raise
    finally:
        # A cancelled block ends in order too.
        try:
            if in_order:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def holder_of(path: Path) -> Holder | None:
    """Return the process that provably holds the lock, or ``None`` if there is none that this user may look at."""
    try:
        file = path.stat()
    except FileNotFoundError:
        return None
    for pid in _candidates(path):
        with contextlib.suppress(OSError):
            if _holds(pid, file):
                return Holder(pid, _command(pid))
    return None


def is_held(path: Path) -> bool:
    """Tell whether anybody at all holds the lock; who takes it at this very instant may find it taken."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def is_stopped(pid: int) -> bool:
    """Tell whether a signal has stopped a process, which does nothing until it is told to go on; unknown is no."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def noted_pid(path: Path) -> int | None:
    """Return the pid in the file: the holder's, or that of one which was killed; it proves nothing."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _candidates(path: Path) -> Iterator[int]:
    noted = noted_pid(path)
    if noted is not None:
        yield noted
    yield from (int(entry.name) for entry in Path("/proc").glob("[0-9]*") if entry.name != str(noted))


def _holds(pid: int, file: os.stat_result) -> bool:
    process = Path(f"/proc/{pid}")
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if os.path.samestat(descriptor.stat(), file) and _is_locked_by(
                pid, (process / "fdinfo" / descriptor.name).read_text()
            ):
                return True
    return False


def _is_locked_by(pid: int, fdinfo: str) -> bool:
    """Tell whether a description of a descriptor says so; one that a fork shares names the process that locked it."""
    for line in fdinfo.splitlines():
        match line.split():
            case ["lock:", _, "FLOCK", _, "WRITE", holder, *_] if holder == str(pid):
                return True
    return False


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(words).strip()[:200]
