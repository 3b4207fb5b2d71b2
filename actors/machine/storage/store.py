"""Where disk layers and checkpoints live, and which of them are still needed.

Layers and checkpoints are shared: a fork's disk stands on its parent's layer, its memory on its parent's RAM image,
and both outlive the parent.  So they belong to no workspace; each is kept while somebody *holds* it, directly or
through a chain of layers.  Holds live in memory and are rebuilt at start-up from the records of workspaces and
templates; what nobody holds is swept.

Files: ``layers/<id>.qcow2`` and ``checkpoints/<id>/{checkpoint.json, ram, devices}``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from actors.machine.storage import qcow2
from actors.machine.storage.checkpoint import Checkpoint, layer_of, read, write
from actors.model.errors import NoCapacity
from actors.model.files import earlier_of, exhaustion_reported, make_durable
from actors.model.names import new_id

FLUSH_DELAY_S: Final = 0.5


class Store:
    """The shared files of one state directory.  All methods that are not async are instant."""

    def __init__(self, state_dir: Path) -> None:
        self._layers = state_dir / "layers"
        self._checkpoints = state_dir / "checkpoints"
        self._holds: dict[str, frozenset[str]] = {}
        self._sweeping = trio.Lock()
        self.unflushed: set[Path] = set()
        """Records, and the layers they name, that a power loss might undo."""
        self._flushing = trio.Lock()
        self._under_way: set[Path] = set()
        self.verified: dict[str, str] = {}
        """Seals of the checkpoints that were compared with their digests, or written, in this supervisor's life."""
        self.keeps_all = False
        """Whether nothing is swept: some record cannot be read, so it is not known what is needed."""

    def make_directories(self) -> None:
        """Create what is missing, readable by the owner alone."""
        for directory in (self._layers, self._checkpoints):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def layer(self, layer_id: str) -> Path:
        """Return the path of a disk layer."""
        return self._layers / f"{layer_id}.qcow2"

    def checkpoint(self, checkpoint_id: str) -> Path:
        """Return the directory of a checkpoint."""
        return self._checkpoints / checkpoint_id

    def load(self, checkpoint_id: str) -> Checkpoint:
        """Read a checkpoint's record.

        Raises:
            CheckpointUnusable: it is missing or damaged.

        """
        return read(self.checkpoint(checkpoint_id))

    def save(self, checkpoint: Checkpoint, *, flushed: bool = False) -> None:
        """Write a checkpoint's record; from here on it exists."""
        write(self.checkpoint(checkpoint.id), checkpoint, flushed=flushed)

    def files_of(self, checkpoint: Checkpoint) -> tuple[Path, ...]:
        """Return what has to be on stable storage for a checkpoint to survive a power loss."""
        directory = self.checkpoint(checkpoint.id)
        return (directory, *directory.iterdir(), self.layer(checkpoint.layer))

    def hold(self, owner: str, ids: Iterable[str]) -> None:
        """Say that ``owner`` needs exactly these layers and checkpoints, and what they stand on."""
        self._holds[owner] = frozenset(ids)

    def release(self, owner: str) -> None:
        """Say that ``owner`` needs nothing any more."""
        self._holds.pop(owner, None)

    @contextmanager
    def held(self, *ids: str) -> Iterator[str]:
        """Hold ids for the length of a block; the owner's name may be used to hold more."""
        owner = f"block:{new_id()}"
        self.hold(owner, ids)
        try:
            yield owner
        finally:
            self.release(owner)

    def holders(self, identifier: str) -> list[str]:
        """Return who holds an id directly, sorted."""
        return sorted(owner for owner, ids in self._holds.items() if identifier in ids)

    def disk_bytes(self, ids: Iterable[str]) -> int:
        """Return what the layers among ids, and those that checkpoints among them stand on, occupy, each once."""
        paths: set[Path] = set()
        for identifier in ids:
            top = self.layer(layer_of(self.checkpoint(identifier)) or identifier)
            if top.exists():
                paths |= {top, *(path for path in qcow2.backing_chain(top) if path.parent == self._layers)}
        return sum(allocated_bytes(path) for path in paths if path.exists())

    def new_overlay(self, layer_id: str, *, backing: Path, backing_format: str, size_bytes: int) -> Path:
        """Create an empty disk layer over another file; the caller already holds ``layer_id``."""
        path = self.layer(layer_id)
        try:
            with exhaustion_reported():
                qcow2.create_overlay(
                    path, backing=backing, backing_format=backing_format, virtual_size_bytes=size_bytes
                )
        except NoCapacity:
            path.unlink(missing_ok=True)
            raise
        return path

    async def flush(self) -> None:
        """Wait until everything in `unflushed` is on stable storage."""
        async with self._flushing:
            self._under_way, self.unflushed = self.unflushed, set()
            try:
                if self._under_way:
                    await make_durable(*self._under_way)
                # One that was replaced meanwhile still needs what was there before.
                for path in self._under_way - self.unflushed:
                    earlier_of(path).unlink(missing_ok=True)
            except BaseException:
                # Whoever asks next must not be told that it is done.
                self.unflushed |= self._under_way
                raise
            finally:
                self._under_way = set()

    async def flush_soon(self) -> None:
        """Do so in a moment, with what is written meanwhile; if it fails, whoever flushes next tries it again."""
        await trio.sleep(FLUSH_DELAY_S)
        with contextlib.suppress(OSError):
            await self.flush()

    def is_flushed(self, path: Path) -> bool:
        """Tell whether a power loss leaves a file as it is."""
        return path not in self.unflushed and path not in self._under_way

    async def sweep(self) -> list[str]:
        """Remove what nobody holds and return the ids of what was removed.

        Whoever creates a layer or checkpoint holds its id first, so what is found on disk before the holds are read
        and is not held then, is garbage.
        """
        if self.keeps_all:
            return []
        async with self._sweeping:
            layers = {path.stem: path for path in self._layers.glob("*.qcow2")}
            checkpoints = {path.name: path for path in self._checkpoints.iterdir()}
            needed = frozenset().union(*self._holds.values())
            # A record that a power loss brings back must find what it needs; who let go meanwhile is not flushed.
            await self.flush()
            needed |= frozenset().union(*self._holds.values())
            return await trio.to_thread.run_sync(_remove_garbage, needed, layers, checkpoints)


def _remove_garbage(needed: frozenset[str], layers: dict[str, Path], checkpoints: dict[str, Path]) -> list[str]:
    for name, directory in checkpoints.items():
        if name in needed and (layer := layer_of(directory)):
            needed |= {layer}
    for layer_id in list(needed & layers.keys()):
        needed |= {path.stem for path in qcow2.backing_chain(layers[layer_id])}
    removed = []
    for name, directory in checkpoints.items():
        if name not in needed:
            shutil.rmtree(directory, ignore_errors=True)
            removed.append(name)
    for name, path in layers.items():
        if name not in needed:
            path.unlink(missing_ok=True)
            removed.append(name)
    return removed


def allocated_bytes(path: Path) -> int:
    """Return the bytes that a file, or the files of a directory, occupy on the host."""
    if path.is_dir():
        return sum(allocated_bytes(Path(entry.path)) for entry in os.scandir(path))
    return path.stat().st_blocks * 512
