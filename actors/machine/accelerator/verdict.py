"""Which accelerator really works here: found out by booting, not by asking.

``/dev/kvm`` may exist, answer, and still crawl or abort under a real kernel.  So each candidate boots the image's own
kernel to its initramfs, which says so on the console and powers off.  The verdict is kept for this QEMU, kernel and
processor.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import attrs
import cattrs
import trio

from actors.machine.accelerator import boot_timer
from actors.machine.accelerator.choice import ACCELERATORS
from actors.machine.accelerator.protocol import Accelerator
from actors.machine.accelerator.tsc import measure_khz
from actors.machine.qemu_build import QemuBuild
from actors.model.errors import HostUnfit
from actors.model.files import read_json, replace_json, tail
from actors.model.machine import same_rate

MARKER: Final = "agentiso-probe-ok"
ORPHAN_GRACE_S: Final = 10.0


@attrs.frozen
class Candidate:
    """How one accelerator did."""

    name: str
    ok: bool
    reason: str
    seconds: float


@attrs.frozen
class AcceleratorVerdict:
    """The accelerator to use."""

    chosen: str
    cpu_model: str
    candidates: tuple[Candidate, ...]
    tsc_khz: int | None = None
    """Rate of the time-stamp counter that emulated guests are told; ``None`` where they are not emulated."""


async def probe_accelerators(
    qemu: QemuBuild, kernel: Path, initrd: Path, cache_dir: Path, *, override: str = "auto"
) -> AcceleratorVerdict:
    """Return the best accelerator that boots ``kernel``; an ``override`` is tried alone.

    Raises:
        HostUnfit: none does.

    """
    cached = cache_dir / f"{_cache_key(qemu, kernel, override)}.json"
    try:
        verdict = cattrs.structure(read_json(cached), AcceleratorVerdict)
        if await _keeps_time(verdict):
            return verdict
    except (OSError, ValueError, cattrs.BaseValidationError):
        pass
    tried: list[Candidate] = []
    for accelerator in ACCELERATORS if override == "auto" else (ACCELERATORS.named(override),):
        tsc_khz = await trio.to_thread.run_sync(measure_khz) if accelerator.keeps_host_rate else None
        tried.append(await _try(qemu, kernel, initrd, accelerator, tsc_khz))
        if tried[-1].ok:
            verdict = AcceleratorVerdict(accelerator.name, accelerator.cpu_model, tuple(tried), tsc_khz)
            cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_json(cached, cattrs.unstructure(verdict))
            return verdict
    reasons = "; ".join(f"{candidate.name}: {candidate.reason}" for candidate in tried)
    raise HostUnfit(f"No accelerator boots a kernel here. {reasons}.", remedy="Set accelerator = 'auto', or mend QEMU.")


async def _keeps_time(verdict: AcceleratorVerdict) -> bool:
    """Tell whether the rate that was measured once is still this host's: the directory, or the host, may have moved."""
    if verdict.tsc_khz is None:
        return True
    now_khz = await trio.to_thread.run_sync(measure_khz)
    return now_khz is not None and same_rate(verdict.tsc_khz, now_khz)


async def _try(
    qemu: QemuBuild, kernel: Path, initrd: Path, accelerator: Accelerator, tsc_khz: int | None, *, again: int = 3
) -> Candidate:
    """Boot, and ``again`` at most so often while the kernel measures its timer wrong."""
    name, limit_s, found = accelerator.name, accelerator.probe_limit_s, accelerator.probe()
    if not found.ok:
        return Candidate(name, False, f"{found.verdict}; {found.reason}", 0.0)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agentiso-probe-") as scratch:
        console, log = Path(scratch) / "console", Path(scratch) / "log"
        argv = [
            # It ends even if this process is killed meanwhile and the kernel hangs.
            *("timeout", "--signal=KILL", f"{limit_s + ORPHAN_GRACE_S:.0f}"),
            *(str(qemu.path), "-machine", "microvm", "-accel", name, "-cpu", accelerator.cpu_model, "-m", "256M"),
            *(
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
                "-serial",
                f"file:{console}",
            ),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            *("-append", f"{accelerator.kernel_arguments(tsc_khz)} agentiso.probe=1"),
        ]
        status: int | None = None
        with log.open("wb") as output:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + limit_s
                nursery.start_soon(boot_timer.end_if_wrong, console, nursery.cancel_scope.cancel)
                ended = await trio.run_process(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, start_new_session=True,
                    deliver_cancel=_kill_group,
                )  # fmt: skip
                status = ended.returncode
                nursery.cancel_scope.cancel(reason="the probe has ended")
        seconds = time.monotonic() - began
        if MARKER in tail(console):
            return Candidate(name, True, f"booted a kernel in {seconds:.1f} s", seconds)
        if again and boot_timer.went_wrong(tail(console)):
            return await _try(qemu, kernel, initrd, accelerator, tsc_khz, again=again - 1)
        said = (tail(log, 500) or tail(console, 500)).strip().replace("\n", " / ")
        outcome = f"no kernel came up within {limit_s:.0f} s"
        if status is not None:
            outcome = f"QEMU ended with exit status {status} before a kernel came up"
        return Candidate(name, False, f"{outcome}: {said}" if said else outcome, seconds)


async def _kill_group(process: trio.Process) -> None:
    """End a probe, which has nothing to lose, with the `timeout` around it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await trio.lowlevel.checkpoint()


def _cache_key(qemu: QemuBuild, kernel: Path, override: str) -> str:
    processor = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    with kernel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    usable = [accelerator.name for accelerator in ACCELERATORS if accelerator.probe().ok]
    facts = f"{qemu.version_text} {qemu.build_id} {platform.release()} {processor} {digest} {override} {usable} tsc"
    return hashlib.sha256(facts.encode()).hexdigest()[:32]
