"""`agentiso check`: every probe of the host, the image builder's tools, the images, and what is kept."""

from __future__ import annotations

import trio

from actors.machine.accelerator.verdict import probe_accelerators
from actors.machine.probe import probe_host
from actors.machine.qemu_build import probe_qemu
from actors.model.errors import AgentisoError
from actors.model.host_check import ProbeResult
from actors.model.settings import Settings
from actors.registry.recovery import read_all
from agentiso.cli.doctor import PARTS
from agentiso.client.dialling import is_running
from agentiso.client.tools import call
from imagebuild import Image, load_image, probe_tools


async def run_checks(settings: Settings) -> list[ProbeResult]:
    """Look at everything; boots the image's kernel to see which accelerator works."""
    results = await trio.to_thread.run_sync(probe_host, settings.qemu_binary, settings.state_dir)
    results += [
        ProbeResult(f"build tool {probe.name}", probe.ok or None, probe.reason, "", probe.fix)
        for probe in probe_tools()
    ]
    results.append(await _state(settings))
    try:
        image = load_image(settings.images, settings.image)
    except AgentisoError as error:
        return [*results, ProbeResult("image", False, "unusable", error.message, error.remedy)]
    results.append(ProbeResult("image", True, settings.image, image.digest))
    return [*results, *await _accelerators(settings, image)]


async def _accelerators(settings: Settings, image: Image) -> list[ProbeResult]:
    try:
        verdict = await probe_accelerators(
            probe_qemu(settings.qemu_binary), image.file("kernel"), image.file("initrd"),
            settings.state_dir / "accelerators", override=settings.accelerator,
        )  # fmt: skip
    except AgentisoError as error:
        return [ProbeResult("accelerator", False, "none works", error.message, error.remedy)]
    reasons = "; ".join(f"{tried.name}: {tried.reason}" for tried in verdict.candidates)
    return [ProbeResult("accelerator", True, verdict.chosen, reasons)]


async def _state(settings: Settings) -> ProbeResult:
    """Ask the supervisor that runs what needs a look, or see whether the records can be read."""
    try:
        found = None
        if is_running(settings):
            found = await call(settings, None, "doctor", {"again": False}, lambda _step: None)
    except AgentisoError as error:
        return ProbeResult("workspaces", False, "no answer", error.message, "agentiso doctor")
    if found is not None:
        whats = [trouble["what"] for part in PARTS for trouble in found.get(part, [])]
    else:
        try:
            read = await trio.to_thread.run_sync(read_all, settings.state_dir / "workspaces")
        except FileNotFoundError:
            return ProbeResult("workspaces", True, "none yet")
        except OSError as error:
            return ProbeResult("workspaces", False, "unreadable", str(error), "agentiso doctor")
        whats = [trouble.what for trouble in read.troubles]
    if whats:
        return ProbeResult("workspaces", False, f"{len(whats)} to look at", ", ".join(whats), "agentiso doctor")
    return ProbeResult("workspaces", True, "healthy")
