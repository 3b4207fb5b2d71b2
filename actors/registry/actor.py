"""The registry actor: the one place for what workspaces share - names, limits, templates, references."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Final, TypeVar, assert_never

import attrs
import trio
from trio_util import periodic

from actors.machine.storage.checkpoint import Checkpoint
from actors.model import record as records
from actors.model.errors import AgentisoError
from actors.model.files import keep_reserve
from actors.model.image import BootImage
from actors.model.info import (
    ExportReport,
    ForkedChild,
    ForkReport,
    ImportReport,
    Lineage,
    Shape,
    TemplateInfo,
    WorkspaceInfo,
)
from actors.model.record import WorkspaceRecord
from actors.registry import exports, places, plans, recovery, transfer
from actors.registry import messages as r
from actors.registry.admission import Admission, Claim, Entrant, Ledger
from actors.registry.bundle import Manifest
from actors.registry.consumers import reporting
from actors.registry.doctor import STARTING, collect, diagnose
from actors.registry.exports import Exports
from actors.registry.images import Images
from actors.registry.pool import Pool, PoolKeeper
from actors.registry.templates import Templates, Wanted
from actors.registry.troubles import Troubles
from actors.registry.workspaces import Workspaces
from actors.runtime import Actor, Supervisor
from actors.workspace import messages as w
from actors.workspace.host import Host

T = TypeVar("T")
FORK_MEMORY_MB: Final = 64
"""What a fork is counted with at the start: it shares its parent's pages and pays for what it changes."""
RESERVE_LOOK_S: Final = 30.0
COLLECT_AGAIN_S: Final = 30.0
"""After a collection that could not remove everything."""
log = logging.getLogger("agentiso.registry")


def _pool_gave_up(_name: str, failure: BaseException) -> None:
    log.error("the pool was given up: %r", failure)


def _in_order(numbered: Mapping[int, T]) -> tuple[T, ...]:
    return tuple(numbered[number] for number in sorted(numbered))


