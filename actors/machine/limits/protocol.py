"""What every limits backend does around the start of a machine's process.

A process has to be within its limits before its first instruction, and there is no hook between fork and exec.  So
QEMU's words are put behind those of a small program that places itself, by a descriptor or by waiting for `enter`, and
then becomes QEMU: same process id, same start time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs

from actors.model.host_check import ProbeResult
from actors.model.info import Shape


@attrs.frozen
class Bounds:
    """The machine that is to be bounded."""

    machine: str
    """Its UUID, by which what is made for it is found again."""
    shape: Shape


@attrs.frozen
class Placement:
    """Where one machine's process runs."""

    machine: str = ""
    """The UUID of the machine."""
    before: tuple[str, ...] = ()
    """The program and words before QEMU's own; none where QEMU is started as it is."""
    descriptors: Mapping[int, int] = attrs.field(factory=dict)
    """The number under which the process inherits each, and our own, which whoever starts it closes after that."""

    def wrap(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """Return the words that start QEMU in its place."""
        return (*self.before, *argv)


class Limits(Protocol):
    """A way to bound what machines take."""

    @property
    def name(self) -> str:
        """By which settings know it."""

    def probe(self) -> ProbeResult:
        """Look whether this host has what it needs."""

    async def prepare(self, bounds: Bounds) -> Placement:
        """Make the place of a machine's process; if that fails or is cancelled, nothing of it is left."""

    async def enter(self, placement: Placement, pid: int) -> None:
        """Let a process that has just been started, and may be waiting for this, become QEMU within its limits."""

    async def adopt(self, machine: str) -> Placement:
        """Take up the place of a machine, by its UUID, that an earlier supervisor started."""

    async def owned(self) -> tuple[Placement, ...]:
        """Return what this host has of this state directory's machines, found without any record."""

    async def release(self, placement: Placement) -> None:
        """Take a place away, once its process has been reaped; no-op for one that is gone."""
