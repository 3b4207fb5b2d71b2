"""Simulated machines, under the real actors, records, store, tree, checkpoints and supervisor.

What QEMU and a guest are to the actors is simulated and nothing else: a process that can die and that outlives its
supervisor, QMP's few commands, the guest agent's few requests, memory and a disk with one mark each.  Files are real:
a mark on the disk is appended to the active qcow2 layer and looked for along its chain; the mark of the memory goes
into the checkpoint's RAM image, with the nonce.

At every step of a machine somebody else sweeps the store, so whatever is not held then is lost.

A guest, or QEMU's QMP, may fall silent: what it is asked then it does when it speaks again, in order, whoever may
still wait for it.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Self, TypeVar, cast

import attrs
import pytest
import trio

from actors.machine import checkpoint as checkpoints
from actors.machine import start
from actors.machine.accelerator.verdict import AcceleratorVerdict
from actors.machine.checkpoint import settle_layer
from actors.machine.guest.calls import REPLY_LIMIT_S
from actors.machine.guest.client import FREEZE_LIMIT_S, SYNC_LIMIT_S
from actors.machine.guest.identity import Identity, IdentityReply
from actors.machine.machine import Machine, Standstill
from actors.machine.proof import Persona
from actors.machine.qemu import orphans
from actors.machine.qemu.command_line import MachinePlace, MachineSpec
from actors.machine.qemu.process import QemuProcess
from actors.machine.qemu.qmp import LONG_S, MUTE_LOOK_S
from actors.machine.qemu_build import QemuBuild
from actors.machine.storage import qcow2
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.ram_image import create_zero
from actors.machine.storage.store import Store
from actors.model.errors import GuestBroken, GuestRefused, MachineFailed, QmpError, RestoreUnproven
from actors.model.guest import CommandSpec, ExecResult, FileContent
from actors.model.info import Evidence
from actors.model.machine import Fingerprint, MachineRecord, ProcessIdentity
from actors.model.names import new_id
from actors.registry import recovery, supervisor, templates
from actors.workspace import adoption, host
from tests.stateful import lives
from tests.stateful.silence import Line, Silent

T = TypeVar("T")

MARK_BYTES: Final = 16
BLANK: Final = ""
"""The mark of memory after a boot, and of a disk that nobody wrote to."""
MEMORY: Final = "/dev/shm/mark"
DISK: Final = "/root/mark"
NONCE_BYTES: Final = 16


@attrs.define(eq=False)
class Qemu:
    """One simulated QEMU with its guest; it lives on when its supervisor ends."""

    uuid: str
    pid: int
    directory: Path
    disk: Path
    ram: Path
    memory: str
    nonce: str
    running: bool = True
    held: bool = False
    hangs: bool = False
    """Whether the kernel holds it, so that nothing ends it."""
    owner: object = None
    """The supervisor's life that is connected; there can be one."""
    dead: trio.Event = attrs.field(factory=trio.Event)
    qmp: Line = attrs.field(factory=Line)
    guest: Line = attrs.field(factory=Line)

    @property
    def owned(self) -> bool:
        """Whether a host is connected; there can be one."""
        return lives.is_alive(self.owner)

    @owned.setter
    def owned(self, owned: bool) -> None:
        self.owner = lives.Life() if owned else None

    @property
    def mute(self) -> bool:
        """Whether the guest answers nothing any more."""
        return self.guest.silent

    @mute.setter
    def mute(self, mute: bool) -> None:
        if mute:
            self.guest.hush()
        else:
            self.guest.speak()

    def stop(self) -> None:
        """Have the whole process stand still, as by SIGSTOP; what it is told meanwhile it does when it goes on."""
        self.qmp.hush()
        self.guest.hush()

    def go_on(self) -> None:
        """Have it run on, if it stood still; a guest that was mute stays so."""
        self.qmp.speak()

    @property
    def workspace(self) -> str:
        """The short id of the workspace in whose directory it runs."""
        return self.directory.parent.parent.name

    def write(self, path: str, text: str) -> None:
        """Write a mark; to the disk only what the active layer then has."""
        if path == MEMORY:
            self.memory = text
        else:
            with self.disk.open("ab") as file:
                file.write(text.encode().ljust(MARK_BYTES))

    def read(self, path: str) -> str:
        return self.memory if path == MEMORY else mark_of(self.disk)


def head_of(ram: Path) -> str:
    """Return what the memory of a checkpoint holds: its mark and its nonce."""
    with ram.open("rb") as file:
        return file.read(MARK_BYTES + 2 * NONCE_BYTES).decode()


