"""Workspaces to a file and back: the work on files, in threads, of export and import.

Whatever is written is under its own name only when it is whole, and gone when the work fails or is cancelled.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import attrs
import trio

from actors.machine.storage import extents, integrity
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.layers import Base
from actors.machine.storage.seal import digest_of, seal_of
from actors.machine.storage.store import Store, allocated_bytes
from actors.model.backends import CHANNELS, NETWORKS
from actors.model.errors import AgentisoError, CheckpointUnusable, InvalidArgument, NoCapacity
from actors.model.files import NO_ROOM, exhaustion_reported
from actors.model.image import BootImage
from actors.model.info import WorkspaceInfo
from actors.model.machine import Fingerprint
from actors.model.names import new_id
from actors.registry.bundle import (
    DEVICES,
    FORMAT,
    RAM,
    BadBundle,
    BundleReader,
    BundleWriter,
    Manifest,
    Memory,
    layer_name,
)
from actors.registry.exports import Exports
from actors.registry.streams import Write, pipe_writing, reading, stream_writer

MIB: Final = 2**20
REPORT_S: Final = 0.5
BUFFER_BYTES: Final = MIB
MAX_DEVICES_BYTES: Final = 256 * MIB
"""More than any microVM's device state."""
STAGING: Final = "imports"
IMAGE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)

Report = Callable[[str], None]


class _Progress:
    """Tells how far a thread is, and ends it when its caller has given up."""

    def __init__(self, verb: str, total_bytes: int, report: Report) -> None:
        self._verb = verb
        self.total_bytes = total_bytes
        self._report = report
        self._done = 0
        self._next = 0.0

    def tick(self, count: int) -> None:
        trio.from_thread.check_cancelled()
        self._done += count
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REPORT_S
            of = f" of {self.total_bytes // MIB}" if self.total_bytes else ""
            text = f"{self._verb} {self._done // MIB}{of} MiB"
            trio.from_thread.run_sync(self._report, text)


class TransferFailed(AgentisoError):
    """The file or stream of an export or import failed; nothing was made of it."""

    code = "transfer_failed"


@contextmanager
def _failure_reported(what: str) -> Iterator[None]:
    """Raise `TransferFailed` where a file or a caller's stream fails."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise TransferFailed(f"{what}: {error}.", remedy="Look at the file and its disk, and try again.") from error


@contextmanager
def _target_full(target: Path) -> Iterator[None]:
    """Name the disk that is full: the target's, which may have nothing to do with this state directory."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise NoCapacity(
            f"The disk that {target} is on has no room left for it.",
            remedy="Make room there, or export to another disk; nothing is left of this export.",
            path=str(target),
        ) from error


# -- export -------------------------------------------------------------------------------------------------------


async def export(
    store: Store,
    source: Checkpoint,
    info: WorkspaceInfo,
    target: Path | BinaryIO,
    report: Report,
    exports: Exports,
) -> int:
    """Write a checkpoint, which the caller holds, as a bundle, and return its size in bytes.

    A path is taken only if there is nothing yet, or a pipe.

    Raises:
        InvalidArgument: there is a file already, or no directory for it.
        CheckpointUnusable: the memory is not what was saved.
        NoCapacity: the target's disk is full.

    """
    await trio.to_thread.run_sync(integrity.verify, store, source)
    with _failure_reported("The export could not be written"), exhaustion_reported():
        if not isinstance(target, Path):
            return await trio.to_thread.run_sync(lambda: _write(store, source, info, stream_writer(target), report))
        with _target_full(target):
            return await trio.to_thread.run_sync(_write_to_path, store, source, info, target, report, exports)


def _write_to_path(
    store: Store, source: Checkpoint, info: WorkspaceInfo, target: Path, report: Report, exports: Exports
) -> int:
    if target.is_fifo():
        with pipe_writing(target) as write:
            return _write(store, source, info, write, report)
    if target.exists() or not target.parent.is_dir():
        why = "there is something already" if target.exists() else "its directory does not exist"
        raise InvalidArgument(f"{target} cannot be written: {why}.", remedy="Choose another file.")
    with exports.file(target) as fd, os.fdopen(fd, "wb", buffering=BUFFER_BYTES, closefd=False) as file:
        return _write(store, source, info, stream_writer(file), report)


