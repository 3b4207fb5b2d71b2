"""All workspaces of a state directory as the registry keeps them: found at the start, entered, destroyed, told of.

An entry is there from before a workspace's actor runs until nothing of the workspace is left, whatever becomes of the
actor: its name and its quota are kept as long.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import attrs
import trio

from actors.model import record as records
from actors.model.errors import ActorGone, AgentisoError, Unfinished
from actors.model.info import Trouble, WorkspaceInfo
from actors.model.record import WorkspaceRecord
from actors.model.states import State
from actors.registry import messages as r
from actors.registry import recovery
from actors.registry.admission import Claim, Ledger
from actors.registry.demolition import demolish
from actors.registry.directory import Directory
from actors.registry.troubles import Troubles
from actors.runtime import ActorRef, Supervisor
from actors.workspace import messages as w
from actors.workspace.actor import WorkspaceActor
from actors.workspace.describe import describe
from actors.workspace.host import Host
from actors.workspace.resources import intents_of, owner_of

log = logging.getLogger("agentiso.registry")
DESCRIBE_S: Final = 1.0
"""An actor that was not heard of for so long is busy with its restart; the others are told of without it."""
REVIVE_S: Final = 30.0
"""How long after an actor that cannot live was given up it is started again."""


@attrs.define(eq=False)
class Destruction:
    """A workspace's end that is under way."""

    over: trio.Event = attrs.field(factory=trio.Event)
    failure: AgentisoError | None = attrs.field(
        factory=lambda: ActorGone("The registry ended while it destroyed a workspace; the outcome is unknown.")
    )
    """Why it is not over, for as long as it is not."""


