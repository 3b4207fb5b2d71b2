"""Durable small files: JSON records that are wholly there or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import trio

MAX_RECORD_BYTES = 8 * 1024 * 1024
"""A record larger than this was not written by us."""


def replace_json(path: Path, value: Any) -> None:
    """Replace a record atomically (temporary file, rename); a crash of this process loses nothing.

    Power loss may; `make_durable` waits until the record would survive that too.
    """
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
    temporary.rename(path)


def read_json(path: Path) -> Any:
    """Read a record.

    Raises:
        ValueError: it is not JSON, or too large to be a record.
        OSError: it cannot be read.

    """
    if path.stat().st_size > MAX_RECORD_BYTES:
        raise ValueError(f"{path} is larger than {MAX_RECORD_BYTES} bytes")
    return json.loads(path.read_bytes())


async def make_durable(*paths: Path) -> None:
    """Flush files, and the directories that name them, to stable storage."""
    await trio.to_thread.run_sync(_fsync_all, paths)


def _fsync_all(paths: tuple[Path, ...]) -> None:
    for path in (*paths, *{path.parent for path in paths}):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def tail(path: Path, max_bytes: int = 4096) -> str:
    """Return the end of a log as text; an absent log is empty."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            return file.read(max_bytes).decode(errors="replace")
    except FileNotFoundError:
        return ""
