"""The files that say who a machine is, kept in memory and laid over those of the root disk and of the kernel.

They stay open, so that a restored guest changes them without looking for any path.  Source: mount(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

RUN: Final = "/run/agentiso"
ETC: Final = RUN + "/etc"
TARGETS: Final = {
    **{name: f"/etc/{name}" for name in ("hostname", "machine-id", "resolv.conf")},
    # The kernel's own value is part of its memory, and so the same in every fork.
    "boot_id": "/proc/sys/kernel/random/boot_id",
}
GENERATION: Final = "generation"
MS_BIND: Final = 4096


class IdentityFiles:
    """The files of one machine."""

    def __init__(self) -> None:
        """Make those that are missing, and put them in their places; one that cannot be placed fails every `write`."""
        os.makedirs(ETC, exist_ok=True)
        os.makedirs("/etc", exist_ok=True)
        self._descriptors = {GENERATION: _open(f"{RUN}/{GENERATION}")}
        self._unplaced: list[str] = []
        for name, target in TARGETS.items():
            self._descriptors[name] = _open(f"{ETC}/{name}")
            try:
                _place(f"{ETC}/{name}", target)
            except OSError as error:
                print(f"agentiso-agent: {target} cannot be replaced: {error}", flush=True)
                self._unplaced.append(target)
        self.machine_id = _read(self._descriptors["machine-id"]).strip().decode("ascii", "replace")

    def write(self, identity: dict[str, Any]) -> None:
        """Write the files of an identity; the boot id is another only where the machine is.

        Raises:
            OSError: one of them is not where programs look for it.

        """
        if self._unplaced:
            raise OSError(errno.EBUSY, f"{', '.join(self._unplaced)} could not be replaced")
        network = identity.get("network") or {}
        servers = "".join(f"nameserver {server}\n" for server in network.get("dns", ()))
        self._write("hostname", identity["hostname"] + "\n")
        self._write("machine-id", identity["machine_id"] + "\n")
        self._write("resolv.conf", servers)
        self._write(GENERATION, identity["epoch"] + "\n")
        if identity["machine_id"] != self.machine_id:
            self._write("boot_id", identity["epoch"] + "\n")
            self.machine_id = identity["machine_id"]

    def _write(self, name: str, text: str) -> None:
        """Have a file hold just this, whatever the guest has made of it."""
        content, fd = text.encode(), self._descriptors[name]
        os.pwrite(fd, content, 0)
        os.ftruncate(fd, len(content))


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _read(fd: int) -> bytes:
    return os.pread(fd, 4096, 0)


def _place(source: str, target: str) -> None:
    if os.path.ismount(target):
        return
    if os.path.islink(target):
        os.unlink(target)
    if not os.path.exists(target):
        with open(target, "a"):
            pass
    if ctypes.CDLL(None, use_errno=True).mount(source.encode(), target.encode(), None, MS_BIND, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)
