"""Checkpoints: a machine's memory, devices and disk as of one instant, immutable.

Taking one follows the recipe of docs/fork.md.  Before the pause: copy the RAM image the machine was started from,
which is immutable, and make the next disk layer.  In the pause: save the state of devices and CPUs, copy the pages
the machine has changed over the image's copy, and give the disk its new layer, so that memory and disk are of one
instant.  Then the machine runs on.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import trio

from actors.machine.guest.pulse import ANSWER_S
from actors.machine.machine import Machine, Standstill
from actors.machine.pause import RESUME_LIMIT_S, FileSystem, standing_still
from actors.machine.qemu.command_line import ROOT_DEVICE
from actors.machine.qemu.qmp import Pending
from actors.machine.storage import ram_image
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.integrity import host_boot
from actors.machine.storage.ram_image import ChangedMemory
from actors.machine.storage.seal import seal_of
from actors.machine.storage.store import Store, allocated_bytes
from actors.model.errors import AgentisoError, HostFailed, MachineFailed, QmpError
from actors.model.files import exhaustion_reported, make_durable
from actors.model.names import new_id
from actors.runtime import open_plain_nursery

Still: TypeAlias = AbstractAsyncContextManager[Standstill]


@attrs.frozen
class Taken:
    """A fresh checkpoint and what it cost."""

    checkpoint: Checkpoint
    pause_s: float
    copied_bytes: int


Intend = Callable[[str, str], Awaitable[None]]
"""Puts on stable storage that a disk is about to go on on a layer, over another one."""


async def take(
    machine: Machine,
    store: Store,
    *,
    with_memory: bool,
    durable: bool,
    whole: bool | None = None,
    guest_needed: bool = True,
    answer_s: float = ANSWER_S,
    intend: Intend | None = None,
) -> Taken:
    """Checkpoint a machine, which afterwards runs on, or is held as before, whatever happens.

    ``intend`` is waited for before the disk is switched; who needs none has nothing to lose.

    `Machine.layer` may have moved when this returns or raises, and the result is held by nobody: the caller holds
    both before its next await.  With ``durable`` the checkpoint would survive a power failure when this returns.  If
    ``whole``, as what is durable is unless told otherwise, and as it always is without memory, its disk is whole by
    itself.  Unless the guest is needed, QEMU alone does it where the guest does not answer within
    ``answer_s``: the checkpoint is ``alone`` then, and its disk as after a power cut.

    Raises:
        NoCapacity: the host's disk is full.
        GuestBroken: the guest does not answer, and is needed; nothing was changed.
        MachineFailed: QEMU died or does not answer.
        HostFailed: a file that it needs is not there.

    """
    if machine.doubtful_layer is not None:
        await settle_layer(machine)
    checkpoint_id, next_layer, layer = new_id(), new_id(), machine.layer
    with store.held(checkpoint_id, next_layer, layer), exhaustion_reported(), _missing_reported(machine):
        directory = store.checkpoint(checkpoint_id)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(_recover, machine, next_layer, store.layer(next_layer))
            directory.mkdir(mode=0o700)
            undo.callback(store.discard, directory)
            next_path = store.layers.create(next_layer, over=layer, size_bytes=machine.disk_bytes)
            if with_memory:
                file_system = FileSystem.WRITTEN if (durable if whole is None else whole) else FileSystem.AS_IS
                async with open_plain_nursery() as nursery:
                    if intend is not None:
                        nursery.start_soon(intend, next_layer, layer)
                    await trio.to_thread.run_sync(ram_image.copy_sparse, machine.spec.ram, directory / "ram")
                still = standing_still(machine, file_system, guest_needed=guest_needed, answer_s=answer_s)
                pause, copied = await _take_with_memory(machine, directory, next_layer, next_path, still)
            else:
                if intend is not None:
                    await intend(next_layer, layer)
                still = standing_still(machine, FileSystem.QUIESCED, guest_needed=guest_needed)
                pause, copied = await _take_disk_only(machine, next_layer, next_path, still), 0
            seal = seal_of(directory) if with_memory else ""
            checkpoint = Checkpoint(
                id=checkpoint_id,
                created_at=time.time(),
                fingerprint=machine.fingerprint,
                layer=layer,
                disk_bytes=machine.disk_bytes,
                has_memory=with_memory,
                key=machine.key.hex(),
                nonce=machine.nonce or "",
                size_bytes=allocated_bytes(directory),
                seal=seal,
                boot="" if durable else host_boot(),
                processes_held=pause.processes_held,
                alone=pause.alone,
            )
            store.verified[checkpoint.id] = seal
            store.save(checkpoint)
            if durable:
                await make_durable(*store.files_of(checkpoint), next_path)
            undo.pop_all()
    return Taken(checkpoint, pause.seconds, copied)


def take_disk(store: Store, layer: str, disk_bytes: int) -> Checkpoint:
    """Checkpoint the disk of a workspace without a machine; from now on nothing may write to its layer.

    Raises:
        NoCapacity: the host's disk is full.

    """
    checkpoint = Checkpoint(
        id=new_id(),
        created_at=time.time(),
        fingerprint=None,
        layer=layer,
        disk_bytes=disk_bytes,
        has_memory=False,
        key="",
        nonce="",
        size_bytes=0,
    )
    directory = store.checkpoint(checkpoint.id)
    with store.held(checkpoint.id, layer), exhaustion_reported():
        try:
            directory.mkdir(mode=0o700)
            store.save(checkpoint)
        except BaseException:
            store.discard(directory)
            raise
    return checkpoint


@contextmanager
def _missing_reported(machine: Machine) -> Iterator[None]:
    """Raise `MachineFailed` where the process whose memory is read has ended, `HostFailed` where a file is gone."""
    try:
        yield
    except (FileNotFoundError, ProcessLookupError) as error:
        if not machine.process.has_ended:
            raise HostFailed(
                f"A file of the machine or of its disk is not there: {error}.", path=error.filename
            ) from error
        raise MachineFailed(f"The machine ended while it was being checkpointed: {error}.") from error


async def _take_with_memory(
    machine: Machine, directory: Path, next_layer: str, next_path: Path, still: Still
) -> tuple[Standstill, int]:
    ram, devices = directory / "ram", directory / "devices"
    target = os.open(ram, os.O_RDWR | os.O_CLOEXEC)
    try:
        with ChangedMemory(machine.process.pid, machine.spec.ram, target) as memory:
            async with still as pause:
                # QEMU saves its devices and opens the new layer while we read: nothing of it touches guest memory.
                saving = await machine.qmp.begin("xen-save-devices-state", {"filename": str(devices), "live": False})
                switching = await _begin_switch(machine, next_layer, next_path)
                copied = memory.read()
                await _finish_switch(machine, switching, next_layer)
                await machine.qmp.finish(saving)
            await trio.to_thread.run_sync(memory.write)
    finally:
        os.close(target)
    devices.chmod(0o400)
    return pause, copied


async def _take_disk_only(machine: Machine, next_layer: str, next_path: Path, still: Still) -> Standstill:
    async with still as pause:
        await _finish_switch(machine, await _begin_switch(machine, next_layer, next_path), next_layer)
    return pause


async def _begin_switch(machine: Machine, next_layer: str, next_path: Path) -> Pending:
    machine.doubtful_layer = next_layer
    arguments: dict[str, Any] = {"device": ROOT_DEVICE, "snapshot-file": str(next_path)}
    return await machine.qmp.begin("blockdev-snapshot-sync", {**arguments, "format": "qcow2", "mode": "existing"})


async def _finish_switch(machine: Machine, switching: Pending, next_layer: str) -> None:
    try:
        await machine.qmp.finish(switching)
    except QmpError:
        machine.doubtful_layer = None
        raise
    machine.layer, machine.doubtful_layer = next_layer, None


async def settle_layer(machine: Machine) -> None:
    """Ask QEMU on which layer the disk stands, where the outcome of a switch is unknown.

    Raises:
        MachineFailed: QEMU does not answer; the doubt stays.

    """
    for device in (await machine.qmp.execute("query-block"))["return"]:
        if device.get("device") == ROOT_DEVICE:
            machine.layer, machine.doubtful_layer = Path(device["inserted"]["file"]).stem, None
            return
    raise MachineFailed("The machine has lost its root disk.")


async def _recover(machine: Machine, next_layer: str, next_path: Path) -> None:
    """After a failed checkpoint: find out where the disk stands, and have the machine run on, unless it is held."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + RESUME_LIMIT_S):
        try:
            if machine.doubtful_layer is not None:
                await settle_layer(machine)
            if machine.layer != next_layer:
                # One that stays is collected.
                with contextlib.suppress(OSError):
                    next_path.unlink(missing_ok=True)
            # QEMU pauses a guest whose disk cannot be written; what filled the host's disk is gone now.
            async with machine.pausing:
                await machine.settle()
        except AgentisoError:
            machine.doubt()
