"""What this host offers: QEMU, memory, rights.  Every probe says what it found, why that matters and how to mend it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import attrs

from actors.model.errors import HostUnfit, NoCapacity

MIN_QEMU: Final = (7, 2)
"""The oldest QEMU the fork recipe was verified on."""
VHOST_VSOCK: Final = Path("/dev/vhost-vsock")
QEMU_FIX: Final = "apt-get install qemu-system-x86"


@attrs.frozen
class ProbeResult:
    """One fact about the host; ``ok`` of ``None`` is a warning."""

    name: str
    ok: bool | None
    verdict: str
    reason: str = ""
    fix: str = ""


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


def available_memory_mb() -> int:
    """Return the memory that new processes may take without swapping (proc(5), MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def check_memory(wanted_mb: int, reserve_mb: int) -> None:
    """Raise `NoCapacity` unless the host has ``wanted_mb`` and keeps its reserve."""
    available = available_memory_mb()
    if wanted_mb > available - reserve_mb:
        raise NoCapacity(
            f"{wanted_mb} MB were asked for; the host has {available} MB available and keeps {reserve_mb} MB.",
            remedy="Ask for less memory_mb, or destroy workspaces that are no longer needed.",
        )


def probe_host(qemu_binary: str, state_dir: Path) -> list[ProbeResult]:
    """Look at everything on the host that workspaces need."""
    return [
        _qemu(qemu_binary),
        _kvm(),
        ProbeResult("memory", available_memory_mb() > 1024, f"{available_memory_mb()} MB available"),
        _state_dir(state_dir),
        _pagemap(),
        _yama(),
        *_channels(),
        ProbeResult("network", True, "user (slirp), none", "no privilege needed"),
        ProbeResult("storage", True, "qcow2", "layers over raw images"),
        ProbeResult("limits", None, "none", "machines are not confined by cgroups; memory is bounded by their shape"),
    ]


def _qemu(binary: str) -> ProbeResult:
    try:
        build = probe_qemu(binary)
    except HostUnfit as error:
        return ProbeResult("qemu", False, "unusable", error.message, error.remedy)
    return ProbeResult("qemu", True, build.version_text, str(build.path))


def _kvm() -> ProbeResult:
    if not Path("/dev/kvm").exists():
        return ProbeResult("kvm", None, "absent", "machines run under software emulation (tcg), which is slower")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ProbeResult("kvm", None, "no access", "machines run under tcg", "add this user to the group kvm")
    return ProbeResult("kvm", True, "device present", "whether it works is found out by booting a kernel")


def _channels() -> tuple[ProbeResult, ProbeResult]:
    serial = ProbeResult("channel serial", True, "works everywhere", "virtio-serial on a Unix socket; the default")
    if not VHOST_VSOCK.exists():
        fix = 'modprobe vhost_vsock, if channel = "vsock" is wanted'
        return serial, ProbeResult("channel vsock", None, "absent", f"there is no {VHOST_VSOCK}", fix)
    if not os.access(VHOST_VSOCK, os.R_OK | os.W_OK):
        return serial, ProbeResult("channel vsock", None, "no access", f"this user may not open {VHOST_VSOCK}")
    return serial, ProbeResult("channel vsock", True, "usable", f'{VHOST_VSOCK}; set channel = "vsock" to use it')


def _state_dir(path: Path) -> ProbeResult:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    free_gb = shutil.disk_usage(existing).free / 2**30
    ok = os.access(existing, os.W_OK) and free_gb > 2
    fix = "" if ok else "set state_dir (or AGENTISO_STATE_DIR) to a writable directory with room"
    return ProbeResult("state directory", ok, str(path), f"{free_gb:.0f} GiB free", fix)


def _pagemap() -> ProbeResult:
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    if release >= (6, 7):
        return ProbeResult("pagemap scan", True, "PAGEMAP_SCAN", "changed pages are found by the kernel")
    return ProbeResult("pagemap scan", None, "by reading", "Linux before 6.7: forks of large machines pause longer")


def _yama() -> ProbeResult:
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except OSError:
        scope = 0
    if scope == 0 or os.geteuid() == 0:
        return ProbeResult("memory access", True, "allowed")
    if scope == 1:
        reason = "machines of an earlier supervisor cannot be forked with memory"
        return ProbeResult("memory access", None, "own children only", reason, "sysctl kernel.yama.ptrace_scope=0")
    return ProbeResult(
        "memory access", False, "denied", f"ptrace_scope is {scope}", "sysctl kernel.yama.ptrace_scope=0"
    )
