"""Which images are being used by work under way, that nothing on disk tells of yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio

from actors.model.image import BootImage
from actors.model.info import ImageInfo

LoadImage = Callable[[str], Awaitable[BootImage]]
"""Finds a verified image by name or digest."""


class ImageShelf(Protocol):
    """Where the images are.  All methods raise an `AgentisoError` if something cannot be read or removed."""

    async def list(self) -> tuple[ImageInfo, ...]:
        """Describe all images, and go on with removals that were interrupted."""

    async def remove(self, digest: str, names: tuple[str, ...], *, files: bool) -> bool:
        """Take names from an image, and its files if no name leads to it then; tell whether the files went."""

    async def others(self) -> tuple[Path, ...]:
        """Return the other state directories whose workspaces may stand on these images."""


class ImageUses:
    """What work under way uses, by digest."""

    def __init__(self, load: LoadImage) -> None:
        self._load = load
        self._uses: list[tuple[str, str]] = []
        self._still = trio.Lock()

    @asynccontextmanager
    async def using(self, name: str, what: str) -> AsyncIterator[BootImage]:
        """Find an image, and have ``what`` use it for the length of the block."""
        async with self._still:
            image = await self._load(name)
            use = (image.digest, what)
            self._uses.append(use)
        try:
            yield image
        finally:
            self._uses.remove(use)

    @asynccontextmanager
    async def none_new(self) -> AsyncIterator[None]:
        """Have nobody begin to use an image for the length of the block."""
        async with self._still:
            yield

    def of(self, digest: str) -> tuple[str, ...]:
        """Return what uses an image now."""
        return tuple(what for used, what in self._uses if used == digest)
