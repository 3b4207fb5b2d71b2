"""A state directory over which supervisors come and go, or are killed, with simulated machines (see `simulated`)."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from trio_util import RepeatedEvent

from actors.machine import checkpoint as checkpoints
from actors.machine.storage import integrity
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import HostFailed
from actors.model.image import BootImage
from actors.model.info import Diagnosis, Shape, WorkspaceInfo
from actors.model.settings import Limits, Pool, Settings
from actors.registry import messages as r
from actors.registry import workspaces
from actors.registry.supervisor import open_supervisor
from actors.runtime import background
from actors.workspace import adoption, file_messages, lifetime
from tests.stateful.simulated import DISK, MEMORY, Qemu, World

LIMIT_S: Final = 60.0
SOON_S: Final = 0.01
READING: Final = [errno.EMFILE, errno.EIO, errno.EACCES]
"""What may be the answer to reading a file that is there."""


@attrs.frozen
class Remains:
    """What a supervisor leaves that is killed at one instant: its files, and the machines that run on."""

    files: Path
    qemus: dict[str, Qemu]


class Site:
    """The state directory, its image, and the world of its machines."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        files = root / "image"
        files.mkdir()
        kernel, initrd, layer, disk = (files / name for name in ("kernel", "initrd", "layer", "root.raw"))
        for path in (kernel, initrd, layer, disk):
            path.touch()
        self.state_dir = root / "state"
        self.image = BootImage("base", "0" * 64, kernel, initrd, layer, disk)
        self.images_fail = False
        """Whether the directory of images cannot be read."""
        self.settings = Settings(
            state_dir=self.state_dir,
            shape=Shape(vcpus=1, memory_mb=128, disk_gb=1),
            network="none",
            limits=Limits(memory_reserve_mb=0),
        )
        self.world = World(patch)
        self.registry: r.RegistryRef
        self._root, self._numbers = root, count(1)
        for where, name in (
            (background, "RETRY_S"), (lifetime, "CLOCK_LOOK_S"), (adoption, "SEEK_FIRST_S"), (workspaces, "REVIVE_S"),
        ):  # fmt: skip
            patch.setattr(where, name, SOON_S)
        self.collected = RepeatedEvent()
        """Set whenever the store was collected."""
        collect = Store.collect

        async def collect_and_tell(store: Store) -> list[str]:
            removed = await collect(store)
            self.collected.set()
            return removed

        patch.setattr(Store, "collect", collect_and_tell)
        for module in (integrity, checkpoints):
            # What is put back after a kill has other times of change than what was there.
            patch.setattr(module, "seal_of", _seal_of)

    async def load(self, _name: str) -> BootImage:
        await trio.lowlevel.checkpoint()
        if self.images_fail:
            raise HostFailed("The images cannot be read.")
        return self.image

    @asynccontextmanager
    async def supervisor(self) -> AsyncIterator[None]:
        """Have a supervisor for the length of a block, which is bounded; the machines run on after it."""
        with trio.fail_after(LIMIT_S):
            async with open_supervisor(self.settings, self.load, keep=True) as self.registry:
                yield

    def with_pool(self, size: int) -> None:
        """Have the supervisors keep a pool."""
        self.settings = attrs.evolve(self.settings, pool=Pool(size=size))

    # -- asking

    async def create(self, name: str, **options: Any) -> WorkspaceInfo:
        return (await self.registry.ask(r.CreateWorkspace(name, **options))).info

    async def tell(self, name: str, message: Any) -> Any:
        return await (await self.registry.ask(r.FindWorkspace(name))).ref.ask(message)

    async def write(self, name: str, text: str) -> None:
        """Leave a mark in a workspace's memory and on its disk."""
        for path in (MEMORY, DISK):
            await self.tell(name, file_messages.WriteFile(path, text.encode()))

    async def read(self, name: str) -> tuple[str, str]:
        """Return the marks of a workspace's memory and of its disk."""
        found = [(await self.tell(name, file_messages.ReadFile(path))).content.decode() for path in (MEMORY, DISK)]
        return found[0], found[1]

    async def infos(self) -> dict[str, WorkspaceInfo]:
        return {info.name: info for info in await self.registry.ask(r.ListWorkspaces())}

    async def diagnosis(self, *, again: bool = False) -> Diagnosis:
        return await self.registry.ask(r.Diagnose(again=again))

    async def wait_until(self, holds: Callable[[dict[str, WorkspaceInfo]], bool]) -> dict[str, WorkspaceInfo]:
        """Wait for changes until something holds of all workspaces, by name; return them."""
        since = await self.registry.ask(r.AwaitChange(None, None))
        while not holds(found := await self.infos()):
            since = await self.registry.ask(r.AwaitChange(since, None))
        return found

    async def wait_for_state(self, name: str, state: str) -> WorkspaceInfo:
        return (await self.wait_until(lambda infos: name in infos and infos[name].state == state))[name]

    # -- looking behind it

    def directory(self, info: WorkspaceInfo) -> Path:
        return records.directory_of(self.state_dir, info.workspace_id)

    def record(self, info: WorkspaceInfo) -> records.WorkspaceRecord:
        return records.load(self.directory(info))

    def alter(self, info: WorkspaceInfo, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a workspace's record behind everybody's back."""
        path = self.directory(info) / records.RECORD
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    def qemu(self, info: WorkspaceInfo) -> Qemu:
        """Return the machine in a workspace's directory."""
        (found,) = [each for each in self.world.alive if each.directory.is_relative_to(self.directory(info))]
        return found

    def stored(self) -> set[str]:
        """Return the names of all layers and checkpoints that there are."""
        return {path.stem for kind in ("layers", "checkpoints") for path in (self.state_dir / kind).glob("[!.]*")}

    async def wait_collected(self, *gone: str) -> None:
        """Wait until layers and checkpoints are gone."""
        while self.stored() & set(gone):
            await self.collected.wait()

    async def unneeded(self) -> set[str]:
        """Return the ids of what there is and nobody keeps."""
        return {piece.id for piece in (await self.world.store.survey()).unneeded}

    # -- killed

    def remains(self) -> Remains:
        """Return what would be left if the supervisor were killed now."""
        files = self._root / f"remains-{next(self._numbers)}"
        shutil.copytree(self.state_dir, files, symlinks=True)
        qemus = self.world.qemus.items()
        return Remains(files, {uuid: attrs.evolve(qemu, owner=None, dead=_copy(qemu.dead)) for uuid, qemu in qemus})

    def put_back(self, remains: Remains) -> None:
        """Have the world be as it was then; no supervisor runs now.  The directories right below stay the same."""
        for path in self.state_dir.glob("*/*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in remains.files.iterdir():
            for inner in path.iterdir() if path.is_dir() else ():
                inner.rename(self.state_dir / path.name / inner.name)
        self.world.qemus = remains.qemus


def _copy(event: trio.Event) -> trio.Event:
    made = trio.Event()
    if event.is_set():
        made.set()
    return made


def _seal_of(directory: Path) -> str:
    facts = [(directory / name).stat() for name in ("ram", "devices")]
    return " ".join(f"{fact.st_size}:{fact.st_mtime_ns}" for fact in facts)


@contextmanager
def unreadable(error: int, *paths: Path) -> Iterator[None]:
    """Have reading files, or looking at them, fail for the length of a block."""
    wanted = {str(path) for path in paths}

    def refused(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *arguments: Any, **options: Any) -> Any:
            if str(path) in wanted:
                raise OSError(error, os.strerror(error), str(path))
            return real(path, *arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("stat", "read_bytes", "open"):
            patch.setattr(Path, name, refused(getattr(Path, name)))
        yield


def leave_unswept(patch: pytest.MonkeyPatch) -> None:
    """Have nobody collect the store at each step of a machine."""

    async def step(_world: World, _qemu: object) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(World, "step", step)
