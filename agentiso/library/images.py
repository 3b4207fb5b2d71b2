"""The bridge from images on disk to what a machine boots."""

from __future__ import annotations

from pathlib import Path

import trio

from actors.model.image import BootImage
from actors.workspace.host import LoadImage
from imagebuild import load_image


def loader(images_dir: Path) -> LoadImage:
    """Return the function by which the actors find images in a directory."""

    async def load(name: str) -> BootImage:
        image = await trio.to_thread.run_sync(load_image, images_dir, name)
        return BootImage(
            name=name,
            digest=image.digest,
            kernel=image.file("kernel"),
            initrd=image.file("initrd"),
            layer=image.file("layer.img"),
            root=image.file("root.img"),
            cmdline=image.manifest.cmdline,
            acpi=image.manifest.acpi,
        )

    return load
