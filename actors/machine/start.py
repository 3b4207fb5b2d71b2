"""Machines are brought up, from a checkpoint or cold, or found again after their supervisor was replaced.

None is given out before its guest agent answers, and whatever fails leaves nothing behind.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Final, TypeVar

import attrs
import trio

from actors.machine import descriptors, proof
from actors.machine.accelerator import boot_timer
from actors.machine.checkpoint import settle_layer
from actors.machine.guest.absent import absent
from actors.machine.machine import Machine, Standstill, give_back, meet
from actors.machine.proof import Persona
from actors.machine.qemu import command_line, end_reason, host_oom, logs
from actors.machine.qemu.command_line import MachinePlace, MachineSpec
from actors.machine.qemu.process import QemuProcess
from actors.machine.qemu.qmp import QmpClient
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.ram_image import copy_sparse, create_zero
from actors.model.end import End
from actors.model.errors import AgentisoError, GuestBroken, MachineFailed
from actors.model.files import FREE_SPACE, is_full, tail
from actors.model.machine import Fingerprint, MachineRecord
from actors.runtime import unix_sockets

T = TypeVar("T")
log = logging.getLogger("agentiso.machine")

DEATH_WAIT_S: Final = 1.0


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
    one the machine boots cold with a fresh key, and again while its kernel measures its timer wrong.

    Raises:
        MachineFailed: QEMU ended, or the guest agent did not answer within ``limit_s``.

    """
    began = time.perf_counter()
    while True:
        machine = Machine(spec, fingerprint, layer, disk_bytes)
        gone_s = time.perf_counter() - began
        try:
            await _prepare(nursery, machine, spec, checkpoint, state, limit_s - gone_s)
        except MachineFailed as error:
            again = checkpoint is None and boot_timer.went_wrong(error.facts.get("console_tail", ""))
            if not again or gone_s > limit_s / 2:
                raise
            log.warning("machine %s boots again: its kernel measured its timer wrong", spec.uuid)
        else:
            machine.start_seconds = time.perf_counter() - began
            return machine


async def _prepare(
    nursery: trio.Nursery,
    machine: Machine,
    spec: MachineSpec,
    checkpoint: Checkpoint | None,
    state: Path | None,
    limit_s: float,
) -> None:
    async with AsyncExitStack() as undo:
        spec.directory.mkdir(parents=True, mode=0o700)
        undo.callback(_put_away, machine)
        machine.key = bytes.fromhex(checkpoint.key) if checkpoint else _write_boot_files(spec)
        machine.nonce = checkpoint.nonce if checkpoint else None
        if state is not None and spec.ram.parent == spec.directory:
            # It shares no memory with others.
            await trio.to_thread.run_sync(copy_sparse, state.with_name("ram"), spec.ram)
        qmp_stream, channel_stream = await _spawn(machine, spec, state, undo)

        await _or_died(
            machine,
            lambda: _connect(nursery, machine, qmp_stream, channel_stream, undo),
            limit_s,
            boots=checkpoint is None,
        )
        undo.pop_all()


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
        await _or_died(machine, lambda: proof.prove(machine, persona, checkpoint, grows=grows), limit_s)
        undo.pop_all()
    machine.start_seconds += time.perf_counter() - began


async def adopt(
    nursery: trio.Nursery,
    place: MachinePlace,
    fingerprint: Fingerprint,
    record: MachineRecord,
    *,
    layer: str,
    disk_bytes: int,
    stands_still: bool,
    limit_s: float,
) -> Machine | None:
    """Take hold of a machine that an earlier supervisor started; ``None`` if it no longer runs.

    One that is to stand still does so alone (`Standstill`), and its guest has not been met: `pause.hold_anew` has it
    take its part.  Any other runs.

    Raises:
        MachineFailed, GuestBroken, QmpError: the process runs and does not answer; it is left as it is.
        OSError: it cannot be told whether the process runs.

    """
    process = QemuProcess.adopt(record.process, Path(record.directory))
    if process is None:
        return None
    machine = Machine(place, fingerprint, layer, disk_bytes)
    machine.process, machine.epoch, machine.nonce = process, record.epoch, record.nonce
    machine.key = bytes.fromhex(record.key)
    async with AsyncExitStack() as undo:
        undo.callback(process.release)
        link = await place.network.adopt(place.wanted_link, record.link)
        machine.spec = place = attrs.evolve(place, link=link, placement=await place.limits.adopt(place.uuid))
        await _or_died(machine, lambda: _reconnect(nursery, machine, undo, stands_still=stands_still), limit_s)
        # The record may be older than the last checkpoint.
        await settle_layer(machine)
        undo.pop_all()
    return machine


def look_back(record: MachineRecord, qemu: Path) -> End:
    """Say why a machine ended while nobody watched, by what its logs and the host's say."""
    killed = host_oom.has_killed(record.process.pid, qemu)
    return end_reason.look_back(Path(record.directory), killed_for_memory=killed)


