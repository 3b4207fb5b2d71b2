"""A journal of intents: what is about to be, so that it is found again whatever ends meanwhile.

``will`` is written before a resource exists, ``made`` once something else that is kept names it, ``gone`` once it is
removed or was never made.  Whoever finds a workspace again finishes or undoes what is still intended.  It is appended
to, one line of JSON a fact, and begun anew when nothing is intended any more.

Not all kinds need a line: machines, checkpoints, imports and forwards are found by looking (processes, directories,
QEMU's own list), which costs a start nothing.
"""

from __future__ import annotations

import enum
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from actors.model.errors import AgentisoError
from actors.model.files import failures_reported, make_durable

JOURNAL: Final = "journal"
MAX_BYTES: Final = 4 * 1024 * 1024
"""A journal that is longer was not written by us."""
FRESH_BYTES: Final = 16 * 1024
"""Beyond it a journal without intents is begun anew."""


class Kind(enum.StrEnum):
    """What can be intended."""

    LAYER = "layer"
    """A running machine's disk goes on on this layer; ``over`` has the one before."""
    EXPORT = "export"
    """A file outside the state directory is being written: ``path``; once it exists ``file`` tells which it is."""
    DESTROY = "destroy"
    """The workspace is being destroyed."""


@attrs.frozen
class Intent:
    """Something that was about to be when the last line was written."""

    kind: Kind
    name: str
    facts: Mapping[str, str]


class DamagedJournal(AgentisoError):
    """A journal cannot be read, or holds what we never write; what it may speak of is left alone."""

    code = "damaged_journal"
    usual_remedy = (
        "The workspace is left alone, its machine too. Mend what keeps the file from being read; or, to forget the "
        "workspace, end its machine and move its directory away."
    )


class Journal:
    """The journal in one directory.  Its owner is the only one that appends to it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / JOURNAL

    def will(self, kind: Kind, name: str, **facts: str) -> None:
        """Write down what is about to be; it survives this process, and a power loss once `flush` has returned.

        Raises:
            NoCapacity: the host's disk is full.
            OSError: it cannot be written.

        """
        self._append({"do": "will", "kind": kind, "name": name, **facts})

    def made(self, kind: Kind, name: str) -> None:
        """Write down that something else names it by now."""
        self._append({"do": "made", "kind": kind, "name": name})

    def gone(self, kind: Kind, name: str) -> None:
        """Write down that it is not there, or not any more."""
        self._append({"do": "gone", "kind": kind, "name": name})

    async def flush(self, *others: Path) -> None:
        """Wait until the journal, and other files, are on stable storage."""
        await make_durable(self.path, *others)

    def intents(self) -> tuple[Intent, ...]:
        """Return what was intended and neither made nor given up, in that order.

        A last line that was cut off does not count: whoever writes one waits for it before anything follows.

        Raises:
            DamagedJournal: it cannot be read, or a line before the last is damaged.

        """
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise DamagedJournal(f"{self.path} has more than {MAX_BYTES} bytes.")
            whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise DamagedJournal(f"{self.path} cannot be read: {error.strerror}.") from error
        found: dict[tuple[Kind, str], Intent] = {}
        for line in whole.split(b"\n") if whole else ():
            done, intent = self._parse(line)
            found.pop((intent.kind, intent.name), None)
            if done == "will":
                found[intent.kind, intent.name] = intent
        return tuple(found.values())

    def _parse(self, line: bytes) -> tuple[str, Intent]:
        try:
            fact = {str(key): str(value) for key, value in dict(json.loads(line)).items()}
            done, kind, name = fact.pop("do"), Kind(fact.pop("kind")), fact.pop("name")
            if done not in ("will", "made", "gone"):
                raise ValueError(done)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedJournal(f"{self.path} has a line that is none of a journal's: {error!r:.200}.") from error
        return done, Intent(kind, name, fact)

    def _append(self, fact: dict[str, Any]) -> None:
        line = json.dumps(fact).encode() + b"\n"
        with failures_reported():
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    # Whoever wrote the last line was ended within it.
                    size = os.pread(fd, size, 0).rfind(b"\n") + 1
                    os.ftruncate(fd, size)
                if os.write(fd, line) != len(line):
                    os.ftruncate(fd, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            finally:
                os.close(fd)

    def tidy(self) -> None:
        """Begin anew if the journal is long and nothing is intended; errors as of `intents`."""
        if self.path.exists() and self.path.stat().st_size > FRESH_BYTES and not self.intents():
            self.path.unlink()
