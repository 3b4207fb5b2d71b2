"""Checkpoints: a machine's memory, devices and disk as of one instant, immutable.

Taking one follows the recipe of docs/fork.md.  Before the pause: copy the RAM image the machine was started from,
which is immutable, and make the next disk layer.  In the pause: save the state of devices and CPUs, copy the pages
the machine has changed over the image's copy, and give the disk its new layer, so that memory and disk are of one
instant.  Then the machine runs on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import cattrs
import trio

from actors.errors import CheckpointUnusable, MachineFailed
from actors.machine import ram_image
from actors.machine.command_line import ROOT_DEVICE
from actors.machine.files import make_durable, read_json, replace_json
from actors.machine.qmp import Pending
from actors.machine.ram_image import ChangedMemory
from actors.machine.store import Store, allocated_bytes
from actors.names import new_id

if TYPE_CHECKING:
    from actors.machine.machine import Machine

RESUME_LIMIT_S: Final = 30.0
"""Bound on resuming the source, which happens whatever else fails."""
RECORD: Final = "checkpoint.json"


@attrs.frozen
class Fingerprint:
    """What must be equal for saved memory and device state to be loadable."""

    qemu: str
    """Version and build of QEMU."""
    accelerator: str
    cpu_model: str
    vcpus: int
    memory_mb: int
    image: str
    """Digest of the image: kernel, initrd and guest layer."""
    network: str
    channel: str

    def differences(self, other: Fingerprint) -> list[str]:
        """Name each part that differs, with both values."""
        return [
            f"{field.name}: {getattr(self, field.name)} here, {getattr(other, field.name)} there"
            for field in attrs.fields(Fingerprint)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


@attrs.frozen
class Checkpoint:
    """An immutable instant of a machine; the files are in the store under `id`."""

    id: str
    created_at: float
    fingerprint: Fingerprint
    layer: str
    """Id of the disk layer that was frozen; its chain is the whole disk."""
    disk_bytes: int
    """Virtual size of the disk."""
    has_memory: bool
    key: str
    """The channel key that the guest's memory holds, hexadecimal."""
    nonce: str
    """The nonce that the guest's memory holds, hexadecimal."""
    size_bytes: int
    """Bytes allocated on the host for memory and device state."""


@attrs.frozen
class Taken:
    """A fresh checkpoint and what it cost."""

    checkpoint: Checkpoint
    pause_s: float
    copied_bytes: int


_converter = cattrs.Converter(forbid_extra_keys=True)


def save(store: Store, checkpoint: Checkpoint) -> None:
    """Write the checkpoint's record; from here on it exists."""
    replace_json(store.checkpoint(checkpoint.id) / RECORD, _converter.unstructure(checkpoint))


def load(store: Store, checkpoint_id: str) -> Checkpoint:
    """Read a checkpoint's record.

    Raises:
        CheckpointUnusable: it is missing or damaged.

    """
    path = store.checkpoint(checkpoint_id) / RECORD
    try:
        found = _converter.structure(read_json(path), Checkpoint)
    except (OSError, ValueError, cattrs.BaseValidationError) as error:
        raise CheckpointUnusable(f"The checkpoint {checkpoint_id} cannot be read from {path}: {error}.") from error
    return found


def layer_of(directory: Path) -> str | None:
    """Return the id of the disk layer of the checkpoint in ``directory``, or ``None`` if it is half-made."""
    try:
        layer = read_json(directory / RECORD)["layer"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return layer if isinstance(layer, str) else None


async def take(machine: Machine, store: Store, *, with_memory: bool, durable: bool) -> Taken:
    """Checkpoint a running machine, which runs on afterwards whatever happens.

    `Machine.layer` may have moved when this returns or raises, and the result is held by nobody: the caller holds
    both before its next await.  With ``durable`` the checkpoint would survive a power failure when this returns.
    """
    checkpoint_id, next_layer, layer = new_id(), new_id(), machine.layer
    with store.held(checkpoint_id, next_layer, layer):
        directory = store.checkpoint(checkpoint_id)
        async with AsyncExitStack() as undo:
            directory.mkdir(mode=0o700)
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            next_path = store.new_overlay(
                next_layer, backing=store.layer(layer), backing_format="qcow2", size_bytes=machine.disk_bytes
            )
            if with_memory:
                pause_s, copied = await _take_with_memory(machine, directory, next_layer, next_path)
            else:
                pause_s, copied = await _take_disk_only(machine, next_layer, next_path)
            checkpoint = Checkpoint(
                id=checkpoint_id,
                created_at=time.time(),
                fingerprint=machine.fingerprint,
                layer=layer,
                disk_bytes=machine.disk_bytes,
                has_memory=with_memory,
                key=machine.key.hex(),
                nonce=machine.nonce,
                size_bytes=allocated_bytes(directory),
            )
            save(store, checkpoint)
            if durable:
                await make_durable(*directory.iterdir(), store.layer(layer), next_path)
            undo.pop_all()
    return Taken(checkpoint, pause_s, copied)


async def _take_with_memory(machine: Machine, directory: Path, next_layer: str, next_path: Path) -> tuple[float, int]:
    ram, devices = directory / "ram", directory / "devices"
    await trio.to_thread.run_sync(ram_image.copy_sparse, machine.spec.ram, ram)
    target = os.open(ram, os.O_RDWR | os.O_CLOEXEC)
    try:
        with ChangedMemory(machine.process.pid, machine.spec.ram, target) as memory:
            async with _paused(machine) as clock:
                # QEMU saves its devices and opens the new layer while we read: nothing of it touches guest memory.
                saving = await machine.qmp.begin("xen-save-devices-state", {"filename": str(devices), "live": True})
                switching = await _begin_switch(machine, next_path)
                copied = memory.read()
                await _finish_switch(machine, switching, next_layer)
                await machine.qmp.finish(saving)
            await trio.to_thread.run_sync(memory.write)
    finally:
        os.close(target)
    devices.chmod(0o400)
    return clock.seconds, copied


async def _take_disk_only(machine: Machine, next_layer: str, next_path: Path) -> tuple[float, int]:
    await machine.client.sync_disks()
    async with _paused(machine) as clock:
        await _finish_switch(machine, await _begin_switch(machine, next_path), next_layer)
    return clock.seconds, 0


async def _begin_switch(machine: Machine, next_path: Path) -> Pending:
    arguments: dict[str, Any] = {"device": ROOT_DEVICE, "snapshot-file": str(next_path)}
    return await machine.qmp.begin("blockdev-snapshot-sync", {**arguments, "format": "qcow2", "mode": "existing"})


async def _finish_switch(machine: Machine, switching: Pending, next_layer: str) -> None:
    await machine.qmp.finish(switching)
    machine.layer = next_layer


@attrs.define
class _Clock:
    seconds: float = 0.0


@asynccontextmanager
async def _paused(machine: Machine) -> AsyncIterator[_Clock]:
    """Keep the machine paused for the block.  Not cancellable inside: it is short, and half of it is of no use."""
    clock = _Clock()
    with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
        began = time.perf_counter()
        await machine.qmp.execute("stop")
        try:
            yield clock
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
                await machine.qmp.execute("cont")
                clock.seconds = time.perf_counter() - began
        return
    raise MachineFailed(
        f"A checkpoint did not end within {RESUME_LIMIT_S:.0f} s; the machine was resumed.",
        remedy="Look at QEMU's log; the host's disk may be full or very slow.",
    )
