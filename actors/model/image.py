"""What a machine boots: the files of one image, as the machine needs to know them."""

from __future__ import annotations

from pathlib import Path

import attrs


@attrs.frozen
class BootImage:
    """An image's files and how its kernel wants to be started.

    Whoever constructs one has verified it; the files never change.
    """

    name: str
    digest: str
    """Content address, hexadecimal; part of every checkpoint's fingerprint."""
    kernel: Path
    initrd: Path
    layer: Path
    """Read-only guest layer, ext4."""
    root: Path
    """Root disk, raw ext4: the bottom of every disk chain of this image."""
    cmdline: str = ""
    """Kernel arguments beyond the machine's own."""
    acpi: bool = True
    """Whether the kernel finds its devices through ACPI or through ``virtio_mmio.device=`` arguments."""
