"""Commands for images."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

from actors.model.errors import InvalidArgument
from actors.model.files import failures_reported
from agentiso.cli.common import Commands, call_tool, columns, run_interruptibly, show
from agentiso.display.units import size
from agentiso.library.config import load_settings

EXAMPLES: Final = """\
  agentiso image build base                    kernel, guest layer, Debian root disk
  agentiso image build tiny --root busybox     a root disk of a few MB
  agentiso image warm base --memory-mb 1024    so that the first such workspace starts fast too
  agentiso image verify base
  agentiso image list                          and who uses each
  agentiso image remove 48da74ea               one that was built anew since, by its digest
  agentiso image forget /old/state             keep no image for that state directory any more
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add(
        "image", _image, "build, list, verify or remove images, or boot their templates ahead", EXAMPLES
    )
    made.add_argument(
        "action", choices=("build", "list", "verify", "remove", "warm", "forget"),
        help="verify: hold its files against their digests; warm: boot its template now, so that no create has to; "
        "forget: a state directory that is gone for good keeps no image any more",
    )  # fmt: skip
    made.add_argument(
        "name", nargs="?", default="base", help="of the image, or its digest; base if left out; or a state directory"
    )
    made.add_argument("--root", choices=("debian", "busybox"), default="debian", help="kind of root disk to build")
    made.add_argument(
        "--kernel", choices=("stock", "small"), default="stock",
        help="the distribution's kernel, or a small one that is compiled here once, in some minutes",
    )  # fmt: skip
    made.add_argument("--vcpus", type=int, help="of the template to warm")
    made.add_argument("--memory-mb", type=int, help="of the template to warm")
    made.add_argument("--force", action="store_true", help="remove at least the name of one that is used")


def _image(a: Any) -> int:
    actions = {
        "build": _build, "list": _list, "verify": _verify, "remove": _remove, "warm": _warm, "forget": _forget,
    }  # fmt: skip
    return actions[a.action](a)


def _build(a: Any) -> int:
    import imagebuild

    images_dir = load_settings(a.config).images
    image = run_interruptibly(
        lambda: imagebuild.build_image(
            a.name, images_dir, progress=show_progress, root_kind=a.root, kernel_kind=a.kernel
        )
    )
    return show(a, {"name": a.name, "digest": image.digest}, f"image {a.name} is ready ({image.digest})")


def _list(a: Any) -> int:
    found = call_tool(a, "image_list")["images"]
    rows = [("NAME", "DIGEST", "SUITE", "KERNEL", "SIZE", "USED BY")]
    rows += [
        (" ".join(i["names"]) or "-", i["digest"] or "-", i["suite"] or "-", i["kernel"] or "-", size(i["size_bytes"]),
         "; ".join(i["used_by"]) or "-")
        for i in found
    ]  # fmt: skip
    for image in found:
        if image["fault"]:
            print(f"{' '.join(image['names']) or image['digest']} cannot be used: {image['fault']}", file=sys.stderr)
    return show(a, found, columns(rows))


def _verify(a: Any) -> int:
    import imagebuild

    imagebuild.verify_image(imagebuild.load_image(load_settings(a.config).images, a.name))
    return show(a, {"name": a.name, "ok": True}, f"image {a.name} is whole")


def _remove(a: Any) -> int:
    gone = call_tool(a, "image_remove", image=a.name, force=a.force)
    names = " ".join(gone["names"]) or gone["digest"]
    lines = [f"image {names} was removed" if gone["files_removed"] else f"the name {names} was removed"]
    lines += [f"{dropped} went with it" for dropped in gone["dropped"]]
    if not gone["files_removed"]:
        why = f", for {'; '.join(gone['used_by'])}" if gone["used_by"] else ": it has another name"
        lines.append(f"its files stay as {gone['digest']}{why}")
    return show(a, gone, "\n".join(lines))


def _forget(a: Any) -> int:
    import imagebuild

    state_dir = Path(a.name).absolute()
    with failures_reported():
        if os.path.lexists(state_dir) and any(state_dir.iterdir()):
            raise InvalidArgument(
                f"{state_dir} is there: its workspaces are looked at when an image is removed.",
                remedy="Remove that directory first if nothing in it is needed.",
            )
    known = imagebuild.forget_user(load_settings(a.config).images, state_dir)
    text = f"no image is kept for {state_dir} any more" if known else f"no image was kept for {state_dir}"
    return show(a, {"state_dir": str(state_dir), "forgotten": known}, text)


def _warm(a: Any) -> int:
    t = call_tool(a, "template_warm", base_image=a.name, vcpus=a.vcpus, memory_mb=a.memory_mb)
    text = f"the template of {a.name} with {t['vcpus']} CPUs and {t['memory_mb']} MB is ready ({t['id'][:8]})"
    return show(a, t, text)


def show_progress(progress: Any) -> None:
    """Print one line of a build's progress."""
    state = "done" if progress.done else "..."
    print(f"[{progress.elapsed_s:5.1f} s] {progress.step}: {progress.message} {state}", file=sys.stderr)