class Workspaces:
    """Kept by the registry, whose nursery and background tasks it uses."""

    def __init__(self, host: Host, supervisor: Supervisor, ledger: Ledger, troubles: Troubles) -> None:
        self.directory = Directory(
            lambda: [trouble.what for trouble in troubles.all() if trouble.what.startswith("workspace ")]
        )
        self._troubles = troubles
        self._host = host
        self._supervisor = supervisor
        self._ledger = ledger
        self._destroying: dict[str, Destruction] = {}
        self._unfinished: dict[str, AgentisoError] = {}
        """Why a workspace could not be destroyed wholly, by its id."""
        self._again: set[str] = set()
        """Of which of these that is tried again."""
        self._expiring: set[str] = set()
        self._lost: dict[str, str] = {}
        """Why a workspace has no actor at the moment, by its id."""
        self._known: dict[str, WorkspaceRecord] = {}
        """The record with which each was entered, by its id; told of where the present one cannot be read."""
        self.nursery: trio.Nursery
        self.background: Callable[..., None]

    # -- found at the start

    async def take_up(self) -> None:
        """Read all records, end what is proven to be nobody's, and start the actors.

        Raises:
            HostFailed, NoCapacity, OSError: what there is cannot be listed.

        """
        root = self._host.state_dir / "workspaces"
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._take_up_all(await trio.to_thread.run_sync(recovery.read_all, root, self._host.store, self._lives))

    async def _take_up_all(self, found: recovery.Found, *, within: Path | None = None) -> None:
        for trouble in found.troubles:
            self._troubles.add(trouble, partial(self._read_again, Path(trouble.path)))
        for stray in found.strays:
            self._troubles.add(stray, partial(self._look_at_stray, stray), blocks=False)
        await recovery.end_orphans(self._host.state_dir, found, self._troubles, lives=self._lives, within=within)
        async with trio.open_nursery() as nursery:
            for kept in found.kept:
                self.enter(kept.record, self._supervisor.find(records.actor_name(kept.record.id)))
                nursery.start_soon(self._take_up, kept)
            for directory in found.unowned:
                nursery.start_soon(self._clear, directory)

    async def _read_again(self, directory: Path) -> None:
        """Take up a workspace that could not be read, if it can be by now; one that is not there any more is none."""
        found = recovery.Found()
        try:
            store = None if self._lives(directory.name) else self._host.store
            await trio.to_thread.run_sync(recovery.read_one, directory, found, store)
        except FileNotFoundError as error:
            with contextlib.suppress(FileNotFoundError):
                directory.lstat()
                # A link that leads nowhere now.
                found.troubles.append(recovery.trouble(f"workspace {directory.name}", directory, error))
            directory.parent.lstat()
        except (AgentisoError, OSError) as error:
            found.troubles.append(recovery.trouble(f"workspace {directory.name}", directory, error))
        await self._take_up_all(found, within=directory)

    async def _look_at_stray(self, stray: Trouble) -> None:
        """Tell of it again if it is still there."""
        with contextlib.suppress(FileNotFoundError):
            Path(stray.path).lstat()
            self._troubles.add(stray, partial(self._look_at_stray, stray), blocks=False)

    def _lives(self, workspace: str) -> bool:
        """Tell whether a workspace's actor runs, by its id or the first digits of that."""
        return self._supervisor.find(records.actor_name(workspace)) is not None

    async def _take_up(self, kept: recovery.Kept) -> None:
        """Start the actor of a workspace; what is wrong with one keeps no other from being taken up."""
        record = kept.record
        if record.id not in self.directory or self._is_ending(record.id):
            # Somebody has destroyed it since it was entered.
            return
        try:
            if not self._lives(record.id):
                self._hold(kept)
            await self.start_actor(record)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are taken up
            self.gave_up(record, error, lived=False)

    def _hold(self, kept: recovery.Kept) -> None:
        """Hold what a workspace stands on until its actor does so, should that be late.

        Nothing is read here: what is not held when this is over may be removed.
        """
        store = self._host.store
        store.hold(owner_of(kept.record.id), kept.record.needs)
        store.hold(intents_of(kept.record.id), kept.switches)
        store.unflushed |= kept.unflushed

    async def _clear(self, directory: Path) -> None:
        """Go on with the end of a workspace that nobody has."""
        try:
            await demolish(self._host, self._supervisor, directory.name)
        except (AgentisoError, OSError) as error:
            trouble = recovery.trouble(f"what is left of workspace {directory.name}", directory, error)
            self._troubles.add(trouble, partial(self._clear, directory))

    # -- entries and actors

    def enter(self, record: WorkspaceRecord, ref: w.WorkspaceRef | None) -> r.Found:
        """Have an entry for a workspace, with its actor if that runs."""
        ref = ref or ActorRef.gone(records.actor_name(record.id), "it does not run")
        found = r.Found(record.id, record.name, ref, record.owner)
        self.directory.put(found)
        self._known[record.id] = record
        self._ledger.note(record.id, Claim(record.owner, record.shape))
        self._host.changes.note(record.id)
        return found

    def known(self, found: r.Found) -> WorkspaceRecord:
        """Return the record with which a workspace was entered; its image and its shape never change."""
        return self._known[found.workspace_id]

    def read_owner(self, before: r.Found) -> None:
        """Have a workspace be whose its record says that it is, or whose it was ``before``, if that cannot be read."""
        if (found := self.directory.get(before.workspace_id)) is not None:
            try:
                owner = records.load(records.directory_of(self._host.state_dir, found.workspace_id)).owner
            except AgentisoError:
                owner = before.owner
            self.directory.put(attrs.evolve(found, owner=owner))
            self._ledger.note(found.workspace_id, Claim(owner, self._known[found.workspace_id].shape))

    async def start_actor(self, record: WorkspaceRecord, *, again: bool = False) -> r.Found:
        """Start a workspace's actor, for another life if ``again``; what its setup raises is raised here."""
        name, lives = records.actor_name(record.id), count(int(again))
        # A registry that crashed finds its workspaces running: a second actor could not have the machine.
        ref = self._supervisor.find(name) or await self._supervisor.start(
            name,
            lambda: WorkspaceActor(record, self._host, again=next(lives) > 0),
            on_giveup=lambda _name, error: self._host.gave_up(record, error),
        )
        self._lost.pop(record.id, None)
        return self.enter(record, ref)

    def gave_up(self, record: WorkspaceRecord, failure: BaseException, *, lived: bool = True) -> None:
        """Keep a workspace whose actor cannot live, machine and all, and start its actor again after a while.

        One that has ``lived`` may have left machines that it was about to start, or to end.
        """
        if record.id in self.directory and not self._is_ending(record.id):
            log.error("the actor of workspace %s was given up: %r", record.name, failure)
            self._lost[record.id] = str(failure) or repr(failure)
            self._host.changes.note(record.id)
            self.background(f"revival of {record.name}", self._revive, record, lived)

    async def _revive(self, record: WorkspaceRecord, lived: bool) -> None:
        await trio.sleep(REVIVE_S)
        if record.id in self._lost and not self._is_ending(record.id):
            try:
                known = records.load(records.directory_of(self._host.state_dir, record.id))
                await self.start_actor(known, again=lived)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self.gave_up(record, error, lived=lived)

    # -- destroyed

    def expire(self, workspace_id: str) -> None:
        """Destroy a workspace whose time is over; it says so until it is gone."""
        if workspace_id not in self._expiring:
            self._expiring.add(workspace_id)
            self.background(f"expiry of {workspace_id}", self.destroy, workspace_id)

    async def abandon(self, workspace_id: str) -> None:
        """Leave nothing of a workspace that nobody was given; what cannot be removed now is later.  Not cancellable."""
        with trio.CancelScope(shield=True):
            try:
                await self.destroy(workspace_id)
            except AgentisoError as error:
                self._forget(workspace_id)
                directory = records.directory_of(self._host.state_dir, workspace_id)
                trouble = recovery.trouble(f"what is left of workspace {directory.name}", directory, error)
                self._troubles.add(trouble, partial(self._clear, directory))

    async def destroy(self, workspace_id: str) -> None:
        """Destroy a workspace, which goes on whatever becomes of whoever waits here.

        Raises:
            Unfinished: something of it could not be removed; it is being destroyed until that is done.

        """
        if workspace_id not in self._destroying:
            self._destroying[workspace_id] = Destruction()
            self.nursery.start_soon(self._demolish, workspace_id, self._destroying[workspace_id])
        destruction = self._destroying[workspace_id]
        await destruction.over.wait()
        if destruction.failure is not None:
            raise destruction.failure

    async def _demolish(self, workspace_id: str, destruction: Destruction) -> None:
        found = self.directory.get(workspace_id)
        if found is not None:
            self._host.changes.note(workspace_id)
        try:
            await demolish(self._host, self._supervisor, workspace_id)
        except (AgentisoError, OSError) as error:
            destruction.failure = Unfinished(f"{found.name if found else workspace_id} is being destroyed: {error}")
            self._unfinished[workspace_id] = destruction.failure
            if found is not None:
                self._host.changes.note(workspace_id)
            self._destroy_later(workspace_id)
        else:
            destruction.failure = None
            self._forget(workspace_id)
            with trio.CancelScope(shield=True):
                await self._host.store.collect()
        finally:
            del self._destroying[workspace_id]
            destruction.over.set()

    def _destroy_later(self, workspace_id: str) -> None:
        if workspace_id not in self._again:
            self._again.add(workspace_id)
            self.background(f"destruction of {workspace_id}", self._destroy_again, workspace_id)

    async def _destroy_again(self, workspace_id: str) -> None:
        await trio.sleep(REVIVE_S)
        self._again.discard(workspace_id)
        if workspace_id in self._unfinished:
            with contextlib.suppress(Unfinished):
                await self.destroy(workspace_id)

    def _forget(self, workspace_id: str) -> None:
        """Have no entry for a workspace any more."""
        for known in (self._unfinished, self._lost, self._known):
            known.pop(workspace_id, None)
        if workspace_id in self.directory:
            self.directory.remove(workspace_id)
            self._host.changes.forget(workspace_id)
        self._ledger.give_back(workspace_id)

    def _is_ending(self, workspace_id: str) -> bool:
        """Tell whether a workspace is being destroyed, or is to be: no actor of it is started any more."""
        return workspace_id in self._destroying or workspace_id in self._unfinished

    # -- told of

    def unreadable(self) -> list[Trouble]:
        """Tell of the workspaces that have no actor, and whose record cannot be read; they are listed as they were."""
        told = []
        for found in self.directory.all():
            if found.ref.alive or self._is_ending(found.workspace_id):
                continue
            path = records.directory_of(self._host.state_dir, found.workspace_id)
            try:
                records.load(path)
            except AgentisoError as error:
                told.append(recovery.trouble(f"workspace {found.name}", path, error))
        return told

    async def list(self) -> tuple[WorkspaceInfo, ...]:
        """Describe all workspaces, oldest first; those whose actors are gone, or mute, by what they wrote down."""
        infos: list[WorkspaceInfo] = []

        async def describe_one(found: r.Found) -> None:
            if (info := await self._describe(found)) is not None:
                infos.append(info)

        async with trio.open_nursery() as nursery:
            for found in self.directory.all():
                nursery.start_soon(describe_one, found)
        return tuple(sorted(infos, key=lambda info: info.created_at))

    async def _describe(self, found: r.Found) -> WorkspaceInfo | None:
        why = ""
        if not self._is_ending(found.workspace_id):
            try:
                info: WorkspaceInfo = await found.ref.ask(w.Describe(), deadline_s=DESCRIBE_S)
            except ActorGone:
                pass
            except AgentisoError as error:
                why = f"It does not answer at the moment, and this is what it wrote down last: {error.message}"
            else:
                return info
        return self._without_actor(found, mute=why)

    def _without_actor(self, found: r.Found, *, mute: str = "") -> WorkspaceInfo | None:
        """Describe a workspace by what it has written down; ``None`` if it is gone by now.

        One that is only ``mute`` is what it was when it wrote that; the reason is its note.
        """
        workspace_id = found.workspace_id
        if workspace_id not in self.directory:
            return None
        try:
            record = records.load(records.directory_of(self._host.state_dir, workspace_id))
        except AgentisoError:
            record = self._known[workspace_id]
        if workspace_id in self._destroying:
            return describe(attrs.evolve(record, state=State.DESTROYING, failure=None), self._host.networks, idle_s=0.0)
        if (failure := self._unfinished.get(workspace_id)) is not None:
            why = f"It could not be destroyed wholly: {failure}"
            return describe(attrs.evolve(record, state=State.DESTROYING, failure=why), self._host.networks, idle_s=0.0)
        if mute:
            return describe(record, self._host.networks, idle_s=0.0, note=mute)
        why = f"Its actor cannot live, and is started again after a while: {self._lost.get(workspace_id, 'it stopped')}"
        return describe(attrs.evolve(record, state=State.UNREACHABLE, failure=why), self._host.networks, idle_s=0.0)
