"""How a workspace gets a machine: restored from a checkpoint where its memory fits this host, else booted cold."""

from __future__ import annotations

import trio

from actors.errors import CheckpointUnusable
from actors.host import Host
from actors.machine import checkpoint as checkpoints
from actors.machine import machine as machines
from actors.machine.checkpoint import Checkpoint, Fingerprint
from actors.machine.image import BootImage
from actors.machine.machine import Machine, Persona
from actors.names import new_id
from actors.record import WorkspaceRecord, directory_of


async def launch(nursery: trio.Nursery, host: Host, record: WorkspaceRecord, source: Checkpoint | None) -> Machine:
    """Bring up a machine, proven, from a checkpoint, or without one cold from the workspace's own disk.

    A checkpoint gets a fresh disk layer over its own, larger than that where the workspace's disk is.  What the machine
    stands on is held for ``machine:UUID`` until the caller releases that.

    Raises:
        CheckpointUnusable: the memory does not fit this host, or is damaged.
        MachineFailed, RestoreUnproven: it did not come up; nothing is left of it.

    """
    # By its digest: the name may belong to a newer build by now.
    image = await host.load_image(record.image_digest)
    fingerprint = await host.fingerprint(image, record.shape, record.network, record.channel)
    if source is not None and source.has_memory:
        check_fit(source, fingerprint)
        await trio.to_thread.run_sync(checkpoints.verify, host.store, source)
    new_layer = new_id() if source or record.layer is None else record.layer
    with host.store.held(new_layer, *([source.id] if source else [])):
        if new_layer != record.layer:
            _new_disk(host, record, image, source, new_layer)
        return await _start(nursery, host, record, image, fingerprint, source, new_layer)


def check_fit(source: Checkpoint, fingerprint: Fingerprint) -> None:
    """Raise `CheckpointUnusable`, naming each difference, if a checkpoint's memory cannot be loaded here."""
    assert source.fingerprint is not None
    if differences := source.fingerprint.differences(fingerprint):
        raise CheckpointUnusable(
            f"The checkpoint's memory cannot be loaded on this host: {'; '.join(differences)}.",
            remedy="Restore its disk alone (disk_only), which boots the machine anew.",
        )


def _new_disk(host: Host, record: WorkspaceRecord, image: BootImage, source: Checkpoint | None, layer: str) -> None:
    if source is not None:
        host.store.new_overlay(
            layer,
            backing=host.store.layer(source.layer),
            backing_format="qcow2",
            size_bytes=_disk_bytes(record, source),
        )
    else:
        host.store.new_overlay(layer, backing=image.root, backing_format="raw", size_bytes=_disk_bytes(record, source))


def _disk_bytes(record: WorkspaceRecord, source: Checkpoint | None) -> int:
    """Return the size of a workspace's disk on a checkpoint: a template's may be smaller, and none ever shrinks."""
    return max(record.shape.disk_gb * 2**30, source.disk_bytes if source else 0)


async def _start(
    nursery: trio.Nursery,
    host: Host,
    record: WorkspaceRecord,
    image: BootImage,
    fingerprint: Fingerprint,
    source: Checkpoint | None,
    layer: str,
) -> Machine:
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
    async with host.starts:
        machine = await machines.start(
            nursery,
            spec,
            Persona(record.id, record.name),
            fingerprint,
            layer=layer,
            disk_bytes=disk_bytes,
            checkpoint=resumes,
            state=host.store.checkpoint(resumes.id) / "devices" if resumes else None,
            grows=source is not None and disk_bytes > source.disk_bytes,
            limit_s=settings.restore_timeout_s if resumes else settings.boot_timeout_s,
        )
    host.store.hold(f"machine:{spec.uuid}", {layer, *([resumes.id] if resumes else [])})
    return machine
