"""A machine: one running QEMU microVM, its QMP connection and its guest agent's channel.

`start` brings one up, from a checkpoint or cold; `adopt` finds one again after its supervisor was replaced.  Neither
returns before the guest has proven itself, and neither leaves anything behind when it fails.  A machine starts its
readers in the nursery it is given and ends with `end`, or is let go with `release`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import trio

from actors.errors import AgentisoError, GuestBroken, GuestRefused, MachineFailed, QmpError, RestoreUnproven
from actors.machine import channel, command_line, sockets
from actors.machine.checkpoint import Checkpoint, Fingerprint, settle_layer
from actors.machine.command_line import CHANNEL_FD, QMP_FD, ROOT_DEVICE, STATE_FD, VSOCK_PORT, MachineSpec
from actors.machine.files import tail
from actors.machine.guest_client import GuestClient, Identity, IdentityReply, NetworkIdentity
from actors.machine.hostfwd import GUEST_ADDRESS
from actors.machine.process import ProcessIdentity, QemuProcess
from actors.machine.qmp import QmpClient
from actors.machine.ram_image import copy_sparse, create_zero
from actors.machine.standstill import Standstill
from actors.model import Evidence
from actors.names import new_id

T = TypeVar("T")

SHUTDOWN_GRACE_S: Final = 10.0
"""How long a guest may take to write its disks and power off before it is killed."""
DEATH_WAIT_S: Final = 1.0
RECONNECT_LIMIT_S: Final = 10.0
"""How long a guest agent that ended may take to be there again."""
DIAL_TRIES: Final = 5
DIAL_PAUSE_S: Final = 0.1
STALL_RETRY_S: Final = 1.0
MIN_FILE_SYSTEM_SHARE: Final = 0.9
"""Of its disk; ext4 keeps some of it for its own tables."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 16
ENTROPY_BYTES: Final = 64
REHEARSALS: Final = 10
"""More than CPython 3.11 needs before it has specialised code that runs again and again."""


@attrs.frozen
class Persona:
    """The identity a workspace gives to its machine."""

    workspace_id: str
    hostname: str


@attrs.frozen
class MachineRecord:
    """What a later supervisor must know to adopt the machine."""

    process: ProcessIdentity
    directory: str
    epoch: str
    key: str
    nonce: str
    ram: str
    vsock_cid: int | None = None


