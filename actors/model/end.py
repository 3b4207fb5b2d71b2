"""How a machine ended that nobody had asked to end: the reason as a value, and the words that it left."""

from __future__ import annotations

import enum

import attrs


class EndReason(enum.StrEnum):
    """Why a machine ended."""

    GUEST_SHUTDOWN = "guest_shutdown"
    """The guest powered itself off."""
    GUEST_REBOOT = "guest_reboot"
    """The guest rebooted, which ends its machine."""
    PANIC = "panic"
    """The guest's kernel panicked."""
    OOM = "oom"
    """Memory ran out: the guest's, so that its kernel panicked, or the host's, whose kernel killed QEMU."""
    QEMU_ABORT = "qemu_abort"
    """QEMU crashed or gave up."""
    SIGNAL = "signal"
    """Something on the host ended QEMU with a signal."""
    UNKNOWN = "unknown"
    """Nothing tells."""


@attrs.frozen
class End:
    """The end of a machine that nobody had asked for."""

    reason: EndReason
    sentence: str
    """What happened and why."""
    at: float
    """When it was noticed, in seconds since the Unix epoch."""
    signal: str | None = None
    """The signal that ended QEMU, as ``SIGKILL``."""
    console_line: str = ""
    """The line of the guest's console that matters: of a panic its own, else the last one."""
    qemu_line: str = ""
    """The last line that QEMU wrote to its log."""
