"""The registry actor: the one place for what workspaces share - names, limits, templates, references."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, assert_never

import attrs
import trio

from actors import messages as m
from actors import record as records
from actors import transfer
from actors.errors import (
    ActorGone,
    AgentisoError,
    InvalidArgument,
    NameTaken,
    NoCapacity,
    NotFound,
)
from actors.host import Host
from actors.lifecycle import State
from actors.lifetime import check as check_lifetime
from actors.machine.bundle import Manifest
from actors.machine.checkpoint import Checkpoint
from actors.machine.files import exhaustion_reported
from actors.machine.host import check_memory
from actors.machine.image import BootImage
from actors.model import (
    ExportReport,
    ForkedChild,
    ForkReport,
    ImportReport,
    Lineage,
    Shape,
    TemplateInfo,
    WorkspaceInfo,
)
from actors.names import check_name, new_id
from actors.pool import Pool, PoolKeeper
from actors.quotas import Claim, Ledger
from actors.record import WorkspaceRecord, new_record
from actors.runtime import Actor, Supervisor
from actors.templates import Templates, Wanted
from actors.text import shown
from actors.workspace import WorkspaceActor

MIN_PREFIX_CHARS: Final = 8
MAX_CANDIDATES: Final = 20
MIN_MEMORY_MB: Final = 128
"""Less does not boot a stock kernel and the guest agent."""
FORK_MEMORY_MB: Final = 64
"""What a fork is counted with at the start: it shares its parent's pages and pays for what it changes."""
UNDO_S: Final = 60.0
UNOWNED: Final = frozenset({State.CREATING, State.DESTROYED})
"""States in which nobody has a workspace: not yet, or not any more."""


def _nobody(_step: str) -> None:
    """Take progress that nobody asked for."""


