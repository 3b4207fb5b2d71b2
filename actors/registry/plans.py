"""Plans: the records of workspaces that are about to be, made of what is asked for and of what this host allows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import attrs

from actors.model.errors import AgentisoError, HostFailed, InvalidArgument, NoCapacity, NotFound
from actors.model.image import BootImage
from actors.model.info import Lineage, Shape, WorkspaceInfo
from actors.model.names import check_name, new_id
from actors.model.record import WorkspaceRecord, new_record
from actors.model.settings import MIN_MEMORY_MB, Limits
from actors.model.states import State
from actors.model.text import shown
from actors.registry import messages as r
from actors.registry import transfer
from actors.registry.admission import Entrant
from actors.workspace.describe import failure_of
from actors.workspace.host import Host
from actors.workspace.lifetime import check as check_lifetime


def check_shape(shape: Shape, limits: Limits) -> None:
    """Raise `InvalidArgument` if no machine may have this shape."""
    bounds = {
        "vcpus": (1, limits.max_vcpus),
        "memory_mb": (MIN_MEMORY_MB, limits.max_memory_mb),
        "disk_gb": (1, limits.max_disk_gb),
    }
    for field, (low, high) in bounds.items():
        value = getattr(shape, field)
        if not low <= value <= high:
            raise InvalidArgument(
                f"{field} is {value}; {low} to {high} are allowed.", remedy=f"Choose another {field}."
            )


def entrant(host: Host, message: r.CreateWorkspace) -> Entrant:
    """Return the workspace that is to be created, as far as nothing has to be waited for.

    Raises:
        InvalidArgument, InvalidName: something that was asked for is not allowed.

    """
    shape = message.shape or host.settings.shape
    if message.name is not None:
        check_name(message.name)
    check_lifetime(message.lifetime or host.settings.lifetime)
    check_shape(shape, host.settings.limits)
    if message.network is not None:
        host.networks.check(message.network)
    return Entrant(message.name or f"ws-{new_id()[:8]}", message.owner, shape)


async def of_creation(host: Host, message: r.CreateWorkspace, image: BootImage, entrant: Entrant) -> WorkspaceRecord:
    """Return the record of a workspace to be created from an image; what was not asked for is as configured."""
    settings = host.settings
    return new_record(
        workspace_id=entrant.id,
        name=entrant.name,
        image=image,
        shape=entrant.shape,
        network=message.network or settings.network,
        allow_internet=settings.allow_internet if message.allow_internet is None else message.allow_internet,
        channel=settings.channel,
        accelerator=(await host.accelerator(image)).chosen,
        lifetime=message.lifetime or settings.lifetime,
        owner=entrant.owner,
    )


def of_child(
    host: Host, parent: WorkspaceInfo, image: BootImage, entrant: Entrant, lineage: Lineage
) -> WorkspaceRecord:
    """Return the record of a fork's child."""
    return new_record(
        workspace_id=entrant.id,
        name=entrant.name,
        image=image,
        shape=entrant.shape,
        network=parent.network.backend,
        allow_internet=parent.network.allow_internet,
        channel=parent.channel,
        accelerator=parent.accelerator,
        lifetime=host.settings.lifetime,
        forked_from=lineage,
        owner=entrant.owner,
    )


def why_booted(parent: WorkspaceInfo, snapshot: str | None) -> str:
    """Say why a fork's children have nothing of their parent but its disk."""
    if snapshot is not None:
        return f"Snapshot {snapshot} of {parent.name} has no memory, so the children boot from its disk."
    failed = parent.state == State.FAILED
    why = f"{parent.name} had no running machine (it {'failed' if failed else f'is {parent.state}'})"
    end = f" {failure_of(parent.ended)}" if parent.ended else ""
    return f"{why}, so its children boot from its disk, without its memory.{end}"


@asynccontextmanager
async def image_of_import(host: Host, found: transfer.Unpacked) -> AsyncIterator[BootImage]:
    """Use this host's image for an imported workspace for the length of the block.

    Raises:
        NotFound: the image is not here, or is damaged.
        HostFailed, NoCapacity: it cannot be read.

    """
    digest = found.manifest.image_digest
    async with AsyncExitStack() as stack:
        try:
            image = await stack.enter_async_context(host.image_uses.using(digest, "an import"))
            if image.digest != digest:
                raise NotFound(f"{shown(digest)} is not a digest.", remedy="Export it once more.")
        except (HostFailed, NoCapacity):
            raise
        except AgentisoError as error:
            raise NotFound(
                f"The workspace stands on the image {found.image_name} (digest {digest[:100]}), which cannot be had "
                f"here: {error.message}",
                remedy="If it is not here, copy its directory from the other host's images directory, under its name.",
            ) from error
        yield image


async def of_import(host: Host, found: transfer.Unpacked, image: BootImage, entrant: Entrant) -> WorkspaceRecord:
    """Return the record of an imported workspace."""
    settings, manifest = host.settings, found.manifest
    return new_record(
        workspace_id=entrant.id,
        name=entrant.name,
        image=attrs.evolve(image, name=found.image_name),
        shape=entrant.shape,
        network=manifest.network,
        # What another host allowed is not this one's word.
        allow_internet=settings.allow_internet,
        channel=manifest.channel,
        accelerator=(await host.accelerator(image)).chosen,
        lifetime=settings.lifetime,
        owner=entrant.owner,
    )
