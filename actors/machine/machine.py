"""A machine: one running QEMU microVM, its QMP connection and its guest agent's channel.

`starting` brings one up or finds one again, `proof` has it prove itself.  A machine has its readers in the nursery it
was started with, and ends with `end`, or is let go with `release`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import trio
from trio_util import move_on_when, periodic

from actors.machine.guest.client import GuestClient
from actors.machine.qemu import host_oom, logs
from actors.machine.qemu.command_line import MachinePlace
from actors.machine.qemu.end_reason import look_back
from actors.machine.qemu.process import QemuProcess, is_stopped
from actors.machine.qemu.qmp import QmpClient
from actors.model.end import End
from actors.model.errors import AgentisoError, GuestBroken, GuestRefused, MachineFailed, QmpError
from actors.model.files import is_full
from actors.model.info import Evidence, Hindrance
from actors.model.machine import Fingerprint, MachineRecord, ProcessIdentity

T = TypeVar("T")
log = logging.getLogger("agentiso.machine")

SHUTDOWN_GRACE_S: Final = 10.0
"""How long a guest may take to write its disks and power off before it is killed."""
RECONNECT_LIMIT_S: Final = 10.0
"""How long a guest agent that ended may take to be there again."""
DIAL_PAUSE_S: Final = 0.1
STALL_RETRY_S: Final = 1.0
STALL_KNOWN_S: Final = 3 * STALL_RETRY_S
"""How long it is told after QEMU was told to go on, which it is after each `STALL_RETRY_S`."""
FULL: Final = "the host's disk is full"
FAILING: Final = "the host's disk fails"
STALL_REMEDY: Final = "Make room on the disk of the state directory, or mend it: the guest goes on by itself then."
LAST_EVENT_S: Final = 1.0
"""What QEMU sent before it ended is read in far less."""
GIVE_BACK_LIMIT_S: Final = 10.0
"""Bound on taking away what the host has of one machine."""
RELEASE_LIMIT_S: Final = 3.0
"""Nobody waits longer for a guest's processes to run on: it is told again when it answers."""
QEMU_LOOK_S: Final = 1.0
"""A QEMU that runs answers at once."""


@attrs.define
class Standstill:
    """One standstill."""

    seconds: float = 0.0
    processes_held: bool = False
    whole: bool = False
    """Whether the disk is whole without the memory: all was written to it, and nothing since."""
    alone: bool = False
    """Whether QEMU alone made the machine stand still, since its guest did not answer."""

    def broken(self) -> None:
        """Note that the machine ran meanwhile, or may have."""
        self.processes_held = self.whole = False