class Machine:
    """A running, proven machine.  Attributes are read by its owner, and changed only here and by checkpoints."""

    def __init__(self, spec: MachineSpec, fingerprint: Fingerprint, layer: str, disk_bytes: int) -> None:
        self.spec = spec
        self.fingerprint = fingerprint
        self.layer = layer
        self.doubtful_layer: str | None = None
        """The layer to which the disk may have been switched; whether it was is unknown."""
        self.disk_bytes = disk_bytes
        self.pausing = trio.Lock()
        """Held by whoever stops the machine and needs it to stand still."""
        self.held: Standstill | None = None
        """The standstill that lasts until it is let go."""
        self.key = b""
        self.nonce = ""
        self.epoch = ""
        self.start_seconds = 0.0
        self.evidence: Evidence | None = None
        self.process: QemuProcess
        self.qmp: QmpClient
        self.client: GuestClient
        self.agent_met = trio.Event()
        self._dialling = trio.Lock()
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
            self.nonce,
            str(spec.ram),
            spec.vsock_cid,
        )

    async def end(self, *, grace_s: float = 0.0) -> None:
        """Ask the guest to power off if ``grace_s`` allows, wait, kill; then remove the machine's directory."""
        if grace_s and not self.client.broken:
            # A guest that cannot answer any more is killed below like one that does not end in time.
            with trio.move_on_after(grace_s), contextlib.suppress(GuestBroken, GuestRefused):
                await self.client.shutdown()
        await self.process.end(grace_s)
        await self.release()
        shutil.rmtree(self.spec.directory, ignore_errors=True)

    async def release(self) -> None:
        """Close our connections; the process is not touched."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await self.client.aclose()
            await self.qmp.aclose()
        self.process.release()

    def attend(self, nursery: trio.Nursery) -> Callable[[str, dict[str, Any]], None]:
        """Return a handler of QEMU's events: when the guest agent ends and is started again, it is met anew."""
        self._nursery = nursery

        def on_event(name: str, data: dict[str, Any]) -> None:
            if name != "VSERPORT_CHANGE" or data.get("id") != command_line.PORT_ID or not hasattr(self, "client"):
                return
            if not data.get("open"):
                self.client.give_up("the guest agent ended; it is being started again")
            elif self.client.broken:
                nursery.start_soon(self._meet_agent, nursery)

        return on_event

    async def _meet_agent(self, nursery: trio.Nursery) -> None:
        """Connect to a restarted agent; if that fails, the channel stays broken and says so."""
        with trio.move_on_after(RECONNECT_LIMIT_S), contextlib.suppress(AgentisoError, OSError):
            await self.client.aclose()
            self.client = await _meet(nursery, self, None)
        self.agent_met.set()
        self.agent_met = trio.Event()

    async def live_client(self) -> GuestClient:
        """Return the channel to the guest agent, after a moment's wait if the agent is being started again."""
        if self.client.broken and self.spec.channel == "vsock":
            # Nobody says that the agent is there again: it is called until it answers.
            async with self._dialling:
                if self.client.broken:
                    await self._meet_agent(self._nursery)
        elif self.client.broken:
            with trio.move_on_after(RECONNECT_LIMIT_S):
                await self.agent_met.wait()
        return self.client

    async def resume_when_stalled(self) -> None:
        """Have the machine go on which QEMU stopped since the host's disk is full, as soon as there is room again.

        QEMU then writes again what it could not write, so that the guest never learns of it.
        """
        while await self.qmp.wait_stalled():
            await trio.sleep(STALL_RETRY_S)
            async with self.pausing:
                if self.held is None:
                    with contextlib.suppress(QmpError, MachineFailed):
                        await self.qmp.execute("cont")

    def console(self, max_bytes: int = 4096) -> str:
        """Return the end of the guest's serial console."""
        return self.log("console", max_bytes)

    def log(self, which: str, max_bytes: int) -> str:
        """Return the end of a log, ``console`` or ``qemu``."""
        return tail(self.spec.console_log if which == "console" else self.spec.qemu_log, max_bytes)


async def prepare(
    nursery: trio.Nursery,
    spec: MachineSpec,
    fingerprint: Fingerprint,
    *,
    layer: str,
    disk_bytes: int,
    checkpoint: Checkpoint | None,
    state: Path | None,
    limit_s: float,
) -> Machine:
    """Start a machine whose guest agent answers, and which nobody may use before `prove`; a failure leaves nothing.

    With a ``checkpoint``, ``state`` is its file of device state and the guest must know the checkpoint's key.  Without
    one the machine boots cold with a fresh key.

    Raises:
        MachineFailed: QEMU ended, or the guest agent did not answer within ``limit_s``.

    """
    began = time.perf_counter()
    machine = Machine(spec, fingerprint, layer, disk_bytes)
    async with AsyncExitStack() as undo:
        spec.directory.mkdir(parents=True, mode=0o700)
        undo.callback(shutil.rmtree, spec.directory, ignore_errors=True)
        machine.key = bytes.fromhex(checkpoint.key) if checkpoint else _write_boot_files(spec)
        if state is not None and spec.ram.parent == spec.directory:
            # It shares no memory with others.
            await trio.to_thread.run_sync(copy_sparse, state.with_name("ram"), spec.ram)
        qmp_stream, channel_stream = await _spawn(machine, state, undo)

        await _or_died(machine, lambda: _connect(nursery, machine, qmp_stream, channel_stream, undo), limit_s)
        undo.pop_all()
    machine.start_seconds = time.perf_counter() - began
    return machine


