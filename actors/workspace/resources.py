"""What a workspace owns: its record, its place in the lifecycle, its machine, and its holds in the store."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import attrs
import trio

from actors.machine.machine import Machine
from actors.machine.network.protocol import Network
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import IllegalState, NoCapacity
from actors.model.record import WorkspaceRecord
from actors.model.states import Lifecycle, State
from actors.workspace.host import Host
from actors.workspace.launch import Prepared


class Holdings:
    """Changed only by the work of one workspace actor."""

    def __init__(self, record: WorkspaceRecord, host: Host) -> None:
        self.record = record
        self.host = host
        self.lifecycle = Lifecycle(record.state)
        self.machine: Machine | None = None
        self.prepared: Prepared | None = None
        """A machine for the pool, which waits for its identity."""
        self.nursery: trio.Nursery
        """For what runs as long as the actor does."""

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
        """Where its record and its machines are."""
        return records.directory_of(self.host.state_dir, self.record.id)

    @property
    def owner(self) -> str:
        """Its name in the store's holds."""
        return f"workspace:{self.record.id}"

    def reload(self) -> None:
        """Take up the record as it is on disk, where there is one, and hold what it needs."""
        with contextlib.suppress(records.DamagedRecord):
            self.record = records.load(self.directory)
            self.lifecycle = Lifecycle(self.record.state)
        self.hold()

    def hold(self) -> None:
        """Hold what the record needs, and what the machine may stand on."""
        doubtful = self.machine.doubtful_layer if self.machine else None
        self.store.hold(self.owner, self.record.needs | ({doubtful} if doubtful else set()))

    def save(self, **changes: Any) -> None:
        """Change fields of the record and write it down; the actor has the store flush it before it answers.

        Raises:
            NoCapacity: the host's disk is full.

        """
        layer, unflushed, path = self.record.layer, self.store.unflushed, self.directory / records.RECORD
        self.record = attrs.evolve(self.record, state=self.lifecycle.state, **changes)
        self.hold()
        if self.lifecycle.state is not State.DESTROYED:
            # The registry says so once it has forgotten it; nobody was ever told of a machine of the pool.
            self.host.changes.note(self.record.id)
        if self.record.layer and self.record.layer != layer:
            # A new file.  Later on the guest alone says when what it writes has to be on stable storage.
            unflushed.add(self.store.layer(self.record.layer))
        records.save(self.host.state_dir, self.record, keep_earlier=self.store.is_flushed(path))
        # The directory too: its own name may be new.
        unflushed |= {path, path.parent}

    def note(self, **changes: Any) -> None:
        """Save what a later supervisor finds out by itself, and therefore may miss when the disk is full."""
        with contextlib.suppress(NoCapacity):
            self.save(**changes)

    def live(self) -> Machine:
        """Return the machine.

        Raises:
            IllegalState: there is none.

        """
        if self.machine is None:
            raise IllegalState(f"Workspace {self.record.name} has no running machine.", remedy="Start or resume it.")
        return self.machine
