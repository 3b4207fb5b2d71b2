"""The timer of an emulated guest, which its kernel measures while it boots, and boots in which that went wrong.

Linux measures the local APIC's timer against the time-stamp counter, in the first tenth of a second in which it takes
interrupts (calibrate_APIC_clock in arch/x86/kernel/apic/apic.c).  A virtual processor that has to wait for one of the
host's meanwhile finds a wrong rate: everything that sleeps in the guest, and in all its forks, then wakes late.  Or it
finds none, and the kernel hangs, since this machine has no other timer.  The rate that is right is known: so the
guest's init ends such a boot, and who started it begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from actors.model.files import tail

APIC_HZ: Final = 1_000_000_000
"""Of QEMU's emulated APIC (hw/intc/apic.c counts the nanoseconds of its clock)."""
DIVISOR: Final = 16
SHIFT: Final = 32
MULT: Final = (APIC_HZ // DIVISOR << SHIFT) // 1_000_000_000
"""What the kernel's clock event device then multiplies nanoseconds by (/proc/timer_list)."""
ARGUMENT: Final = f"agentiso.timer={MULT}"
"""The kernel argument by which the guest's init knows it."""
GONE_WRONG: Final = ("disabling apic timer", "the timer was measured wrong")
"""Words of the kernel and of our init on the console."""
LOOK_S: Final = 0.25


def went_wrong(said: str) -> bool:
    """Tell whether a boot's console says that its timer was measured wrong."""
    return any(words in said for words in GONE_WRONG)


async def end_if_wrong(console: Path, end: Callable[[], object]) -> None:
    """End a boot once its console says that its timer was measured wrong; runs until then, or until cancelled."""
    while not went_wrong(tail(console)):  # noqa: ASYNC110 - QEMU writes it, and tells nobody
        await trio.sleep(LOOK_S)
    end()
