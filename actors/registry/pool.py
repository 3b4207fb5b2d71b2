"""A pool of machines that are restored ahead, so that a workspace which wants one has only to be given its identity.

A machine of the pool belongs to a workspace actor of its own, whose record says that it is still being created.  So
nobody sees it, a supervisor that finds it after a crash ends it, and once it is claimed nothing tells it from another:
same directory, same record, same actor.  Its processes stand still until its claim has proven it like any other start.

The pool is filled in the background, one machine at a time, and only while nobody creates or forks anything: whoever
does stops a machine of the pool that is being restored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from itertools import count
from typing import Final

import attrs
import trio
from trio_util import AsyncBool, AsyncValue

from actors.machine.storage.checkpoint import Checkpoint
from actors.model import record as records
from actors.model.errors import AgentisoError
from actors.model.image import BootImage
from actors.model.info import Lifetime, PoolInfo, Shape
from actors.model.record import WorkspaceRecord, new_record
from actors.registry.templates import Templates, Wanted
from actors.registry.workspaces import Workspaces
from actors.runtime import Actor, Supervisor
from actors.workspace import messages as w
from actors.workspace.actor import WorkspaceActor
from actors.workspace.host import Host

QUIET_S: Final = 0.1
"""How long nobody must have created anything before the pool is filled; a burst of creates has the host to itself."""
THE_POOL: Final = "the pool"
"""What uses an image while a machine of it is being made for the pool."""
RETRY_S: Final = 30.0
"""After a failure, which the next machine would most likely meet too."""
OF_ITS_WORKSPACE: Final = frozenset(
    {"id", "name", "image", "mac", "created_at", "idle_suspend_s", "expires_at", "owner"}
)
"""Fields of a record in which a claim may differ from what the machine was restored for."""


@attrs.frozen
class Pooled:
    """A machine of the pool."""

    record: WorkspaceRecord
    ref: w.WorkspaceRef

    def fits(self, wanted: WorkspaceRecord) -> bool:
        """Tell whether it can become the machine of a workspace."""
        return all(
            getattr(self.record, field.name) == getattr(wanted, field.name)
            for field in attrs.fields(WorkspaceRecord)
            if field.name not in OF_ITS_WORKSPACE
        )


class Pool:
    """The pool of one supervisor; empty, and idle, unless the settings give it a size."""

    def __init__(self, host: Host, supervisor: Supervisor, templates: Templates, workspaces: Workspaces) -> None:
        self._host = host
        self._supervisor = supervisor
        self._templates = templates
        self._workspaces = workspaces
        self._ready: list[Pooled] = []
        self._filling: set[Shape] = set()
        self._creating = AsyncValue(0)
        self._unlooked = AsyncBool()
        self._adding = trio.CancelScope()
        self._making = trio.CancelScope()
        self._making_one = trio.Lock()
        self._under_way: set[str] = set()
        self._dead: set[str] = set()
        """Workspaces whose machines ended while they waited."""
        self._claimed = 0
        self._missed = 0
        self._failure: str | None = None

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of which machines are kept."""
        settings = self._host.settings
        return settings.pool.shapes or (settings.shape,)

    def info(self) -> PoolInfo:
        """Describe the pool."""
        return PoolInfo(
            size=self._host.settings.pool.size * len(self.shapes),
            ready=len(self._ready),
            claimed=self._claimed,
            missed=self._missed,
            failure=self._failure,
        )

    @contextmanager
    def creating(self) -> Iterator[None]:
        """Keep the pool from being filled for the length of a block."""
        self._creating.value += 1
        self._adding.cancel(reason="somebody creates a workspace")
        try:
            yield
        finally:
            self._creating.value -= 1
            self._unlooked.value = True

    def take(self, wanted: WorkspaceRecord) -> Pooled | None:
        """Take a machine out of the pool for a workspace, if there is one that fits; it never comes back."""
        for pooled in self._ready:
            if pooled.ref.alive and pooled.record.id not in self._dead and pooled.fits(wanted):
                self._ready.remove(pooled)
                self._claimed += 1
                return pooled
        self._missed += 1 if self._host.settings.pool.size else 0
        return None

    @property
    def ids(self) -> frozenset[str]:
        """The ids of its machines' workspaces, of those that are being made too."""
        return frozenset({pooled.record.id for pooled in self._ready} | self._under_way)

    async def drop(self, image_digest: str) -> int:
        """End the machines of an image, the one that is being made too, and tell how many were ready."""
        self._making.cancel(reason="its image is to be removed")
        async with self._making_one:
            gone = [pooled for pooled in self._ready if pooled.record.image_digest == image_digest]
            for pooled in gone:
                self._ready.remove(pooled)
                await self._discard(pooled.record)
        return len(gone)

    # -- filling

    def _lose(self, workspace_id: str) -> None:
        """Note that a machine has ended; what is left of it goes before another one is made."""
        for pooled in self._ready:
            if pooled.record.id == workspace_id:
                self._dead.add(workspace_id)
                self._filling.add(pooled.record.shape)
                self._unlooked.value = True

    async def keep(self) -> None:
        """Keep the pool filled until cancelled."""
        self._host.unpooled = self._lose
        async with trio.open_nursery() as nursery:
            self._unlooked.value = True
            while True:
                # Once at the beginning, and whenever somebody has created something.
                await self._unlooked.wait_value(True)
                self._unlooked.value = False
                while await self._fill(nursery):
                    pass

    async def _fill(self, nursery: trio.Nursery) -> bool:
        """Add a machine once nobody has created anything for a while; tell whether more may be wanted."""
        await self._creating.wait_value(0, held_for=QUIET_S)
        try:
            await self._drop_unusable()
            shape = self._next_shape()
            if shape is not None:
                async with self._making_one:
                    if self._creating.value:
                        return True
                    with trio.CancelScope() as self._making:
                        await self._add(nursery, shape)
                self._failure = None
        except (AgentisoError, OSError) as error:
            self._failure = str(error)
            await trio.sleep(RETRY_S)
            return True
        return shape is not None

    def _next_shape(self) -> Shape | None:
        """Return a shape that lacks machines: from when half of them are gone until all are there again."""
        settings = self._host.settings.pool
        used_mb = sum(pooled.record.shape.memory_mb for pooled in self._ready)
        for shape in self.shapes:
            count = sum(pooled.record.shape == shape for pooled in self._ready)
            if count >= settings.size:
                self._filling.discard(shape)
            elif count <= settings.size // 2:
                self._filling.add(shape)
            if shape in self._filling and used_mb + shape.memory_mb <= settings.memory_budget_mb:
                return shape
        return None

    async def _add(self, nursery: trio.Nursery, shape: Shape) -> None:
        with self._host.memory.reserved(shape.memory_mb):
            await self._add_reserved(nursery, shape)

    async def _add_reserved(self, nursery: trio.Nursery, shape: Shape) -> None:
        settings = self._host.settings
        async with self._host.image_uses.using(settings.image, THE_POOL) as image:
            await self._add_of(nursery, shape, image)

    async def _add_of(self, nursery: trio.Nursery, shape: Shape, image: BootImage) -> None:
        settings, verdict = self._host.settings, await self._host.accelerator(image)
        wanted = Wanted(image, shape, settings.network, settings.channel)
        record = new_record(
            name=f"pool-{shape.vcpus}-{shape.memory_mb}",
            image=image,
            shape=shape,
            network=settings.network,
            allow_internet=settings.allow_internet,
            channel=settings.channel,
            accelerator=verdict.chosen,
            lifetime=Lifetime(),
        )
        with self._host.store.held() as owner:
            template = await self._templates.get(nursery, wanted, lambda _step: None)
            self._host.store.hold(owner, {template.id})
            if self._creating.value:
                return
            with trio.CancelScope() as self._adding:
                self._ready.append(await self._restore(record, template))

    async def _restore(self, record: WorkspaceRecord, template: Checkpoint) -> Pooled:
        """Restore a machine that waits for its identity; on failure or cancellation nothing of it is left."""
        record = records.make_directory(self._host.state_dir, record)
        self._under_way.add(record.id)
        async with AsyncExitStack() as undo:
            undo.callback(self._under_way.discard, record.id)
            undo.push_async_callback(self._discard, record)
            records.save(self._host.state_dir, record)
            ref = await self._supervisor.start(
                records.actor_name(record.id),
                partial(self._actor, record, count()),
                on_giveup=lambda _name, failure: self._host.gave_up(record, failure),
            )
            await ref.ask(w.Prepare(template))
            undo.pop_all()
        self._under_way.discard(record.id)
        return Pooled(record, ref)

    def _actor(self, record: WorkspaceRecord, lives: Iterator[int]) -> WorkspaceActor:
        """Make the actor of a machine; what waited with an earlier one went with that."""
        again = next(lives) > 0
        if again:
            self._host.unpooled(record.id)
        return WorkspaceActor(record, self._host, again=again)

    async def _drop_unusable(self) -> None:
        """End the machines whose image is not the configured one any more, and remove those that have ended."""
        if not self._ready:
            return
        digest = (await self._host.load_image(self._host.settings.image)).digest
        for pooled in list(self._ready):
            ended = not pooled.ref.alive or pooled.record.id in self._dead
            if pooled.record.image_digest != digest or ended:
                self._dead.discard(pooled.record.id)
                self._ready.remove(pooled)
                await self._discard(pooled.record)

    async def _discard(self, record: WorkspaceRecord) -> None:
        """End a machine of the pool."""
        await self._workspaces.abandon(record.id)


class PoolKeeper(Actor):
    """Runs a pool's loop, so that it is restarted if it crashes."""

    def __init__(self, pool: Pool) -> None:
        super().__init__("pool")
        self._pool = pool

    async def setup(self) -> None:
        """Start to fill the pool."""
        self.background("filling", self._pool.keep)
