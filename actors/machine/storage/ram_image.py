"""RAM images: immutable files of guest memory, and the pages a machine has changed since it mapped one.

QEMU maps the image privately, so what it changes becomes anonymous memory of its process, which the kernel tells
apart from the file's pages (kernel: admin-guide/mm/pagemap).
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Final, Self

import attrs

from actors.model.errors import HostUnfit, MachineFailed

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
FICLONE: Final = 0x40049409
PAGEMAP_SCAN: Final = 0xC0606610
PAGE_IS_FILE: Final = 1 << 2
PAGE_IS_PRESENT: Final = 1 << 3
PAGE_IS_SWAPPED: Final = 1 << 4
PAGE_IS_PFNZERO: Final = 1 << 5
PRESENT: Final = 1 << 63
SWAPPED: Final = 1 << 62
FILE_OR_SHARED: Final = 1 << 61
SCAN_REGIONS: Final = 4096
MAX_BUFFER_BYTES: Final = 256 * 1024 * 1024
"""Beyond this, changed memory is written out during the pause."""
SPARE_BYTES: Final = 4 * 1024 * 1024
"""Room for what a machine changes between the estimate and the pause, beyond a quarter of the estimate."""
MAX_VECTORS: Final = 1024
"""IOV_MAX of Linux (readv(2))."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = [
    *(ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
]
_REGION = struct.Struct("QQQ")
_SCAN = struct.Struct("12Q")


@attrs.frozen
class RamMapping:
    """Where a process maps a RAM image: addresses in bytes, in the file's order without gaps."""

    start: int
    size: int