async def prove(
    machine: Machine, persona: Persona, checkpoint: Checkpoint | None, *, grows: bool, limit_s: float
) -> None:
    """Give a prepared machine its identity and have it prove itself; on any failure nothing of it is left.

    If the disk ``grows``, its file system was made for a smaller one.

    Raises:
        MachineFailed: QEMU ended, or the guest agent did not answer within ``limit_s``.
        RestoreUnproven: the restored guest could not prove what it is.

    """
    began = time.perf_counter()
    async with AsyncExitStack() as undo:
        undo.push_async_callback(machine.end)
        await _or_died(machine, lambda: _prove(machine, persona, checkpoint, grows=grows), limit_s)
        undo.pop_all()
    machine.start_seconds += time.perf_counter() - began


async def adopt(
    nursery: trio.Nursery,
    spec: MachineSpec,
    fingerprint: Fingerprint,
    record: MachineRecord,
    *,
    layer: str,
    disk_bytes: int,
    limit_s: float,
) -> Machine | None:
    """Take hold of a machine that an earlier supervisor started; ``None`` if it no longer runs.

    Raises:
        MachineFailed: the process runs but is not usable: it does not answer, or has another identity.

    """
    process = QemuProcess.adopt(record.process)
    if process is None:
        return None
    machine = Machine(spec, fingerprint, layer, disk_bytes)
    machine.process, machine.epoch, machine.nonce = process, record.epoch, record.nonce
    machine.key = bytes.fromhex(record.key)
    async with AsyncExitStack() as undo:
        undo.callback(process.release)
        try:
            qmp_stream = sockets.dial(spec.directory / sockets.QMP)
            undo.push_async_callback(trio.aclose_forcefully, qmp_stream)
            # A listener in the guest is called below: it may take a moment.
            stream = None if spec.channel == "vsock" else await _channel_address(spec).connect()
        except OSError as error:
            raise MachineFailed(f"The machine's sockets do not answer: {error}.") from error
        await _or_died(machine, lambda: _connect(nursery, machine, qmp_stream, stream, undo, adopting=True), limit_s)
        # The record may be older than the last checkpoint.
        await settle_layer(machine)
        undo.pop_all()
    return machine


def kill(record: MachineRecord) -> None:
    """End a machine that could not be adopted."""
    if (process := QemuProcess.adopt(record.process)) is not None:
        process.kill()
        process.release()


# -- starting -----------------------------------------------------------------------------------------------------


