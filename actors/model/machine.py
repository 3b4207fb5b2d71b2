"""What is written down of a machine: what it is made of, which process it is, how a later supervisor finds it."""

from __future__ import annotations

from typing import Final

import attrs

SAME_PPM: Final = 50
"""Rates that differ by less are one processor's, measured twice; a clock then errs by less than 5 s a day."""


def same_rate(one_khz: int, other_khz: int) -> bool:
    """Tell whether a clock that runs at one rate keeps time at the other."""
    return abs(one_khz - other_khz) * 1_000_000 <= SAME_PPM * max(one_khz, other_khz)


@attrs.frozen
class Fingerprint:
    """What must be equal for saved memory and device state to be loadable."""

    qemu: str
    """Version and build of QEMU."""
    accelerator: str
    cpu_model: str
    vcpus: int
    memory_mb: int
    image: str
    """Digest of the image: kernel, initrd and guest layer."""
    network: str
    channel: str
    machine_arguments: str = ""
    """Digest of the machine's type and devices; see `command_line.machine_arguments`."""
    tsc_khz: int | None = None
    """Rate of the time-stamp counter by which an emulated guest keeps time."""

    def differences(self, other: Fingerprint) -> list[str]:
        """Name each part that differs, with both values."""
        return [
            f"{field.name}: {getattr(self, field.name)} here, {getattr(other, field.name)} there"
            for field in attrs.fields(Fingerprint)
            if getattr(self, field.name) != getattr(other, field.name)
            and not (field.name == "tsc_khz" and same_rate(self.tsc_khz or 0, other.tsc_khz or 0))
        ]


@attrs.frozen
class ProcessIdentity:
    """What makes a process itself across restarts of its starter."""

    pid: int
    start_time: int
    """Field 22 of ``/proc/PID/stat``: clock ticks after the host's boot."""
    uuid: str
    """The machine UUID on its command line."""


@attrs.frozen
class MachineRecord:
    """What a later supervisor must know to adopt the machine."""

    process: ProcessIdentity
    directory: str
    epoch: str
    key: str
    nonce: str
    ram: str
    vsock_cid: int | None = None
    fingerprint: Fingerprint | None = None
    """What it was started with; a later supervisor would start it otherwise, perhaps."""
    link: dict[str, str] = attrs.field(factory=dict)
    """What its network has to know to adopt its link."""