class RegistryActor(Actor):
    """Knows every workspace by name and id."""

    def __init__(self, host: Host, supervisor: Supervisor) -> None:
        super().__init__("registry")
        self._host = host
        self._supervisor = supervisor
        self._templates = Templates(host)
        self._pool = Pool(host, supervisor, self._templates)
        self._found: dict[str, m.Found] = {}
        self._reserved: set[str] = set()
        self._ledger = Ledger(host.settings.quotas)
        self.damaged: list[str] = []
        """Records that could not be read; their workspaces are left alone."""

    async def setup(self) -> None:
        """Rebuild from the directories: templates, workspaces and their machines; then sweep what has no owner."""
        self._host.store.make_directories()
        self._host.expired = self._expire
        await self._templates.take_up()
        transfer.sweep(self._host.state_dir)
        root = self._host.state_dir / "workspaces"
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with trio.open_nursery() as nursery:
            for directory in sorted(root.iterdir()):
                nursery.start_soon(self._take_up, directory)
        self._host.store.keeps_all = bool(self.damaged)
        await self._host.store.sweep()
        if self._host.settings.pool.size:
            await self._supervisor.start("pool", lambda: PoolKeeper(self._pool))

    async def _take_up(self, directory: Path) -> None:
        """Start the actor of a workspace; what is wrong with one keeps no other from being taken up."""
        try:
            if records.is_empty(directory):
                records.remove(directory)
                return
            record = records.load(directory)
            if record.state in UNOWNED:
                # It was never handed to anybody, or is nobody's any more; its machine was ended before.
                await trio.to_thread.run_sync(records.remove, directory)
                return
            await self._start_actor(record)
        except (AgentisoError, OSError) as error:
            self.damaged.append(str(error))

    async def handle(self, message: m.RegistryMessage) -> Any:  # type: ignore[override]
        """Do what a message asks."""
        with exhaustion_reported():
            return await self._handle(message)

    async def _handle(self, message: m.RegistryMessage) -> Any:  # noqa: C901
        match message:
            case m.CreateWorkspace():
                return await self._create(message)
            case m.ForkWorkspace():
                return await self._fork(message)
            case m.FindWorkspace():
                return self._find(message.workspace)
            case m.ListWorkspaces():
                return await self._list()
            case m.AwaitChange():
                return await self._host.changes.wait(message.since, message.workspace_id)
            case m.AdoptWorkspace():
                return await self._adopt(message)
            case m.DestroyWorkspace():
                return await self._forget(self._find(message.workspace).workspace_id)
            case m.WarmTemplate():
                return await self._warm(message)
            case m.ListTemplates():
                return await self._templates.list()
            case m.DropTemplates():
                return await self._templates.drop(message.ids)
            case m.ExportWorkspace():
                return await self._export(message)
            case m.ImportWorkspace():
                return await self._import(message)
            case m.DescribePool():
                return self._pool.info()
            case _:
                assert_never(message)

    # -- names

    def _find(self, text: str) -> m.Found:
        if text in self._found:
            return self._found[text]
        for found in self._found.values():
            if text == found.name:
                return found
        matching = [found for key, found in self._found.items() if text and key.startswith(text)]
        if len(matching) == 1 and len(text) >= MIN_PREFIX_CHARS:
            return matching[0]
        known = ", ".join(sorted(found.name for found in self._found.values())[:MAX_CANDIDATES]) or "none"
        message, remedy = f"There is no workspace {shown(text)}; there are: {known}.", "Create it, or list them."
        if matching:
            named = sorted(f"{found.name} ({found.workspace_id})" for found in matching)[:MAX_CANDIDATES]
            message += f" The ids of {len(matching)} begin like that: {', '.join(named)}."
            remedy = f"Use a name, or at least {MIN_PREFIX_CHARS} digits of an id."
        raise NotFound(message, remedy=remedy)

    def _reserve(self, name: str) -> None:
        check_name(name)
        if name in self._reserved or any(found.name == name for found in self._found.values()):
            raise NameTaken(f"There is a workspace {name!r} already.", remedy="Choose another name or destroy it.")
        self._reserved.add(name)

    def _check_room(self, count: int, memory_mb: int) -> None:
        limits = self._host.settings.limits
        if len(self._found) + len(self._reserved) + count > limits.max_workspaces:
            raise NoCapacity(
                f"{count} more would exceed the limit of {limits.max_workspaces} workspaces.",
                remedy="Destroy some, or raise limits.max_workspaces.",
            )
        check_memory(memory_mb, limits.memory_reserve_mb)

    # -- create and destroy

    async def _create(self, message: m.CreateWorkspace) -> WorkspaceInfo:
        settings = self._host.settings
        shape, network = message.shape or settings.shape, message.network or settings.network
        lifetime = message.lifetime or settings.lifetime
        if message.name is not None:
            check_name(message.name)
        check_lifetime(lifetime)
        self._check_shape(shape)
        self._check_room(1, shape.memory_mb)
        report = message.on_progress or _nobody
        image = await self._host.load_image(message.image or settings.image)
        report("looking for an accelerator that works")
        verdict = await self._host.accelerator(image)
        internet = settings.allow_internet if message.allow_internet is None else message.allow_internet
        record = new_record(
            name=message.name or f"ws-{new_id()[:8]}",
            image=image,
            shape=shape,
            network=network,
            allow_internet=internet,
            channel=settings.channel,
            accelerator=verdict.chosen,
            lifetime=lifetime,
            owner=message.owner,
        )
        self._reserve(record.name)
        wanted = Wanted(image, shape, network, settings.channel)
        try:
            self._ledger.take({record.id: Claim(record.owner, shape)})
            with self._pool.creating():
                if (info := await self._claim(record)) is not None:
                    return info
                return await self._create_anew(record, wanted, report)
        finally:
            self._reserved.discard(record.name)
            self._give_back({record.id})

    def _give_back(self, workspace_ids: Iterable[str]) -> None:
        """Have those of some workspaces that did not come to be take nothing of their owner's quota."""
        for workspace_id in workspace_ids:
            if workspace_id not in self._found:
                self._ledger.give_back(workspace_id)

    async def _adopt(self, message: m.AdoptWorkspace) -> WorkspaceInfo:
        found = self._find(message.workspace)
        self._ledger.move(found.workspace_id, message.owner, expected=message.expected)
        # Whoever is told of the change asks whose it is now.
        self._found[found.workspace_id] = attrs.evolve(found, owner=message.owner)
        try:
            info: WorkspaceInfo = await found.ref.ask(m.SetOwner(message.owner))
        except BaseException:
            self._ledger.move(found.workspace_id, message.expected, expected=message.owner, checked=False)
            if found.workspace_id in self._found:
                self._found[found.workspace_id] = found
            raise
        self._host.changes.note(found.workspace_id)
        return info

    async def _claim(self, record: WorkspaceRecord) -> WorkspaceInfo | None:
        """Give a machine of the pool to a workspace; ``None`` if there is none, or it failed and was ended."""
        pooled = self._pool.take(record)
        if pooled is None:
            return None
        claimed = attrs.evolve(record, id=pooled.record.id, mac=pooled.record.mac)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._undo, claimed.id)
            # What was taken of the quota is that of the machine's workspace from now on.
            quota = Claim(record.owner, record.shape)
            self._ledger.give_back(record.id)
            self._ledger.note(claimed.id, quota)
            self._found[claimed.id] = m.Found(claimed.id, claimed.name, pooled.ref, claimed.owner)
            try:
                info: WorkspaceInfo = await pooled.ref.ask(m.Claim(claimed))
            except AgentisoError:
                # Whatever is wrong with it, one that is restored anew either has it not or says so.
                self._ledger.note(record.id, quota)
                return None
            undo.pop_all()
        return info

    async def _create_anew(
        self, record: WorkspaceRecord, wanted: Wanted, report: Callable[[str], None]
    ) -> WorkspaceInfo:
        with self._host.store.held() as owner:
            template = await self._templates.get(self.nursery, wanted, report)
            self._host.store.hold(owner, {template.id})
            report("restoring the template")
            return await self._bring_up(record, template)

    async def _warm(self, message: m.WarmTemplate) -> TemplateInfo:
        settings, report = self._host.settings, message.on_progress or _nobody
        shape, network = message.shape or settings.shape, message.network or settings.network
        self._check_shape(shape)
        check_memory(shape.memory_mb, settings.limits.memory_reserve_mb)
        image = await self._host.load_image(message.image or settings.image)
        report("looking for an accelerator that works")
        return await self._templates.warm(self.nursery, Wanted(image, shape, network, settings.channel), report)

    def _check_shape(self, shape: Shape) -> None:
        limits = self._host.settings.limits
        bounds = {
            "vcpus": (1, limits.max_vcpus),
            "memory_mb": (MIN_MEMORY_MB, limits.max_memory_mb),
            "disk_gb": (1, limits.max_disk_gb),
        }
        for field, (low, high) in bounds.items():
            value = getattr(shape, field)
            if not low <= value <= high:
                raise InvalidArgument(
                    f"{field} is {value}; {low} to {high} are allowed.", remedy=f"Choose another {field}."
                )

    async def _bring_up(self, record: WorkspaceRecord, source: Checkpoint) -> WorkspaceInfo:
        """Start a workspace's actor and machine; on failure or cancellation nothing of it is left."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._undo, record.id)
            with exhaustion_reported():
                records.directory_of(self._host.state_dir, record.id).mkdir(mode=0o700)
                records.save(self._host.state_dir, record)
                found = await self._start_actor(record)
            info: WorkspaceInfo = await found.ref.ask(m.Start(source))
            undo.pop_all()
        return info

    async def _undo(self, workspace_id: str) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + UNDO_S):
            await self._forget(workspace_id)

    async def _start_actor(self, record: WorkspaceRecord) -> m.Found:
        name = records.actor_name(record)
        # A registry that crashed finds its workspaces running: a second actor could not have the machine.
        ref = self._supervisor.find(name) or await self._supervisor.start(
            name, lambda: WorkspaceActor(record, self._host), on_giveup=self._gave_up
        )
        found = self._found[record.id] = m.Found(record.id, record.name, ref, record.owner)
        self._ledger.note(record.id, Claim(record.owner, record.shape))
        self._host.changes.note(record.id)
        return found

    def _expire(self, workspace_id: str) -> None:
        """Destroy a workspace whose time is over."""
        self.nursery.start_soon(self._forget, workspace_id)

    def _gave_up(self, name: str, failure: BaseException) -> None:
        """Let a workspace whose actor cannot live be refused by its closed mailbox; the others go on."""

    async def _forget(self, workspace_id: str) -> None:
        found = self._found.get(workspace_id)
        if found is None:
            await trio.to_thread.run_sync(records.remove, records.directory_of(self._host.state_dir, workspace_id))
            return
        with contextlib.suppress(ActorGone):
            await found.ref.ask(m.Destroy())
        await self._supervisor.stop(found.ref)
        self._found.pop(workspace_id, None)
        self._host.changes.forget(workspace_id)
        self._ledger.give_back(workspace_id)
        await self._host.store.sweep()

    async def _list(self) -> tuple[WorkspaceInfo, ...]:
        infos = []
        for found in list(self._found.values()):
            with contextlib.suppress(ActorGone):
                infos.append(await found.ref.ask(m.Describe()))
        return tuple(sorted(infos, key=lambda info: info.created_at))

    # -- export and import

    async def _export(self, message: m.ExportWorkspace) -> ExportReport:
        began, report, store = time.perf_counter(), message.on_progress or _nobody, self._host.store
        found = self._find(message.workspace)
        try:
            with store.held() as owner:
                report("taking a checkpoint")
                source = (await self._fork_point(found, message.snapshot, owner, durable=True)).checkpoint
                info: WorkspaceInfo = await found.ref.ask(m.Describe())
                size_bytes = await transfer.export(store, source, info, message.target, report)
        finally:
            with trio.CancelScope(shield=True):
                await store.sweep()
        return ExportReport(size_bytes, source.has_memory, time.perf_counter() - began)

    async def _import(self, message: m.ImportWorkspace) -> ImportReport:
        began, report = time.perf_counter(), message.on_progress or _nobody

        def check(manifest: Manifest) -> None:
            self._check_shape(manifest.shape)
            self._check_room(1, manifest.shape.memory_mb)

        try:
            async with transfer.unpacked(self._host.state_dir, message.source, check, report) as found:
                record, image = await self._plan_import(message, found)
                self._reserve(record.name)
                try:
                    self._ledger.take({record.id: Claim(record.owner, record.shape)})
                    with self._pool.creating(), self._host.store.held() as owner:
                        made = await transfer.install(self._host.store, found, image, owner)
                        fingerprint = await self._host.fingerprint(image, record.shape, record.network, record.channel)
                        source, note = transfer.fitting(made, fingerprint)
                        report(note or "restoring the workspace")
                        info = await self._bring_up(record, source)
                finally:
                    self._reserved.discard(record.name)
                    self._give_back({record.id})
        finally:
            with trio.CancelScope(shield=True):
                await self._host.store.sweep()
        return ImportReport(info, source.has_memory, note, time.perf_counter() - began)

    async def _plan_import(
        self, message: m.ImportWorkspace, found: transfer.Unpacked
    ) -> tuple[WorkspaceRecord, BootImage]:
        """Return the record of an imported workspace, and this host's image for it."""
        settings, manifest = self._host.settings, found.manifest
        try:
            image = await self._host.load_image(manifest.image_digest)
            if image.digest != manifest.image_digest:
                raise NotFound(f"{shown(manifest.image_digest)} is not a digest.", remedy="Export it once more.")
        except AgentisoError as error:
            digest = manifest.image_digest[:100]
            raise NotFound(
                f"The workspace stands on the image {found.image_name} (digest {digest}), which is not here.",
                remedy="Copy the image's directory from the other host's images directory, under its name.",
            ) from error
        name = message.name or manifest.name
        if not message.name and any(known.name == name for known in self._found.values()):
            name = f"{name[:50]}-{new_id()[:8]}"
        record = new_record(
            name=name,
            image=attrs.evolve(image, name=found.image_name),
            shape=manifest.shape,
            network=manifest.network,
            # What another host allowed is not this one's word.
            allow_internet=settings.allow_internet,
            channel=manifest.channel,
            accelerator=(await self._host.accelerator(image)).chosen,
            lifetime=settings.lifetime,
            owner=message.owner,
        )
        return record, image

    # -- fork

    async def _fork(self, message: m.ForkWorkspace) -> ForkReport:
        began = time.perf_counter()
        parent = self._find(message.workspace)
        info: WorkspaceInfo = await parent.ref.ask(m.Describe())
        image = attrs.evolve(await self._host.load_image(info.image_digest), name=info.image)
        # From here to the reservations nothing waits, so that no other call comes between.
        self._check_room(message.count, message.count * FORK_MEMORY_MB)
        names = self._fork_names(parent.name, message)
        planned = [self._planned_child(info, image, name, message.owner) for name in names]
        with contextlib.ExitStack() as undo:
            for name in names:
                self._reserve(name)
                undo.callback(self._reserved.discard, name)
            undo.enter_context(self._ledger.forking(message.owner, message.count))
            self._ledger.take({record.id: Claim(record.owner, record.shape) for record in planned})
            undo.callback(self._give_back, [record.id for record in planned])
            undo.enter_context(self._pool.creating())
            owner = undo.enter_context(self._host.store.held())
            taken = await self._fork_point(parent, message.snapshot, owner, durable=False)
            lineage = Lineage(parent.workspace_id, parent.name, taken.checkpoint.id, message.snapshot)
            planned = [attrs.evolve(record, forked_from=lineage) for record in planned]
            children = await self._bring_up_children(planned, taken.checkpoint)
        pause_ms = None if message.snapshot else taken.pause_ms
        return ForkReport(
            parent=parent.workspace_id,
            checkpoint_id=taken.checkpoint.id,
            snapshot=message.snapshot,
            pause_ms=pause_ms,
            copied_bytes=taken.copied_bytes,
            seconds=time.perf_counter() - began,
            children=tuple(children),
            dropped_forwards=tuple(forward.guest_port for forward in info.network.port_forwards),
        )

    async def _fork_point(
        self, parent: m.Found, snapshot: str | None, owner: str, *, durable: bool
    ) -> m.CheckpointTaken:
        if snapshot is None:
            taken: m.CheckpointTaken = await parent.ref.ask(m.TakeCheckpoint(owner, durable))
            return taken
        checkpoint: Checkpoint = await parent.ref.ask(m.FindSnapshot(snapshot))
        self._host.store.hold(owner, {checkpoint.id})
        return m.CheckpointTaken(checkpoint, 0.0, 0)

    def _fork_names(self, parent: str, message: m.ForkWorkspace) -> list[str]:
        limit = self._host.settings.limits.max_fork_count
        if not 1 <= message.count <= limit:
            raise InvalidArgument(
                f"A fork of {message.count} was asked for; 1 to {limit} are allowed.", remedy="Choose another count."
            )
        if message.names is not None:
            if len(message.names) != message.count or len(set(message.names)) != message.count:
                raise InvalidArgument(
                    f"{message.count} distinct names are needed, {len(message.names)} were given.",
                    remedy="Give one name for each child, or name_prefix.",
                )
            return list(message.names)
        prefix = message.name_prefix or f"{parent[:48]}-fork"
        taken = self._reserved | {found.name for found in self._found.values()}
        names: list[str] = []
        number = 1
        while len(names) < message.count:
            if f"{prefix}-{number}" not in taken:
                names.append(f"{prefix}-{number}")
            number += 1
        return names

    def _planned_child(self, parent: WorkspaceInfo, image: BootImage, name: str, owner: str) -> WorkspaceRecord:
        return new_record(
            name=name,
            image=image,
            shape=parent.shape,
            network=parent.network.backend,
            allow_internet=parent.network.allow_internet,
            channel=parent.channel,
            accelerator=parent.accelerator,
            lifetime=self._host.settings.lifetime,
            owner=owner,
        )

    async def _bring_up_children(self, planned: list[WorkspaceRecord], source: Checkpoint) -> list[ForkedChild]:
        """Start all children at once; each may fail alone.  If this is cancelled, none is left."""
        children: dict[int, ForkedChild] = {}
        made: list[str] = []

        async def one(index: int, record: WorkspaceRecord) -> None:
            began = time.perf_counter()
            try:
                info = await self._bring_up(record, source)
            except AgentisoError as error:
                children[index] = ForkedChild(index, record.name, error=str(error))
                return
            made.append(record.id)
            children[index] = ForkedChild(
                index, record.name, record.id, (time.perf_counter() - began) * 1000, info.evidence
            )

        try:
            async with trio.open_nursery() as nursery:
                for index, record in enumerate(planned):
                    nursery.start_soon(one, index, record)
        except trio.Cancelled:
            for workspace_id in made:
                await self._undo(workspace_id)
            raise
        return [children[index] for index in sorted(children)]
