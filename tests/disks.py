"""A workspace's disk as one raw file, for tools that know no qcow2; small file systems of a test's own, and full ones.

Format of qcow2: QEMU, docs/interop/qcow2.txt.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from actors.machine.storage.qcow2 import CLUSTER, HEADER, backing_chain, read_header

OFFSET = 0x00FF_FFFF_FFFF_FE00
ZERO = 1
MIB = 2**20


def flatten(layer: Path, target: Path) -> None:
    """Write what a chain of layers over a raw image holds; the machine that uses it has ended."""
    chain = backing_chain(layer)
    bottom = read_header(chain[-1]).backing
    assert bottom is not None
    shutil.copyfile(bottom, target)
    with target.open("r+b") as flat:
        flat.truncate(read_header(layer).virtual_size_bytes)
        for path in reversed(chain):
            data = path.read_bytes()
            fields = HEADER.unpack_from(data)
            l1_entries, l1_offset = fields[7], fields[8]
            for number, entry in enumerate(struct.unpack_from(f">{l1_entries}Q", data, l1_offset)):
                if entry & OFFSET:
                    _copy(data, entry & OFFSET, number * (CLUSTER // 8) * CLUSTER, flat)


def _copy(data: bytes, table: int, start: int, flat: BinaryIO) -> None:
    for number, entry in enumerate(struct.unpack_from(f">{CLUSTER // 8}Q", data, table)):
        if entry:
            at = entry & OFFSET
            flat.seek(start + number * CLUSTER)
            flat.write(bytes(CLUSTER) if entry & ZERO else data[at : at + CLUSTER].ljust(CLUSTER, b"\0"))


@contextmanager
def small_file_system(source: Path, disk: Path, size_mb: int) -> Iterator[Path]:
    """Mount a file system of its own with a directory's content, for the length of a block; only root may.

    A tmpfs would not do: it takes room even for the holes of a RAM image that a machine only reads.
    """
    path = Path(tempfile.mkdtemp(prefix="ai-", dir="/tmp"))
    with disk.open("xb") as file:
        file.truncate(size_mb * MIB)
    try:
        mke2fs = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin:/bin")
        assert mke2fs is not None
        subprocess.run([mke2fs, "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", disk], check=True)
        subprocess.run(["mount", "-o", "loop", disk, path], check=True)
        try:
            subprocess.run(["cp", "-a", "--sparse=always", f"{source}/.", path], check=True)
            yield path
        finally:
            subprocess.run(["umount", path], check=True)
    finally:
        path.rmdir()
        disk.unlink()


@contextmanager
def small_tmpfs(path: Path, size_kb: int) -> Iterator[Path]:
    """Mount a tmpfs at a new directory for the length of a block; only root may."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(state_dir: Path, *, but_mb: int) -> Callable[[], None]:
    """Fill the file system up to a rest and return what frees it again."""
    ballast = state_dir / "ballast"
    facts = os.statvfs(state_dir)
    size = facts.f_bavail * facts.f_frsize - but_mb * MIB
    with ballast.open("xb", buffering=0) as file:
        # Less than wanted fits into one piece, since the file system keeps its own records of it.
        for piece in (64 * MIB, MIB, facts.f_frsize):
            with contextlib.suppress(OSError):
                while os.fstat(file.fileno()).st_blocks * 512 + piece <= size:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, piece)
    return ballast.unlink
