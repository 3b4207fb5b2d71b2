"""The images of a system: what workspaces boot."""

from __future__ import annotations

from actors.model.info import ImageInfo, ImageRemoval
from actors.registry import messages as r


class Images:
    """``system.images``; `agentiso image build` makes them."""

    def __init__(self, registry: r.RegistryRef) -> None:
        self._registry = registry

    async def list(self) -> tuple[ImageInfo, ...]:
        """Describe all images, also those without a name and those that are damaged, and who uses each."""
        return await self._registry.ask(r.ListImages())

    async def remove(self, image: str, *, force: bool = False) -> ImageRemoval:
        """Remove an image by its name, its digest, or at least 8 digits of that; its templates go with it.

        With ``force`` one that is used loses its name; its files stay for whoever stands on them.

        Raises:
            ImageInUse: somebody uses it, or may do so as far as can be told.
            NotFound: there is none, or more than one.

        """
        return await self._registry.ask(r.RemoveImage(image, force))
