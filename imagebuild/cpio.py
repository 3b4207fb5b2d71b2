"""A writer of newc cpio archives, the format of a Linux initramfs (kernel: driver-api/early-userspace)."""

from __future__ import annotations

import stat
from pathlib import Path

import attrs

TRAILER = "TRAILER!!!"


@attrs.frozen
class Entry:
    """A directory (``data`` is ``None``) or a file."""

    path: str
    data: bytes | None = None
    mode: int = 0o755


def write_archive(target: Path, entries: list[Entry]) -> None:
    """Write entries in the given order; equal entries give equal bytes."""
    with target.open("wb") as file:
        for number, entry in enumerate([*entries, Entry(TRAILER, b"", 0)], start=1):
            kind = stat.S_IFDIR if entry.data is None else stat.S_IFREG
            mode = 0 if entry.path == TRAILER else kind | entry.mode
            data = entry.data or b""
            name = entry.path.encode() + b"\0"
            fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
            header = b"070701" + b"".join(b"%08X" % field for field in fields)
            file.write(_padded(header + name) + _padded(data))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
