"""A stage: a state directory, its simulated machines, a supervisor, and what its workspaces have to be like.

A stage is set the same way for every trial: workspace ``a`` with a tree of two snapshots and a way back, and ``b``, a
fork of it that is suspended.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from actors.model import record as records
from actors.model.image import BootImage
from actors.model.info import Lifetime, Shape, WorkspaceInfo
from actors.model.settings import Limits, Pool, Quotas, Settings
from actors.registry import messages as r
from actors.registry.supervisor import open_supervisor
from actors.runtime import Actor
from actors.workspace import file_messages
from actors.workspace import messages as w
from tests.stateful.lives import Life
from tests.stateful.modelled import MAX_UNDO, SUSPENDED, Instant, Modelled, Node
from tests.stateful.simulated import BLANK, DISK, MEMORY, World

OWNER: Final = "session"
"""Whose quota all workspaces count in."""
DISK_QUOTA_GB: Final = 40
DONE_S: Final = 5.0
"""After so long, in the actors' time, nothing of what was reported is under way any more."""
END_S: Final = 1000.0
STARTS_S: Final = (1.0, 10.0, 100.0)
"""The pauses between tries to start a supervisor."""
IMAGE_FILES: Final = ("kernel", "initrd", "layer", "root.raw")

Model = dict[str, Modelled]