class RegistryActor(Actor):
    """Knows every workspace by name and id."""

    def __init__(self, host: Host, supervisor: Supervisor) -> None:
        super().__init__("registry")
        self._host = host
        self._supervisor = supervisor
        self._troubles = Troubles(host.store)
        self._templates = Templates(host, self._troubles)
        self._ledger = Ledger(host.settings.quotas)
        self._workspaces = Workspaces(host, supervisor, self._ledger, self._troubles)
        self._pool = Pool(host, supervisor, self._templates, self._workspaces)
        self._exports = Exports(host.state_dir)
        self._images = Images(host, self._workspaces, self._templates, self._pool)
        self._directory = self._workspaces.directory
        self._admission = Admission(
            self._directory, self._ledger, host.memory, max_workspaces=host.settings.limits.max_workspaces
        )

    async def setup(self) -> None:
        """Find everything again; only then is anything collected, expired or served."""
        store, workspaces = self._host.store, self._workspaces
        workspaces.nursery, workspaces.background = self.nursery, self.background
        self._host.gave_up = workspaces.gave_up
        if (earlier := self._supervisor.find("pool")) is not None:
            # That of a registry that crashed fills what nobody takes from any more.
            await self._supervisor.stop(earlier)
        # What blocked a registry that crashed may be mended by now.
        store.blocked.clear()
        store.blocked[STARTING] = "What there is is still being read."
        # Also of a registry that follows one that crashed: what is collected next is what is nobody's there.
        await trio.to_thread.run_sync(places.claim, self._host.state_dir)
        store.make_directories()
        self._sweep_imports()
        await self._finish_exports()
        await self._templates.take_up()
        await workspaces.take_up()
        del store.blocked[STARTING]
        await store.collect()
        self.background("collection", self._collect)
        self.background("reserve", self._keep_reserve)
        self.background("second look", self._troubles.keep_looking)
        if self._host.settings.pool.size:
            await self._supervisor.start("pool", lambda: PoolKeeper(self._pool), on_giveup=_pool_gave_up)
        # Only now is it known what is needed; who said so before says it again.
        self._host.expired = workspaces.expire

    def _sweep_imports(self) -> None:
        """Remove what killed imports have left, now or at the next start: nobody needs it, and nobody is kept by it."""
        path = self._host.state_dir / transfer.STAGING

        async def look_again() -> None:
            await trio.to_thread.run_sync(lambda: list(path.iterdir()))

        try:
            transfer.sweep(self._host.state_dir, self._host.store)
        except OSError as error:
            self._troubles.add(recovery.trouble("the imports", path, error), look_again, blocks=False)

    async def _finish_exports(self) -> None:
        """Remove what is left of exports that failed, or that an earlier supervisor had begun, now or later."""
        try:
            await trio.to_thread.run_sync(self._exports.finish)
        except AgentisoError as error:
            trouble = recovery.trouble("an export", self._host.state_dir / exports.DIRECTORY, error)
            # Whatever is left is outside of the store, and stands on nothing.
            self._troubles.add(trouble, self._finish_exports, blocks=False)

    async def teardown(self) -> None:
        """Be told of no more expiries, nor of actors that are given up; the next registry is, or finds them so."""
        self._host.expired = lambda _workspace_id: None
        self._host.gave_up = lambda _record, _failure: None

    async def _collect(self) -> None:
        """Collect whatever is let go of, and after a while what could not be removed."""
        store = self._host.store
        while True:
            with trio.move_on_after(COLLECT_AGAIN_S if store.trouble else math.inf):
                await store.holds.wait_let_go()
            if await store.collect():
                keep_reserve(self._host.reserve)

    async def _keep_reserve(self) -> None:
        """Have the reserve be made anew as soon as there is room for it."""
        async for _ in periodic(RESERVE_LOOK_S):
            keep_reserve(self._host.reserve)

    async def handle(self, message: r.RegistryMessage) -> Any:  # type: ignore[override]  # noqa: C901
        """Do what a message asks."""
        match message:
            case r.CreateWorkspace():
                return await self._create(message)
            case r.ForkWorkspace():
                return await self._fork(message)
            case r.FindWorkspace():
                return self._directory.find(message.workspace)
            case r.ListWorkspaces():
                return await self._workspaces.list()
            case r.AwaitChange():
                return await self._host.changes.wait(message.since, message.workspace_id)
            case r.AdoptWorkspace():
                return await self._adopt(message)
            case r.DestroyWorkspace():
                return await self._workspaces.destroy(self._directory.find(message.workspace).workspace_id)
            case r.Diagnose():
                return await diagnose(self._host, self._workspaces, self._troubles, self._images, again=message.again)
            case r.Collect():
                return await collect(self._host.store, dry_run=message.dry_run)
            case r.WarmTemplate():
                return await self._warm(message)
            case r.ListTemplates():
                return await self._templates.list()
            case r.DropTemplates():
                return await self._templates.drop(message.ids)
            case r.ListImages():
                return await self._images.list()
            case r.RemoveImage():
                return await self._images.remove(message.image, force=message.force)
            case r.ExportWorkspace():
                return await self._export(message)
            case r.ImportWorkspace():
                return await self._import(message)
            case r.DescribePool():
                return self._pool.info()
            case _:
                assert_never(message)

    # -- create and destroy

    async def _create(self, message: r.CreateWorkspace) -> r.Made:
        report, entrant = reporting(message.on_progress), plans.entrant(self._host, message)
        chosen, what = message.image or self._host.settings.image, f"the creation of {entrant.name}"
        with self._admission.admitted(entrant, memory_mb=entrant.shape.memory_mb), self._pool.creating():
            async with self._host.image_uses.using(chosen, what) as image:
                return await self._create_of(image, message, entrant, report)

    async def _create_of(
        self, image: BootImage, message: r.CreateWorkspace, entrant: Entrant, report: Callable[[str], None]
    ) -> r.Made:
        report("looking for an accelerator that works")
        record = await plans.of_creation(self._host, message, image, entrant)
        wanted = Wanted(image, record.shape, record.network, record.channel)
        if (made := await self._claim(record)) is not None:
            return made
        return await self._create_anew(record, wanted, report)

    async def _adopt(self, message: r.AdoptWorkspace) -> WorkspaceInfo:
        found = self._directory.find(message.workspace)
        self._ledger.move(found.workspace_id, message.owner, expected=message.expected)
        # Whoever is told of the change asks whose it is now.
        self._directory.put(attrs.evolve(found, owner=message.owner))
        try:
            # Once it is written down it is so: whoever is cancelled by then would leave it with two owners.
            with trio.CancelScope(shield=True):
                info: WorkspaceInfo = await found.ref.ask(w.SetOwner(message.owner))
        except AgentisoError:
            self._workspaces.read_owner(found)
            raise
        self._host.changes.note(found.workspace_id)
        return info

    async def _claim(self, record: WorkspaceRecord) -> r.Made | None:
        """Give a machine of the pool to a workspace; ``None`` if there is none, or it failed and was ended."""
        pooled = self._pool.take(record)
        if pooled is None:
            return None
        claimed = attrs.evolve(record, id=pooled.record.id, mac=pooled.record.mac)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._workspaces.abandon, claimed.id)
            # What was taken of the quota is that of the machine's workspace from now on.
            quota = Claim(record.owner, record.shape)
            self._ledger.give_back(record.id)
            found = self._workspaces.enter(claimed, pooled.ref)
            try:
                info: WorkspaceInfo = await pooled.ref.ask(w.Claim(claimed))
            except AgentisoError:
                # Whatever is wrong with it, one that is restored anew either has it not or says so.
                self._ledger.note(record.id, quota)
                return None
            undo.pop_all()
        return r.Made(found, info)

    async def _create_anew(self, record: WorkspaceRecord, wanted: Wanted, report: Callable[[str], None]) -> r.Made:
        with self._host.store.held() as owner:
            template = await self._templates.get(self.nursery, wanted, report)
            self._host.store.hold(owner, {template.id})
            report("restoring the template")
            return await self._bring_up(record, template)

    async def _warm(self, message: r.WarmTemplate) -> TemplateInfo:
        settings, report = self._host.settings, reporting(message.on_progress)
        shape, network = message.shape or settings.shape, message.network or settings.network
        plans.check_shape(shape, settings.limits)
        self._host.networks.check(network)
        with self._host.memory.reserved(shape.memory_mb):
            async with self._host.image_uses.using(message.image or settings.image, "the boot of a template") as image:
                report("looking for an accelerator that works")
                wanted = Wanted(image, shape, network, settings.channel)
                return await self._templates.warm(self.nursery, wanted, report)

    async def _bring_up(self, record: WorkspaceRecord, source: Checkpoint) -> r.Made:
        """Start a workspace's actor and machine; on failure or cancellation nothing of it is left."""
        record = records.make_directory(self._host.state_dir, record)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._workspaces.abandon, record.id)
            records.save(self._host.state_dir, record)
            found = await self._workspaces.start_actor(record)
            info: WorkspaceInfo = await found.ref.ask(w.Start(source))
            undo.pop_all()
        return r.Made(found, info)

    # -- export and import

    async def _export(self, message: r.ExportWorkspace) -> ExportReport:
        began, report, store = time.perf_counter(), reporting(message.on_progress), self._host.store
        found = self._directory.find(message.workspace)
        try:
            with store.held() as owner:
                report("taking a checkpoint")
                taken = await self._fork_point(found, message.snapshot, owner, durable=True)
                source = taken.checkpoint
                size_bytes = await transfer.export(store, source, taken.info, message.target, report, self._exports)
        finally:
            with trio.CancelScope(shield=True):
                await self._finish_exports()
                await store.collect()
        return ExportReport(size_bytes, source.has_memory, time.perf_counter() - began)

    async def _import(self, message: r.ImportWorkspace) -> r.Imported:
        began, report = time.perf_counter(), reporting(message.on_progress)
        entrants: list[Entrant] = []
        with ExitStack() as held:

            def admit(manifest: Manifest) -> None:
                plans.check_shape(manifest.shape, self._host.settings.limits)
                name = message.name or self._directory.free_name(manifest.name)
                entrants.append(Entrant(name, message.owner, manifest.shape))
                held.enter_context(self._admission.admitted(*entrants, memory_mb=manifest.shape.memory_mb))

            try:
                async with (
                    transfer.unpacked(self._host.state_dir, message.source, admit, report, self._host.store) as found,
                    plans.image_of_import(self._host, found) as image,
                ):
                    record = await plans.of_import(self._host, found, image, entrants[0])
                    with self._pool.creating(), self._host.store.held() as owner:
                        installed = await transfer.install(self._host.store, found, image, owner)
                        fingerprint = await self._host.fingerprint(
                            image, record.shape, record.network, record.channel, like=installed.fingerprint
                        )
                        source, note = transfer.fitting(installed, fingerprint)
                        report(note or "restoring the workspace")
                        made = await self._bring_up(record, source)
            finally:
                with trio.CancelScope(shield=True):
                    await self._host.store.collect()
        seconds = time.perf_counter() - began
        return r.Imported(made.found, ImportReport(made.info, source.has_memory, note, seconds))

    # -- fork

    async def _fork(self, message: r.ForkWorkspace) -> r.Forked:
        parent = self._directory.find(message.workspace)
        known = self._workspaces.known(parent)
        async with self._host.image_uses.using(known.image_digest, f"a fork of {parent.name}") as image:
            return await self._fork_of(attrs.evolve(image, name=known.image), message, parent, known.shape)

    async def _fork_of(self, image: BootImage, message: r.ForkWorkspace, parent: r.Found, shape: Shape) -> r.Forked:
        began = time.perf_counter()
        # From here to the admission nothing waits, so that no other call comes between.
        names = self._directory.fork_names(parent.name, message, self._host.settings.limits.max_fork_count)
        entrants = [Entrant(name, message.owner, shape) for name in names]
        with (
            self._admission.admitted(*entrants, memory_mb=message.count * FORK_MEMORY_MB, forked=True),
            self._pool.creating(),
            self._host.store.held() as owner,
        ):
            taken = await self._fork_point(parent, message.snapshot, owner, durable=False)
            lineage = Lineage(parent.workspace_id, parent.name, taken.checkpoint.id, message.snapshot)
            planned = [plans.of_child(self._host, taken.info, image, entrant, lineage) for entrant in entrants]
            found, children = await self._bring_up_children(planned, taken.checkpoint)
        pause_ms = None if message.snapshot else taken.pause_ms
        report = ForkReport(
            parent=parent.workspace_id,
            checkpoint_id=taken.checkpoint.id,
            snapshot=message.snapshot,
            pause_ms=pause_ms,
            copied_bytes=taken.copied_bytes,
            seconds=time.perf_counter() - began,
            children=children,
            dropped_forwards=tuple(forward.guest_port for forward in taken.info.network.port_forwards),
            note="" if taken.checkpoint.has_memory else plans.why_booted(taken.info, message.snapshot),
        )
        return r.Forked(found, report)

    async def _fork_point(
        self, parent: r.Found, snapshot: str | None, owner: str, *, durable: bool
    ) -> w.CheckpointTaken:
        asked = w.TakeCheckpoint(owner, durable) if snapshot is None else w.FindSnapshot(snapshot, owner)
        taken: w.CheckpointTaken = await parent.ref.ask(asked)
        return taken

    async def _bring_up_children(
        self, planned: list[WorkspaceRecord], source: Checkpoint
    ) -> tuple[tuple[r.Found, ...], tuple[ForkedChild, ...]]:
        """Start all children at once; each may fail alone.  If this is cancelled, none is left."""
        children: dict[int, ForkedChild] = {}
        running: dict[int, r.Found] = {}

        async def one(index: int, record: WorkspaceRecord) -> None:
            began = time.perf_counter()
            try:
                made = await self._bring_up(record, source)
            except AgentisoError as error:
                children[index] = ForkedChild(index, record.name, error=str(error))
                return
            running[index], ready_ms = made.found, (time.perf_counter() - began) * 1000
            children[index] = ForkedChild(
                index, record.name, made.info.workspace_id, ready_ms, made.info.evidence, ip=made.info.network.ip
            )

        try:
            async with trio.open_nursery() as nursery:
                for index, record in enumerate(planned):
                    nursery.start_soon(one, index, record)
        except BaseException:  # a cancellation comes in a group
            for found in running.values():
                await self._workspaces.abandon(found.workspace_id)
            raise
        return _in_order(running), _in_order(children)