def _write_boot_files(spec: MachineSpec) -> bytes:
    key = secrets.token_bytes(KEY_BYTES)
    fd = os.open(spec.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(key)
    create_zero(spec.ram, spec.shape.memory_mb * 1024 * 1024)
    return key


async def _spawn(
    machine: Machine, state: Path | None, undo: AsyncExitStack
) -> tuple[trio.SocketStream, trio.SocketStream | None]:
    """Start QEMU on listening sockets to which we are already connected, so that nobody has to poll."""
    spec = machine.spec
    with ExitStack() as ours:
        qmp, qmp_stream = _offer(spec.directory / sockets.QMP, ours, undo)
        descriptors, channel_stream = {QMP_FD: qmp}, None
        if spec.channel == "serial":
            descriptors[CHANNEL_FD], channel_stream = _offer(spec.directory / sockets.CHANNEL, ours, undo)
        if state is not None:
            descriptors[STATE_FD] = ours.enter_context(state.open("rb")).fileno()
        argv = command_line.build(spec, restoring=state is not None)
        machine.process = QemuProcess.spawn(argv, uuid=spec.uuid, log=spec.qemu_log, descriptors=descriptors)
    undo.callback(machine.process.release)
    undo.push_async_callback(machine.process.end)
    return qmp_stream, channel_stream


def _offer(path: Path, ours: ExitStack, undo: AsyncExitStack) -> tuple[int, trio.SocketStream]:
    """Return a listening socket's descriptor, and a stream that already waits in its backlog."""
    listener = ours.enter_context(sockets.listen(path))
    stream = sockets.dial(path)
    undo.push_async_callback(trio.aclose_forcefully, stream)
    return listener.fileno(), stream


async def _connect(
    nursery: trio.Nursery,
    machine: Machine,
    qmp_stream: trio.SocketStream,
    channel_stream: trio.abc.Stream | None,
    undo: AsyncExitStack,
    *,
    adopting: bool = False,
) -> None:
    machine.qmp = await QmpClient.open(nursery, qmp_stream, machine.attend(nursery))
    undo.push_async_callback(machine.qmp.aclose)
    if adopting:
        # Its supervisor may have died while it stood still.
        await machine.qmp.execute("cont")
    machine.client = await _meet(nursery, machine, channel_stream)
    undo.push_async_callback(machine.client.aclose)
    if adopting:
        await machine.client.release()


async def _meet(nursery: trio.Nursery, machine: Machine, stream: trio.abc.Stream | None) -> GuestClient:
    """Open the channel; the caller bounds the wait.

    A connection of vsock that was made before the guest had noticed its restore is reset, and made again.

    Raises:
        GuestBroken: the guest is not the expected one, or breaks every connection.

    """
    tries = DIAL_TRIES if machine.spec.channel == "vsock" else 1
    while True:
        tries -= 1
        try:
            connected = stream or await _channel_address(machine.spec).connect()
            return await GuestClient.open(nursery, connected, machine.key)
        except GuestBroken:
            if tries <= 0:
                raise
            await trio.sleep(DIAL_PAUSE_S)


async def _prove(machine: Machine, persona: Persona, checkpoint: Checkpoint | None, *, grows: bool) -> None:
    """Give the guest its identity and its disk's size, and hold its answers against what they must be."""
    resizing = None
    if grows and checkpoint:
        # The disk has its size already: this makes QEMU tell the guest, whose memory knows the checkpoint's disk.
        resizing = await machine.qmp.begin("block_resize", {"device": ROOT_DEVICE, "size": machine.disk_bytes})
    identity = _new_identity(machine.spec, persona)
    reply = await machine.client.identify(identity)
    found = faults(reply, identity, checkpoint)
    if resizing:
        await machine.qmp.finish(resizing)
    if grows and not found:
        found = await _grow(machine)
    if found:
        raise RestoreUnproven(
            f"The guest of {persona.hostname} could not prove a correct start: {'; '.join(found)}.",
            remedy="It was ended. Try again; if it recurs, rebuild the image.",
        )
    clock_error_s = await machine.client.release()
    machine.epoch, machine.key, machine.nonce = identity.epoch, identity.key, identity.nonce.hex()
    machine.evidence = Evidence(
        epoch=identity.epoch,
        nonce_matched=checkpoint is not None,
        generation=reply.generation,
        rng_reseeded=reply.rng_reseeded,
        clock_step_s=reply.clock_step_s,
        hostname=reply.hostname,
        processes_held=checkpoint is not None and checkpoint.processes_held,
        clock_error_ms=clock_error_s * 1000,
        hooks=reply.hooks,
        connections_closed=reply.connections_closed,
        jobs=reply.jobs,
    )


async def _grow(machine: Machine) -> list[str]:
    size_bytes = await machine.client.grow_root(machine.disk_bytes)
    if size_bytes >= machine.disk_bytes * MIN_FILE_SYSTEM_SHARE:
        return []
    return [f"its file system has {size_bytes} bytes on a disk of {machine.disk_bytes}"]


def _new_identity(spec: MachineSpec, persona: Persona, *, rehearsal: bool = False) -> Identity:
    return Identity(
        epoch=new_id(),
        time_ns=time.time_ns(),
        entropy=secrets.token_bytes(ENTROPY_BYTES),
        hostname=persona.hostname,
        nonce=secrets.token_bytes(NONCE_BYTES),
        key=secrets.token_bytes(KEY_BYTES),
        machine_id=persona.workspace_id.replace("-", ""),
        network=_network_identity(spec),
        rehearsal=rehearsal,
    )


async def rehearse(machine: Machine) -> None:
    """Have a template's guest take on identities as its children will.

    What its interpreter and its kernel do at the first times only is then done for all of them.
    """
    for _ in range(REHEARSALS):
        identity = _new_identity(machine.spec, Persona(new_id(), "template"), rehearsal=True)
        await machine.client.identify(identity)
        machine.epoch, machine.key, machine.nonce = identity.epoch, identity.key, identity.nonce.hex()
        await machine.client.release()


def faults(reply: IdentityReply, identity: Identity, checkpoint: Checkpoint | None) -> list[str]:
    """Name each part of a start's proof that is missing."""
    found = [f"{part}: {text}" for part, text in sorted(reply.failures.items())]
    expected = checkpoint.nonce if checkpoint else None
    if reply.previous_nonce != expected:
        found.append("its memory does not hold the checkpoint's nonce")
    if not reply.rng_reseeded:
        found.append("its kernel's random generator was not reseeded")
    if reply.hostname != identity.hostname:
        found.append(f"its hostname is {reply.hostname!r}, not {identity.hostname!r}")
    if identity.network and reply.mac != identity.network.mac:
        found.append(f"its MAC address is {reply.mac}, not {identity.network.mac}")
    return found


def _network_identity(spec: MachineSpec) -> NetworkIdentity | None:
    if spec.network == "none":
        return None
    return NetworkIdentity(
        interface="eth0",
        mac=spec.mac,
        address=GUEST_ADDRESS,
        prefix=24,
        gateway="10.0.2.2",
        dns=("10.0.2.3",),
    )


async def _or_died(machine: Machine, step: Callable[[], Awaitable[T]], limit_s: float) -> T:
    """Run one step of a start; end it early, with QEMU's last words, when QEMU dies or time runs out."""
    result: list[T] = []
    failure: AgentisoError | None = None
    died = False
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + limit_s

        async def watch() -> None:
            nonlocal died
            await machine.process.wait_exit()
            died = True
            nursery.cancel_scope.cancel(reason="QEMU ended")

        nursery.start_soon(watch)
        try:
            result.append(await step())
        except AgentisoError as error:
            failure = error
            if isinstance(error, GuestBroken | MachineFailed):
                # QEMU's death breaks its connections first: give its exit a moment to be seen, it tells more.
                with trio.move_on_after(DEATH_WAIT_S):
                    await trio.sleep_forever()
        nursery.cancel_scope.cancel(reason="the step is over")
    if result:
        return result[0]
    if failure is not None and not died:
        raise failure
    raise _failure(machine, "ended by itself" if died else f"did not become ready within {limit_s:.0f} s", failure)


def _failure(machine: Machine, reason: str, cause: AgentisoError | None) -> MachineFailed:
    spec, status = machine.spec, machine.process.exit_status
    log, console = tail(spec.qemu_log), tail(spec.console_log)
    said = f" (exit status {status})" if status is not None else ""
    failure = MachineFailed(
        f"The machine {reason}{said}.\nQEMU said: {log.strip() or 'nothing'}\n"
        f"Console: {console.strip() or 'nothing'}\n",
        remedy="Run `agentiso check` to see whether this host and the image are fit.",
        log_tail=log,
        console_tail=console,
        exit_status=status,
    )
    failure.__cause__ = cause
    return failure


def _channel_address(spec: MachineSpec) -> channel.ChannelAddress:
    if spec.channel == "vsock":
        assert spec.vsock_cid is not None
        return channel.VsockAddress(spec.vsock_cid, VSOCK_PORT)
    return channel.SerialAddress(spec.directory / sockets.CHANNEL)
