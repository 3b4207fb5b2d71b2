"""The rate of this processor's time-stamp counter, which an emulated guest sees as its own.

Under software emulation a guest kernel measures it against an emulated timer chip; on a busy host that measurement
fails now and then, and the kernel hangs or takes the counter for unusable.  So it is told the rate, and to rely on it:
then it needs no periodic tick, neither to keep time nor while it is idle.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

READ_TSC: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret (Intel SDM, volume 2)."""
STEADY: Final = {"constant_tsc", "nonstop_tsc"}
"""Flags of a processor whose counter has one rate, whatever the processor's own and however it sleeps."""
SAMPLE_S: Final = 0.2
READINGS: Final = 50
"""Of which the one counts that took the shortest time, so that nothing came in between."""


def is_steady(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether this host's counter is one to keep time by."""
    return set(cpuinfo.read_text().partition("\n\n")[0].split()) >= STEADY


def measure_khz() -> int | None:
    """Return the rate in kHz, or ``None`` where this process may not run its own code; takes `SAMPLE_S`."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(READ_TSC)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    first_ticks, first_ns = _reading(read)
    time.sleep(SAMPLE_S)
    ticks, now_ns = _reading(read)
    return int((ticks - first_ticks) * 1e6 / (now_ns - first_ns))


def _reading(read: Callable[[], int]) -> tuple[int, float]:
    """Return what the counter says and the monotonic clock's nanoseconds at that moment."""
    readings = []
    for _ in range(READINGS):
        before, ticks, after = time.monotonic_ns(), read(), time.monotonic_ns()
        readings.append((after - before, ticks, (before + after) / 2))
    _, ticks, moment_ns = min(readings)
    return ticks, moment_ns


def kernel_arguments(khz: int | None) -> str:
    """Return the arguments that tell an emulated guest's kernel, empty where the rate is not known."""
    if not khz:
        return ""
    return f"tsc_early_khz={khz} tsc=reliable" if is_steady() else f"tsc_early_khz={khz}"
