"""The root disk: a small Debian with python3 and git, or a static busybox and nothing else."""

from __future__ import annotations

import os
import shlex
import shutil
import tarfile
from pathlib import Path
from typing import Final

import trio

from imagebuild.errors import ImageBuildFailed
from imagebuild.run import MKE2FS_IDENTITY, Runner

PACKAGES: Final = ["python3", "git", "ca-certificates", "iproute2", "procps"]
SLACK: Final = 1.35
"""Free room over the content; a workspace's own disk is larger and its file system is grown to it."""
GROWABLE: Final = "-b 4096 -i 8192"
"""What mke2fs would choose for so small a file system has block groups of 8 MB, and growing costs time by the group."""
DROPPED: Final = (
    "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*",
    "/var/cache/apt/*", "/var/lib/apt/lists/*", "/etc/ssh/ssh_host_*", "/dev/*",
)  # fmt: skip


async def build(runner: Runner, target: Path, kind: str) -> None:
    """Write ``root.img``.

    Raises:
        ImageBuildFailed: the kind is unknown or a tool failed.

    """
    tar = runner.work / "root.tar"
    if kind == "debian":
        # No password opens the root account, and the machine gets its own id when it starts.
        hook = 'rm -f "$1"/etc/machine-id; : > "$1"/etc/machine-id; sed -i "s/^root:[^:]*:/root:*:/" "$1"/etc/shadow'
        await runner.mmdebstrap(
            tar, "minbase", PACKAGES, *(f"--dpkgopt=path-exclude={path}" for path in DROPPED[:5]),
            f"--customize-hook={hook}",
        )  # fmt: skip
    elif kind == "busybox":
        packed = runner.work / "busybox.tar"
        await runner.mmdebstrap(packed, "extract", ["busybox-static"])
        await trio.to_thread.run_sync(_only_busybox, packed, tar)
    else:
        raise ImageBuildFailed(f"There is no root disk of kind {kind!r}.", remedy="Choose debian or busybox.")
    await _to_ext4(runner, tar, target / "root.img")


async def _to_ext4(runner: Runner, tar: Path, image: Path) -> None:
    """Turn a tar into an ext4 image with its owners kept, under fakeroot where this user is not root."""
    tree = runner.work / "root"
    tree.mkdir()
    exclude = " ".join(f"--exclude={shlex.quote('.' + path)}" for path in DROPPED)
    size_mb = int(max(64, tar.stat().st_size / 2**20 * SLACK + 48))
    quoted = {name: shlex.quote(str(path)) for name, path in (("tar", tar), ("tree", tree), ("image", image))}
    script = (
        f"tar -C {quoted['tree']} --numeric-owner {exclude} -xf {quoted['tar']} && "
        f"mke2fs -q -t ext4 -L root -m 0 {GROWABLE} {' '.join(MKE2FS_IDENTITY)},lazy_itable_init=1 "
        f"-d {quoted['tree']} {quoted['image']} {size_mb}M"
    )
    wrapper = [] if os.geteuid() == 0 else ["fakeroot"]
    await runner.run(*wrapper, "sh", "-ec", script)
    await trio.to_thread.run_sync(lambda: shutil.rmtree(tree, ignore_errors=True))


def _only_busybox(source: Path, target: Path) -> None:
    with tarfile.open(source) as packed, tarfile.open(target, "w") as tar:
        member = next(entry for entry in packed if entry.isfile() and entry.name.endswith("bin/busybox"))
        member.name = "./bin/busybox"
        directory = tarfile.TarInfo("./bin")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        tar.addfile(member, packed.extractfile(member))
        shell = tarfile.TarInfo("./bin/sh")
        shell.type, shell.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(shell)
