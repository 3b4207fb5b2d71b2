"""Building an image: in a staging directory of its own, published whole by a rename or not at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs
import trio

from guest.errors import only_error
from imagebuild import kernel, layer, root
from imagebuild.errors import ImageBuildFailed
from imagebuild.image import (
    FILES,
    MANIFEST,
    FileFacts,
    Image,
    Manifest,
    check_image_name,
    sha256,
)
from imagebuild.run import Runner
from imagebuild.shelf import publish
from imagebuild.sources import read_host_sources
from imagebuild.staging import staging
from imagebuild.tools import require_tools

KERNEL_KINDS: Final = ("stock", "small")


@attrs.frozen
class BuildProgress:
    """One step of a build began or ended."""

    step: str
    message: str
    done: bool
    elapsed_s: float


async def build_image(
    name: str,
    images_dir: Path,
    *,
    progress: Callable[[BuildProgress], None],
    root_kind: str = "debian",
    kernel_kind: str = "stock",
) -> Image:
    """Build an image from this host's own package sources and give it its name.

    ``root_kind`` is ``debian`` (minimal, with python3 and git) or ``busybox`` (a static busybox and nothing else).
    ``kernel_kind`` is ``stock`` (the distribution's cloud kernel) or ``small`` (compiled here, the first time).

    Raises:
        ImageBuildFailed: a tool is missing or failed.

    """
    check_image_name(name)
    if kernel_kind not in KERNEL_KINDS:
        raise ImageBuildFailed(f"There is no kernel of kind {kernel_kind!r}.", remedy="Choose stock or small.")
    require_tools(kernel_kind)
    sources = read_host_sources()
    images_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    began = time.monotonic()

    def report(step: str, message: str, *, done: bool = False) -> None:
        progress(BuildProgress(step, message, done, time.monotonic() - began))

    with staging(images_dir) as target:
        runner = Runner(target / "work", sources)
        runner.work.mkdir()

        async def build_layer() -> None:
            parts = "kernel, guest layer and initramfs" if kernel_kind == "stock" else "guest layer and initramfs"
            report("guest layer", parts)
            version = await layer.build(runner, target, with_kernel=kernel_kind == "stock")
            if version is not None:
                kernels.append(kernel.Kernel(version))
            report("guest layer", parts, done=True)

        async def build_kernel() -> None:
            report("small kernel", "which source there is")
            made = await kernel.build(
                runner, target / "kernel", images_dir, say=lambda message: report("small kernel", message)
            )
            kernels.append(made)
            report("small kernel", made.version, done=True)

        async def build_root() -> None:
            report("root disk", f"{root_kind} root file system")
            await root.build(runner, target, root_kind)
            report("root disk", f"{root_kind} root file system", done=True)

        kernels: list[kernel.Kernel] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(build_layer)
                nursery.start_soon(build_root)
                if kernel_kind == "small":
                    nursery.start_soon(build_kernel)
        except BaseExceptionGroup as group:
            raise only_error(group) from None
        await trio.to_thread.run_sync(shutil.rmtree, runner.work)
        report("publish", "digests")
        image = await trio.to_thread.run_sync(_publish, name, images_dir, target, sources.suite, kernels[0])
        report("publish", "digests", done=True)
    return image


def _publish(name: str, images_dir: Path, target: Path, suite: str, booted: kernel.Kernel) -> Image:
    files = {file: FileFacts(sha256(target / file), (target / file).stat().st_size) for file in FILES}
    manifest = Manifest(
        name=name,
        arch=platform.machine(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        suite=suite,
        kernel_version=booted.version,
        files=files,
        cmdline=booted.cmdline,
        acpi=booted.acpi,
    )
    made = target / manifest.digest
    made.mkdir()
    for file in FILES:
        (target / file).rename(made / file)
    (made / MANIFEST).write_text(json.dumps(attrs.asdict(manifest), indent=1))
    for path in made.iterdir():
        path.chmod(0o444)
    os.sync()
    return publish(name, images_dir, made, manifest.digest)
