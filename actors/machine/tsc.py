"""The rate of this processor's time-stamp counter, which an emulated guest sees as its own.

Under software emulation a guest kernel measures it against an emulated timer chip; on a busy host that measurement
fails now and then, and the kernel hangs, so it is told instead (kernel parameter ``tsc_early_khz``).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import time
from typing import Final

READ_TSC: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret (Intel SDM, volume 2)."""
SAMPLE_S: Final = 0.02


@functools.cache
def tsc_khz() -> int | None:
    """Return the rate in kHz, or ``None`` where this process may not run its own code."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(READ_TSC)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    ticks, began = read(), time.monotonic_ns()
    while (passed := time.monotonic_ns() - began) < SAMPLE_S * 1e9:
        continue
    return int((read() - ticks) * 1e6 / passed)


def rate_argument() -> str:
    """Return the argument that tells an emulated guest's kernel, empty where the rate is not known."""
    khz = tsc_khz()
    return f"tsc_early_khz={khz}" if khz else ""
