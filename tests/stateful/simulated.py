"""Simulated machines, under the real actors, records, store, tree, checkpoints and supervisor.

What QEMU and a guest are to the actors is simulated and nothing else: a process that can die and that outlives its
supervisor, QMP's few commands, the guest agent's few requests, memory and a disk with one mark each.  Files are real:
a mark on the disk is appended to the active qcow2 layer and looked for along its chain; the mark of the memory goes
into the checkpoint's RAM image, with the nonce.

At every step of a machine somebody else sweeps the store, so whatever is not held then is lost.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Self, cast

import attrs
import pytest
import trio

from actors.machine import checkpoint as checkpoints
from actors.machine import start
from actors.machine.accelerator.verdict import AcceleratorVerdict
from actors.machine.checkpoint import settle_layer
from actors.machine.guest.client import FREEZE_LIMIT_S, SYNC_LIMIT_S
from actors.machine.guest.identity import Identity, IdentityReply
from actors.machine.machine import Machine
from actors.machine.proof import Persona
from actors.machine.qemu import orphans
from actors.machine.qemu.command_line import MachinePlace, MachineSpec
from actors.machine.qemu.process import QemuProcess
from actors.machine.qemu_build import QemuBuild
from actors.machine.storage import qcow2
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.store import Store
from actors.model.errors import GuestBroken, GuestRefused, MachineFailed, QmpError, RestoreUnproven
from actors.model.guest import CommandSpec, ExecResult, FileContent
from actors.model.info import Evidence
from actors.model.machine import Fingerprint, MachineRecord, ProcessIdentity
from actors.model.names import new_id
from actors.registry import recovery, supervisor, templates
from actors.workspace import adoption, host

MARK_BYTES: Final = 16
BLANK: Final = ""
"""The mark of memory after a boot, and of a disk that nobody wrote to."""
MEMORY: Final = "/dev/shm/mark"
DISK: Final = "/root/mark"
NONCE_BYTES: Final = 16
SILENCE_LOOK_S: Final = 0.01


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
    owned: bool = False
    """Whether a host is connected; there can be one."""
    dead: trio.Event = attrs.field(factory=trio.Event)
    mute: bool = False
    """Whether the guest answers nothing any more."""
    stopped: bool = False
    """Whether the whole process stands still, as by SIGSTOP; what it was told meanwhile it does when it goes on."""
    backlog: list[Callable[[], None]] = attrs.field(factory=list)

    async def silence(self, limit_s: float) -> bool:
        """Let the time pass in which an answer has to come; tell whether it came."""
        with trio.move_on_after(limit_s):
            while (self.mute or self.stopped) and not self.dead.is_set():
                await trio.sleep(SILENCE_LOOK_S)
            return True
        return False

    def go_on(self) -> None:
        """Obey what came while the process stood still."""
        self.stopped = False
        backlog, self.backlog = self.backlog, []
        for obey in backlog:
            # What it is to write to may be gone: it refuses that, and nobody hears it.
            with contextlib.suppress(FileNotFoundError):
                obey()

    def write(self, path: str, text: str) -> None:
        """Write a mark; to the disk only what the active layer then has."""
        if path == MEMORY:
            self.memory = text
        else:
            with self.disk.open("ab") as file:
                file.write(text.encode().ljust(MARK_BYTES))

    def read(self, path: str) -> str:
        return self.memory if path == MEMORY else mark_of(self.disk)


def mark_of(layer: Path) -> str:
    """Return the last mark written to a disk, looked for along its chain."""
    for path in qcow2.backing_chain(layer):
        header = qcow2.read_header(path)
        tables = 3 + -(-(-(-header.virtual_size_bytes // qcow2.BYTES_PER_L1_ENTRY) * 8) // qcow2.CLUSTER)
        with path.open("rb") as file:
            file.seek(tables * qcow2.CLUSTER)
            written = file.read()
        if written:
            return written[-MARK_BYTES:].decode().strip()
    return BLANK


class World:
    """All machines there are, and what befalls the next of their steps."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.qemus: dict[str, Qemu] = {}
        self.store: Store
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
        await self.store.collect()
        if self._misfortune is not None:
            self._steps -= 1
            if self._steps < 0:
                misfortune, self._misfortune = self._misfortune, None
                misfortune(qemu)

    def boot(self, spec: MachineSpec, checkpoint: Checkpoint | None) -> Qemu:
        memory, nonce = BLANK, ""
        if checkpoint is not None:
            found = spec.ram.read_bytes()[: MARK_BYTES + 2 * NONCE_BYTES].decode()
            memory, nonce = found[:MARK_BYTES].strip(), found[MARK_BYTES:]
        qemu = Qemu(spec.uuid, next(self._pids), spec.directory, spec.disk, spec.ram, memory, nonce)
        self.qemus[spec.uuid] = qemu
        return qemu

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

        def adopt_process(identity: ProcessIdentity) -> Process | None:
            qemu = world.qemus.get(identity.uuid)
            return Process(qemu) if qemu and not qemu.dead.is_set() else None

        def find_machines(_state_dir: Path) -> Iterator[tuple[ProcessIdentity, Path]]:
            for qemu in world.alive:
                yield Process(qemu).identity, qemu.directory

        def alive(identity: ProcessIdentity) -> bool:
            qemu = world.qemus.get(identity.uuid)
            return qemu is not None and not qemu.dead.is_set()

        patch.setattr(supervisor, "Store", WatchedStore)
        for module in (orphans, recovery):
            patch.setattr(module, "find_machines", find_machines)
        patch.setattr(adoption, "is_alive", alive)
        patch.setattr(QemuProcess, "adopt", adopt_process)
        patch.setattr(host, "probe_accelerators", probe)
        patch.setattr(host, "probe_qemu", lambda _binary: QemuBuild(Path("qemu"), (7, 2, 0), "7.2.0", "build"))
        patch.setattr(start, "prepare", self._prepare)
        patch.setattr(start, "prove", self._prove)
        patch.setattr(start, "adopt", self._adopt)
        patch.setattr(templates, "REHEARSALS", 1)
        patch.setattr(checkpoints, "ChangedMemory", self._changed)

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
            spec.ram.touch()
        qemu = self.boot(spec, checkpoint)
        try:
            await self.step(qemu)
            if qemu.dead.is_set() or self._next_start_fails or not qemu.disk.exists():
                self._next_start_fails = False
                raise MachineFailed("The machine ended by itself.")
            assert checkpoint is None or (state is not None and state.exists())
        except BaseException:
            qemu.dead.set()
            shutil.rmtree(spec.directory)
            raise
        return self._machine(qemu, spec, fingerprint, layer, disk_bytes)

    async def _prove(
        self, machine: Machine, persona: Persona, checkpoint: Checkpoint | None, *, grows: bool, limit_s: float
    ) -> None:
        qemu = self.qemus[machine.spec.uuid]
        try:
            await self.step(qemu)
            if qemu.dead.is_set():
                raise MachineFailed("The machine ended by itself.")
            if checkpoint is not None and qemu.nonce != checkpoint.nonce:
                raise RestoreUnproven("its memory does not hold the checkpoint's nonce")
        except BaseException:
            await machine.end()
            raise
        machine.nonce = qemu.nonce = secrets.token_hex(NONCE_BYTES)
        machine.evidence = Evidence(new_id(), checkpoint is not None, 1, True, 0.0, persona.hostname)
        machine.epoch = machine.evidence.epoch

    def _machine(
        self, qemu: Qemu, spec: MachinePlace, fingerprint: Fingerprint, layer: str, disk_bytes: int
    ) -> Machine:
        if qemu.owned:
            raise MachineFailed("QEMU serves another host.")
        qemu.owned = True
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
        limit_s: float,
    ) -> Machine | None:
        qemu = self.qemus[record.process.uuid]
        if qemu.dead.is_set():
            return None
        assert record.nonce == qemu.nonce
        machine = self._machine(qemu, spec, fingerprint, layer, disk_bytes)
        try:
            await machine.qmp.execute("cont")
            await machine.client.release()
            await settle_layer(machine)
        except BaseException:
            qemu.owned = False
            raise
        return machine