def mark_of(layer: Path) -> str:
    """Return the last mark written to a disk, looked for along its chain."""
    for path in qcow2.backing_chain(layer):
        header = qcow2.read_header(path)
        tables = 3 + -(-(-(-header.virtual_size_bytes // qcow2.BYTES_PER_L1_ENTRY) * 8) // qcow2.CLUSTER)
        with path.open("rb") as file:
            file.seek(tables * qcow2.CLUSTER)
            # What a loss of power has made zeros of was not written.
            written = file.read().rstrip(b"\0")
        if written:
            return written[-MARK_BYTES:].decode().strip()
    return BLANK


class World:
    """All machines there are, and what befalls the next of their steps."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.qemus: dict[str, Qemu] = {}
        self.store: Store
        self.sweeps = True
        """Whether somebody else sweeps the store at every step."""
        self.flushed: Callable[[Path], None] = lambda _path: None
        """Called when a guest has had a disk be written to stable storage."""
        self._pids = count(1)
        self._misfortune: Callable[[Qemu | None], None] | None = None
        self._steps = 0
        self._next_start_fails = False
        self.longest_silence_s = math.inf
        """After it an answer is missing even if it might still come."""
        self.holds_processes = True
        """Whether none is checkpointed whose processes run, as is done of a mute guest."""
        self._substitute(patch)

    @property
    def alive(self) -> list[Qemu]:
        return [qemu for qemu in self.qemus.values() if not qemu.dead.is_set()]

    def plan(self, steps: int, misfortune: Callable[[Qemu | None], None]) -> None:
        """Have something befall the machine that does the next step but ``steps``."""
        self._steps, self._misfortune = steps, misfortune

    def plan_start_failure(self) -> None:
        """Have the next machine that is started not come up."""
        self._next_start_fails = True

    def forget_plans(self) -> bool:
        """Return whether the planned misfortune did not come to pass, and have it not come to pass any more."""
        pending, self._misfortune = self._misfortune is not None, None
        return pending

    async def step(self, qemu: Qemu | None) -> None:
        """Let the others go on; then what is planned befalls this machine."""
        lives.check()
        with lives.beside():
            if self.sweeps:
                await self.store.collect()
            else:
                await trio.lowlevel.checkpoint()
        lives.check()
        if self._misfortune is not None:
            self._steps -= 1
            if self._steps < 0:
                misfortune, self._misfortune = self._misfortune, None
                misfortune(qemu)

    @lives.as_nobody
    def boot(self, spec: MachineSpec, checkpoint: Checkpoint | None) -> Qemu:
        memory, nonce = BLANK, ""
        if checkpoint is not None:
            found = head_of(spec.ram)
            memory, nonce = found[:MARK_BYTES].strip(), found[MARK_BYTES:]
        qemu = Qemu(spec.uuid, next(self._pids), spec.directory, spec.disk, spec.ram, memory, nonce)
        self.qemus[spec.uuid] = qemu
        return qemu

    def lose_power(self) -> None:
        """End all machines."""
        for qemu in self.alive:
            qemu.dead.set()

    def patience_s(self, limit_s: float) -> float:
        """Return how long an answer is waited for."""
        return limit_s if math.isinf(limit_s) else min(limit_s, self.longest_silence_s)

    def by_pid(self, pid: int) -> Qemu:
        return next(qemu for qemu in self.qemus.values() if qemu.pid == pid)

    def _substitute(self, patch: pytest.MonkeyPatch) -> None:
        world = self

        class WatchedStore(Store):
            def __init__(self, state_dir: Path) -> None:
                super().__init__(state_dir)
                world.store = self

        async def probe(*_arguments: object, **_options: object) -> AcceleratorVerdict:
            return AcceleratorVerdict("tcg", "max", ())

        patch.setattr(supervisor, "Store", WatchedStore)
        self._substitute_processes(patch)
        patch.setattr(host, "probe_accelerators", probe)
        patch.setattr(host, "probe_qemu", lambda _binary: QemuBuild(Path("qemu"), (7, 2, 0), "7.2.0", "build"))
        patch.setattr(start, "prepare", self._prepare)
        patch.setattr(start, "prove", self._prove)
        patch.setattr(start, "adopt", self._adopt)
        patch.setattr(templates, "REHEARSALS", 1)
        patch.setattr(checkpoints, "ChangedMemory", self._changed)

    def _substitute_processes(self, patch: pytest.MonkeyPatch) -> None:
        world = self

        def adopt_process(identity: ProcessIdentity, directory: Path) -> Process | None:
            return Process(world.qemus[identity.uuid]) if is_machine_of(identity, directory) else None

        def find_machines(state_dir: Path) -> Iterator[tuple[ProcessIdentity, Path]]:
            for qemu in world.alive:
                if qemu.directory.is_relative_to(state_dir):
                    yield Process(qemu).identity, qemu.directory

        def alive(identity: ProcessIdentity) -> bool:
            qemu = world.qemus.get(identity.uuid)
            return qemu is not None and not qemu.dead.is_set()

        def is_machine_of(identity: ProcessIdentity, directory: Path) -> bool:
            return alive(identity) and world.qemus[identity.uuid].directory == directory

        for module in (orphans, recovery):
            patch.setattr(module, "find_machines", find_machines)
        for module in (adoption, recovery):
            patch.setattr(module, "is_machine_of", is_machine_of)
        patch.setattr(adoption, "is_alive", alive)
        patch.setattr(QemuProcess, "adopt", adopt_process)

    def _changed(self, pid: int, _ram: Path, target: int) -> Changed:
        return Changed(self.by_pid(pid), target, strict=self.holds_processes)

    async def _prepare(
        self,
        _nursery: trio.Nursery,
        spec: MachineSpec,
        fingerprint: Fingerprint,
        *,
        layer: str,
        disk_bytes: int,
        checkpoint: Checkpoint | None,
        state: Path | None,
        limit_s: float,
    ) -> Machine:
        spec.directory.mkdir(parents=True)
        if checkpoint is None:
            create_zero(spec.ram, spec.shape.memory_mb * 2**20)
        qemu = self.boot(spec, checkpoint)
        try:
            await self.step(qemu)
            if qemu.dead.is_set() or self._next_start_fails or not qemu.disk.exists():
                self._next_start_fails = False
                raise MachineFailed("The machine ended by itself.")
            assert checkpoint is None or (state is not None and state.exists())
        except BaseException:
            lives.check()
            qemu.dead.set()
            shutil.rmtree(spec.directory)
            raise
        machine = self._machine(qemu, spec, fingerprint, layer, disk_bytes)
        if checkpoint is not None:
            machine.nonce = checkpoint.nonce
        return machine

    async def _prove(
        self, machine: Machine, persona: Persona, checkpoint: Checkpoint | None, *, grows: bool, limit_s: float
    ) -> None:
        qemu = self.qemus[machine.spec.uuid]
        try:
            await self.step(qemu)
            if qemu.dead.is_set():
                raise MachineFailed("The machine ended by itself.")
            # One that was rehearsed has another one than its checkpoint.
            if checkpoint is not None and qemu.nonce != machine.nonce:
                raise RestoreUnproven("its memory does not hold the checkpoint's nonce")
        except BaseException:
            await machine.end()
            raise
        machine.nonce = qemu.nonce = secrets.token_hex(NONCE_BYTES)
        # What waited in the pool stood still.
        qemu.held = False
        machine.evidence = Evidence(new_id(), checkpoint is not None, 1, True, 0.0, persona.hostname)
        machine.epoch = machine.evidence.epoch

    def _machine(
        self, qemu: Qemu, spec: MachinePlace, fingerprint: Fingerprint, layer: str, disk_bytes: int
    ) -> Machine:
        if qemu.owned:
            raise MachineFailed("QEMU serves another host.")
        qemu.owner = lives.current()
        machine = Machine(spec, fingerprint, layer, disk_bytes)
        machine.nonce = qemu.nonce
        machine.process = Process(qemu)  # type: ignore[assignment]
        machine.qmp = Qmp(self, qemu)  # type: ignore[assignment]
        machine.client = Guest(self, qemu)  # type: ignore[assignment]
        return machine

    async def _adopt(
        self,
        _nursery: trio.Nursery,
        spec: MachinePlace,
        fingerprint: Fingerprint,
        record: MachineRecord,
        *,
        layer: str,
        disk_bytes: int,
        stands_still: bool,
        limit_s: float,
    ) -> Machine | None:
        qemu = self.qemus[record.process.uuid]
        if qemu.dead.is_set():
            return None
        assert record.nonce == qemu.nonce
        machine = self._machine(qemu, spec, fingerprint, layer, disk_bytes)
        try:
            if stands_still:
                await machine.qmp.execute("stop")
                machine.held = Standstill(alone=True)
            else:
                await machine.qmp.execute("cont")
                await machine.client.release()
            await settle_layer(machine)
        except BaseException:
            lives.check()
            qemu.owner = None
            raise
        return machine


class Process:
    """What `QemuProcess` is to its owner."""

    def __init__(self, qemu: Qemu) -> None:
        self._qemu = qemu
        self.pid = qemu.pid
        self.identity = ProcessIdentity(qemu.pid, 0, qemu.uuid)
        self.exit_status = 0

    @property
    def has_ended(self) -> bool:
        return self._qemu.dead.is_set()

    async def wait_exit(self) -> None:
        await self._qemu.dead.wait()

    def kill(self) -> None:
        lives.check()
        if not self._qemu.hangs:
            self._qemu.dead.set()

    async def end(self, grace_s: float = 0.0) -> bool:
        with trio.CancelScope(shield=True):
            if grace_s:
                with trio.move_on_after(grace_s):
                    await self._qemu.dead.wait()
            await trio.lowlevel.checkpoint()
            self.kill()
        return self.has_ended

    def release(self) -> None:
        pass


class Qmp:
    """The QMP commands that checkpoints and standstills use."""

    def __init__(self, world: World, qemu: Qemu) -> None:
        self._world = world
        self._qemu = qemu
        self._mute = False
        self.shutdown = None

    async def wait_ended(self) -> None:
        await self._qemu.dead.wait()

    async def execute(
        self, command: str, arguments: dict[str, Any] | None = None, *, limit_s: float = 10.0
    ) -> dict[str, Any]:
        return await self.finish(await self.begin(command, arguments), limit_s=limit_s)

    async def begin(self, command: str, arguments: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        await trio.lowlevel.checkpoint()
        lives.check()
        return command, arguments or {}

    async def finish(self, pending: tuple[str, dict[str, Any]], *, limit_s: float = 10.0) -> dict[str, Any]:
        """Have QEMU do it, which it does whether or not somebody still waits."""
        command, arguments = pending
        try:
            await self._world.step(self._qemu)
        except trio.Cancelled:
            self._qemu.qmp.tell(lambda: self._do(command, arguments))
            raise
        limit_s = self._world.patience_s(min(limit_s, MUTE_LOOK_S) if self._mute and limit_s < math.inf else limit_s)
        try:
            answer = await self._qemu.qmp.ask(lambda: self._do(command, arguments), self._qemu.dead, limit_s)
            self._mute = False
            return answer
        except Silent:
            self._mute |= limit_s >= LONG_S
            raise MachineFailed(f"QEMU did not answer {command!r} within {limit_s:.0f} s.") from None

    @lives.as_nobody
    def _do(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        qemu = self._qemu
        if qemu.dead.is_set():
            raise MachineFailed("QEMU closed its QMP connection.")
        match command:
            case "stop" | "cont":
                qemu.running = command == "cont"
            case "xen-save-devices-state":
                target = Path(arguments["filename"])
                if not target.parent.is_dir():
                    raise QmpError(f"QEMU could not open {target}.")
                target.write_text("devices")
            case "blockdev-snapshot-sync":
                self._switch(Path(arguments["snapshot-file"]))
            case "block-stream":
                self._merge(Path(arguments["base"]))
            case "query-block-jobs":
                return {"return": []}
            case "query-status":
                return {"running": qemu.running}
            case "query-block":
                return {"return": [{"device": "root", "inserted": {"file": str(qemu.disk)}}]}
            case _:
                raise AssertionError(command)
        return {}

    def _switch(self, made: Path) -> None:
        """Have the disk go on on a layer over its present one."""
        qemu = self._qemu
        if not made.exists():
            raise QmpError(f"QEMU could not open {made}.")
        assert qcow2.read_header(made).backing == qemu.disk
        # QEMU flushes what it is done with writing (block/snapshot: `bdrv_flush` of the old node).
        self._world.flushed(qemu.disk)
        qemu.disk = made

    def _merge(self, base: Path) -> None:
        """Have the active layer stand on ``base``, with all that the layers between hold."""
        disk, text = self._qemu.disk, mark_of(self._qemu.disk)
        size = qcow2.read_header(disk).virtual_size_bytes
        disk.unlink()
        qcow2.create_overlay(disk, backing=base, backing_format="qcow2", virtual_size_bytes=size)
        self._qemu.write(DISK, text)

    async def wait_stalled(self) -> bool:
        await self._qemu.dead.wait()
        return False

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        lives.check()
        self._qemu.owner = None


class Guest:
    """The requests to a guest agent that workspaces make."""

    broken = False
    mute_since = None

    def __init__(self, world: World, qemu: Qemu) -> None:
        self._world = world
        self._qemu = qemu

    async def _ask(self, do: Callable[[], T], limit_s: float = REPLY_LIMIT_S) -> T:
        """Have the guest do something, which it does whether or not somebody still waits."""
        try:
            await self._world.step(self._qemu)
        except QmpError as error:
            raise GuestRefused("The guest refused the request.") from error
        limit_s = self._world.patience_s(limit_s)
        try:
            return await self._qemu.guest.ask(lives.as_nobody(do), self._qemu.dead, limit_s)
        except Silent:
            raise GuestBroken(f"The guest did not answer within {limit_s:.0f} s.") from None

    def _alive(self) -> None:
        if self._qemu.dead.is_set():
            raise GuestBroken("The guest's channel ended.")

    def _hold(self, *, held: bool) -> None:
        self._alive()
        self._qemu.held = held

    async def identify(self, identity: Identity) -> IdentityReply:
        def do() -> str:
            self._alive()
            before, self._qemu.nonce = self._qemu.nonce, identity.nonce.hex()
            return before

        before = await self._ask(do)
        network = identity.network
        mac, address = (network.mac, network.address) if network else (None, None)
        return IdentityReply(before, 1, True, 0.0, identity.hostname, mac, address, 0, {}, (), ())

    async def ping(self, limit_s: float = FREEZE_LIMIT_S) -> None:
        await self._ask(self._alive, limit_s)

    async def freeze(self, *, write: bool = False, quiesce: bool = False) -> bool:
        await self._ask(lambda: self._hold(held=True), FREEZE_LIMIT_S)
        return True

    async def sync_disks(self, limit_s: float = SYNC_LIMIT_S) -> None:
        await self._ask(self._sync, limit_s)

    def _sync(self) -> None:
        self._alive()
        self._world.flushed(self._qemu.disk)

    async def grow_root(self, disk_bytes: int) -> int:
        await self._ask(self._alive)
        return disk_bytes

    async def shutdown(self) -> None:
        def do() -> None:
            self._alive()
            self._world.flushed(self._qemu.disk)
            if not self._qemu.hangs:
                self._qemu.dead.set()

        await self._ask(do)

    @property
    def files(self) -> Self:
        return self

    @property
    def jobs(self) -> Self:
        return self

    async def exec(self, _command: CommandSpec) -> ExecResult:
        """Run what every guest has; nothing comes of it."""
        await self._ask(self._alive)
        return cast("ExecResult", SimpleNamespace(job_id="job", exit_code=0))

    async def release(self, _job_id: str = "") -> float:
        """Have the processes run on; of a job, forget it."""
        await self._ask(lambda: self._hold(held=False), FREEZE_LIMIT_S)
        return 0.0

    async def read(self, path: str, offset: int = 0, limit: int | None = None) -> FileContent:
        def do() -> bytes:
            self._check_runs()
            return self._qemu.read(path).encode()

        text = await self._ask(do, math.inf)
        return FileContent(text, len(text), 0)

    async def write(self, path: str, content: bytes, mode: int | None = None, *, max_bytes: int) -> int:
        def do() -> None:
            self._check_runs()
            self._qemu.write(path, content.decode())

        await self._ask(do, math.inf)
        return len(content)

    def _check_runs(self) -> None:
        self._alive()
        assert self._qemu.running
        assert not self._qemu.held

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        lives.check()


class Changed:
    """What `ChangedMemory` is to a checkpoint; the machine has to stand still."""

    def __init__(self, qemu: Qemu, target: int, *, strict: bool) -> None:
        self._qemu = qemu
        self._target = target
        self._strict = strict
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> int:
        assert not self._qemu.running
        assert self._qemu.held or not self._strict
        self._data = f"{self._qemu.memory:{MARK_BYTES}}{self._qemu.nonce}".encode()
        return len(self._data)

    def write(self) -> None:
        os.pwrite(self._target, self._data, 0)


def dies(qemu: Qemu | None) -> None:
    """QEMU is killed."""
    assert qemu is not None
    qemu.dead.set()


def refuses(_qemu: Qemu | None) -> None:
    """QEMU refuses what it is asked."""
    raise QmpError("QEMU refused the command.")
