"""Where disk layers and checkpoints live, and which of them are still needed.

Layers and checkpoints are shared: a fork's disk stands on its parent's layer, its memory on its parent's RAM image,
and both outlive the parent.  So they belong to no workspace; each is kept while somebody *holds* it, directly or
through a chain of layers.  What nobody holds is collected, but only once everything that could need it has been read:
until then, and while something cannot be read, the store is `blocked`.

Files: the backend's layers, and ``checkpoints/<id>/{checkpoint.json, ram, devices}``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio

from actors.machine.storage import collection
from actors.machine.storage.checkpoint import Checkpoint, layer_of, read, write
from actors.machine.storage.collection import Doubt, Survey
from actors.machine.storage.holds import Holds
from actors.machine.storage.layers import Layers
from actors.machine.storage.qcow2_layers import Qcow2Layers
from actors.model.errors import AgentisoError, CheckpointUnusable
from actors.model.files import earlier_of, make_durable, read_json, sweep_temporaries

FLUSH_DELAY_S: Final = 0.5


class Store:
    """The shared files of one state directory.  All methods that are not async are instant."""

    def __init__(self, state_dir: Path) -> None:
        self.layers: Layers = Qcow2Layers(state_dir)
        self.holds = Holds()
        self._checkpoints = state_dir / "checkpoints"
        self._records = state_dir / "workspaces"
        self._collecting = trio.Lock()
        self.unflushed: set[Path] = set()
        """Records, and the layers they name, that a power loss might undo."""
        self._flushing = trio.Lock()
        self._under_way: set[Path] = set()
        self.verified: dict[str, str] = {}
        """Seals of the checkpoints that were compared with their digests, or written, in this supervisor's life."""
        self.blocked: dict[str, str] = {}
        """Why nothing may be collected now, by what is in the way: something that may need a piece is not known."""
        self.trouble: str = ""
        """Why the last collection could not be done, or not wholly; empty if it could."""
        self.doubts: tuple[Doubt, ...] = ()
        """What the last collection found to be needed and could not read."""
        self._discarded: set[Path] = set()
        """Directories that could not be removed yet."""

    def make_directories(self) -> None:
        """Create what is missing, readable by the owner alone."""
        self.layers.prepare()
        self._checkpoints.mkdir(parents=True, exist_ok=True, mode=0o700)

    def sweep(self) -> None:
        """Remove records of checkpoints that were being written when their supervisor ended, as far as can be."""
        with contextlib.suppress(OSError):
            for directory in self._checkpoints.iterdir():
                sweep_temporaries(directory)

    def discard(self, directory: Path) -> None:
        """Remove a directory that nobody needs, now or else with a later collection."""
        try:
            shutil.rmtree(directory)
        except FileNotFoundError:
            self._discarded.discard(directory)
        except OSError as error:
            self._discarded.add(directory)
            self.trouble = str(error)
            self.holds.look_again()

    def layer(self, layer_id: str) -> Path:
        """Return the path of a disk layer."""
        return self.layers.path(layer_id)

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
        self.holds.set(owner, ids)

    def release(self, owner: str) -> None:
        """Say that ``owner`` needs nothing any more; what nobody needs is collected soon."""
        self.holds.release(owner)

    @contextmanager
    def held(self, *ids: str) -> Iterator[str]:
        """Hold ids for the length of a block; the owner's name may be used to hold more."""
        with self.holds.held(*ids) as owner:
            yield owner

    def disk_bytes(self, ids: Iterable[str]) -> int:
        """Return what the layers among ids, and those that checkpoints among them stand on, occupy, each once."""
        found: set[str] = set()
        for identifier in ids:
            top = layer_of(self.checkpoint(identifier)) or identifier
            if self.layer(top).exists():
                found |= {top, *self.layers.depends_on(top)}
        return self.layers.usage_bytes(found)

    def is_stood_on(self, layer: str) -> bool:
        """Tell whether a checkpoint or a layer stands on one, or may do so: then nothing may write to it any more."""
        try:
            there = collection.inventory(self.layers, self._checkpoints)
            if any(layer_of(directory) == layer for directory in there.checkpoints.values()):
                return True
            return any(layer in self.layers.depends_on(other) for other in there.layers - {layer})
        except (OSError, CheckpointUnusable):
            # What cannot be read may stand on it.
            return True

    async def flush(self) -> None:
        """Wait until everything in `unflushed` is on stable storage."""
        async with self._flushing:
            self._under_way, self.unflushed = self.unflushed, set()
            # What is named before what names it: no record that a power loss leaves names what it does not leave.
            naming = {path for path in self._under_way if path.is_relative_to(self._records)}
            try:
                for paths in (self._under_way - naming, naming):
                    if paths:
                        await make_durable(*paths)
                # One that was replaced meanwhile still needs what was there before.
                for path in naming - self.unflushed:
                    before = earlier_of(path)
                    if before.exists() and not _is_readable(path):
                        # A power loss has left it so: what was there before is all that there is.
                        self.unflushed.add(path)
                        continue
                    # One that stays is replaced by the next one.
                    with contextlib.suppress(OSError):
                        before.unlink(missing_ok=True)
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

    async def survey(self) -> Survey:
        """Describe all layers and checkpoints, and who keeps each; nothing may be removed meanwhile.

        Raises:
            OSError: what there is cannot be listed.

        """
        layers, checkpoints = self.layers, self._checkpoints
        there = await trio.to_thread.run_sync(collection.inventory, layers, checkpoints)
        # Whoever creates something holds its id first, so that who holds what has to be looked at after the inventory.
        holders = self.holds.holders()
        # What stands on what is there may have come between the two.
        there = await trio.to_thread.run_sync(collection.completed, layers, checkpoints, there, tuple(holders))
        return await trio.to_thread.run_sync(collection.survey, layers, there, holders, self.holds.holders())

    @asynccontextmanager
    async def nothing_removed(self) -> AsyncIterator[None]:
        """Have no collection remove anything for the length of the block, so that all chains are whole."""
        async with self._collecting:
            yield

    async def collect(self) -> list[str]:
        """Remove what nobody holds and return the ids of what was removed; nothing while the store is `blocked`.

        What cannot be read or removed is left, said in `trouble`, and tried again.
        """
        async with self._collecting:
            removed: list[str] = []
            try:
                await trio.to_thread.run_sync(self._remove_discarded)
                found = Survey((), self.doubts) if self.blocked else await self.survey()
                self.doubts = found.doubts
                if garbage := found.unneeded:
                    # A record that a power loss brings back must find what it needs.
                    await self.flush()
                    garbage = () if self.blocked else tuple(p for p in garbage if p.id not in self.holds.needed)
                    removed = await trio.to_thread.run_sync(collection.remove, self.layers, garbage)
                self.trouble = " ".join(map(str, self.doubts))
            except (OSError, AgentisoError) as error:
                self.trouble = str(error)
            return removed

    def _remove_discarded(self) -> None:
        for directory in tuple(self._discarded):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(directory)
            self._discarded.discard(directory)


def _is_readable(path: Path) -> bool:
    try:
        read_json(path)
    except (OSError, ValueError):
        return False
    return True


def allocated_bytes(path: Path) -> int:
    """Return the bytes that a file, or the files of a directory, occupy on the host."""
    if path.is_dir():
        return sum(allocated_bytes(Path(entry.path)) for entry in os.scandir(path))
    return path.stat().st_blocks * 512
