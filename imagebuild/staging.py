"""Scratch directories of builds: gone when the build is, whoever owns the files a tool left in them.

A build that was killed leaves its directory; the next build finds by the lock that nobody uses it, and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PREFIX: Final = ".staging-"
LOCK: Final = "lock"
REMOVE_LIMIT_S: Final = 120.0


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """Make a directory in ``parent`` for the block, after removing those of builds that are no more."""
    for left in parent.glob(f"{PREFIX}*"):
        _remove_if_unused(left)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    directory.chmod(0o755)
    try:
        with (directory / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
    finally:
        remove(directory)


def _remove_if_unused(directory: Path) -> None:
    try:
        with (directory / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(directory)
    except OSError:
        # In use, or another user's: neither is ours to remove.
        return


def remove(directory: Path) -> None:
    """Remove a directory, also one with files of the subordinate users under which mmdebstrap worked."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists() and os.geteuid() != 0:
        # mmdebstrap(1): --unshare-helper runs a command in the same user namespace as its builds.
        subprocess.run(
            ["mmdebstrap", "--unshare-helper", "rm", "-rf", str(directory)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=REMOVE_LIMIT_S, check=False,
        )  # fmt: skip
        shutil.rmtree(directory, ignore_errors=True)
