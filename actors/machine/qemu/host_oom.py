"""Whether the host's kernel killed a process for want of memory, as its log says where that may be read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

KERNEL_LOG: Final = Path("/dev/kmsg")
"""One record a read (Linux: Documentation/ABI/testing/dev-kmsg)."""
RECORD_BYTES: Final = 8192
"""The longest there is."""
MAX_RECORDS: Final = 100_000
COMM_CHARS: Final = 15
"""What Linux keeps of a program's name."""


def has_killed(pid: int, program: Path, kernel_log: Path = KERNEL_LOG) -> bool:
    """Tell whether the kernel's log says so of a process; false as well where the log may not be read.

    In a container the log has the ids of the host, so the program has to be the same, too.
    """
    try:
        fd = os.open(kernel_log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return any(is_of(record, pid, program) for record in _records(fd))
    finally:
        os.close(fd)


def is_of(record: str, pid: int, program: Path) -> bool:
    """Tell whether a record says that a process was killed for memory (Linux: mm/oom_kill.c)."""
    name = re.escape(program.name[:COMM_CHARS])
    return re.search(rf"out of memory: Killed process {pid} \({name}\)", record, re.IGNORECASE) is not None


def _records(fd: int) -> Iterator[str]:
    for _ in range(MAX_RECORDS):
        try:
            record = os.read(fd, RECORD_BYTES)
        except BrokenPipeError:
            # That one was overwritten meanwhile; the next read goes on behind it.
            continue
        except OSError:
            return
        if not record:
            return
        yield record.decode(errors="replace")
