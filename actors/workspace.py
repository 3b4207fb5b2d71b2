"""The workspace actor: owns one workspace, its record and its machine.

Lifecycle work is serial; guest work runs beside it and beside other guest work.  An actor that is restarted goes on
from its record and adopts the machine, if that still runs.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import Any, Final, assert_never

import attrs
import trio

from actors import messages as m
from actors import record as records
from actors.errors import (
    AgentisoError,
    CheckpointUnusable,
    IllegalState,
    InvalidArgument,
    NameTaken,
    NoCapacity,
    NotFound,
)
from actors.host import Host
from actors.lifecycle import Event, Lifecycle, State
from actors.machine import checkpoint as checkpoints
from actors.machine import machine as machines
from actors.machine.checkpoint import Checkpoint
from actors.machine.files import exhaustion_reported, make_durable
from actors.machine.guest_client import GuestClient
from actors.machine.image import BootImage
from actors.machine.machine import GUEST_ADDRESS, Machine, Persona
from actors.model import NetworkInfo, SnapshotInfo, WorkspaceInfo
from actors.names import check_name, new_id, short
from actors.record import SnapshotRecord, WorkspaceRecord
from actors.runtime import Actor, Message

ADOPT_LIMIT_S: Final = 20.0
MAX_TIMEOUT_S: Final = 24 * 3600.0


class WorkspaceActor(Actor):
    """One workspace."""

    def __init__(self, record: WorkspaceRecord, host: Host) -> None:
        super().__init__(f"workspace {record.name}")
        self._record = record
        self._host = host
        self._lifecycle = Lifecycle(record.state)
        self._machine: Machine | None = None
        self._directory = records.directory_of(host.state_dir, record.id)

    # -- the actor's own life

    async def setup(self) -> None:
        """Take up the record: hold what it needs, and adopt the machine if it still runs."""
        with contextlib.suppress(records.DamagedRecord):
            self._record = records.load(self._directory)
            self._lifecycle = Lifecycle(self._record.state)
        self._hold()
        if self._record.machine is not None:
            await self._adopt(self._record.machine)

    async def teardown(self) -> None:
        """Let go of the machine, which runs on: the record is enough to find it again."""
        if self._machine is not None:
            await self._machine.release()
        if self._lifecycle.state is State.DESTROYED:
            self._host.store.release(self._owner)

    def check(self, message: Message[Any]) -> None:
        """Refuse what the present state does not allow."""
        legal = getattr(type(message), "LEGAL", None)
        state = self._lifecycle.state
        if legal is not None and state not in legal:
            why = f" {self._record.failure}" if self._record.failure and state is State.FAILED else ""
            remedy = {
                State.FAILED: "Start it again from its disk, restore a snapshot, or destroy it.",
                State.STOPPED: "Start it first.",
            }.get(state, "")
            raise IllegalState(
                f"Workspace {self._record.name} is {state}, which does not allow {type(message).__name__}.{why}",
                remedy=remedy,
            )

    async def handle(self, message: m.WorkspaceMessage) -> Any:  # type: ignore[override]
        """Do what a message asks."""
        with exhaustion_reported():
            return await self._handle(message)

    async def _handle(self, message: m.WorkspaceMessage) -> Any:  # noqa: C901
        match message:
            case m.Start():
                return await self._start(message.checkpoint)
            case m.TakeCheckpoint():
                return await self._take_checkpoint(message)
            case m.CreateSnapshot():
                return await self._create_snapshot(message)
            case m.FindSnapshot():
                return checkpoints.load(self._host.store, self._snapshot(message.name).checkpoint)
            case m.RestoreSnapshot():
                return await self._restore(message.name)
            case m.DeleteSnapshot():
                return await self._delete_snapshot(message.name)
            case m.Destroy():
                return await self._destroy()
            case m.Describe():
                return self._info()
            case m.ReadConsole():
                return self._machine.console(message.max_bytes) if self._machine else ""
            case m.Exec():
                return await self._exec(message)
            case m.ReadFile():
                return await (await self._client()).read_file(message.path, message.offset, message.limit)
            case m.WriteFile():
                return await (await self._client()).write_file(message.path, message.content, message.mode)
            case m.ListFiles():
                return await (await self._client()).list_files(message.path)
            case _:
                assert_never(message)

    # -- lifecycle

    async def _start(self, source: Checkpoint | None) -> WorkspaceInfo:
        layer = None if source else self._record.layer
        machine = await self._launch(source, layer)
        await self._take_over(machine, source, head=self._record.head)
        return self._info()

    async def _launch(self, source: Checkpoint | None, layer: str | None) -> Machine:
        """Bring a machine up on a new disk layer over ``source``, or on ``layer``, cold."""
        record, host = self._record, self._host
        image = await host.load_image(record.image)
        if image.digest != record.image_digest:
            raise CheckpointUnusable(
                f"The image {record.image!r} was rebuilt since workspace {record.name} was made.",
                remedy="Create a new workspace from it.",
            )
        fingerprint = await host.fingerprint(image, record.shape, record.network, record.channel)
        resumes = source if source and source.has_memory else None
        if resumes and (differences := resumes.fingerprint.differences(fingerprint)):
            raise CheckpointUnusable(
                f"The checkpoint's memory cannot be loaded on this host: {'; '.join(differences)}.",
                remedy="Take new snapshots with the QEMU and image that are installed now.",
            )
        return await self._launch_on(image, fingerprint, source, resumes, layer)

    async def _launch_on(
        self,
        image: BootImage,
        fingerprint: checkpoints.Fingerprint,
        source: Checkpoint | None,
        resumes: Checkpoint | None,
        layer: str | None,
    ) -> Machine:
        record, host = self._record, self._host
        if resumes is not None:
            await trio.to_thread.run_sync(checkpoints.verify, host.store, resumes)
        disk_bytes = source.disk_bytes if source else record.shape.disk_gb * 2**30
        new_layer = layer or new_id()
        with host.store.held(new_layer, *([source.id] if source else [])):
            if layer is None:
                backing, kind = (host.store.layer(source.layer), "qcow2") if source else (image.root, "raw")
                host.store.new_overlay(new_layer, backing=backing, backing_format=kind, size_bytes=disk_bytes)
            spec = await host.machine_spec(
                image,
                fingerprint,
                workspace_dir=self._directory,
                layer=new_layer,
                checkpoint=resumes,
                allow_internet=record.allow_internet,
                mac=record.mac,
            )
            settings = host.settings
            async with host.starts:
                machine = await machines.start(
                    self.nursery,
                    spec,
                    Persona(record.id, record.name),
                    fingerprint,
                    layer=new_layer,
                    disk_bytes=disk_bytes,
                    checkpoint=resumes,
                    state=host.store.checkpoint(resumes.id) / "devices" if resumes else None,
                    limit_s=settings.restore_timeout_s if resumes else settings.boot_timeout_s,
                )
            self._host.store.hold(f"machine:{spec.uuid}", {new_layer, *([resumes.id] if resumes else [])})
        return machine

    async def _take_over(self, machine: Machine, source: Checkpoint | None, *, head: str | None) -> None:
        """Make a proven machine the workspace's own; the earlier one, if any, ends."""
        earlier, self._machine = self._machine, machine
        self._lifecycle.move(Event.STARTED)
        resumed = source is not None and source.has_memory
        self._save(
            layer=machine.layer,
            disk_bytes=machine.disk_bytes,
            checkpoint=source.id if source and resumed else None,
            machine=machine.record,
            evidence=machine.evidence,
            started_by="restore" if resumed else "cold_boot",
            start_seconds=machine.start_seconds,
            head=head,
            failure=None,
        )
        self._host.store.release(f"machine:{machine.spec.uuid}")
        self.nursery.start_soon(self._watch, machine)
        self.nursery.start_soon(machine.resume_when_stalled)
        if earlier is not None:
            with trio.CancelScope(shield=True):
                await earlier.end()

    async def _watch(self, machine: Machine) -> None:
        """Notice the end of a machine that nobody asked for."""
        await machine.process.wait_exit()
        if self._machine is machine and self._lifecycle.state is not State.DESTROYED:
            said = machine.console(600).strip() or "nothing"
            self._machine = None
            self._lifecycle.move(Event.MACHINE_DIED)
            await machine.release()
            self._note(machine=None, failure=f"Its machine ended by itself. The console's last words: {said}")

    async def _adopt(self, machine_record: machines.MachineRecord) -> None:
        record, host = self._record, self._host
        try:
            image = await host.load_image(record.image)
            fingerprint = await host.fingerprint(image, record.shape, record.network, record.channel)
            machine = await machines.adopt(
                self.nursery,
                host.adopted_spec(image, fingerprint, record, machine_record),
                fingerprint,
                machine_record,
                layer=record.layer or "",
                disk_bytes=record.disk_bytes,
                limit_s=ADOPT_LIMIT_S,
            )
            reason = "Its machine ended while no supervisor was running."
        except AgentisoError as error:
            machine, reason = None, f"Its machine could not be adopted: {error}"
            machines.kill(machine_record)
        if machine is None:
            shutil.rmtree(machine_record.directory, ignore_errors=True)
            if self._lifecycle.state is not State.FAILED:
                self._lifecycle.move(Event.MACHINE_DIED)
            self._note(machine=None, failure=reason)
            return
        machine.evidence, machine.start_seconds = record.evidence, record.start_seconds
        self._machine = machine
        self._note(layer=machine.layer)
        self.nursery.start_soon(self._watch, machine)
        self.nursery.start_soon(machine.resume_when_stalled)

    async def _destroy(self) -> None:
        if self._lifecycle.state is State.DESTROYED:
            return
        with trio.CancelScope(shield=True):
            self._lifecycle.move(Event.DESTROYED)
            # Written down first: whoever finds the record after a crash goes on with what is left of this.
            self._note()
            if self._machine is not None:
                await self._machine.end()
                self._machine = None
            await trio.to_thread.run_sync(records.remove, self._directory)
            self._host.store.release(self._owner)

    # -- checkpoints and snapshots

    async def _take_checkpoint(self, message: m.TakeCheckpoint) -> m.CheckpointTaken:
        taken = await self._checkpoint(with_memory=True, durable=False, owner=message.owner)
        return m.CheckpointTaken(taken.checkpoint, taken.pause_s * 1000, taken.copied_bytes)

    async def _checkpoint(self, *, with_memory: bool, durable: bool, owner: str) -> checkpoints.Taken:
        machine, store = self._live(), self._host.store
        try:
            taken = await checkpoints.take(machine, store, with_memory=with_memory, durable=durable)
            store.hold(owner, {taken.checkpoint.id})
        finally:
            # The disk may stand on its next layer even if the checkpoint failed after that, or the machine died.
            self._save(layer=machine.layer)
        return taken

    async def _create_snapshot(self, message: m.CreateSnapshot) -> SnapshotInfo:
        check_name(message.name, "snapshot")
        if any(snapshot.name == message.name for snapshot in self._record.snapshots):
            raise NameTaken(
                f"Workspace {self._record.name} has a snapshot {message.name!r} already.",
                remedy="Choose another name.",
            )
        owner = f"snapshot:{new_id()}"
        try:
            taken = await self._checkpoint(with_memory=message.with_memory, durable=True, owner=owner)
            made = taken.checkpoint
            snapshot = SnapshotRecord(
                id=new_id(),
                name=message.name,
                parent=self._record.head,
                created_at=made.created_at,
                checkpoint=made.id,
                has_memory=made.has_memory,
                size_bytes=made.size_bytes,
            )
            path = self._save(snapshots=(*self._record.snapshots, snapshot), head=snapshot.id)
        finally:
            self._host.store.release(owner)
        with trio.CancelScope(shield=True):
            await make_durable(path)
        self.nursery.start_soon(checkpoints.add_digest, self._host.store, made)
        return self._snapshot_info(snapshot)

    async def _restore(self, name: str) -> WorkspaceInfo:
        snapshot = self._snapshot(name)
        source = checkpoints.load(self._host.store, snapshot.checkpoint)
        machine = await self._launch(source, None)
        await self._take_over(machine, source, head=snapshot.id)
        await self._host.store.sweep()
        return self._info()

    async def _delete_snapshot(self, name: str) -> None:
        gone = self._snapshot(name)
        kept = tuple(
            attrs.evolve(snapshot, parent=gone.parent) if snapshot.parent == gone.id else snapshot
            for snapshot in self._record.snapshots
            if snapshot.id != gone.id
        )
        self._save(snapshots=kept, head=gone.parent if self._record.head == gone.id else self._record.head)
        await self._host.store.sweep()

    def _snapshot(self, name: str) -> SnapshotRecord:
        for snapshot in self._record.snapshots:
            if name in (snapshot.name, snapshot.id):
                return snapshot
        known = ", ".join(snapshot.name for snapshot in self._record.snapshots) or "none"
        raise NotFound(f"Workspace {self._record.name} has no snapshot {name!r}; it has: {known}.")

    # -- guest work

    async def _exec(self, message: m.Exec) -> Any:
        if not 0 < message.timeout_s <= MAX_TIMEOUT_S:
            raise InvalidArgument(
                f"A time limit of {message.timeout_s} s is out of range.",
                remedy=f"Use 1 to {MAX_TIMEOUT_S:.0f}.",
            )
        return await (await self._client()).exec(
            message.command,
            timeout_s=message.timeout_s,
            workdir=message.workdir,
            env=message.env,
            max_output_bytes=message.max_output_bytes,
            on_output=message.on_output,
        )

    async def _client(self) -> GuestClient:
        return await self._live().live_client()

    def _live(self) -> Machine:
        if self._machine is None:
            raise IllegalState(f"Workspace {self._record.name} has no running machine.")
        return self._machine

    # -- the record

    @property
    def _owner(self) -> str:
        return f"workspace:{self._record.id}"

    def _hold(self) -> None:
        doubtful = self._machine.doubtful_layer if self._machine else None
        self._host.store.hold(self._owner, self._record.needs | ({doubtful} if doubtful else set()))

    def _save(self, **changes: Any) -> Any:
        self._record = attrs.evolve(self._record, state=self._lifecycle.state, **changes)
        self._hold()
        return records.save(self._host.state_dir, self._record)

    def _note(self, **changes: Any) -> None:
        """Save what a later supervisor finds out by itself, and therefore may miss when the disk is full."""
        with contextlib.suppress(NoCapacity):
            self._save(**changes)

    def _snapshot_info(self, snapshot: SnapshotRecord) -> SnapshotInfo:
        names = {known.id: known.name for known in self._record.snapshots}
        return SnapshotInfo(
            id=snapshot.id,
            name=snapshot.name,
            parent=names.get(snapshot.parent or ""),
            created_at=snapshot.created_at,
            has_memory=snapshot.has_memory,
            size_bytes=snapshot.size_bytes,
        )

    def _info(self) -> WorkspaceInfo:
        record = self._record
        wired = record.network != "none"
        return WorkspaceInfo(
            workspace_id=record.id,
            name=record.name,
            state=str(self._lifecycle.state),
            image=record.image,
            shape=record.shape,
            network=NetworkInfo(
                backend=record.network,
                allow_internet=record.allow_internet,
                mac=record.mac if wired else None,
                ip=GUEST_ADDRESS if wired else None,
            ),
            accelerator=record.accelerator,
            channel=record.channel,
            created_at=record.created_at,
            started_by=record.started_by,
            start_seconds=record.start_seconds,
            forked_from=record.forked_from,
            snapshots=tuple(self._snapshot_info(snapshot) for snapshot in record.snapshots),
            evidence=record.evidence,
            failure=record.failure,
        )


def new_record(
    *, name: str, image: BootImage, shape: Any, network: str, allow_internet: bool, channel: str, accelerator: str,
    forked_from: Any = None,
) -> WorkspaceRecord:  # fmt: skip
    """Return the record of a workspace that does not exist yet, with an identity of its own."""
    workspace_id = new_id()
    tail = short(workspace_id)
    return WorkspaceRecord(
        id=workspace_id,
        name=name,
        image=image.name,
        image_digest=image.digest,
        shape=shape,
        network=network,
        allow_internet=allow_internet,
        mac=f"52:54:{tail[0:2]}:{tail[2:4]}:{tail[4:6]}:{tail[6:8]}",
        channel=channel,
        accelerator=accelerator,
        created_at=time.time(),
        state=State.CREATING,
        forked_from=forked_from,
    )
