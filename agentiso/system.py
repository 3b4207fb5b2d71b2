"""The library: a `System` of workspaces.

It is thin: each method is one message to an actor.  Every method may raise `agentiso.AgentisoError`, whose
message says what happened and why and whose ``remedy`` says what to do next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from actors import messages as m
from actors.model import LIBRARY, Lifetime, PoolInfo, WorkspaceInfo
from actors.settings import Settings
from actors.supervisor import open_supervisor
from agentiso.config import load_settings
from agentiso.images import loader
from agentiso.templates import Templates
from agentiso.workspace import Workspace, find_workspace


class System:
    """All workspaces of one state directory."""

    def __init__(self, registry: m.RegistryRef, settings: Settings) -> None:
        self._registry = registry
        self.settings = settings
        self.templates = Templates(registry, settings)

    async def create(
        self,
        name: str | None = None,
        *,
        image: str | None = None,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_gb: int | None = None,
        network: str | None = None,
        allow_internet: bool | None = None,
        lifetime: Lifetime | None = None,
        on_progress: m.OnProgress | None = None,
        owner: str = LIBRARY,
    ) -> Workspace:
        """Make a workspace and wait until it has proven itself; unset values come from the settings.

        The first one of an (image, vcpus, memory_mb) boots a template, which takes seconds; later ones are restored
        from it; `Templates.warm` makes it ahead.  ``on_progress`` is told in a few words what is being done.
        """
        asked = {"vcpus": vcpus, "memory_mb": memory_mb, "disk_gb": disk_gb}
        shape = attrs.evolve(self.settings.shape, **{key: value for key, value in asked.items() if value is not None})
        info = await self._registry.ask(
            m.CreateWorkspace(name, image, shape, network, allow_internet, lifetime, on_progress, owner)
        )
        return await self.get(info.workspace_id)

    async def get(self, workspace: str) -> Workspace:
        """Find a workspace by name, by id, or by a prefix of its id of at least 8 digits."""
        return await find_workspace(self._registry, workspace)

    async def adopt(self, workspace: Workspace, owner: str) -> WorkspaceInfo:
        """Have a workspace be the session's that is named.

        Raises:
            QuotaExceeded: it is more than that session may hold.
            IllegalState: it has another owner than the handle says.

        """
        return await self._registry.ask(m.AdoptWorkspace(workspace.id, owner, workspace.owner))

    async def pool(self) -> PoolInfo:
        """Describe the pool of machines that are restored ahead."""
        return await self._registry.ask(m.DescribePool())

    async def list(self) -> tuple[WorkspaceInfo, ...]:
        """Describe all workspaces, oldest first."""
        return await self._registry.ask(m.ListWorkspaces())


@asynccontextmanager
async def open_system(settings: Settings | None = None, *, keep: bool = False) -> AsyncIterator[System]:
    """Run a supervisor in this process and yield its `System`.

    Without ``settings`` the configuration in force is used; see `agentiso.config`.  At the end the workspaces made here
    are destroyed, unless ``keep``: then their machines run on, and the next supervisor of the state directory adopts
    them.

    Raises:
        SupervisorRunning: another supervisor holds the state directory.

    """
    chosen = settings or load_settings()
    async with open_supervisor(chosen, loader(chosen.images), keep=keep) as registry:
        yield System(registry, chosen)
