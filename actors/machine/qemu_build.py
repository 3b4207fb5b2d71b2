"""Which QEMU a host has: found by running it, and told from any other build by its bytes."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import attrs

from actors.model.errors import HostUnfit

MIN_QEMU: Final = (7, 2)
"""The oldest QEMU the fork recipe was verified on."""
QEMU_FIX: Final = "apt-get install qemu-system-x86"


@attrs.frozen
class QemuBuild:
    """One build of QEMU; saved device state loads only into the same one."""

    path: Path
    version: tuple[int, ...]
    version_text: str
    build_id: str

    @property
    def fingerprint(self) -> str:
        """Version and build in one text."""
        return f"{self.version_text} {self.build_id}"


def probe_qemu(binary: str) -> QemuBuild:
    """Find QEMU and say which build it is.

    Raises:
        HostUnfit: it is missing, too old, or does not run.

    """
    found = shutil.which(binary)
    if found is None:
        raise HostUnfit(f"{binary} was not found on the PATH.", remedy=f"Install it: {QEMU_FIX}")
    try:
        shown = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostUnfit(f"{found} does not run: {error}.", remedy=f"Install it again: {QEMU_FIX}") from error
    text = shown.stdout.splitlines()[0] if shown.stdout else ""
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        raise HostUnfit(f"{found} does not look like QEMU: it says {text!r}.", remedy="Set qemu_binary.")
    version = tuple(int(part) for part in match.groups())
    if version[:2] < MIN_QEMU:
        raise HostUnfit(f"{found} is QEMU {version[0]}.{version[1]}; 7.2 or later is needed.", remedy=QEMU_FIX)
    with Path(found).open("rb") as file:
        build_id = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return QemuBuild(Path(found), version, text.removeprefix("QEMU emulator version "), build_id)
