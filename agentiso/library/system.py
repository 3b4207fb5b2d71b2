"""The library: a `System` of workspaces.

It is thin: each method is one message to an actor.  Every method may raise `agentiso.AgentisoError`, whose
message says what happened and why and whose ``remedy`` says what to do next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import attrs

from actors.model.info import LIBRARY, ImportReport, Lifetime, PoolInfo, WorkspaceInfo
from actors.model.settings import Settings
from actors.registry import messages as r
from agentiso.library.images import Images
from agentiso.library.templates import Templates, asked_shape
from agentiso.library.workspace import Workspace, destroy_all, find_workspace


@attrs.frozen
class Imported:
    """An imported workspace, and what became of its memory."""

    workspace: Workspace
    report: ImportReport


class System:
    """All workspaces of one state directory."""

    def __init__(self, registry: r.RegistryRef, settings: Settings) -> None:
        self._registry = registry
        self.settings: Settings = settings
        self.templates = Templates(registry, settings)
        self.images = Images(registry)

    @property
    def registry(self) -> r.RegistryRef:
        """The actor behind it, for front ends that carry messages."""
        return self._registry

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
        on_progress: r.OnProgress | None = None,
        owner: str = LIBRARY,
    ) -> Workspace:
        """Make a workspace and wait until it has proven itself; unset values come from the settings.

        The first one of an (image, vcpus, memory_mb) boots a template, which takes seconds; later ones are restored
        from it; `Templates.warm` makes it ahead.  ``on_progress`` is told in a few words what is being done.
        """
        shape = asked_shape(self.settings, vcpus, memory_mb, disk_gb)
        made = await self._registry.ask(
            r.CreateWorkspace(name, image, shape, network, allow_internet, lifetime, on_progress, owner)
        )
        return Workspace(self._registry, made.found)

    @asynccontextmanager
    async def workspace(
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
        on_progress: r.OnProgress | None = None,
    ) -> AsyncIterator[Workspace]:
        """Make a workspace as `create` does, and destroy it at the end of the block, however that ends."""
        workspace = await self.create(
            name, image=image, vcpus=vcpus, memory_mb=memory_mb, disk_gb=disk_gb, network=network,
            allow_internet=allow_internet, lifetime=lifetime, on_progress=on_progress,
        )  # fmt: skip
        try:
            yield workspace
        finally:
            await destroy_all(workspace)

    async def get(self, workspace: str) -> Workspace:
        """Find a workspace by name, by id, or by a prefix of its id of at least 8 digits."""
        return await find_workspace(self._registry, workspace)

    async def adopt(self, workspace: Workspace, owner: str) -> WorkspaceInfo:
        """Have a workspace be the session's that is named.

        Raises:
            QuotaExceeded: it is more than that session may hold.
            IllegalState: it has another owner than the handle says.

        """
        return await self._registry.ask(r.AdoptWorkspace(workspace.id, owner, workspace.owner))

    async def import_workspace(
        self,
        source: Path | str | BinaryIO,
        name: str | None = None,
        *,
        on_progress: r.OnProgress | None = None,
        owner: str = LIBRARY,
    ) -> Imported:
        """Make a workspace of one that was exported, here or on another host; it gets a new identity, like a fork.

        Everything in the file is held against its digests before any of it is used.  Where this host cannot load the
        memory, the workspace is booted from its disk, and the result's ``note`` says why.
        """
        chosen = Path(source) if isinstance(source, str) else source
        made = await self._registry.ask(r.ImportWorkspace(chosen, name, on_progress, owner))
        return Imported(Workspace(self._registry, made.found), made.report)

    async def pool(self) -> PoolInfo:
        """Describe the pool of machines that are restored ahead."""
        return await self._registry.ask(r.DescribePool())

    async def list(self) -> tuple[WorkspaceInfo, ...]:
        """Describe all workspaces, oldest first."""
        return await self._registry.ask(r.ListWorkspaces())

    async def wait_changed(self, since: int | None = None, *, workspace_id: str | None = None) -> int:
        """Wait until a workspace has changed; return a number to wait on from, as ``since``.

        What changes is what `list` tells: which there are, their states, snapshots, owners.  With ``workspace_id`` only
        that one counts; if it does not exist, or not any more, this returns at once.  Without ``since`` it returns at
        once too; look after that, and no change is missed::

            seen = await system.wait_changed()
            while True:
                print(await system.list())
                seen = await system.wait_changed(seen)
        """
        return await self._registry.ask(r.AwaitChange(since, workspace_id))