def _write(store: Store, source: Checkpoint, info: WorkspaceInfo, target: Write, report: Report) -> int:
    written = 0

    def write(data: bytes) -> None:
        nonlocal written
        view = memoryview(data)
        while view:
            count = target(view)
            written += count
            view = view[count:]

    chain = (source.layer, *store.layers.depends_on(source.layer))
    layers = [store.layer(layer) for layer in reversed(chain)]
    directory = store.checkpoint(source.id)
    ram = os.open(directory / "ram", os.O_RDONLY | os.O_CLOEXEC) if source.has_memory else -1
    try:
        manifest = _manifest(source, info, layers, directory, ram)
        progress = _Progress("exporting", manifest.total_bytes, report)
        writer = BundleWriter(write, progress.tick)
        writer.add_manifest(manifest)
        for number, (path, size_bytes) in enumerate(zip(layers, manifest.layers, strict=True)):
            writer.add(layer_name(number), size_bytes, _pieces(path))
        if manifest.memory:
            writer.add(RAM, manifest.memory.data_bytes, extents.read_data(ram, manifest.memory.extents))
            writer.add(DEVICES, manifest.memory.devices_bytes, _pieces(directory / "devices"))
        writer.finish()
    finally:
        if ram >= 0:
            os.close(ram)
    return written


def _manifest(source: Checkpoint, info: WorkspaceInfo, layers: list[Path], directory: Path, ram: int) -> Manifest:
    memory = None
    if source.has_memory:
        assert source.fingerprint is not None
        memory = Memory(
            fingerprint=source.fingerprint,
            key=source.key,
            nonce=source.nonce,
            processes_held=source.processes_held,
            ram_bytes=os.fstat(ram).st_size,
            extents=extents.extents_of(ram),
            devices_bytes=(directory / "devices").stat().st_size,
        )
    return Manifest(
        format=FORMAT,
        name=info.name,
        image=info.image,
        image_digest=info.image_digest,
        shape=info.shape,
        network=info.network.backend,
        channel=info.channel,
        created_at=source.created_at,
        disk_bytes=source.disk_bytes,
        layers=tuple(path.stat().st_size for path in layers),
        memory=memory,
    )


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(extents.PIECE_BYTES):
            yield piece


# -- import -------------------------------------------------------------------------------------------------------


@attrs.frozen
class Unpacked:
    """A bundle that was read whole and is what was written; its files are in `directory`."""

    manifest: Manifest
    directory: Path

    @property
    def image_name(self) -> str:
        """The image's name, if it can be one."""
        manifest = self.manifest
        return manifest.image if IMAGE_NAME.fullmatch(manifest.image) else manifest.image_digest


@asynccontextmanager
async def unpacked(
    state_dir: Path, source: Path | BinaryIO, admit: Callable[[Manifest], None], report: Report, store: Store
) -> AsyncIterator[Unpacked]:
    """Read a bundle into a directory of its own, for the length of the block.

    ``admit`` is given the manifest, in the caller's own thread, before anything else is read.

    Raises:
        BadBundle: it is damaged, or no bundle.
        InvalidArgument: the file cannot be opened.
        NoCapacity: the host's disk has no room for it.

    """
    directory = state_dir / STAGING / new_id()
    with exhaustion_reported():
        directory.mkdir(parents=True, mode=0o700)
    try:
        with _failure_reported("The bundle could not be read"), exhaustion_reported():
            manifest = await trio.to_thread.run_sync(_unpack, source, directory, admit, report)
        yield Unpacked(manifest, directory)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.discard, directory)


def sweep(state_dir: Path, store: Store) -> None:
    """Remove what a supervisor was importing when it was killed."""
    directory = state_dir / STAGING
    for path in directory.iterdir() if directory.is_dir() else ():
        store.discard(path)


