"""What could not be done when it was due is done as soon as it can be: written down, flushed, removed."""

from __future__ import annotations

from pathlib import Path

import trio
from trio_util import AsyncBool

from actors.machine.checkpoint import settle_layer
from actors.machine.machine import Machine
from actors.machine.qemu.orphans import end_machines, remove_others
from actors.model.errors import AgentisoError, HostFailed
from actors.model.files import keep_reserve, sweep_temporaries
from actors.workspace import ports
from actors.workspace.resources import Resources


class Chores:
    """The chores of one workspace."""

    def __init__(self, own: Resources, changing: trio.Lock) -> None:
        self._own = own
        self._changing = changing
        self._due = AsyncBool()

    def due(self) -> None:
        """Have whatever there is to do be done in a moment, with what is written meanwhile."""
        self._due.value = True

    async def run(self) -> None:
        """Do what is due until cancelled.

        Raises:
            HostFailed, NoCapacity, MachineFailed, OSError: something cannot be done now; it is due still.

        """
        while True:
            await self._due.wait_value(True)
            self._due.value = False
            try:
                await self._own.store.flush_soon()
                await self._do()
                self._own.undone = ""
            except BaseException as error:
                self.due()
                if isinstance(error, AgentisoError | OSError):
                    self._own.undone = error.message if isinstance(error, AgentisoError) else f"{error}."
                raise

    async def _do(self) -> None:
        own = self._own
        async with self._changing:
            # In the middle of a change the record does not tell yet what becomes of it.
            if own.behind:
                own.note()
        if note := await own.settle():
            raise HostFailed(note)
        keep_reserve(own.host.reserve)
        for directory in tuple(own.given_up):
            await end_machines(own.host.state_dir, directory)
            own.given_up.discard(directory)
        async with self._changing, own.sweeping:
            own.settle_intents()
            # What looks into its checkpoints is at work in the same place, and has this be done when it is over.
            if not own.helpers:
                await trio.to_thread.run_sync(self._remove_left)
        if own.closing:
            async with self._changing:
                await ports.close_left(own)
        if own.machine and own.machine.doubtful_layer is not None:
            await self._settle_layer(own.machine)

    async def _settle_layer(self, machine: Machine) -> None:
        """Find out where the disk stands, once QEMU answers: until then no change waits for that."""
        await machine.runs()
        async with self._changing:
            if machine.doubtful_layer is not None:
                await settle_layer(machine)
            self._own.settle_layer(machine)
        self.due()

    def _remove_left(self) -> None:
        """Remove what machines that have ended have left, and records that were never finished."""
        own = self._own
        machines = [own.machine, own.prepared.machine if own.prepared else None]
        its = {machine.spec.directory for machine in machines if machine}
        its |= {Path(own.record.machine.directory)} if own.record.machine else set()
        sweep_temporaries(own.directory)
        remove_others(own.host.state_dir, own.directory / "machines", its)
