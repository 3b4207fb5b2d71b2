"""The root file system as a whole: written out and held, let go, grown.  Sources: ioctl_fs(2), ext4 in the kernel."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

ROOT: Final = "/"
FIFREEZE: Final = 0xC0045877
FITHAW: Final = 0xC0045878
EXT4_IOC_RESIZE_FS: Final = 0x40086610


def quiesce() -> None:
    """Write everything to the disk, journal included, and take no writes until `thaw`."""
    _control(FIFREEZE, struct.pack("i", 0), tolerated=errno.EBUSY)


def thaw() -> None:
    """Take writes again; no-op if nothing was held."""
    _control(FITHAW, struct.pack("i", 0), tolerated=errno.EINVAL)


def grow() -> int:
    """Grow the file system, mounted, to the size of its disk and return its size in bytes (ext4 only)."""
    device = os.stat(ROOT).st_dev
    with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/size") as file:
        disk_bytes = int(file.read()) * 512
    _control(EXT4_IOC_RESIZE_FS, struct.pack("Q", disk_bytes // os.statvfs(ROOT).f_frsize))
    return disk_bytes


def _control(request: int, argument: bytes, *, tolerated: int | None = None) -> None:
    fd = os.open(ROOT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno != tolerated:
            raise
    finally:
        os.close(fd)
