"""The programs that a build needs, and how to get them."""

from __future__ import annotations

import os
import shutil

import attrs

from imagebuild.errors import ImageBuildFailed


@attrs.frozen
class ToolProbe:
    """Whether one program is there."""

    name: str
    ok: bool
    reason: str
    fix: str


NEEDED = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "apt-get": "apt", "tar": "tar"}
NEEDED_UNPRIVILEGED = {"fakeroot": "fakeroot", "fakechroot": "fakechroot"}


def find_tool(name: str) -> str | None:
    """Return the path of a program, looking where administrators' programs live too."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def probe_tools() -> list[ToolProbe]:
    """Look for each program."""
    needed = NEEDED if os.geteuid() == 0 else NEEDED | NEEDED_UNPRIVILEGED
    found = []
    for name, package in needed.items():
        path = find_tool(name)
        fix = "" if path else f"apt-get install {package}"
        found.append(ToolProbe(name, path is not None, path or "not found", fix))
    return found


def require_tools() -> None:
    """Raise `ImageBuildFailed` naming what is missing."""
    missing = [probe for probe in probe_tools() if not probe.ok]
    if missing:
        packages = " ".join(probe.fix.removeprefix("apt-get install ") for probe in missing)
        raise ImageBuildFailed(
            f"Building an image needs {', '.join(probe.name for probe in missing)}.",
            remedy=f"Run: apt-get install {packages}",
        )
