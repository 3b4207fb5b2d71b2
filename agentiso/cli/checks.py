"""`agentiso check`: every probe of the host, the image builder's tools and the images."""

from __future__ import annotations

import trio

from actors.machine.accelerator.verdict import probe_accelerators
from actors.machine.probe import probe_host
from actors.machine.qemu_build import probe_qemu
from actors.model.errors import AgentisoError
from actors.model.host_check import ProbeResult
from actors.model.settings import Settings
from imagebuild import Image, load_image, probe_tools


async def run_checks(settings: Settings) -> list[ProbeResult]:
    """Look at everything; boots the image's kernel to see which accelerator works."""
    results = await trio.to_thread.run_sync(probe_host, settings.qemu_binary, settings.state_dir)
    results += [
        ProbeResult(f"build tool {probe.name}", probe.ok or None, probe.reason, "", probe.fix)
        for probe in probe_tools()
    ]
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
