"""No limits: a machine takes what its shape allows, and what QEMU needs besides."""

from __future__ import annotations

from typing import Final

from actors.machine.limits.protocol import Bounds, Placement
from actors.model.host_check import ProbeResult


class NoLimits:
    """Starts QEMU as it is."""

    name: Final = "none"

    def probe(self) -> ProbeResult:
        """Return what that means."""
        return ProbeResult(
            "limits", None, "none", "machines are not confined by cgroups; memory is bounded by their shape"
        )

    async def prepare(self, bounds: Bounds) -> Placement:
        """Return the place where this process itself is."""
        return Placement(bounds.machine)

    async def enter(self, placement: Placement, pid: int) -> None:
        """Do nothing: nobody waits."""

    async def adopt(self, machine: str) -> Placement:
        """Return the same place."""
        return Placement(machine)

    async def owned(self) -> tuple[Placement, ...]:
        """Return nothing."""
        return ()

    async def release(self, placement: Placement) -> None:
        """Do nothing."""