def create_zero(path: Path, size_bytes: int) -> None:
    """Create the image of a machine that has not run: a hole."""
    with path.open("xb") as file:
        file.truncate(size_bytes)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy an image, by reference where the file system can, else its data without its holes."""
    with source.open("rb") as old, target.open("xb") as new:
        os.fchmod(new.fileno(), 0o600)
        try:
            fcntl.ioctl(new, FICLONE, old.fileno())
        except OSError:
            size = os.fstat(old.fileno()).st_size
            os.ftruncate(new.fileno(), size)
            _copy_extents(old.fileno(), new.fileno(), size)


def _copy_extents(old: int, new: int, size: int) -> None:
    position = 0
    while position < size:
        try:
            position = os.lseek(old, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(old, position, os.SEEK_HOLE)
        while position < end:
            copied = os.copy_file_range(old, new, end - position, position, position)
            if not copied:
                raise MachineFailed("A RAM image shrank while it was copied.")
            position += copied


def find_mapping(pid: int, path: Path) -> RamMapping:
    """Find where a process maps a file.

    Raises:
        MachineFailed: it does not, or not in one piece.

    """
    facts = path.stat()
    device = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}"
    pieces = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, _, file_offset, where, inode, *_ = line.split(maxsplit=5)
        if where == device and int(inode) == facts.st_ino:
            first, last = addresses.split("-")
            pieces.append((int(file_offset, 16), int(first, 16), int(last, 16)))
    pieces.sort()
    if not pieces:
        raise MachineFailed(f"Process {pid} does not map {path}.")
    base = pieces[0][1] - pieces[0][0]
    expected = base
    for offset, start, end in pieces:
        if start != expected or start - offset != base:
            raise MachineFailed(f"Process {pid} maps {path} in scattered pieces.")
        expected = end
    return RamMapping(base, expected - base)


class ChangedMemory:
    """The pages a process has changed of an image it maps: read while the machine stands still, written afterwards.

    Everything that may be done before the pause is done by the constructor; `read` is what costs in it.

    Raises:
        HostUnfit: this user may not look into the process.
        MachineFailed: the process does not map the image.

    """

    def __init__(self, pid: int, image: Path, target: int) -> None:
        self._mapping = find_mapping(pid, image)
        self._target = target
        self._ranges: list[tuple[int, int]] = []
        self._pid = pid
        self._pagemap = _open_pagemap(pid)
        try:
            expected = sum(length for _, length in self._changed_ranges())
            size = min(MAX_BUFFER_BYTES, expected + expected // 4 + SPARE_BYTES)
            # Populated now: page faults in the pause would cost as much as the copy.
            self._buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        except BaseException:
            os.close(self._pagemap)
            raise
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._buffer.close()
        os.close(self._pagemap)

    def read(self) -> int:
        """Read the changed pages of the machine, which stands still, and return how many bytes they are."""
        ranges = self._changed_ranges()
        total = sum(length for _, length in ranges)
        if total <= len(self._buffer):
            self._fetch(ranges)
            return total
        filled = 0
        batch: list[tuple[int, int]] = []
        for start, length in ranges:
            offset, end = start, start + length
            while offset < end:
                if filled == len(self._buffer):
                    self._fetch(batch)
                    self.write()
                    batch, filled = [], 0
                piece = min(end - offset, len(self._buffer) - filled)
                batch.append((offset, piece))
                offset, filled = offset + piece, filled + piece
        self._fetch(batch)
        return total

    def _fetch(self, batch: list[tuple[int, int]]) -> None:
        """Read ranges into the buffer, one after the other from its start."""
        base, position = self._mapping.start, 0
        for first in range(0, len(batch), MAX_VECTORS):
            part = batch[first : first + MAX_VECTORS]
            size = sum(length for _, length in part)
            remote = array.array("Q", bytes(16 * len(part)))
            remote[0::2] = array.array("Q", [base + offset for offset, _ in part])
            remote[1::2] = array.array("Q", [length for _, length in part])
            local = array.array("Q", [self._address + position, size])
            got = _libc.process_vm_readv(self._pid, local.buffer_info()[0], 1, remote.buffer_info()[0], len(part), 0)
            if got != size:
                reason = os.strerror(ctypes.get_errno()) if got < 0 else f"{got} of {size} bytes were read"
                raise MachineFailed(f"The machine's changed memory could not be read: {reason}.")
            position += size
        self._ranges = batch

    def write(self) -> None:
        """Write what was read to the target; in a pause only when there is more than the buffer holds."""
        position = 0
        with memoryview(self._buffer) as view:
            for offset, length in self._ranges:
                done = 0
                while done < length:
                    with view[position + done : position + length] as piece:
                        done += os.pwrite(self._target, piece, offset + done)
                position += length
        self._ranges.clear()

    def _changed_ranges(self) -> list[tuple[int, int]]:
        """Return the (offset, length) of the changed pages, in bytes, ascending."""
        try:
            return _scan(self._pagemap, self._mapping)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
            return _read_pagemap(self._pagemap, self._mapping)


def _open_pagemap(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise HostUnfit(
            f"This user may not read the memory of its own QEMU process {pid}.",
            remedy="Run as root, or set the sysctl kernel.yama.ptrace_scope to 0.",
        ) from error


def _scan(fd: int, mapping: RamMapping) -> list[tuple[int, int]]:
    """Ask the kernel (PAGEMAP_SCAN, Linux 6.7 and later)."""
    regions = ctypes.create_string_buffer(SCAN_REGIONS * _REGION.size)
    ranges: list[tuple[int, int]] = []
    start, end = mapping.start, mapping.start + mapping.size
    inverted = PAGE_IS_FILE | PAGE_IS_PFNZERO
    while start < end:
        # struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages, then four masks.
        request = bytearray(
            _SCAN.pack(
                *(_SCAN.size, 0, start, end, 0, ctypes.addressof(regions), SCAN_REGIONS, 0),
                *(inverted, inverted, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, 0),
            )
        )
        found = fcntl.ioctl(fd, PAGEMAP_SCAN, request)
        raw = memoryview(regions)[: found * _REGION.size]
        ranges += [(first - mapping.start, last - first) for first, last, _ in _REGION.iter_unpack(raw)]
        start = _SCAN.unpack(request)[4]
    return ranges


def _read_pagemap(fd: int, mapping: RamMapping) -> list[tuple[int, int]]:
    """Read the page map's entries, on kernels that cannot be asked."""
    entries = array.array("Q")
    entries.frombytes(os.pread(fd, mapping.size // PAGE * 8, mapping.start // PAGE * 8))
    ranges: list[tuple[int, int]] = []
    for number, entry in enumerate(entries):
        if entry & (PRESENT | SWAPPED) and not entry & FILE_OR_SHARED:
            if ranges and sum(ranges[-1]) == number * PAGE:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + PAGE)
            else:
                ranges.append((number * PAGE, PAGE))
    return ranges
