"""QEMU's software emulation: works everywhere, with a kernel that is told how to be cheap to emulate."""

from __future__ import annotations

from typing import Final

from actors.machine.accelerator import boot_timer, tsc
from actors.machine.accelerator.protocol import KERNEL_ARGUMENTS
from actors.model.host_check import ProbeResult

EMULATED_ARGUMENTS: Final = "mitigations=off norandmaps psi=0 noautogroup lsm=landlock,yama"
"""Emulation speculates nothing, so that defences against that only cost.  QEMU translates a program's code anew for
each address at which it is loaded, so that random ones would make every command several times as slow.  And what a
kernel does beside its work at every start of a process has to be translated as well."""


class Tcg:
    """Its guests see all that QEMU can emulate."""

    name: Final = "tcg"
    cpu_model: Final = "max"
    probe_limit_s: Final = 60.0
    """It needs seconds, and more on a busy host."""
    keeps_host_rate: Final = True

    def probe(self) -> ProbeResult:
        """Return that it can be tried everywhere."""
        return ProbeResult("tcg", True, "works everywhere", "software emulation, used where kvm does not work")

    def kernel_arguments(self, tsc_khz: int | None) -> str:
        """Return what every kernel gets, how to be cheap, and by which rate to keep time."""
        rate = tsc.kernel_arguments(tsc_khz)
        return f"{KERNEL_ARGUMENTS} {EMULATED_ARGUMENTS} {boot_timer.ARGUMENT} {rate}".rstrip()