class Process:
    """What `QemuProcess` is to its owner."""

    def __init__(self, qemu: Qemu) -> None:
        self._qemu = qemu
        self.pid = qemu.pid
        self.identity = ProcessIdentity(qemu.pid, 0, qemu.uuid)
        self.exit_status = 0

    async def wait_exit(self) -> None:
        await self._qemu.dead.wait()

    @property
    def has_ended(self) -> bool:
        return self._qemu.dead.is_set()

    def kill(self) -> None:
        self._qemu.dead.set()

    async def end(self, _grace_s: float = 0.0) -> None:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        self._qemu.dead.set()

    def release(self) -> None:
        pass


async def either(*events: trio.Event) -> None:
    """Wait for the first of some events."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel(reason="one has come")

        for event in events:
            nursery.start_soon(wait, event)


class Qmp:
    """The QMP commands that checkpoints and standstills use."""

    def __init__(self, world: World, qemu: Qemu) -> None:
        self._world = world
        self._qemu = qemu
        self.shutdown = None

    async def wait_ended(self) -> None:
        await self._qemu.dead.wait()

    async def execute(
        self, command: str, arguments: dict[str, Any] | None = None, *, limit_s: float = 10.0
    ) -> dict[str, Any]:
        return await self.finish(await self.begin(command, arguments), limit_s=limit_s)

    async def begin(self, command: str, arguments: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        await trio.lowlevel.checkpoint()
        return command, arguments or {}

    async def finish(self, pending: tuple[str, dict[str, Any]], *, limit_s: float = 10.0) -> dict[str, Any]:
        command, arguments = pending
        qemu = self._qemu
        await self._world.step(qemu)
        answer: list[dict[str, Any]] = []
        answered = trio.Event()

        def obey() -> None:
            answer.append(self._obey(command, arguments))
            answered.set()

        if not qemu.stopped:
            obey()
        else:
            qemu.backlog.append(obey)
            limit_s = limit_s if math.isinf(limit_s) else min(limit_s, self._world.longest_silence_s)
            with trio.move_on_after(limit_s):
                await either(answered, qemu.dead)
        if qemu.dead.is_set():
            raise MachineFailed("QEMU closed its QMP connection.")
        if not answer:
            raise MachineFailed(f"QEMU did not answer {command!r} within {limit_s:.0f} s.")
        return answer[0]

    def _obey(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        qemu = self._qemu
        if qemu.dead.is_set():
            return {}
        match command:
            case "stop" | "cont":
                qemu.running = command == "cont"
            case "query-status":
                return {"running": qemu.running}
            case "xen-save-devices-state":
                Path(arguments["filename"]).write_text("devices")
            case "blockdev-snapshot-sync":
                made = Path(arguments["snapshot-file"])
                assert qcow2.read_header(made).backing == qemu.disk
                qemu.disk = made
            case "block-stream":
                self._merge(Path(arguments["base"]))
            case "query-block-jobs":
                return {"return": []}
            case "query-block":
                return {"return": [{"device": "root", "inserted": {"file": str(qemu.disk)}}]}
            case _:
                raise AssertionError(command)
        return {}

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
        self._qemu.owned = False


class Guest:
    """The requests to a guest agent that workspaces make."""

    broken = False
    mute_since = None

    def __init__(self, world: World, qemu: Qemu) -> None:
        self._world = world
        self._qemu = qemu

    async def _answer(self, limit_s: float = FREEZE_LIMIT_S) -> None:
        try:
            await self._world.step(self._qemu)
        except QmpError as error:
            raise GuestRefused("The guest refused the request.") from error
        qemu = self._qemu
        if qemu.mute or qemu.stopped:
            limit_s = limit_s if math.isinf(limit_s) else min(limit_s, self._world.longest_silence_s)
            if not await qemu.silence(limit_s):
                raise GuestBroken(f"The guest cannot be reached: it did not answer within {limit_s:.0f} s.")
        if self._qemu.dead.is_set():
            raise GuestBroken("The guest's channel ended.")

    async def identify(self, identity: Identity) -> IdentityReply:
        await self._answer()
        before, self._qemu.nonce = self._qemu.nonce, identity.nonce.hex()
        network = identity.network
        mac, address = (network.mac, network.address) if network else (None, None)
        return IdentityReply(before, 1, True, 0.0, identity.hostname, mac, address, 0, {}, (), ())

    async def ping(self, limit_s: float = FREEZE_LIMIT_S) -> None:
        await self._answer(limit_s)

    async def freeze(self, *, write: bool = False, quiesce: bool = False) -> bool:
        await self._answer()
        self._qemu.held = True
        return True

    async def sync_disks(self, limit_s: float = SYNC_LIMIT_S) -> None:
        await self._answer(limit_s)

    async def grow_root(self, disk_bytes: int) -> int:
        await self._answer()
        return disk_bytes

    async def shutdown(self) -> None:
        await self._answer()
        self._qemu.dead.set()

    @property
    def files(self) -> Self:
        return self

    @property
    def jobs(self) -> Self:
        return self

    async def exec(self, _command: CommandSpec) -> ExecResult:
        """Run what every guest has; nothing comes of it."""
        await self._answer()
        return cast("ExecResult", SimpleNamespace(job_id="job", exit_code=0))

    async def release(self, _job_id: str = "") -> float:
        """Have the processes run on; of a job, forget it."""
        await self._answer()
        self._qemu.held = False
        return 0.0

    async def read(self, path: str, offset: int = 0, limit: int | None = None) -> FileContent:
        await self._answer()
        self._check_runs()
        text = self._qemu.read(path).encode()
        return FileContent(text, len(text), 0)

    async def write(self, path: str, content: bytes, mode: int | None = None, *, max_bytes: int) -> int:
        await self._answer()
        self._check_runs()
        self._qemu.write(path, content.decode())
        return len(content)

    def _check_runs(self) -> None:
        assert self._qemu.running
        assert not self._qemu.held

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


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
