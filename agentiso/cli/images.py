"""Commands for images."""

from __future__ import annotations

import sys
from typing import Any, Final

from agentiso.cli.common import Commands, call_tool, columns, run_interruptibly, show
from agentiso.client.dialling import is_running
from agentiso.library.config import load_settings

EXAMPLES: Final = """\
  agentiso image build base                    kernel, guest layer, Debian root disk
  agentiso image build tiny --root busybox     a root disk of a few MB
  agentiso image warm base --memory-mb 1024    so that the first such workspace starts fast too
  agentiso image verify base
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add(
        "image", _image, "build, list, verify or remove images, or boot their templates ahead", EXAMPLES
    )
    made.add_argument(
        "action", choices=("build", "list", "verify", "remove", "warm"),
        help="verify: hold its files against their digests; warm: boot its template now, so that no create has to",
    )  # fmt: skip
    made.add_argument("name", nargs="?", default="base", help="of the image; base if left out")
    made.add_argument("--root", choices=("debian", "busybox"), default="debian", help="kind of root disk to build")
    made.add_argument(
        "--kernel", choices=("stock", "small"), default="stock",
        help="the distribution's kernel, or a small one that is compiled here once, in some minutes",
    )  # fmt: skip
    made.add_argument("--vcpus", type=int, help="of the template to warm")
    made.add_argument("--memory-mb", type=int, help="of the template to warm")


def _image(a: Any) -> int:
    import imagebuild

    images_dir = load_settings(a.config).images
    if a.action == "list":
        found = imagebuild.list_images(images_dir)
        rows = [("NAME", "DIGEST", "SUITE", "KERNEL")]
        rows += [(i.name, i.digest, i.manifest.suite, i.manifest.kernel_version) for i in found]
        return show(
            a,
            [dict(zip(("name", "digest", "suite", "kernel"), row, strict=True)) for row in rows[1:]],
            columns(rows),
        )
    if a.action == "build":
        image = run_interruptibly(
            lambda: imagebuild.build_image(
                a.name, images_dir, progress=show_progress, root_kind=a.root, kernel_kind=a.kernel
            )
        )
        return show(a, {"name": a.name, "digest": image.digest}, f"image {a.name} is ready ({image.digest})")
    if a.action == "verify":
        imagebuild.verify_image(imagebuild.load_image(images_dir, a.name))
        return show(a, {"name": a.name, "ok": True}, f"image {a.name} is whole")
    if a.action == "warm":
        return _warm(a)
    imagebuild.remove_image(images_dir, a.name)
    if is_running(load_settings(a.config)):
        # Otherwise the next supervisor finds that they are stale.
        call_tool(a, "template_drop")
    return show(a, {"name": a.name, "removed": True}, f"image {a.name} was removed")


def _warm(a: Any) -> int:
    t = call_tool(a, "template_warm", base_image=a.name, vcpus=a.vcpus, memory_mb=a.memory_mb)
    text = f"the template of {a.name} with {t['vcpus']} CPUs and {t['memory_mb']} MB is ready ({t['id'][:8]})"
    return show(a, t, text)


def show_progress(progress: Any) -> None:
    """Print one line of a build's progress."""
    state = "done" if progress.done else "..."
    print(f"[{progress.elapsed_s:5.1f} s] {progress.step}: {progress.message} {state}", file=sys.stderr)