class Stage:
    """Where trials are made."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.state_dir = root / "state"
        files = root / "image"
        files.mkdir(parents=True)
        kernel, initrd, layer, disk = (files / name for name in IMAGE_FILES)
        for path in (kernel, initrd, layer, disk):
            path.touch()
        self.image = BootImage("base", "0" * 64, kernel, initrd, layer, disk)
        self.settings = Settings(
            state_dir=self.state_dir,
            shape=Shape(vcpus=1, memory_mb=128, disk_gb=1),
            network="none",
            limits=Limits(max_undo=MAX_UNDO, memory_reserve_mb=0, max_disk_layers=8),
            quotas=Quotas(disk_gb=DISK_QUOTA_GB),
        )
        self.world = World(patch)
        self.world.sweeps = False
        self.model: Model = {}
        self.ids: dict[str, str] = {}
        """The short ids of the workspaces of the model, by their names."""
        self.life = Life()
        self.registry: r.RegistryRef
        self.actors: list[Actor] = []
        """All that were made in this life, the youngest last."""
        self.lost_power = False
        """Whether its files are what a loss of power has left."""
        self.fatal: BaseException | None = None
        """What ended a supervisor that nobody had ended."""
        self.nursery: trio.Nursery
        """Where supervisors live."""
        self._over = trio.Event()
        self._number = 0
        self._know_actors(patch)

    def _know_actors(self, patch: pytest.MonkeyPatch) -> None:
        stage, real = self, Actor.__init__

        def known(actor: Actor, name: str) -> None:
            real(actor, name)
            stage.actors.append(actor)

        patch.setattr(Actor, "__init__", known)

    def with_pool(self) -> None:
        """Have the next supervisor keep a pool of one machine."""
        self.settings = attrs.evolve(self.settings, pool=Pool(size=1))

    # -- the supervisor

    async def begin(self) -> None:
        """Start a supervisor and return when it serves.

        Raises:
            Exception: it did not start.

        """
        await self.nursery.start(self._live)

    async def _live(self, *, task_status: trio.TaskStatus[None]) -> None:
        async def load(_name: str) -> BootImage:
            await trio.lowlevel.checkpoint()
            return self.image

        self.life, self._over, self.actors = Life(), trio.Event(), []
        life, serving = self.life, False
        try:
            with life.lived(), life.scope:
                async with open_supervisor(self.settings, load, keep=True) as self.registry:
                    serving = True
                    task_status.started()
                    await trio.sleep_forever()
        except BaseException as error:
            if not life.killed:
                if not serving or _is_of(error, trio.Cancelled):
                    raise
                self.fatal = error
        finally:
            self._over.set()
        if not serving:
            raise NotStarted

    async def begin_again(self) -> None:
        """Have another supervisor serve, after the present one's end; it may take a few starts.

        Raises:
            Exception: it does not start.

        """
        await self.end()
        for pause_s in STARTS_S:
            with contextlib.suppress(Exception):
                await self.begin()
                return
            await trio.sleep(pause_s)
        await self.begin()

    async def end(self) -> None:
        """Have the supervisor end, if it has not."""
        self.life.scope.cancel(reason="the supervisor is ended")
        with trio.fail_after(END_S):
            await self._over.wait()

    # -- asking

    async def tell(self, name: str, message: Any) -> Any:
        """Ask a workspace for something."""
        found = await self.registry.ask(r.FindWorkspace(name))
        return await found.ref.ask(message)

    async def info(self, name: str) -> WorkspaceInfo:
        """Return what a workspace says of itself."""
        found: WorkspaceInfo = await self.tell(name, w.Describe())
        return found

    def record(self, workspace_id: str) -> records.WorkspaceRecord:
        """Return the record of a workspace as it is on disk."""
        return records.load(records.directory_of(self.state_dir, workspace_id))

    # -- setting it

    async def set(self) -> None:
        """Set the stage."""
        await self.create("a")
        await self.mark("a")
        await self.snapshot("a", "s1")
        await self.mark("a")
        await self.snapshot("a", "s2", with_memory=False)
        await self.mark("a")
        await self.tell("a", w.RestoreSnapshot("s1"))
        self.model["a"].restore("s1")
        await self.mark("a")
        await self.registry.ask(r.ForkWorkspace("a", names=("b",), owner=OWNER))
        self.model["b"] = fork_of(self.model["a"], "b")
        await self.tell("b", w.Suspend())
        self.model["b"].state = SUSPENDED
        await self.sync("a")
        for name in self.model:
            self.ids[name] = (await self.info(name)).workspace_id[:8]
        await trio.sleep(DONE_S)

    async def create(self, name: str, lifetime: Lifetime | None = None) -> None:
        """Create a workspace."""
        await self.registry.ask(r.CreateWorkspace(name, owner=OWNER, lifetime=lifetime))
        self.model[name] = Modelled(name, BLANK, BLANK)

    async def mark(self, name: str) -> None:
        """Write to a workspace's memory and disk what was never written before."""
        self._number += 1
        text = f"mark-{self._number}"
        for path in (MEMORY, DISK):
            await self.tell(name, file_messages.WriteFile(path, text.encode()))
        self.model[name].memory = self.model[name].disk = text

    async def sync(self, name: str) -> None:
        """Have a workspace's guest write its disk to stable storage, as it does every few seconds."""
        owner = (await self.info(name)).workspace_id[:8]
        for qemu in self.world.alive:
            if qemu.workspace == owner:
                self.world.flushed(qemu.disk)

    async def snapshot(self, name: str, snapshot: str, *, with_memory: bool = True) -> None:
        """Take a snapshot."""
        await self.tell(name, w.CreateSnapshot(snapshot, with_memory=with_memory))
        snapshotted(self.model[name], snapshot, with_memory=with_memory)


class NotStarted(Exception):
    """A supervisor was killed before it served."""


def snapshotted(workspace: Modelled, name: str, *, with_memory: bool = True) -> None:
    """Have a workspace of the model have one more snapshot, on which it stands."""
    instant = workspace.instant if with_memory else Instant(None, workspace.disk)
    workspace.nodes[name], workspace.head = Node(workspace.head, instant), name


def fork_of(parent: Modelled, name: str, snapshot: str | None = None) -> Modelled:
    """Return what a fork has to be like."""
    instant = parent.nodes[snapshot].instant if snapshot else parent.instant
    return Modelled(name, instant.memory or BLANK, instant.disk)


def _is_of(error: BaseException, kind: type[BaseException]) -> bool:
    """Tell whether an error, or all errors of a group, are of a kind."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_of(each, kind) for each in error.exceptions)
    return isinstance(error, kind)