def _unpack(source: Path | BinaryIO, directory: Path, admit: Callable[[Manifest], None], report: Report) -> Manifest:
    with reading(source) as read:
        progress = _Progress("importing", 0, report)
        reader = BundleReader(read, progress.tick)
        manifest = reader.manifest()
        _check_sizes(manifest, directory)
        trio.from_thread.run_sync(admit, manifest)
        progress.total_bytes = manifest.total_bytes
        for number, size_bytes in enumerate(manifest.layers):
            with _new_file(directory / f"{number}.qcow2") as fd:
                extents.write_data(fd, [(0, size_bytes)], reader.member(layer_name(number), size_bytes))
        if memory := manifest.memory:
            with _new_file(directory / "ram") as fd:
                os.ftruncate(fd, memory.ram_bytes)
                extents.write_data(fd, memory.extents, reader.member(RAM, memory.data_bytes))
            with _new_file(directory / "devices") as fd:
                size_bytes = memory.devices_bytes
                extents.write_data(fd, [(0, size_bytes)], reader.member(DEVICES, size_bytes))
        reader.finish()
    return manifest


def _check_sizes(manifest: Manifest, directory: Path) -> None:
    memory = manifest.memory
    if manifest.network not in NETWORKS or manifest.channel not in CHANNELS:
        raise BadBundle("The bundle's manifest names a network or a channel that does not exist.")
    if manifest.disk_bytes != manifest.shape.disk_gb * 2**30 or (
        memory
        and (memory.ram_bytes != manifest.shape.memory_mb * MIB or not 0 <= memory.devices_bytes <= MAX_DEVICES_BYTES)
    ):
        raise BadBundle("The sizes in the bundle's manifest contradict each other.")
    free = shutil.disk_usage(directory).free
    if manifest.total_bytes > free:
        raise NoCapacity(
            f"The bundle has {manifest.total_bytes // MIB} MiB; the host's disk has {free // MIB} MiB left.",
            remedy="Free some space.",
        )


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


async def install(store: Store, found: Unpacked, image: BootImage, owner: str) -> Checkpoint:
    """Make a checkpoint of an unpacked bundle, over this host's image, held for ``owner``.

    Raises:
        BadBundle: a layer is not what agentiso makes.

    """
    manifest = found.manifest
    made = Checkpoint(
        id=new_id(),
        created_at=manifest.created_at,
        fingerprint=manifest.memory.fingerprint if manifest.memory else None,
        layer=new_id(),
        disk_bytes=manifest.disk_bytes,
        has_memory=manifest.memory is not None,
        key=manifest.memory.key if manifest.memory else "",
        nonce=manifest.memory.nonce if manifest.memory else "",
        size_bytes=0,
        processes_held=manifest.memory is not None and manifest.memory.processes_held,
    )
    layers = [*(new_id() for _ in manifest.layers[1:]), made.layer]
    store.hold(owner, {made.id, *layers})
    installed = await trio.to_thread.run_sync(_install, store, found, image, made, layers)
    store.unflushed.update(store.layer(layer) for layer in layers)
    return installed


def _install(store: Store, found: Unpacked, image: BootImage, made: Checkpoint, layers: list[str]) -> Checkpoint:
    over: str | Base = Base(image.root)
    for number, layer in enumerate(layers):
        path = found.directory / f"{number}.qcow2"
        try:
            size = store.layers.receive(layer, path, over=over)
        except CheckpointUnusable as error:
            raise BadBundle(error.message, remedy="Export it again, with agentiso.") from error
        if size > made.disk_bytes or (layer == made.layer and size != made.disk_bytes):
            raise BadBundle("A disk layer has not the size that the bundle's manifest says.")
        over = layer
    directory = store.checkpoint(made.id)
    directory.mkdir(mode=0o700)
    if made.has_memory:
        for name in ("ram", "devices"):
            (found.directory / name).rename(directory / name)
        (directory / "devices").chmod(0o400)
        made = attrs.evolve(
            made, size_bytes=allocated_bytes(directory), seal=seal_of(directory), digest=digest_of(directory)
        )
        store.verified[made.id] = made.seal
    store.save(made)
    return made


def fitting(made: Checkpoint, fingerprint: Fingerprint) -> tuple[Checkpoint, str]:
    """Return what of a checkpoint can be restored on this host, and what has to be said of that."""
    differences = fingerprint.differences(made.fingerprint) if made.fingerprint else []
    if not differences:
        return made, ""
    note = f"Its memory cannot be loaded on this host ({'; '.join(differences)}), so it is booted from its disk."
    return attrs.evolve(made, has_memory=False), note
