"""The audit log: one line of JSON for each call, with what is secret left out.

A call is that of a tool, a resource that is read, a live connection of the command line, or what an attached program
asks for.  Its line says who did what to which workspace, how it ended and how long it took.  File contents, input,
environment values and credentials in addresses never reach it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from actors.model.errors import AgentisoError
from actors.model.settings import Audit
from agentiso.protocol.sessions import Client

log = logging.getLogger("agentiso.access.audit")
FILE: Final = "audit.log"
FIELDS: Final = frozenset(
    {
        "time", "session", "transport", "tool", "workspace_id", "workspace", "outcome", "duration_ms", "arguments",
    }
)  # fmt: skip
"""Of a line."""
MAX_TEXT_CHARS: Final = 200
MAX_ITEMS: Final = 20
MAX_DEPTH: Final = 4
HIDDEN: Final = "***"
UNEXPECTED: Final = "internal_error"
"""How a call ended that failed as nobody has foreseen; the daemon's log has the rest."""
SECRET_NAME: Final = re.compile(r"token|secret|passw|api_?key|credential|authorization|private", re.IGNORECASE)
BULK: Final = frozenset(
    {
        "body", "content", "data", "diff", "input", "message", "new", "new_string", "new_text", "old", "old_string",
        "old_text", "patch", "prompt", "stdin", "text", "value",
    }
)  # fmt: skip
"""Arguments of which only the size is told."""
_ASSIGNED: Final = r"((?:token|key|secret|passw\w*|credential|authorization)\w*['\"]?\s*[=:]\s*['\"]?)"
SECRETS: Final = (
    (re.compile(r"(?<=://)[^/\s@]+(?=@)"), HIDDEN),
    (re.compile(_ASSIGNED + r"(?!bearer|basic)[^\s&'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer|basic)\s+[^\s'\"]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA)[A-Za-z0-9_-]{8,}"), HIDDEN),
)
"""What shows that a part of a text is a secret: a place in an address, a name before it, a known beginning."""


@attrs.define
class Entry:
    """One call, as far as it is known."""

    workspace_id: str | None = None
    workspace: str | None = None
    """Its name."""
    outcome: str = ""
    """``ok``, ``cancelled``, the code of the error, or ``internal_error``."""

    def about(self, workspace_id: str, name: str) -> None:
        """Note which workspace the call is about."""
        self.workspace_id, self.workspace = workspace_id, name


class AuditLog:
    """A file of the state directory that only its user can read; when it is full, it is put aside."""

    def __init__(self, state_dir: Path, settings: Audit) -> None:
        self._path = state_dir / FILE
        self._settings = settings

    @contextmanager
    def call(self, client: Client, tool: str, arguments: Mapping[str, Any]) -> Iterator[Entry]:
        """Write a line about a call when it is over; how it ended is told by the block unless the entry has it."""
        began, entry = time.perf_counter(), Entry()
        try:
            yield entry
            entry.outcome = entry.outcome or "ok"
        except AgentisoError as error:
            entry.outcome = error.code
            raise
        except Exception:
            entry.outcome = UNEXPECTED
            raise
        finally:
            self._write(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "session": client.session,
                    "transport": client.transport,
                    "tool": tool[:MAX_TEXT_CHARS],
                    "workspace_id": entry.workspace_id,
                    "workspace": entry.workspace,
                    "outcome": entry.outcome or "cancelled",
                    "duration_ms": round((time.perf_counter() - began) * 1000, 1),
                    "arguments": summary(arguments),
                }
            )

    def _write(self, line: dict[str, Any]) -> None:
        """Append a line; a call does not fail because it cannot be written down, but the daemon's log says so."""
        data = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        try:
            self._rotate(len(data))
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    # A part of a line is all that had room then; this one is whole.
                    data = b"\n" + data
                while data:
                    data = data[os.write(fd, data) :]
            finally:
                os.close(fd)
        except OSError as error:
            log.error("a call could not be written to %s: %s", self._path, error)

    def _rotate(self, coming: int) -> None:
        if not self._path.exists() or self._path.stat().st_size + coming <= self._settings.max_mb * 1024 * 1024:
            return
        for number in range(self._settings.keep, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        # With none to keep it was not moved.
        self._path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{FILE}.{number}") if number else self._path


@attrs.frozen
class Tail:
    """The last calls of a log."""

    lines: list[dict[str, Any]]
    skipped: int
    """How many lines among them are none: a full disk, or a loss of power, has left only a part."""


def read_last(state_dir: Path, count: int) -> Tail:
    """Return the last lines of the log, oldest first, those put aside included.

    Raises:
        OSError: it cannot be read.

    """
    lines: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        numbered = [path for path in state_dir.iterdir() if path.match(f"{FILE}.[0-9]*")]
        for path in [*sorted(numbered, key=lambda path: -int(path.suffix[1:])), state_dir / FILE]:
            lines += path.read_text(errors="replace").splitlines()
            lines = lines[-count:] if count else []
    found = [line for line in map(_parsed, lines) if line is not None]
    return Tail(found, len(lines) - len(found))


def _parsed(line: str) -> dict[str, Any] | None:
    """Return a line of the log, or ``None`` if it is none, or not whole."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() >= FIELDS else None


def fields_of(message: Any) -> dict[str, Any]:
    """Return the fields of an attrs object by name."""
    return {field.name: getattr(message, field.name) for field in attrs.fields(type(message))}


def summary(arguments: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return arguments as they may be written down: short, and without what is secret."""
    few = list(arguments.items())[:MAX_ITEMS]
    return {str(name)[:MAX_TEXT_CHARS]: _shown(str(name), value, depth) for name, value in few}


def _shown(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if SECRET_NAME.search(name) or depth > MAX_DEPTH:
        return HIDDEN
    match value:
        case str() if name in BULK:
            return f"<{len(value)} characters>"
        case str():
            return _redacted(value)
        case dict():
            # Environments and headers: the names are told, the values are not.
            return {str(key)[:MAX_TEXT_CHARS]: HIDDEN for key in list(value)[:MAX_ITEMS]}
        case bytes():
            return f"<{len(value)} bytes>"
        case Path():
            return _redacted(str(value))
        case list() | tuple():
            return [
                summary(inner, depth + 1) if isinstance(inner, dict) else _shown(name, inner, depth + 1)
                for inner in value[:MAX_ITEMS]
            ]
    return summary(fields_of(value), depth + 1) if attrs.has(type(value)) else HIDDEN


def _redacted(text: str) -> str:
    # Cut first, with room for what a cut secret would still show.
    shown = text[: 4 * MAX_TEXT_CHARS]
    for pattern, instead in SECRETS:
        shown = pattern.sub(instead, shown)
    return shown if len(shown) <= MAX_TEXT_CHARS else shown[:MAX_TEXT_CHARS] + f"... ({len(text)} characters)"
