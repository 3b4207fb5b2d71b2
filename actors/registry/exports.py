"""Files outside of the state directory that are being written.

Each is written down before it exists, and removed by whoever finds that it was never finished.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from actors.model.errors import AgentisoError, InvalidArgument
from actors.model.files import make_durable_here, reported
from actors.model.journal import DamagedJournal, Intent, Journal, Kind
from actors.model.names import new_id

DIRECTORY: Final = "exports"
PART: Final = ".part"
"""How the name of a file ends that is being written."""
SHOWN_BYTES: Final = 80
"""How much a half-written file's name has of the name that it gets, which may be as long as a name can be."""
ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
LINKLESS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What a file system that knows no hard links answers: FAT and exFAT the first."""
AT_FDCWD, RENAME_NOREPLACE = -100, 1
_libc = ctypes.CDLL(None, use_errno=True)
log = logging.getLogger("agentiso.registry")


class Exports:
    """Those of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / DIRECTORY
        self._journal = Journal(self._directory)
        self._writing = threading.Lock()
        self._under_way: set[str] = set()

    @contextmanager
    def file(self, target: Path) -> Iterator[int]:
        """Yield the descriptor of a new file that has the name ``target`` once the block is over, in any thread.

        If the block fails, there is no such file.  What cannot be removed, or written down, at the end, or since this
        process ends before, is left to the next `finish`.

        Raises:
            InvalidArgument: there is something of that name, or it cannot be told in time.
            HostFailed, NoCapacity, OSError: it cannot be written.

        """
        target, number = target.absolute(), new_id()
        part = target.with_name(f".{_cut(target.name)}.{number[:8]}{PART}")
        facts, whole = {"path": str(part)}, False
        self._under_way.add(number)
        try:
            self._will(number, facts)
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                facts["file"] = _identity(os.fstat(fd))
                self._will(number, facts)
                yield fd
                os.fsync(fd)
            finally:
                os.close(fd)
            _give_name(part, target, facts["file"])
            whole = True
        finally:
            self._under_way.discard(number)
            with contextlib.suppress(AgentisoError, OSError):
                self._finish(Intent(Kind.EXPORT, number, facts), whole=whole)

    def finish(self) -> None:
        """Remove what is left of exports that are not under way any more; one that cannot be keeps no other.

        Raises:
            HostFailed, NoCapacity, DamagedJournal: that cannot be done, or not be known.

        """
        failure: AgentisoError | None = None
        for intent in [each for each in self._intents() if each.name not in self._under_way]:
            try:
                self._finish(intent)
            except (AgentisoError, OSError) as error:
                failure = reported(error) if isinstance(error, OSError) else error
        if failure is not None:
            raise failure

    def _intents(self) -> tuple[Intent, ...]:
        try:
            return self._journal.intents()
        except DamagedJournal as error:
            remedy = f"Mend it, or move it away; half-written files, named .*{PART}, may be left beside their targets."
            raise DamagedJournal(error.message, remedy=remedy) from error

    def _finish(self, intent: Intent, *, whole: bool = False) -> None:
        if _remove_part(intent) and not whole:
            log.info("removed %s, an export that was not finished", intent.facts["path"])
        with self._writing:
            self._journal.gone(Kind.EXPORT, intent.name)
            self._journal.tidy()

    def _will(self, number: str, facts: dict[str, str]) -> None:
        with self._writing:
            self._directory.mkdir(exist_ok=True, mode=0o700)
            self._journal.will(Kind.EXPORT, number, **facts)
        make_durable_here(self._journal.path)


def _cut(name: str) -> str:
    """Return as much of a name as is shown, of whole characters."""
    return os.fsencode(name)[:SHOWN_BYTES].decode(errors="ignore")


def _identity(facts: os.stat_result) -> str:
    return f"{facts.st_dev}:{facts.st_ino}"


def _give_name(part: Path, target: Path, file: str) -> None:
    """Give a whole file its name, on stable storage, or no name; nothing is replaced that has come meanwhile."""
    try:
        try:
            target.hardlink_to(part)
        except OSError as error:
            if error.errno not in LINKLESS:
                raise
            _rename(part, target)
    except FileExistsError as error:
        raise InvalidArgument(
            f"{target} was made by somebody else meanwhile.", remedy="Choose another file."
        ) from error
    try:
        make_durable_here(target)
    except BaseException:
        # Whoever is told that it failed, and tries again, finds the name free.
        with contextlib.suppress(OSError):
            if _identity(target.lstat()) == file:
                target.unlink()
        raise


def _rename(part: Path, target: Path) -> None:
    """Rename a file, unless there is something of its new name, which the kernel alone can look at in the same step."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(part), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE) == 0:
        return
    if (number := ctypes.get_errno()) != errno.EINVAL:
        raise OSError(number, os.strerror(number), str(target))
    raise InvalidArgument(
        f"The file system of {target} has no way to name a file without replacing what may come meanwhile.",
        remedy="Export to another directory and copy the file.",
    )


def _remove_part(intent: Intent) -> bool:
    """Remove a file's provisional name if it is of what was written, and of nothing that has it since; tell whether."""
    path = Path(intent.facts.get("path", ""))
    try:
        facts = path.lstat()
    except ValueError:
        # No path, and so nothing that was written here.
        return False
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return False
    # Its name was chosen at random; before it was known which file that is, nothing was written to it.
    mine = _identity(facts) == intent.facts["file"] if "file" in intent.facts else facts.st_size == 0
    if not (stat.S_ISREG(facts.st_mode) and path.name.endswith(PART) and mine):
        return False
    path.unlink(missing_ok=True)
    return True
