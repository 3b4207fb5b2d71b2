"""The workspace actor: owns one workspace, its record and its machine.

Lifecycle work is serial; guest work runs beside it and beside other guest work.  An actor that is restarted goes on
from its record and adopts the machine, if that still runs.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Final, assert_never

import attrs
import trio

from actors.machine.guest.client import GuestClient
from actors.machine.qemu.orphans import end_machines
from actors.machine.storage.checkpoint import Checkpoint
from actors.model.errors import CheckpointUnusable, IllegalState, NeverBegun
from actors.model.guest import Diff
from actors.model.info import WorkspaceInfo
from actors.model.record import WorkspaceRecord
from actors.model.states import State
from actors.runtime import Actor, Message
from actors.workspace import (
    adoption,
    attendance,
    compare,
    file_messages,
    job_messages,
    lifecycle,
    lifetime,
    policy,
    ports,
    snapshots,
)
from actors.workspace import messages as w
from actors.workspace.chores import Chores
from actors.workspace.describe import describe, ways_back
from actors.workspace.host import Host
from actors.workspace.idleness import Idleness
from actors.workspace.launch import discard
from actors.workspace.resources import Resources

log = logging.getLogger("agentiso.workspace")
REMEDIES: Final = {
    State.RUNNING: "It is there to be used.",
    State.STOPPED: "Start it first.",
    State.PAUSED: "Resume it first.",
    State.SUSPENDED: "Resume it first.",
    State.UNREACHABLE: "It is tried again; or stop it, restore a snapshot, or destroy it.",
}


SETTLED_SOON: Final = (w.Start, w.Prepare, w.Claim, w.TakeCheckpoint)
"""What creates and forks: a power loss within a moment of it may undo it."""


class WorkspaceActor(Actor):
    """One workspace."""

    def __init__(self, record: WorkspaceRecord, host: Host, *, again: bool = False) -> None:
        """Make the actor of a workspace, for another life if ``again``."""
        super().__init__(f"workspace {record.name}")
        self._again = again
        self._own = Resources(record, host)
        self._changing = trio.Lock()
        """Held by whoever changes the workspace's state."""
        self._idleness = Idleness()
        self._watch = lifetime.Watch(self._own, self._idleness, self._changing)
        self._chores = Chores(self._own, self._changing)
        self._own.due = self._chores.due

    async def setup(self) -> None:
        """Take up the record: hold what it needs, and adopt the machine if it still runs."""
        self._own.nursery, self._own.background = self.nursery, self.background
        self._own.reload()
        if self._again:
            await self._end_forgotten()
        ports.claim(self._own)
        if self._own.record.machine is not None:
            await adoption.adopt(self._own)
        elif (layer := self._own.last_layer()) != self._own.record.layer:
            # QEMU and its supervisor ended after the disk had been switched, or was about to be.
            self._own.note(layer=layer)
        if self._own.lifecycle.state is State.UNREACHABLE:
            self.background("search for its machine", adoption.seek, self._own, self._changing)
        self.background("watch over its lifetime", self._watch.run)
        self.background("chores", self._chores.run)
        # An earlier life, or another supervisor, may have left some.
        self._chores.due()

    async def _end_forgotten(self) -> None:
        """End what an actor that crashed has left: machines that were being started, or ended."""
        own = self._own
        its = own.record.machine.directory if own.record.machine else None
        await end_machines(own.host.state_dir, own.directory, but=its)

    async def teardown(self) -> None:
        """Let go of the machine, which runs on: the record is enough to find it again.  One without identity ends."""
        if self._own.prepared is not None:
            await discard(self._own.host, self._own.prepared)
        if self._own.machine is not None:
            await self._own.machine.release()
        with contextlib.suppress(OSError):
            await self._own.store.flush()

    def check(self, message: Message[Any]) -> None:
        """Refuse what the present state does not allow."""
        legal = getattr(type(message), "LEGAL", None)
        record, state = self._own.record, self._own.lifecycle.state
        if legal is None or state in legal:
            return
        if isinstance(message, w.GuestWork) and (self._wakes or self._is_changing):
            return
        refusal = f"Workspace {record.name} is {state}, and what was asked of it cannot be done then."
        if state is State.FAILED:
            reason = str(record.ended.reason) if record.ended else None
            raise IllegalState(f"{refusal} {record.failure or ''}".rstrip(), remedy=ways_back(record), ended=reason)
        raise IllegalState(refusal, remedy=REMEDIES.get(state, ""))

    @property
    def _is_changing(self) -> bool:
        """Whether guest work waits for a change to end, and is looked at then; its own look is made under the lock."""
        task = trio.lowlevel.current_task()
        return self._changing.locked() and self._changing.statistics().owner is not task

    @property
    def _wakes(self) -> bool:
        """Whether the workspace was put away for idleness, and comes back when it is asked for something."""
        return self._own.lifecycle.state is State.SUSPENDED and self._own.record.suspended_by == lifetime.IDLE

    async def handle(self, message: w.WorkspaceMessage) -> Any:  # type: ignore[override]
        """Do what a message asks."""
        match message:
            case w.Describe():
                return self._info(measured=message.measured)
            case w.ReadLog():
                return self._own.log(message.log, message.max_bytes)
        with self._idleness.use():
            if isinstance(message, w.GuestWork):
                return await self._work(message)
            if isinstance(message, w.CompareNodes):
                return await self._compare(message)
            self._own.search.cancel(reason="a change is wanted")
            async with self._changing:
                # It may have been suspended while this waited.
                self.check(message)
                try:
                    answer = await self._change(message)
                    # Where somebody waits for a start, it survives a power loss soon; all else before it is reported.
                    note = "" if isinstance(message, SETTLED_SOON) else await self._own.settle()
                finally:
                    self._own.settle_intents()
                    self._chores.due()
                return self._told(answer, note)

    async def _take_turn(self, message: w.GuestWork, limit_s: float | None) -> None:
        """Wait for a change under way to end, and bring a workspace back that was put away for idleness.

        Raises:
            NeverBegun: it takes longer than ``limit_s``, or without one than any change may take.

        """
        limit_s = w.BOOT_DEADLINE_S if limit_s is None else limit_s
        with trio.move_on_after(limit_s) as waiting:
            await self._changing.acquire()
        if waiting.cancelled_caught:
            raise NeverBegun(
                f"Workspace {self._own.record.name} was being changed for the {limit_s:.0f} s that this could wait: "
                "nothing of it was done.",
                remedy="Try again in a moment, or allow it more time.",
            )
        try:
            # What begins in the middle of a change would be lost in it.
            self.check(message)
            if self._wakes:
                await lifecycle.resume(self._own)
        finally:
            self._changing.release()

    def _told(self, answer: Any, note: str) -> Any:
        """Have an answer say one more thing, if it can; the log does so otherwise."""
        if note and hasattr(answer, "note"):
            return attrs.evolve(answer, note=f"{answer.note} {note}".strip())
        if note:
            log.warning("workspace %s: %s", self._own.record.name, note)
        return answer

    async def _work(self, message: w.GuestWork) -> Any:
        if isinstance(message, job_messages.JobWork):
            job_messages.check(message)
            await self._take_turn(message, job_messages.turn_s(message))
            return await job_messages.work(await self._client(), message)
        file_messages.check(message)
        await self._take_turn(message, None)
        return await file_messages.work(await self._client(), message, self._own.host.settings.limits)

    async def _change(self, message: w.WorkspaceChange) -> Any:  # noqa: C901
        own = self._own
        match message:
            case w.Start():
                await lifecycle.bring_back(own, message.checkpoint, head=own.record.head)
            case w.Prepare():
                return await lifecycle.prepare(own, message.checkpoint)
            case w.Claim():
                await lifecycle.claim(own, message.record)
                self.name = f"workspace {own.record.name}"
                self._watch.renew()
            case w.Stop():
                return self._info(note=await lifecycle.stop(own))
            case w.Pause():
                return self._info(note=await lifecycle.pause(own))
            case w.Suspend():
                await lifecycle.suspend(own, lifetime.REQUEST)
            case w.Resume():
                return self._info(note=await lifecycle.resume(own))
            case w.SetLifetime():
                self._watch.change(message.lifetime)
            case w.TakeCheckpoint():
                taken = await snapshots.take(own, message.owner, durable=message.durable)
                return w.CheckpointTaken(taken.checkpoint, taken.pause_s * 1000, taken.copied_bytes, self._info())
            case w.CreateSnapshot():
                return await snapshots.create(own, message.name, with_memory=message.with_memory)
            case w.FindSnapshot():
                found = snapshots.find(own, message.name)
                own.store.hold(message.owner, {found.id})
                return w.CheckpointTaken(found, 0.0, 0, self._info())
            case w.RestoreSnapshot():
                return self._info(note=await snapshots.restore(own, message.name, disk_only=message.disk_only))
            case w.Undo():
                return self._info(note=await snapshots.undo(own))
            case w.DeleteSnapshot():
                return snapshots.delete(own, message.name, cascade=message.cascade)
            case w.AddForward():
                return await ports.add(own, message.guest_port, message.host_port)
            case w.RemoveForward():
                return await ports.remove(own, message.guest_port)
            case w.SetNetworkPolicy():
                return self._info(note=await policy.change(own, message))
            case w.SetOwner():
                own.save(owner=message.owner, adopted_from=own.record.owner)
            case _:
                assert_never(message)
        return self._info()

    async def _compare(self, message: w.CompareNodes) -> Diff:
        own = self._own
        with own.store.held() as first, own.store.held() as second:
            sources = await self._node(message.base, first), await self._node(message.other, second)
            names = message.base, message.other or "now"
            return await compare.diff(own, names, sources, self._client, path=message.path, texts=message.texts)

    async def _node(self, name: str | None, owner: str) -> Checkpoint | None:
        """Return a snapshot's checkpoint, or one of now, held; ``None`` for now while the machine runs."""
        own = self._own
        if name is not None:
            found = snapshots.find(own, name)
            own.store.hold(owner, {found.id})
            return found
        async with self._changing:
            if own.lifecycle.state is State.RUNNING:
                return None
            return (await snapshots.take(own, owner)).checkpoint

    async def _client(self) -> GuestClient:
        """Return the guest's channel."""
        return await self._own.live().live_client()

    def _info(self, note: str = "", *, measured: bool = False) -> WorkspaceInfo:
        record = attrs.evolve(self._own.record, state=self._own.lifecycle.state)
        used, machine = None, self._own.machine
        if measured:
            # What cannot be read now is told of by the store; the rest of what there is to tell does not wait for it.
            with contextlib.suppress(OSError, CheckpointUnusable):
                used = self._own.store.disk_bytes(record.needs)
        return describe(
            record,
            self._own.host.networks,
            idle_s=self._idleness.seconds,
            mute_since=machine.mute_since if machine else None,
            hindrance=attendance.hindrance(self._own),
            undone=self._own.undone,
            disk_used_bytes=used,
            note=note,
        )
