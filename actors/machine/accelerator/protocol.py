"""What every accelerator says of itself."""

from __future__ import annotations

from typing import Final, Protocol

from actors.model.host_check import ProbeResult

KERNEL_ARGUMENTS: Final = "console=ttyS0 reboot=t panic=-1 loglevel=5"
"""What every kernel gets.  ``reboot=t`` (triple fault) with ``-no-reboot`` makes a guest's reboot or panic end the
process.  Warnings are shown, of which `boot_timer` needs one."""


class Accelerator(Protocol):
    """A way to run a guest's instructions."""

    @property
    def name(self) -> str:
        """By which settings, records and QEMU's ``-accel`` know it."""

    @property
    def cpu_model(self) -> str:
        """The processor that its guests see."""

    @property
    def probe_limit_s(self) -> float:
        """How long a kernel may take to come up before the accelerator counts as one that does not work."""

    @property
    def keeps_host_rate(self) -> bool:
        """Whether its guests are told the rate of the host's time-stamp counter, to keep time by."""

    def probe(self) -> ProbeResult:
        """Look whether it can be tried at all; only a boot shows whether it works."""

    def kernel_arguments(self, tsc_khz: int | None) -> str:
        """Return the arguments that every kernel gets under it; ``tsc_khz`` is the host's rate, if it is known."""
