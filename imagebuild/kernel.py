"""The small kernel: the distribution's own kernel source, ``tinyconfig`` and ``boot/small.config``.

Compiling takes minutes, so a kernel is kept under ``<images>/kernels/<digest>/``; the digest covers all that decides
what comes out.  The kernel has no modules, no ACPI and no PCI: it finds its devices by kernel arguments.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Final

import attrs
import cattrs
import trio

from guest.untrusted import parse
from imagebuild.errors import ImageBuildFailed
from imagebuild.image import sha256
from imagebuild.run import Runner

KERNELS: Final = "kernels"
FILE: Final = "bzImage"
FACTS: Final = "kernel.json"
SOURCE_PACKAGE: Final = "linux-source"
CMDLINE: Final = "qemu_fw_cfg.ioport=12@0x510:0:1:4"
"""Where QEMU's fw_cfg is: size, base, and offsets of its registers (kernel: drivers/firmware/qemu_fw_cfg.c)."""
MAKE: Final = (
    "ARCH=x86_64", "KBUILD_BUILD_USER=agentiso", "KBUILD_BUILD_HOST=agentiso", "KBUILD_BUILD_TIMESTAMP=@0",
)  # fmt: skip
"""Nothing of this host and hour goes in, so that equal sources give equal kernels."""
NICENESS: Final = 10
"""Minutes of compiling give way to whatever else this host does."""


@attrs.frozen
class Kernel:
    """How an image's kernel is called and started."""

    version: str
    acpi: bool = True
    """Whether it finds its devices through ACPI."""
    cmdline: str = ""
    """The arguments that it needs beyond those of every kernel."""


@attrs.frozen
class Facts:
    """What is recorded beside a kept kernel."""

    version: str
    source_version: str
    sha256: str


async def build(runner: Runner, target: Path, images_dir: Path, *, say: Callable[[str], None]) -> Kernel:
    """Write the small kernel to ``target``, compiled now or taken from the kept ones.

    Raises:
        ImageBuildFailed: a tool failed, or this source lacks an option that the configuration asks for.

    """
    fragment = (resources.files("imagebuild") / "boot" / "small.config").read_text()
    source_version = await _source_version(runner)
    kept = images_dir / KERNELS / digest(source_version, fragment)
    facts = await trio.to_thread.run_sync(find, kept)
    if facts is None:
        say(f"source {source_version}")
        tree = await _unpack_source(runner)
        await _configure(runner, tree, fragment)
        say("compiling; this takes minutes, once")
        jobs = str(len(os.sched_getaffinity(0)))
        await _make(runner, tree, f"-j{jobs}", "bzImage")
        version = (tree / "include/config/kernel.release").read_text().strip()
        built = tree / "arch/x86/boot/bzImage"
        facts = await trio.to_thread.run_sync(keep, kept, built, version, source_version, runner.work)
        await trio.to_thread.run_sync(shutil.rmtree, tree)
    else:
        say(f"{facts.version} was built before")
    await trio.to_thread.run_sync(shutil.copyfile, kept / FILE, target)
    return Kernel(facts.version, acpi=False, cmdline=CMDLINE)


def digest(source_version: str, fragment: str) -> str:
    """Return the name under which a kernel of this source and configuration is kept."""
    return hashlib.sha256("\0".join([source_version, fragment, *MAKE]).encode()).hexdigest()[:32]


def find(kept: Path) -> Facts | None:
    """Return the facts of a kept kernel, or ``None`` if there is none or it is not what was built."""
    try:
        facts = cattrs.structure(parse((kept / FACTS).read_bytes()), Facts)
        return facts if sha256(kept / FILE) == facts.sha256 else None
    except (OSError, ValueError, cattrs.BaseValidationError):
        return None


def keep(kept: Path, built: Path, version: str, source_version: str, work: Path) -> Facts:
    """Keep a kernel: whole or not at all, also when another build keeps the same one at this moment."""
    facts = Facts(version, source_version, sha256(built))
    new = work / "kept-kernel"
    new.mkdir()
    shutil.copyfile(built, new / FILE)
    (new / FACTS).write_text(json.dumps(attrs.asdict(facts), indent=1))
    for file in (FILE, FACTS):
        (new / file).chmod(0o444)
    os.sync()
    kept.parent.mkdir(exist_ok=True)
    if kept.exists() and find(kept) is None:
        shutil.rmtree(kept)
    try:
        new.rename(kept)
    except OSError:
        # rename(2) replaces no directory that has files: another build was faster, and its kernel is as good.
        found = find(kept)
        if found is None:
            raise
        return found
    return facts


async def _source_version(runner: Runner) -> str:
    """Return the version of the source package without fetching it."""
    said = await runner.mmdebstrap(Path(os.devnull), "extract", [SOURCE_PACKAGE], "--simulate", "--verbose")
    match = re.search(rf"^Inst ({SOURCE_PACKAGE}-\S+) \((\S+) ", said, re.MULTILINE)
    if match is None:
        raise ImageBuildFailed(
            f"The package sources of this host have no package {SOURCE_PACKAGE}-VERSION.",
            remedy="Build the image with the stock kernel: --kernel stock",
        )
    return f"{match[1]} {match[2]}"


async def _unpack_source(runner: Runner) -> Path:
    packed, parts, tree = (runner.work / name for name in ("source.tar", "source", "linux"))
    await runner.mmdebstrap(packed, "extract", [SOURCE_PACKAGE])
    parts.mkdir()
    tree.mkdir()
    await runner.run("tar", "-C", str(parts), "--wildcards", "-xf", str(packed), "./usr/src/*")
    packed.unlink()
    inner = next((path for path in sorted(parts.rglob(f"{SOURCE_PACKAGE}-*.tar.*")) if path.is_file()), None)
    if inner is None:
        raise ImageBuildFailed(f"The package {SOURCE_PACKAGE} holds no /usr/src/{SOURCE_PACKAGE}-VERSION.tar.")
    await runner.run("tar", "-C", str(tree), "--strip-components=1", "-xf", str(inner))
    shutil.rmtree(parts)
    return tree


async def _configure(runner: Runner, tree: Path, fragment: str) -> None:
    await _make(runner, tree, "tinyconfig")
    with (tree / ".config").open("a") as config:
        config.write(fragment)
    await _make(runner, tree, "olddefconfig")
    lost = dropped_options(fragment, (tree / ".config").read_text())
    if lost:
        raise ImageBuildFailed(
            f"This kernel source does not take these options of small.config: {', '.join(lost)}.",
            remedy="Build the image with the stock kernel: --kernel stock",
        )


def dropped_options(fragment: str, config: str) -> list[str]:
    """Return the options that ``fragment`` switches on and the final ``config`` does not have."""
    final = set(config.splitlines())
    return [line.removesuffix("=y") for line in fragment.splitlines() if line.endswith("=y") and line not in final]


async def _make(runner: Runner, tree: Path, *arguments: str) -> None:
    await runner.run("make", "-s", "-C", str(tree), *MAKE, *arguments, niceness=NICENESS)
