"""The host kernel's own virtualisation: fast where it works."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from actors.machine.accelerator.protocol import KERNEL_ARGUMENTS
from actors.model.host_check import ProbeResult

DEVICE: Final = Path("/dev/kvm")


class Kvm:
    """Its guests run on the host's processor."""

    name: Final = "kvm"
    cpu_model: Final = "host"
    probe_limit_s: Final = 5.0
    """One that is worth having boots a kernel in well under a second."""
    keeps_host_rate: Final = False

    def probe(self) -> ProbeResult:
        """Look for the device that QEMU needs."""
        if not DEVICE.exists():
            return ProbeResult("kvm", None, "absent", "machines run under software emulation (tcg), which is slower")
        if not os.access(DEVICE, os.R_OK | os.W_OK):
            return ProbeResult("kvm", None, "no access", "machines run under tcg", "add this user to the group kvm")
        return ProbeResult("kvm", True, "device present", "whether it works is found out by booting a kernel")

    def kernel_arguments(self, tsc_khz: int | None) -> str:  # noqa: ARG002 - the kernel measures it well by itself
        """Return what every kernel gets."""
        return KERNEL_ARGUMENTS
