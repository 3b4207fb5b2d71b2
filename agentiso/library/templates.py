"""The templates of a system: freshly booted guests, kept as checkpoints, from which workspaces are made."""

from __future__ import annotations

import attrs

from actors.model.info import Shape, TemplateInfo
from actors.model.settings import Settings
from actors.registry import messages as r


def asked_shape(settings: Settings, vcpus: int | None, memory_mb: int | None, disk_gb: int | None) -> Shape:
    """Return a shape of what was asked for, and for the rest as configured."""
    asked = {"vcpus": vcpus, "memory_mb": memory_mb, "disk_gb": disk_gb}
    return attrs.evolve(settings.shape, **{key: value for key, value in asked.items() if value is not None})


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
        shape = asked_shape(self._settings, vcpus, memory_mb, disk_gb)
        return await self._registry.ask(r.WarmTemplate(image, shape, network, on_progress))

    async def list(self) -> tuple[TemplateInfo, ...]:
        """Describe all templates, oldest first."""
        return await self._registry.ask(r.ListTemplates())

    async def drop(self, *ids: str) -> tuple[TemplateInfo, ...]:
        """Forget templates by their ids or prefixes of them, or without any the stale ones; return what went.

        Workspaces that were made from one live on.
        """
        return await self._registry.ask(r.DropTemplates(ids or None))
