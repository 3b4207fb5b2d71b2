"""The bridge from images on disk to what a machine boots, and to what the registry lists and removes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import trio

import imagebuild
from actors.model.files import reported
from actors.model.image import BootImage
from actors.model.info import ImageInfo
from actors.workspace.image_uses import LoadImage

log: Final = logging.getLogger("agentiso.library")


def loader(images_dir: Path) -> LoadImage:
    """Return the function by which the actors find images in a directory."""

    async def load(name: str) -> BootImage:
        try:
            image = await trio.to_thread.run_sync(imagebuild.load_image, images_dir, name)
        except OSError as error:
            raise reported(error) from error
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


class Shelf:
    """The images of a directory, for the workspaces of one state directory (`actors.workspace.image_uses`)."""

    def __init__(self, images_dir: Path, state_dir: Path) -> None:
        self._images_dir = images_dir
        self._state_dir = state_dir
        self._load = loader(images_dir)
        self._noted = False
        self._told = False

    async def load(self, name: str) -> BootImage:
        """Find a verified image by name or digest; that these workspaces use such images is written down."""
        image = await self._load(name)
        if not self._noted:
            self._noted = await trio.to_thread.run_sync(imagebuild.note_user, self._images_dir, self._state_dir)
            if not self._noted and not self._told:
                log.warning(
                    "this user may not write to %s, so that who removes images there does not learn of %s",
                    self._images_dir / imagebuild.USERS, self._state_dir,
                )  # fmt: skip
                self._told = True
        return image

    async def list(self) -> tuple[ImageInfo, ...]:
        """Describe all images, and go on with removals that were interrupted."""
        return await trio.to_thread.run_sync(self._list)

    def _list(self) -> tuple[ImageInfo, ...]:
        imagebuild.finish_removals(self._images_dir)
        return tuple(_info(shelved) for shelved in imagebuild.list_images(self._images_dir))

    async def remove(self, digest: str, names: tuple[str, ...], *, files: bool) -> bool:
        """Take names from an image, and its files if no name leads to it then; tell whether the files went."""
        return await trio.to_thread.run_sync(
            lambda: imagebuild.remove_image(self._images_dir, digest, names, files=files)
        )

    async def others(self) -> tuple[Path, ...]:
        """Return the other state directories whose workspaces may stand on these images."""
        return tuple(await trio.to_thread.run_sync(imagebuild.other_users, self._images_dir, self._state_dir))


def _info(shelved: imagebuild.Shelved) -> ImageInfo:
    if shelved.image is None:
        return ImageInfo(shelved.digest, shelved.names, fault=shelved.fault)
    manifest = shelved.image.manifest
    size_bytes = sum(facts.size_bytes for facts in manifest.files.values())
    return ImageInfo(shelved.digest, shelved.names, manifest.suite, manifest.kernel_version, size_bytes)
