"""A machine's logs: bounded while it runs, and kept for its workspace when it has ended.

QEMU appends to both, what the guest writes to its console and what it has to say itself, and a hostile guest may write
for ever.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

import trio

CONSOLE: Final = "console.log"
QEMU: Final = "qemu.log"
FILES: Final = (CONSOLE, QEMU)
KEPT: Final = "logs"
"""The directory in a workspace's own that has the logs of its last machine."""
KEPT_BYTES: Final = 1024 * 1024
"""What is kept of a log that has grown too long."""
MOST_BYTES: Final = 2 * KEPT_BYTES
LOOK_S: Final = 5.0
"""An emulated serial port takes few megabytes in that time."""


async def bound(directory: Path) -> None:
    """Cut the logs in a machine's directory where they have grown too long."""
    for name in FILES:
        path = directory / name
        # What cannot be cut now, on a host whose disk is full perhaps, can be at another time.
        with contextlib.suppress(OSError):
            if path.stat().st_size > MOST_BYTES:
                await trio.to_thread.run_sync(cut, path)


def cut(path: Path) -> None:
    """Keep the end of a log that QEMU has open for appending, in its place; what is written meanwhile may be lost."""
    with path.open("r+b") as file:
        file.seek(-KEPT_BYTES, os.SEEK_END)
        end = file.read(KEPT_BYTES)
        file.seek(0)
        file.write(end)
        file.truncate()


def put_away(directory: Path, *, keep: bool = True) -> None:
    """Remove the directory of a machine that has ended; if kept, its logs replace those of the one before."""
    with contextlib.suppress(OSError):
        if keep and directory.is_dir():
            _keep(directory, directory.parent.parent / KEPT)
    shutil.rmtree(directory, ignore_errors=True)


def _keep(directory: Path, kept: Path) -> None:
    kept.mkdir(mode=0o700, exist_ok=True)
    for name in FILES:
        source = directory / name
        if not source.exists():
            (kept / name).unlink(missing_ok=True)
            continue
        if source.stat().st_size > MOST_BYTES:
            cut(source)
        source.replace(kept / name)
