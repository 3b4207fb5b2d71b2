"""What this host offers: QEMU, memory, rights.  Every probe says what it found, why that matters and how to mend it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from actors.machine.accelerator.choice import ACCELERATORS
from actors.machine.channel.choice import channels
from actors.machine.limits.choice import limits
from actors.machine.limits.memory import available_memory_mb
from actors.machine.network.choice import networks
from actors.machine.qemu_build import probe_qemu
from actors.model.errors import HostUnfit
from actors.model.host_check import ProbeResult


def probe_host(qemu_binary: str, state_dir: Path) -> list[ProbeResult]:
    """Look at everything on the host that workspaces need."""
    return [
        _qemu(qemu_binary),
        *(accelerator.probe() for accelerator in ACCELERATORS),
        ProbeResult("memory", available_memory_mb() > 1024, f"{available_memory_mb()} MB available"),
        _state_dir(state_dir),
        _pagemap(),
        _yama(),
        *(channel.probe() for channel in channels()),
        *(network.probe() for network in networks()),
        ProbeResult("storage", True, "qcow2", "layers over raw images"),
        *(kind.probe() for kind in limits()),
    ]


def _qemu(binary: str) -> ProbeResult:
    try:
        build = probe_qemu(binary)
    except HostUnfit as error:
        return ProbeResult("qemu", False, "unusable", error.message, error.remedy)
    return ProbeResult("qemu", True, build.version_text, str(build.path))


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
