"""Files outside of the state directory that are being written.

Each is written down before it exists, and removed by whoever finds that it was never finished.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from actors.model.errors import InvalidArgument
from actors.model.files import failures_reported, make_durable_here
from actors.model.journal import Intent, Journal, Kind
from actors.model.names import new_id

DIRECTORY: Final = "exports"
PART: Final = ".part"
"""How the name of a file ends that is being written."""
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

        If the block fails, there is no such file; if this process ends meanwhile, the next `finish` removes it.

        Raises:
            InvalidArgument: there is something of that name.
            OSError: it cannot be written.

        """
        number = new_id()
        part = target.with_name(f".{target.name[:100]}.{number[:8]}{PART}")
        self._under_way.add(number)
        try:
            self._will(number, path=str(part))
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                self._will(number, path=str(part), file=_identity(os.fstat(fd)))
                yield fd
                os.fsync(fd)
            finally:
                os.close(fd)
            # Unlike a rename, this replaces nothing that has come meanwhile.
            target.hardlink_to(part)
            make_durable_here(target)
        except FileExistsError as error:
            raise InvalidArgument(
                f"{target} was made by somebody else meanwhile.", remedy="Choose another file."
            ) from error
        finally:
            self._under_way.discard(number)
            part.unlink(missing_ok=True)
            self._gone(number)

    def finish(self) -> None:
        """Remove what is left of exports that are not under way any more.

        Raises:
            HostFailed, NoCapacity, DamagedJournal: that cannot be done, or not be known.

        """
        for intent in [each for each in self._journal.intents() if each.name not in self._under_way]:
            with failures_reported():
                _remove_part(intent)
                self._gone(intent.name)

    def _will(self, number: str, **facts: str) -> None:
        with self._writing:
            self._directory.mkdir(exist_ok=True, mode=0o700)
            self._journal.will(Kind.EXPORT, number, **facts)
        make_durable_here(self._journal.path)

    def _gone(self, number: str) -> None:
        with self._writing:
            self._journal.gone(Kind.EXPORT, number)
            self._journal.tidy()


def _identity(facts: os.stat_result) -> str:
    return f"{facts.st_dev}:{facts.st_ino}"


def _remove_part(intent: Intent) -> None:
    """Remove a half-written file if it is the one that was written, and nothing that has its name since."""
    path = Path(intent.facts.get("path", ""))
    try:
        facts = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    # Its name was chosen at random; before it was known which file that is, nothing was written to it.
    mine = _identity(facts) == intent.facts["file"] if "file" in intent.facts else facts.st_size == 0
    if stat.S_ISREG(facts.st_mode) and path.name.endswith(PART) and mine:
        path.unlink(missing_ok=True)
        log.info("removed %s, an export that was not finished", path)
