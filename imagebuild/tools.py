"""The programs and headers that a build needs, and how to get them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import attrs

from imagebuild.errors import ImageBuildFailed


@attrs.frozen
class ToolProbe:
    """Whether one program or header is there."""

    name: str
    ok: bool
    reason: str
    fix: str


NEEDED = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "apt-get": "apt", "tar": "tar"}
NEEDED_UNPRIVILEGED = {"fakeroot": "fakeroot", "fakechroot": "fakechroot"}
NEEDED_SMALL_KERNEL = {
    "gcc": "gcc", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils",
    "stdio.h": "libc6-dev", "gelf.h": "libelf-dev",
}  # fmt: skip
"""Asked for only by builds that compile a kernel."""
HEADERS = Path("/usr/include")


def find_tool(name: str) -> str | None:
    """Return the path of a program, looking where administrators' programs live too."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def probe_tools(kernel_kind: str = "stock") -> list[ToolProbe]:
    """Look for each program, and for a small kernel also for the headers of its build's own programs."""
    needed = NEEDED if os.geteuid() == 0 else NEEDED | NEEDED_UNPRIVILEGED
    if kernel_kind == "small":
        needed = needed | NEEDED_SMALL_KERNEL
    found = []
    for name, package in needed.items():
        path = _find_header(name) if name.endswith(".h") else find_tool(name)
        fix = "" if path else f"apt-get install {package}"
        found.append(ToolProbe(name, path is not None, path or "not found", fix))
    return found


def _find_header(name: str) -> str | None:
    path = HEADERS / name
    return str(path) if path.is_file() else None


def require_tools(kernel_kind: str = "stock") -> None:
    """Raise `ImageBuildFailed` naming what is missing."""
    missing = [probe for probe in probe_tools(kernel_kind) if not probe.ok]
    if missing:
        packages = " ".join(probe.fix.removeprefix("apt-get install ") for probe in missing)
        raise ImageBuildFailed(
            f"Building an image needs {', '.join(probe.name for probe in missing)}.",
            remedy=f"Run: apt-get install {packages}",
        )
