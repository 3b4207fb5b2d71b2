"""The templates of a system: freshly booted guests, kept as checkpoints, from which workspaces are made."""

from __future__ import annotations

import attrs

from actors.model.info import TemplateInfo
from actors.model.settings import Settings
from actors.registry import messages as r


class Templates:
    """``system.templates``."""

    def __init__(self, registry: r.RegistryRef, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings

    async def warm(
        self,
        image: str | None = None,
        *,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_gb: int | None = None,
        network: str | None = None,
        on_progress: r.OnProgress | None = None,
    ) -> TemplateInfo:
        """Make the template for such workspaces ahead, unless there is one; unset values come from the settings."""
        asked = {"vcpus": vcpus, "memory_mb": memory_mb, "disk_gb": disk_gb}
        shape = attrs.evolve(self._settings.shape, **{key: value for key, value in asked.items() if value is not None})
        return await self._registry.ask(r.WarmTemplate(image, shape, network, on_progress))

    async def list(self) -> tuple[TemplateInfo, ...]:
        """Describe all templates, oldest first."""
        return await self._registry.ask(r.ListTemplates())

    async def drop(self, *ids: str) -> tuple[TemplateInfo, ...]:
        """Forget templates by their ids or prefixes of them, or without any the stale ones; return what went.

        Workspaces that were made from one live on.
        """
        return await self._registry.ask(r.DropTemplates(ids or None))
