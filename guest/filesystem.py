"""The root file system as a whole: written out, held, let go, grown.  Sources: syncfs(2), ioctl_fs(2), ext4's own."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time
from typing import Final

ROOT: Final = "/"
FIFREEZE: Final = 0xC0045877
FITHAW: Final = 0xC0045878
EXT4_IOC_RESIZE_FS: Final = 0x40086610
DISK_WAIT_S: Final = 10.0
"""How long the kernel may take to hear of a disk's new size; it is told by an interrupt."""
DISK_LOOK_S: Final = 0.001


def write_out() -> None:
    """Write the root file system's data to its disk, and no other's: one that a frozen process serves would never end.

    Raises:
        OSError: the disk does not take it.

    """
    fd = os.open(ROOT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), ROOT)
    finally:
        os.close(fd)


def quiesce() -> None:
    """Write everything to the disk, journal included, and take no writes until `thaw`."""
    _control(FIFREEZE, struct.pack("i", 0), tolerated=errno.EBUSY)


def thaw() -> None:
    """Take writes again; no-op if nothing was held."""
    _control(FITHAW, struct.pack("i", 0), tolerated=errno.EINVAL)


def grow(expected_bytes: int) -> int:
    """Grow the file system, mounted, to a disk of so many bytes, and return its size in bytes (ext4 only).

    Raises:
        OSError: the kernel does not learn of the disk's size, or cannot grow this file system.

    """
    deadline = time.monotonic() + DISK_WAIT_S
    while (disk_bytes := _disk_bytes()) < expected_bytes:
        if time.monotonic() > deadline:
            raise OSError(errno.ETIMEDOUT, f"the disk has {disk_bytes} bytes, not {expected_bytes}")
        time.sleep(DISK_LOOK_S)
    _control(EXT4_IOC_RESIZE_FS, struct.pack("Q", disk_bytes // os.statvfs(ROOT).f_frsize))
    facts = os.statvfs(ROOT)
    return facts.f_blocks * facts.f_frsize


def _disk_bytes() -> int:
    device = os.stat(ROOT).st_dev
    with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/size") as file:
        return int(file.read()) * 512


def _control(request: int, argument: bytes, *, tolerated: int | None = None) -> None:
    fd = os.open(ROOT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno != tolerated:
            raise
    finally:
        os.close(fd)