def _write_boot_files(spec: MachineSpec) -> bytes:
    key = secrets.token_bytes(proof.KEY_BYTES)
    fd = os.open(spec.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(key)
    create_zero(spec.ram, spec.shape.memory_mb * 1024 * 1024)
    return key


async def _spawn(
    machine: Machine, spec: MachineSpec, state: Path | None, undo: AsyncExitStack
) -> tuple[trio.SocketStream, trio.SocketStream | None]:
    """Start QEMU on listening sockets to which we are already connected, so that nobody has to poll."""
    undo.push_async_callback(_end, machine)
    with ExitStack() as ours:
        spec = await _furnish(machine, spec, ours)
        qmp, qmp_stream = await _offer(spec.directory / unix_sockets.QMP, ours, undo)
        console = os.open(spec.console_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        ours.callback(os.close, console)
        handed, channel_stream = {descriptors.QMP: qmp, descriptors.CONSOLE: console}, None
        handed |= {**spec.link.descriptors, **spec.placement.descriptors}
        if spec.channel.socket is not None:
            handed[descriptors.CHANNEL], channel_stream = await _offer(spec.channel.socket, ours, undo)
        if state is not None:
            handed[descriptors.STATE] = ours.enter_context(state.open("rb")).fileno()
        argv = command_line.build(spec, restoring=state is not None)
        machine.process = QemuProcess.spawn(argv, uuid=spec.uuid, log=spec.qemu_log, descriptors=handed)
    await spec.limits.enter(spec.placement, machine.process.pid)
    return qmp_stream, channel_stream


async def _end(machine: Machine) -> None:
    """End the process of a start that failed, if it came to one, and give back what was made for it."""
    if hasattr(machine, "process"):
        ended = await machine.process.end()
        machine.process.release()
        if not ended:
            log.warning("process %d of machine %s does not end", machine.process.pid, machine.spec.uuid)
            return
    await give_back(machine.spec)


def _put_away(machine: Machine) -> None:
    """Put the directory of a machine away whose start has failed, unless its process may still use it."""
    if not hasattr(machine, "process") or machine.process.has_ended:
        logs.put_away(machine.spec.directory, keep=machine.spec.keeps_logs)


async def _furnish(machine: Machine, spec: MachineSpec, ours: ExitStack) -> MachineSpec:
    """Have its backends make on the host what a machine needs; what they opened is closed with ``ours``."""
    spec = attrs.evolve(spec, placement=await spec.limits.prepare(spec.bounds))
    machine.spec = spec
    _close_with(ours, spec.placement.descriptors)
    spec = attrs.evolve(spec, link=await spec.network.plan(spec.wanted_link))
    machine.spec = spec
    _close_with(ours, spec.link.descriptors)
    return spec


def _close_with(ours: ExitStack, handed: Mapping[int, int]) -> None:
    for fd in handed.values():
        ours.callback(os.close, fd)


async def _offer(path: Path, ours: ExitStack, undo: AsyncExitStack) -> tuple[int, trio.SocketStream]:
    """Return a listening socket's descriptor, and a stream that already waits in its backlog."""
    listener = ours.enter_context(unix_sockets.listen(path))
    stream = await unix_sockets.dial(path)
    undo.push_async_callback(trio.aclose_forcefully, stream)
    return listener.fileno(), stream


async def _connect(
    nursery: trio.Nursery,
    machine: Machine,
    qmp_stream: trio.SocketStream,
    channel_stream: trio.abc.Stream | None,
    undo: AsyncExitStack,
) -> None:
    machine.qmp = await QmpClient.open(nursery, qmp_stream, machine.attend(nursery))
    undo.push_async_callback(machine.qmp.aclose)
    machine.client = await meet(nursery, machine, channel_stream)
    undo.push_async_callback(machine.client.aclose)


async def _reconnect(nursery: trio.Nursery, machine: Machine, undo: AsyncExitStack, *, stands_still: bool) -> None:
    """Connect to a machine whose supervisor may have died while it stood still."""
    try:
        qmp_stream = await unix_sockets.dial(machine.spec.directory / unix_sockets.QMP)
    except OSError as error:
        raise MachineFailed(f"The machine's sockets do not answer: {error}.") from error
    undo.push_async_callback(trio.aclose_forcefully, qmp_stream)
    machine.qmp = await QmpClient.open(nursery, qmp_stream, machine.attend(nursery))
    undo.push_async_callback(machine.qmp.aclose)
    if stands_still:
        await machine.qmp.execute("stop")
        machine.held, machine.client = Standstill(alone=True), absent(nursery)
        return
    await machine.qmp.execute("cont")
    try:
        machine.client = await meet(nursery, machine, None)
    except OSError as error:
        raise MachineFailed(f"The machine's sockets do not answer: {error}.") from error
    undo.push_async_callback(machine.client.aclose)
    await machine.client.release()


async def _or_died(machine: Machine, step: Callable[[], Awaitable[T]], limit_s: float, *, boots: bool = False) -> T:
    """Run one step of a start; end it early, with QEMU's last words, when QEMU dies or time runs out."""
    result: list[T] = []
    failure: AgentisoError | OSError | None = None
    died = False
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + limit_s

        async def watch() -> None:
            nonlocal died
            await machine.process.wait_exit()
            died = True
            nursery.cancel_scope.cancel(reason="QEMU ended")

        nursery.start_soon(watch)
        if boots:
            nursery.start_soon(boot_timer.end_if_wrong, machine.spec.console_log, machine.process.kill)
        try:
            result.append(await step())
        except (AgentisoError, OSError) as error:
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


def _failure(machine: Machine, reason: str, cause: Exception | None) -> MachineFailed:
    spec, status = machine.spec, machine.process.exit_status
    log, console = tail(spec.qemu_log), tail(spec.console_log)
    said = f" (exit status {status})" if status is not None else ""
    remedy = "Run `agentiso check` to see whether this host and the image are fit."
    if known := machine.hindrance:
        said, remedy = f"{said}: {known.why}", known.remedy
    elif status == -signal.SIGBUS and is_full(spec.ram):
        said, remedy = f"{said}: its memory file found no room, since the host's disk is full", FREE_SPACE
    failure = MachineFailed(
        f"The machine {reason}{said}.\nQEMU said: {log.strip() or 'nothing'}\n"
        f"Console: {console.strip() or 'nothing'}\n",
        remedy=remedy,
        log_tail=log,
        console_tail=console,
        exit_status=status,
    )
    failure.__cause__ = cause
    return failure