class Machine:
    """A running, proven machine.  Attributes are read by its owner, and changed only here and by checkpoints."""

    def __init__(self, spec: MachinePlace, fingerprint: Fingerprint, layer: str, disk_bytes: int) -> None:
        self.spec = spec
        self.fingerprint = fingerprint
        self.layer = layer
        self.doubtful_layer: str | None = None
        """The layer to which the disk may have been switched; whether it was is unknown."""
        self.disk_bytes = disk_bytes
        self.pausing = trio.Lock()
        """Held by whoever stops the machine and needs it to stand still."""
        self.held: Standstill | None = None
        """The standstill that is wanted until it is let go; ``None`` if the machine is to run."""
        self.unsettled = False
        """Whether it is unknown if the virtual CPUs do what is wanted: then `settle` finds out."""
        self._doubted = trio.Event()
        self._owes_release = trio.Event()
        """Set while the guest has not confirmed that its processes run on."""
        self.key = b""
        self.nonce: str | None = None
        """The nonce that its memory must hold, hexadecimal; a guest that has just booted has none."""
        self.epoch = ""
        self.start_seconds = 0.0
        self.evidence: Evidence | None = None
        self.process: QemuProcess
        self.qmp: QmpClient
        self.client: GuestClient
        self.overdue = False
        """Whether its process had not ended when it was given up on, so that what it may still use was kept."""
        self._stalled: tuple[str, float] = "", 0.0
        """Why QEMU has stopped the machine, and until which time of trio's that is known."""
        self._released = False
        self._dialling = trio.Lock()
        """Held by the one who is meeting the agent anew: QEMU serves one connection at a time."""
        self._attempt = trio.CancelScope()
        """Of that; cancelled where the agent that it is about may be gone already."""
        self._nursery: trio.Nursery
        """Where connections have their readers."""

    @property
    def record(self) -> MachineRecord:
        """What to write down so that the machine can be adopted."""
        spec = self.spec
        return MachineRecord(
            self.process.identity,
            str(spec.directory),
            self.epoch,
            self.key.hex(),
            self.nonce or "",
            str(spec.ram),
            spec.channel.cid,
            self.fingerprint,
            spec.link.facts,
        )

    async def end(self, *, grace_s: float = 0.0) -> bool:
        """Ask the guest to power off if ``grace_s`` allows, wait, kill; then put the machine's directory away.

        Whatever fails, the rest is done.  A process that does not end keeps what it may still use, and the machine is
        `overdue`; then this is to be called once more when it has ended.

        Returns whether the guest has confirmed that its disks are written.
        """
        written = False
        try:
            if grace_s and not self.client.broken:
                # A guest that cannot answer any more is killed below like one that does not end in time.
                with trio.move_on_after(grace_s), contextlib.suppress(GuestBroken, GuestRefused):
                    await self.client.shutdown()
                    written = True
        finally:
            with _told(self.spec, "process was not seen to end"):
                await self.process.end(grace_s)
            await self._disconnect()
            self.overdue = not self.process.has_ended
            if self.overdue:
                log.warning("process %d of machine %s does not end", self.process.pid, self.spec.uuid)
            else:
                self.process.release()
                await give_back(self.spec)
                logs.put_away(self.spec.directory, keep=self.spec.keeps_logs)
        return written

    async def release(self) -> None:
        """Close our connections; the process is not touched."""
        await self._disconnect()
        self.process.release()

    async def _disconnect(self) -> None:
        self._released = True
        self._attempt.cancel(reason="the machine is let go")
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5), _told(self.spec, "connections are open"):
            async with self._dialling:
                await self.client.aclose()
            await self.qmp.aclose()

    def attend(self, nursery: trio.Nursery) -> Callable[[str, dict[str, Any]], None]:
        """Return a handler of QEMU's events: when the guest agent ends and is started again, it is met anew."""
        self._nursery = nursery

        def on_event(name: str, data: dict[str, Any]) -> None:
            if name in ("STOP", "RESUME") and hasattr(self, "client"):
                pulse = self.client.pulse
                pulse.stand_still() if name == "STOP" else pulse.run_on()
            if name == "BLOCK_IO_ERROR" and data.get("action") == "stop":
                self._stalled = FULL if data.get("nospace") else FAILING, math.inf
            elif name == "RESUME" and self._stalled[1] == math.inf:
                # If it finds no room again, QEMU says so at once.
                self._stalled = self._stalled[0], trio.current_time() + STALL_KNOWN_S
            present = self.spec.channel.presence(name, data)
            if present is None or not hasattr(self, "client"):
                return
            if not present:
                self.client.give_up("the guest agent ended; it is being started again")
            elif self._dialling.locked():
                # Whoever was greeted may have been the one before; however often the guest says so, one is met.
                self._attempt.cancel(reason="the guest agent was started again")
            elif self.client.broken:
                nursery.start_soon(self._meet_agent)

        return on_event

    async def _meet_agent(self) -> None:
        """Connect to the agent anew, unless somebody has; if that fails, the channel stays broken and says so."""
        with trio.move_on_after(RECONNECT_LIMIT_S), contextlib.suppress(AgentisoError, OSError):
            async with self._dialling:
                while self.client.broken and not self._released:
                    with trio.CancelScope() as self._attempt:
                        await self.client.aclose()
                        self.client = await meet(self._nursery, self, None)

    async def live_client(self) -> GuestClient:
        """Return the channel to the guest agent; one that is broken is made anew, if the agent answers in a moment."""
        if self.client.broken:
            await self._meet_agent()
        return self.client

    @property
    def mute_since(self) -> float | None:
        """Wall-clock time, in s, since when the guest has owed an answer; ``None`` if it does not, or nobody asked."""
        return self.client.mute_since

    @property
    def hindrance(self) -> Hindrance | None:
        """What keeps the guest from answering, if the host knows: its process is stopped, or waits for its disk."""
        if hasattr(self, "process") and (stopped := process_hindrance(self.process.identity)):
            return stopped
        why, until = self._stalled
        if trio.current_time() < until:
            return Hindrance(f"its machine stands still, since {why}", STALL_REMEDY)
        return None

    # -- what the virtual CPUs do

    async def settle(self, *, limit_s: float = QEMU_LOOK_S) -> None:
        """Have the virtual CPUs do what is wanted, by what QEMU says of them; the caller has `pausing`.

        Raises:
            QmpError, MachineFailed: QEMU refuses it, or does not answer within ``limit_s``; the doubt stays.

        """
        self.unsettled = True
        runs = await self.runs(limit_s=limit_s)
        if self.held is not None and runs:
            self.held.broken()
            await self.qmp.execute("stop", limit_s=limit_s)
        elif self.held is None and not runs:
            await self.qmp.execute("cont", limit_s=limit_s)
        self.unsettled = False

    async def runs(self, *, limit_s: float = QEMU_LOOK_S) -> bool:
        """Ask QEMU whether the virtual CPUs run; errors as of `settle`."""
        return (await self.qmp.execute("query-status", limit_s=limit_s)).get("running") is True

    def doubt(self) -> None:
        """Have somebody `settle` what the virtual CPUs do, who is next or else as soon as QEMU answers."""
        self.unsettled = True
        self._doubted.set()

    async def resume_when_stalled(self) -> None:
        """Have the machine run that is to run, whatever keeps it from that, as soon as it can; until it ends.

        One that QEMU stopped since the host's disk is full goes on when there is room again: QEMU then writes again
        what it could not write, so that the guest never learns of it.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settle_when_doubted)
            nursery.start_soon(self._release_when_owed)
            while await self.qmp.wait_stalled():
                await trio.sleep(STALL_RETRY_S)
                await self._settle_quietly()
            nursery.cancel_scope.cancel(reason="QMP ended")

    async def _settle_when_doubted(self) -> None:
        while True:
            await self._doubted.wait()
            self._doubted = trio.Event()
            with contextlib.suppress(QmpError, MachineFailed):
                # However long it takes QEMU to answer.
                await self.qmp.execute("query-status", limit_s=math.inf)
                await self._settle_quietly()
            await trio.sleep(STALL_RETRY_S)

    async def _settle_quietly(self) -> None:
        async with self.pausing:
            try:
                await self.settle()
            except (QmpError, MachineFailed):
                self.doubt()

    async def _release_when_owed(self) -> None:
        while True:
            await self._owes_release.wait()
            try:
                await (await self.live_client()).ping(math.inf)
                async with self.pausing:
                    if self.unsettled:
                        await self.settle()
                    self._owes_release = trio.Event()
                    # What is held gets it when it is let go.
                    if self.held is None:
                        await self.release_processes()
            except AgentisoError:
                await trio.sleep(STALL_RETRY_S)

    @property
    def owes_release(self) -> bool:
        """Whether its guest has yet to be told that it runs on."""
        return self._owes_release.is_set()

    async def release_processes(self, *, wait: bool = True) -> None:
        """Have the guest's processes run on, and set its clock; one that does not take it in is told when it answers.

        Unless this is to ``wait``, it is told so at once.

        Raises:
            GuestBroken, GuestRefused: it did not.

        """
        released = False
        try:
            with trio.move_on_after(RELEASE_LIMIT_S if wait else 0.0):
                await self.client.release()
                released = True
        finally:
            if not released:
                self._owes_release.set()

    async def bound_logs(self) -> None:
        """Keep the logs from growing without end, until the process ends."""
        async with move_on_when(self.process.wait_exit):
            async for _ in periodic(logs.LOOK_S):
                await logs.bound(self.spec.directory)

    async def why_ended(self, qemu: Path) -> End:
        """Say why the process, which ran the program ``qemu``, has ended."""
        with trio.move_on_after(LAST_EVENT_S):
            await self.qmp.wait_ended()
        status = self.process.exit_status
        killed = status in (None, -signal.SIGKILL) and host_oom.has_killed(self.process.pid, qemu)
        return look_back(
            self.spec.directory,
            exit_status=status,
            shutdown=self.qmp.shutdown,
            no_room=is_full(self.spec.ram),
            killed_for_memory=killed,
        )


def process_hindrance(identity: ProcessIdentity) -> Hindrance | None:
    """Return what keeps a machine from answering whose process was stopped."""
    if not is_stopped(identity):
        return None
    return Hindrance(
        f"QEMU's process {identity.pid} was stopped by a signal", f"`kill -CONT {identity.pid}` lets it run on."
    )


async def give_back(spec: MachinePlace) -> None:
    """Take away what its backends made on the host for a machine whose process has been reaped; not cancellable.

    What cannot be taken away now is still told by their `owned`.
    """
    with trio.CancelScope(shield=True, deadline=trio.current_time() + GIVE_BACK_LIMIT_S):
        with _told(spec, "network was not taken away"):
            await spec.network.release(spec.link)
        with _told(spec, "limits were not taken away"):
            await spec.limits.release(spec.placement)


@contextmanager
def _told(spec: MachinePlace, what: str) -> Iterator[None]:
    """Have what fails be told, and keep nothing else from being done."""
    try:
        yield
    except (AgentisoError, OSError) as error:
        log.warning("machine %s: its %s: %s", spec.uuid, what, error)


async def meet(nursery: trio.Nursery, machine: Machine, stream: trio.abc.Stream | None) -> GuestClient:
    """Open the channel; the caller bounds the wait.

    Raises:
        GuestBroken: the guest is not the expected one, or breaks every connection.

    """
    tries = machine.spec.channel.tries
    while True:
        tries -= 1
        try:
            connected = stream or await machine.spec.channel.connect()
            client = await GuestClient.open(nursery, connected, machine.key)
        except GuestBroken:
            if tries <= 0:
                raise
            await trio.sleep(DIAL_PAUSE_S)
        else:
            client.hindrance = lambda: machine.hindrance
            return client
