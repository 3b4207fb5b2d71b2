"""What a workspace owns: its record and journal, its place in the lifecycle, its machine, its holds in the store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from actors.machine.machine import Machine
from actors.machine.network.protocol import Network
from actors.machine.qemu import logs
from actors.machine.storage.holds import BLOCK
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import AgentisoError, HostFailed, IllegalState, NoCapacity
from actors.model.files import failures_reported, make_durable, tail
from actors.model.journal import Journal, Kind
from actors.model.machine import MachineRecord
from actors.model.record import WorkspaceRecord
from actors.model.states import Event, Lifecycle
from actors.workspace.host import Host
from actors.workspace.launch import Prepared

NOT_SETTLED: Final = (
    "It is done, but it is not on the host's disk yet, and is tried again: until then a loss of power, or of the "
    "supervisor, may undo it. Why: {}"
)


class Resources:
    """Changed only by the work of one workspace actor."""

    def __init__(self, record: WorkspaceRecord, host: Host) -> None:
        self.record = record
        self.host = host
        self.lifecycle = Lifecycle(record.state)
        self.machine: Machine | None = None
        self.prepared: Prepared | None = None
        """A machine for the pool, which waits for its identity."""
        self.nursery: trio.Nursery
        """For the readers of a machine's connections, which run as long as the actor does."""
        self.background: Callable[..., None]
        """Starts whatever else does (`Actor.background`)."""
        self.behind = False
        """Whether the record on disk lacks what `note` could not write; the next `save` or `note` writes it."""
        self.undone = ""
        """Why what was done is not on stable storage, or not finished; told until it is."""
        self.due: Callable[[], None] = lambda: None
        """Has what could not be done now be done as soon as it can be (`Chores`)."""
        self.search = trio.CancelScope()
        """Of the present try to reach a machine that does not answer, which a change does not wait for."""
        self.helpers = 0
        """How many machines run in its directory that only look into its checkpoints."""
        self.sweeping = trio.Lock()
        """Held while what nobody uses is removed from its directory, and by whoever is about to use something there."""
        self.given_up: set[Path] = set()
        """The directories of machines that may still run although the record names them no more."""
        self.closing: set[int] = set()
        """Host ports that its machine may forward although the record does not say so."""
        self._written = record
        """The record on disk."""
        self._intended: dict[str, str] = {}
        """Layers to which the disk was about to be switched, and the one before each; see `intend_layer`."""

    @property
    def store(self) -> Store:
        """Where its layers and checkpoints are."""
        return self.host.store

    @property
    def network(self) -> Network:
        """How its machines are connected.

        Raises:
            HostUnfit: this version of agentiso has no such network.

        """
        return self.host.networks.named(self.record.network)

    @property
    def directory(self) -> Path:
        """Where its record, its journal and its machines are."""
        return records.directory_of(self.host.state_dir, self.record.id)

    @property
    def journal(self) -> Journal:
        """Its intents."""
        return Journal(self.directory)

    @property
    def owner(self) -> str:
        """Its name in the store's holds."""
        return owner_of(self.record.id)

    def reload(self) -> None:
        """Take up the record as it is on disk, and hold what it needs.

        What an actor held that crashed stays held if this fails.

        Raises:
            DamagedRecord, DamagedJournal: they cannot be read; what was known of the workspace is not guessed.

        """
        found, intents = records.load(self.directory), self.journal.intents()
        self.record = self._written = found
        self.lifecycle = Lifecycle(found.state)
        self._intended = {each.name: each.facts.get("over", "") for each in intents if each.kind is Kind.LAYER}
        self.hold()

    def hold(self) -> None:
        """Hold what the record needs, in memory and on disk, and what the machine may stand on."""
        doubtful = self.machine.doubtful_layer if self.machine else None
        needs = self.record.needs | self._written.needs | ({doubtful} if doubtful else set())
        self.store.hold(self.owner, needs)
        self.store.hold(intents_of(self.record.id), self._following(self._written.layer))

    async def intend_layer(self, layer: str, over: str) -> None:
        """Have it be on stable storage that a machine's disk is about to go on on another layer, which exists.

        From then on the guest's writes are in one of the two, and which it is can be told even if QEMU and this
        supervisor end before the record names it.

        Raises:
            NoCapacity, HostFailed: it cannot be written down; the disk must not be switched.

        """
        with failures_reported():
            # The layer first: one that an intent names after a power loss is whole.
            await make_durable(self.store.layer(layer))
            self.journal.will(Kind.LAYER, layer, over=over)
            self._intended[layer] = over
            self.hold()
            await self.journal.flush()

    async def settle(self) -> str:
        """Have what was done survive a power loss, now or later; say so if it would not yet.  Not cancellable."""
        try:
            with trio.CancelScope(shield=True), failures_reported():
                await self.store.flush()
        except (NoCapacity, HostFailed) as error:
            # What the host has failed to write it may not try to write again.
            self.behind = True
            self.due()
            self.undone = NOT_SETTLED.format(error.message)
            return self.undone
        if self.behind:
            self.undone = NOT_SETTLED.format("its record cannot be written.")
            return self.undone
        return ""

    def settle_intents(self) -> None:
        """Strike out the switches of layers whose outcome the flushed record tells; no change may be under way."""
        machine = self.machine
        doubtful = machine.doubtful_layer if machine else None
        if machine is not None and doubtful is None and machine.layer != self._written.layer:
            return
        if self.behind or self.unreached or not self.store.is_flushed(self.directory / records.RECORD):
            return
        for layer in self._intended.keys() - {doubtful}:
            # One that stays is looked at and found to be settled by whoever reads it.
            with contextlib.suppress(NoCapacity, HostFailed):
                self.journal.made(Kind.LAYER, layer)
                del self._intended[layer]
        with contextlib.suppress(AgentisoError, OSError):
            self.journal.tidy()
        self.hold()

    def last_layer(self) -> str | None:
        """Return the layer on which the disk of a machine that has ended stands.

        It is the record's, or the last one to which it was about to be switched: if that did not happen any more, that
        layer is empty, and the disk is the same.

        Raises:
            OSError, CheckpointUnusable: a layer cannot be read.

        """
        layer, layers = self.record.layer, self.store.layers
        for following in self._following(layer):
            if following not in layers.owned():
                break
            # Read, so that nothing is started on what is damaged; by now it may stand on what is below ``layer``, with
            # all that was in that merged into it.
            layers.depends_on(following)
            layer = following
        return layer

    def _following(self, layer: str | None) -> list[str]:
        """Return the layers to which the disk was about to be switched from one on, each over the one before.

        They may not be there any more, or never have been.
        """
        # Of two over the same layer the first did not come to pass, or the second would not have been intended.
        after = {over: following for following, over in self._intended.items()}
        found: list[str] = []
        while layer in after and after[layer] not in found:
            layer = after[layer]
            found.append(layer)
        return found

    def layer_of(self, machine: Machine) -> str | None:
        """Return the layer on which a machine's disk stands once it has ended; errors as of `last_layer`."""
        return machine.layer if machine.doubtful_layer is None else self.last_layer()

    def settle_layer(self, machine: Machine) -> None:
        """Have the record name the layer on which a machine's disk stands after a checkpoint, failed or not.

        Nothing is said where that is not known, nor of a machine that has ended meanwhile: that was settled then.
        """
        if self.machine is machine and machine.doubtful_layer is None and machine.layer != self.record.layer:
            self.note(layer=machine.layer)

    def save(self, event: Event | None = None, **changes: Any) -> None:
        """Follow ``event``, change fields of the record, and write it down: all of that or, on failure, nothing.

        The actor has the store flush it before it answers.

        Raises:
            NoCapacity, HostFailed: the host's disk is full, or fails.
            IllegalState: the lifecycle has no such move.

        """
        before = self.record
        state = self.lifecycle.after(event) if event else self.lifecycle.state
        self.record = attrs.evolve(before, state=state, **changes)
        try:
            self._write()
        except BaseException:
            self.record = before
            self.hold()
            raise
        if event:
            self.lifecycle.move(event)

    def note(self, event: Event | None = None, **changes: Any) -> None:
        """Do the same with what has happened already: it counts even if it cannot be written down now."""
        if event:
            self.lifecycle.move(event)
        self.record = attrs.evolve(self.record, state=self.lifecycle.state, **changes)
        self.behind = True
        self.due()
        with contextlib.suppress(NoCapacity, HostFailed):
            self._write()

    def _write(self) -> None:
        record, unflushed, path = self.record, self.store.unflushed, self.directory / records.RECORD
        self.hold()
        earlier = self.store.is_flushed(path)
        records.save(self.host.state_dir, record, keep_earlier=earlier, reserve=self.host.reserve)
        if record.layer and record.layer != self._written.layer:
            # A new file.  Later on the guest alone says when what it writes has to be on stable storage.
            unflushed.add(self.store.layer(record.layer))
        # The directory too: its own name may be new.
        unflushed |= {path, path.parent}
        self._written, self.behind = record, False
        self.hold()
        self.host.changes.note(record.id)

    def log(self, which: str, max_bytes: int) -> str:
        """Return the end of a log, ``console`` or ``qemu``, of the machine, or of the last one that has ended.

        Raises:
            NoCapacity, HostFailed: it cannot be read.

        """
        # That of a machine that cannot be reached is still there.
        running = self.record.machine
        directory = Path(running.directory) if running else self.directory / logs.KEPT
        with failures_reported():
            return tail(directory / (logs.CONSOLE if which == "console" else logs.QEMU), max_bytes)

    def live(self) -> Machine:
        """Return the machine.

        Raises:
            IllegalState: there is none.

        """
        if self.machine is None:
            raise IllegalState(f"Workspace {self.record.name} has no running machine.", remedy="Start or resume it.")
        return self.machine

    @property
    def unreached(self) -> MachineRecord | None:
        """The machine that may run and that this actor cannot talk to, if there is one."""
        return self.record.machine if self.machine is None else None


def intents_of(workspace_id: str) -> str:
    """Return under which name a workspace holds the layers to which its disk was about to be switched."""
    return f"{BLOCK}switch of {workspace_id}"


def owner_of(workspace_id: str) -> str:
    """Return a workspace's name in the store's holds."""
    return f"workspace:{workspace_id}"
