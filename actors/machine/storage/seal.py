"""Whether a checkpoint's files are still what was written: a seal that costs nothing, a digest that reads everything.

The seal is the files' sizes and times of change, which nobody but the system administrator can set back: it shows
that a QEMU before 8.2, which opens its RAM image for writing, has written to it.  The digest tells whether the contents
are still the same, be it after a copy, which has another seal, or after the disk has decayed.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Final

FILES: Final = ("ram", "devices")
BLOCK_BYTES: Final = 64 * 1024
_ZEROS: Final = bytes(BLOCK_BYTES)


def seal_of(directory: Path) -> str:
    """Return the seal of a checkpoint's files.

    Raises:
        OSError: one is missing.

    """
    facts = [(directory / name).stat() for name in FILES]
    return " ".join(f"{fact.st_size}:{fact.st_mtime_ns}:{fact.st_ctime_ns}" for fact in facts)


def digest_of(directory: Path) -> str:
    """Return a SHA-256 over the contents of a checkpoint's files, whatever their holes; takes a while."""
    digest = hashlib.sha256()
    for name in FILES:
        with (directory / name).open("rb", buffering=0) as file:
            digest.update(f"{name} {os.fstat(file.fileno()).st_size}\n".encode())
            _add_data(digest, file.fileno())
    return digest.hexdigest()


def _add_data(digest: hashlib._Hash, fd: int) -> None:
    """Add every block that is not all zeros, with its place: a copy may have other holes, and is as good."""
    position, size = 0, os.fstat(fd).st_size
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        position = max(position, start - start % BLOCK_BYTES)
        while position < end:
            block = os.pread(fd, BLOCK_BYTES, position)
            if block != _ZEROS[: len(block)]:
                digest.update(position.to_bytes(8, "big") + block)
            position += BLOCK_BYTES
