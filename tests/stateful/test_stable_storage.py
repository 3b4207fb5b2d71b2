"""What is reported is on stable storage by then: the record, all that it stands on, and the names of both.

The actors, records, store and checkpoints are the real ones, over a simulated machine (see `simulated`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors.machine.storage import integrity, qcow2
from actors.model import record as records
from actors.model.image import BootImage
from actors.model.info import Lifetime, Shape, WorkspaceInfo
from actors.model.record import WorkspaceRecord
from actors.model.settings import Limits, Settings
from actors.registry import messages as r
from actors.registry.supervisor import open_supervisor
from actors.workspace import messages as w
from tests.stateful.simulated import World

LIMIT_S = 60
PROMISES = (
    w.SetLifetime(Lifetime(ttl_s=1e6)),
    w.SetOwner("another"),
    w.CreateSnapshot("one"),
    w.CreateSnapshot("two", with_memory=False),
    w.RestoreSnapshot("one"),
    w.Undo(),
    w.DeleteSnapshot("two"),
    w.Suspend(),
    w.CreateSnapshot("three"),
    w.Resume(),
    w.Stop(),
    w.CreateSnapshot("four", with_memory=False),
)


class StableStorage:
    """What a power loss would leave of the files of a state directory."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._contents: dict[int, int] = {}
        """When each file was changed last before it was flushed, by inode."""
        self._names: dict[int, dict[str, int]] = {}
        """The inodes that each directory named when it was flushed."""
        loop, real = threading.current_thread(), os.fsync

        def fsync(fd: int) -> None:
            assert threading.current_thread() is not loop
            real(fd)
            found, path = os.fstat(fd), Path(f"/proc/self/fd/{fd}").readlink()
            self._contents[found.st_ino] = found.st_mtime_ns
            if path.is_dir():
                self._names[found.st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}

        patch.setattr(os, "fsync", fsync)

    def has(self, path: Path) -> bool:
        """Tell whether a file and its name, from the state directory on, would be there as they are now."""
        here, parent = path.stat(), path.parent
        if path.is_file() and self._contents.get(here.st_ino) != here.st_mtime_ns:
            return False
        named = self._names.get(parent.stat().st_ino, {}).get(path.name) == here.st_ino
        # The directories right below the root were there before anything was promised.
        return named and (parent.parent == self.root or self.has(parent))

    def lost(self, record: WorkspaceRecord, world: World) -> list[str]:
        """Return what a power loss would take of that which a workspace stands on."""
        kept = {record.suspended, *(each.checkpoint for each in record.snapshots)} - {None}
        made = [world.store.load(str(identifier)) for identifier in kept]
        tops = {world.store.layer(layer) for layer in (record.layer, *(each.layer for each in made)) if layer}
        layers = {path for top in tops for path in qcow2.backing_chain(top) if path.suffix == ".qcow2"}
        files = [path for each in made for path in world.store.checkpoint(each.id).iterdir()]
        directory = records.directory_of(self.root, record.id)
        paths = [directory / records.RECORD, *sorted(layers), *files]
        return [str(path.relative_to(self.root)) for path in paths if not self.has(path)]


@attrs.frozen
class Promised:
    """A workspace whose promises are watched."""

    world: World
    storage: StableStorage
    registry: r.RegistryRef
    info: WorkspaceInfo

    async def ask(self, message: Any) -> None:
        found = await self.registry.ask(r.FindWorkspace(self.info.workspace_id))
        await found.ref.ask(message)

    def lost(self) -> list[str]:
        directory = records.directory_of(self.storage.root, self.info.workspace_id)
        return self.storage.lost(records.load(directory), self.world)


@pytest.fixture
async def promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Promised]:
    files = tmp_path / "image"
    files.mkdir()
    for name in ("kernel", "initrd", "layer", "root.raw"):
        (files / name).touch()
    image = BootImage("base", "0" * 64, files / "kernel", files / "initrd", files / "layer", files / "root.raw")

    async def load(_name: str) -> BootImage:
        await trio.lowlevel.checkpoint()
        return image

    state_dir = tmp_path / "state"
    settings = Settings(
        state_dir=state_dir,
        shape=Shape(vcpus=1, memory_mb=128, disk_gb=1),
        network="none",
        limits=Limits(memory_reserve_mb=0),
    )
    world, storage = World(monkeypatch), StableStorage(state_dir, monkeypatch)
    with trio.fail_after(LIMIT_S):
        async with open_supervisor(settings, load, keep=False) as registry:
            yield Promised(world, storage, registry, (await registry.ask(r.CreateWorkspace("kept"))).info)


async def test_all_that_is_reported_of_a_workspace_survives_a_power_loss(promised: Promised) -> None:
    for message in PROMISES:
        await promised.ask(message)
        assert promised.lost() == [], message


async def test_a_new_workspace_survives_a_power_loss_a_moment_later(promised: Promised) -> None:
    await promised.world.store.flush_soon()
    assert promised.lost() == []


async def test_a_snapshot_survives_a_power_loss_when_its_digest_is_added(promised: Promised) -> None:
    await promised.ask(w.CreateSnapshot("one"))
    directory = records.directory_of(promised.storage.root, promised.info.workspace_id)
    (snapshot,) = records.load(directory).snapshots
    store = promised.world.store
    await integrity.add_digest(store, store.load(snapshot.checkpoint))
    assert store.load(snapshot.checkpoint).digest
    assert promised.lost() == []
