"""State directories of one run, as of a demonstration or a benchmark: all in them goes at its end.

A run that is killed leaves machines that no supervisor would ever look for.  The next run finds the directory, proves
by its lock that its owner has ended, and destroys what is in it.  A directory stays as long as a machine runs there.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

import imagebuild
from actors.machine.qemu.orphans import end_machines
from actors.machine.qemu.process import find_machines
from actors.model.errors import AgentisoError
from actors.model.settings import Pool, Settings
from actors.registry.places import KNOWN
from agentiso.library.opening import open_system
from agentiso.library.workspace import destroy_all

PREFIX: Final = "agentiso-run-"
OWNER: Final = "owner.lock"
"""Held by the run that the directory belongs to."""
CLEAR_LIMIT_S: Final = 120.0
log: Final = logging.getLogger("agentiso.library")


@asynccontextmanager
async def open_scratch(settings: Settings) -> AsyncIterator[Settings]:
    """Yield the settings with a state directory that goes at the end; those that killed runs have left go first."""
    for left in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        if (fd := _take_over(left)) is not None:
            try:
                await _clear(settings, left, left=True)
            finally:
                os.close(fd)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    with _owned(directory):
        try:
            yield attrs.evolve(settings, state_dir=directory, images_dir=settings.images)
        finally:
            await _clear(settings, directory, left=False)


@contextmanager
def _owned(directory: Path) -> Iterator[None]:
    # It gets its name once it is locked: before that nobody may take the owner for dead.
    new = directory / f".{OWNER}"
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(directory / OWNER)
        yield
    finally:
        os.close(fd)


def _take_over(directory: Path) -> int | None:
    """Return the lock of a directory of this user's whose run provably has ended, otherwise ``None``."""
    try:
        facts = directory.lstat()
        if facts.st_uid != os.geteuid() or not stat.S_ISDIR(facts.st_mode):
            return None
        fd = os.open(directory / OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        # It has no owner yet, or is no such directory.
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Held by the run that uses it, or by one that clears it.
        os.close(fd)
        return None
    return fd


async def _clear(settings: Settings, directory: Path, *, left: bool) -> None:
    """Destroy what is in a directory, with all that was ``left`` by a run that was killed, and remove it."""
    with trio.CancelScope(shield=not left, deadline=trio.current_time() + CLEAR_LIMIT_S) as limit:
        try:
            if left:
                await _destroy_workspaces(settings, directory)
            await end_machines(directory, directory)
            await trio.to_thread.run_sync(_remove, settings, directory)
        except (AgentisoError, OSError, ExceptionGroup) as error:
            log.warning("%s stays until the next run: %s", directory, error)
    if limit.cancelled_caught:
        log.warning("%s stays until the next run: all that took longer than %.0f s", directory, CLEAR_LIMIT_S)


async def _destroy_workspaces(settings: Settings, directory: Path) -> None:
    """Destroy workspaces as only a supervisor can, with all that they have of the host."""
    for state_dir in _state_dirs(directory):
        own = attrs.evolve(settings, state_dir=state_dir, images_dir=settings.images, pool=Pool())
        async with open_system(own) as system:
            await destroy_all(*[await system.get(info.workspace_id) for info in await system.list()])


def _state_dirs(directory: Path) -> list[Path]:
    """Return the state directories of a run: some of a benchmark's rows have their own."""
    return [directory, *(known.parent for known in directory.glob(f"*/{KNOWN}"))]


def _remove(settings: Settings, directory: Path) -> None:
    for identity, machine in find_machines(directory):
        raise AgentisoError(f"QEMU's process {identity.pid} runs in {machine}.")
    for state_dir in _state_dirs(directory):
        imagebuild.forget_user(settings.images, state_dir)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != OWNER:
            path.unlink()
    # Until here the next run would go on with it.
    shutil.rmtree(directory)
