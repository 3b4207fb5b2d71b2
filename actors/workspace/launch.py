"""How a workspace gets a machine: restored from a checkpoint where its memory fits this host, else booted cold."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from actors.machine import proof, start
from actors.machine.guest.pulse import ANSWER_S
from actors.machine.machine import Machine
from actors.machine.proof import Persona
from actors.machine.storage import integrity
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.layers import Base
from actors.model.errors import CheckpointUnusable, MachineFailed
from actors.model.image import BootImage
from actors.model.machine import Fingerprint
from actors.model.names import new_id
from actors.model.record import WorkspaceRecord, directory_of
from actors.model.settings import Settings
from actors.workspace.host import Host

POOL_REHEARSALS: Final = 2
"""The first one translates what it runs; the second one takes the ways that only a second one takes."""


@attrs.frozen
class Prepared:
    """A machine that runs and waits for its identity."""

    machine: Machine
    source: Checkpoint | None
    grows: bool
    """Whether its disk is larger than the file system on it."""


async def launch(nursery: trio.Nursery, host: Host, record: WorkspaceRecord, source: Checkpoint | None) -> Machine:
    """Bring up a machine, proven, from a checkpoint, or without one cold from the workspace's own disk.

    What the machine stands on is held for ``machine:UUID`` until the caller releases that.

    Raises:
        CheckpointUnusable: the memory does not fit this host, or is damaged.
        MachineFailed, RestoreUnproven: it did not come up; nothing is left of it.

    """
    async with host.starts:
        return await complete(host, record, await prepare(nursery, host, record, source))


async def complete(host: Host, record: WorkspaceRecord, prepared: Prepared) -> Machine:
    """Give a prepared machine the identity of its workspace; errors and holds as of `launch`."""
    machine, source, settings = prepared.machine, prepared.source, host.settings
    resumes = source if source is not None and source.has_memory else None
    limit_s = _limit_s(settings, resumes)
    try:
        await start.prove(
            machine,
            Persona(record.id, record.name),
            resumes,
            grows=prepared.grows,
            limit_s=max(0.0, limit_s - machine.start_seconds),
        )
    except BaseException:
        host.store.release(f"machine:{machine.spec.uuid}")
        raise
    return machine


async def rehearse(prepared: Prepared, host: Host) -> None:
    """Have a prepared machine do once what its start and its first command will take; if that fails, it is ended.

    Raises:
        MachineFailed, RestoreUnproven: it is not usable.

    """
    machine = prepared.machine
    try:
        with trio.move_on_after(host.settings.restore_timeout_s) as limit:
            await proof.rehearse(machine, POOL_REHEARSALS)
            if not await machine.client.freeze():
                raise MachineFailed("The processes of a machine of the pool could not be made to stand still.")
        if limit.cancelled_caught:
            raise MachineFailed("A machine of the pool did not get ready in time.")
    except BaseException:
        await discard(host, prepared)
        raise


async def discard(host: Host, prepared: Prepared) -> None:
    """End a prepared machine that gets no identity; not cancellable."""
    with trio.CancelScope(shield=True):
        await prepared.machine.end()
        host.store.release(f"machine:{prepared.machine.spec.uuid}")


async def prepare(
    nursery: trio.Nursery, host: Host, record: WorkspaceRecord, source: Checkpoint | None, *, keeps_logs: bool = True
) -> Prepared:
    """Start a machine that waits for its identity; errors and holds as of `launch`.

    A checkpoint gets a fresh disk layer over its own, larger than that where the workspace's disk is.  If the
    machine ``keeps_logs``, they replace those of the workspace's last one when it ends.
    """
    # By its digest: the name may belong to a newer build by now.
    image = await host.load_image(record.image_digest)
    like = source.fingerprint if source is not None and source.has_memory else None
    fingerprint = await host.fingerprint(image, record.shape, record.network, record.channel, like=like)
    if source is not None and source.has_memory:
        check_fit(source, fingerprint)
        await trio.to_thread.run_sync(integrity.verify, host.store, source)
    new_layer = await _disk_of(host, record, source)
    with host.store.held(new_layer, *([source.id] if source else [])):
        if new_layer != record.layer:
            _new_disk(host, record, image, source, new_layer)
        # What is damaged is told by its name here, and by QEMU as one of many reasons not to start.
        await trio.to_thread.run_sync(host.store.layers.depends_on, new_layer)
        return await _start(nursery, host, record, image, fingerprint, source, new_layer, keeps_logs=keeps_logs)


async def _disk_of(host: Host, record: WorkspaceRecord, source: Checkpoint | None) -> str:
    """Return the id of the layer to start on: the workspace's own, unless something stands on that, or a fresh one."""
    if source is not None or record.layer is None:
        return new_id()
    # It may be part of a checkpoint although its record says otherwise, if a power loss brought that record back.
    stood_on = await trio.to_thread.run_sync(host.store.is_stood_on, record.layer)
    return new_id() if stood_on else record.layer


def check_fit(source: Checkpoint, fingerprint: Fingerprint) -> None:
    """Raise `CheckpointUnusable`, naming each difference, if a checkpoint's memory cannot be loaded here."""
    assert source.fingerprint is not None
    if differences := source.fingerprint.differences(fingerprint):
        raise CheckpointUnusable(
            f"The checkpoint's memory cannot be loaded on this host: {'; '.join(differences)}.",
            remedy="Restore its disk alone (disk_only), which boots the machine anew.",
        )


def _new_disk(host: Host, record: WorkspaceRecord, image: BootImage, source: Checkpoint | None, layer: str) -> None:
    over = source.layer if source is not None else record.layer or Base(image.root)
    host.store.layers.create(layer, over=over, size_bytes=_disk_bytes(record, source))


def _disk_bytes(record: WorkspaceRecord, source: Checkpoint | None) -> int:
    """Return the size of a workspace's disk on a checkpoint: a template's may be smaller, and none ever shrinks."""
    return max(record.shape.disk_gb * 2**30, source.disk_bytes if source else 0)


def _limit_s(settings: Settings, resumes: Checkpoint | None) -> float:
    """Return how long a guest may take to answer: restored from memory, or booted.

    One that did not answer when its memory was kept will hardly do so now.
    """
    if resumes is None:
        return settings.boot_timeout_s
    return min(settings.restore_timeout_s, ANSWER_S) if resumes.alone else settings.restore_timeout_s


async def _start(
    nursery: trio.Nursery,
    host: Host,
    record: WorkspaceRecord,
    image: BootImage,
    fingerprint: Fingerprint,
    source: Checkpoint | None,
    layer: str,
    *,
    keeps_logs: bool,
) -> Prepared:
    resumes = source if source is not None and source.has_memory else None
    spec = await host.machine_spec(
        image,
        fingerprint,
        workspace_dir=directory_of(host.state_dir, record.id),
        layer=layer,
        checkpoint=resumes,
        allow_internet=record.allow_internet,
        mac=record.mac,
    )
    settings, disk_bytes = host.settings, _disk_bytes(record, source)
    machine = await start.prepare(
        nursery,
        attrs.evolve(spec, keeps_logs=keeps_logs),
        fingerprint,
        layer=layer,
        disk_bytes=disk_bytes,
        checkpoint=resumes,
        state=host.store.checkpoint(resumes.id) / "devices" if resumes else None,
        limit_s=_limit_s(settings, resumes),
    )
    host.store.hold(f"machine:{spec.uuid}", {layer, *([resumes.id] if resumes else [])})
    return Prepared(machine, source, source is not None and disk_bytes > source.disk_bytes)
