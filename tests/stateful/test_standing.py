"""Over simulated machines: ways back need no answer of the guest, and state and virtual CPUs agree whatever fails.

The actors, the registry, the records, the store and the checkpoints are the real ones (see `simulated`).  The memory of
a machine that runs cannot be read there: it fails the test.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from actors.model.errors import AgentisoError, GuestBroken, MachineFailed
from actors.model.image import BootImage
from actors.model.info import Shape, WorkspaceInfo
from actors.model.settings import Limits, Settings
from actors.registry import messages as r
from actors.registry.supervisor import open_supervisor
from actors.workspace import file_messages
from actors.workspace import messages as w
from tests.stateful.simulated import MEMORY, Qemu, World, refuses

LIMIT_S: Final = 30.0
STEPS: Final = 40
"""More than any operation here has."""


@attrs.define
class Bench:
    """A registry over a world of simulated machines."""

    world: World
    registry: r.RegistryRef

    async def create(self, name: str) -> Subject:
        found = (await self.registry.ask(r.CreateWorkspace(name))).found
        return Subject(self, found.workspace_id, found.ref)

    async def names(self) -> set[str]:
        return {info.name for info in await self.registry.ask(r.ListWorkspaces())}


@attrs.define
class Subject:
    """A workspace on the bench."""

    bench: Bench
    workspace_id: str
    ref: w.WorkspaceRef

    @property
    def qemu(self) -> Qemu:
        (found,) = [q for q in self.bench.world.alive if q.directory.parent.parent.name == self.workspace_id[:8]]
        return found

    async def ask(self, message: Any) -> Any:
        return await self.ref.ask(message)

    async def info(self) -> WorkspaceInfo:
        info: WorkspaceInfo = await self.ask(w.Describe())
        return info

    async def write(self, text: str) -> None:
        await self.ask(file_messages.WriteFile(MEMORY, text.encode()))

    async def read(self) -> str:
        return str((await self.ask(file_messages.ReadFile(MEMORY))).content.decode())

    async def agrees(self) -> str:
        """Wait until the virtual CPUs do what the state says, and return that."""
        with trio.fail_after(LIMIT_S):
            while True:
                state = (await self.info()).state
                alive = [q for q in self.bench.world.alive if q.directory.parent.parent.name == self.workspace_id[:8]]
                if [q.running for q in alive] == {"running": [True], "paused": [False]}.get(state, []):
                    return state
                await trio.sleep(0.01)


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    world = World(monkeypatch)
    world.holds_processes = False
    files = tmp_path / "image"
    files.mkdir()
    for name in ("kernel", "initrd", "layer", "root.raw"):
        (files / name).touch()
    image = BootImage("base", "0" * 64, files / "kernel", files / "initrd", files / "layer", files / "root.raw")
    settings = Settings(
        state_dir=tmp_path / "state", shape=Shape(1, 128, 1), network="none", limits=Limits(memory_reserve_mb=0)
    )

    async def load(_name: str) -> BootImage:
        await trio.lowlevel.checkpoint()
        return image

    with trio.fail_after(LIMIT_S * 100):
        async with open_supervisor(settings, load, keep=False) as registry:
            yield Bench(world, registry)


def mute(qemu: Qemu) -> None:
    qemu.mute = True


def stopped(qemu: Qemu) -> None:
    qemu.stop()


SILENCES: Final = pytest.mark.parametrize("silence", [mute, stopped])


@asynccontextmanager
async def soon(seconds: float = 15.0) -> AsyncIterator[None]:
    """Have the block end within what a person waits."""
    with trio.fail_after(seconds):
        yield


@SILENCES
async def test_ways_back_work_at_once_whatever_the_present_machine_does(
    virtual_time: object, bench: Bench, silence: Callable[[Qemu], None]
) -> None:
    subject = await bench.create("subject")
    await subject.write("before")
    await subject.ask(w.CreateSnapshot("point"))
    await subject.write("after")
    silence(subject.qemu)
    async with soon():
        report = (await bench.registry.ask(r.ForkWorkspace("subject", 1, snapshot="point"))).report
        assert report.children[0].error is None
    async with soon():
        back: WorkspaceInfo = await subject.ask(w.RestoreSnapshot("point"))
    assert back.state == "running"
    assert await subject.read() == "before"
    if silence is stopped:
        assert "cannot be undone" in back.note
        assert back.undo == ()
    else:
        assert "did not answer" in back.note
        silence(subject.qemu)
        async with soon():
            undone = await subject.ask(w.Undo())
        assert "was undone" in undone.note
        assert await subject.read() == "after"
    silence(subject.qemu)
    async with soon():
        ended = await subject.ask(w.Stop())
    assert ended.state == "stopped"
    assert "power cut" in ended.note
    assert await subject.agrees() == "stopped"


@SILENCES
async def test_a_silent_workspace_is_destroyed(
    virtual_time: object, bench: Bench, silence: Callable[[Qemu], None]
) -> None:
    subject = await bench.create("subject")
    silence(subject.qemu)
    async with soon():
        await bench.registry.ask(r.DestroyWorkspace("subject"))
    assert await bench.names() == set()


async def test_an_undo_to_a_guest_that_never_answers_boots_its_disk_and_says_so(
    virtual_time: object, bench: Bench
) -> None:
    subject = await bench.create("subject")
    await subject.ask(w.CreateSnapshot("point"))
    await subject.write("in memory")
    subject.qemu.mute = True
    await subject.ask(w.RestoreSnapshot("point"))
    bench.world.plan_start_failure()
    undone = await subject.ask(w.Undo())
    assert "booted from its disk" in undone.note
    assert undone.state == "running"
    assert undone.undo == ()


async def test_an_undo_to_a_guest_that_answered_is_kept_if_it_fails(virtual_time: object, bench: Bench) -> None:
    subject = await bench.create("subject")
    await subject.ask(w.CreateSnapshot("point"))
    await subject.ask(w.RestoreSnapshot("point"))
    bench.world.plan_start_failure()
    with pytest.raises(AgentisoError):
        await subject.ask(w.Undo())
    assert len((await subject.info()).undo) == 1


@SILENCES
@pytest.mark.parametrize(
    "message",
    [w.Suspend(), w.CreateSnapshot("point", with_memory=False), w.TakeCheckpoint("owner"), r.ForkWorkspace("subject")],
    ids=lambda message: type(message).__name__,
)
async def test_what_needs_the_guest_says_so_soon_and_changes_nothing(
    virtual_time: object, bench: Bench, silence: Callable[[Qemu], None], message: Any
) -> None:
    subject = await bench.create("subject")
    await subject.write("kept")
    before, layers = subject.qemu.disk, set((bench.world.store.layer("x")).parent.iterdir())
    silence(subject.qemu)
    asked = bench.registry if isinstance(message, r.ForkWorkspace) else subject.ref
    expected = GuestBroken if silence is mute else MachineFailed
    async with soon():
        with pytest.raises(expected, match="did not answer") as caught:
            await asked.ask(message)
    if silence is mute:
        assert "nothing was changed" in caught.value.message
        assert "snapshot_restore" in caught.value.remedy
    assert await bench.names() == {"subject"}
    subject.qemu.mute = False
    subject.qemu.go_on()
    assert await subject.agrees() == "running"
    assert await subject.read() == "kept"
    assert subject.qemu.disk == before
    await bench.world.store.collect()
    assert set(before.parent.iterdir()) == layers


async def test_a_mute_guest_is_paused_resumed_and_kept_as_a_snapshot_by_qemu_alone(
    virtual_time: object, bench: Bench
) -> None:
    subject = await bench.create("subject")
    await subject.write("kept")
    subject.qemu.mute = True
    async with soon():
        made = await subject.ask(w.CreateSnapshot("point"))
    assert "disk_only" in made.note
    assert await subject.agrees() == "running"
    async with soon():
        paused = await subject.ask(w.Pause())
    assert "did not answer" in paused.note
    assert await subject.agrees() == "paused"
    for refused in (w.CreateSnapshot("disk", with_memory=False), w.Suspend()):
        with pytest.raises(AgentisoError, match="without its guest"):
            await subject.ask(refused)
        assert await subject.agrees() == "paused"
    async with soon():
        await subject.ask(w.CreateSnapshot("paused"))
        await subject.ask(w.Resume())
    assert await subject.agrees() == "running"
    subject.qemu.mute = False
    assert await subject.read() == "kept"
    await subject.write("changed")
    await subject.ask(w.RestoreSnapshot("point"))
    assert await subject.read() == "kept"


async def test_a_paused_workspace_is_stopped_without_asking_its_guest(virtual_time: object, bench: Bench) -> None:
    subject = await bench.create("subject")
    await subject.ask(w.Pause())
    subject.qemu.mute = True
    async with soon(1.0):
        ended = await subject.ask(w.Stop())
    # All of it was written when it was paused.
    assert (ended.state, ended.note) == ("stopped", "")


OPERATIONS: Final[dict[str, tuple[bool, Any]]] = {
    "snapshot of a running one": (False, w.CreateSnapshot("made")),
    "snapshot of a paused one": (True, w.CreateSnapshot("made")),
    "disk of a paused one": (True, w.CreateSnapshot("made", with_memory=False)),
    "checkpoint of a paused one": (True, w.TakeCheckpoint("owner")),
    "pause": (False, w.Pause()),
    "resume": (True, w.Resume()),
    "suspend": (False, w.Suspend()),
    "suspend of a paused one": (True, w.Suspend()),
    "stop": (False, w.Stop()),
    "stop of a paused one": (True, w.Stop()),
    "restore over a running one": (False, w.RestoreSnapshot("point")),
    "restore over a paused one": (True, w.RestoreSnapshot("point")),
}
"""Whether the workspace is paused before, and what is asked then."""


def is_full(_qemu: Qemu | None) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("misfortune", ["refused", "disk full", "cancelled", "QEMU mute for a while", "guest mute"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_state_and_virtual_cpus_agree_wherever_an_operation_is_broken_off(
    virtual_time: object, bench: Bench, operation: str, misfortune: str
) -> None:
    paused, message = OPERATIONS[operation]
    subject = await bench.create("subject")
    await subject.write("marked")
    await subject.ask(w.CreateSnapshot("point"))
    for step in range(STEPS):
        if paused:
            await subject.ask(w.Pause())
        with trio.CancelScope() as scope:

            def silent(qemu: Qemu | None) -> None:
                assert qemu is not None
                qemu.mute = True
                if misfortune != "guest mute":
                    qemu.stop()

            befalls: dict[str, Callable[[Qemu | None], None]] = {
                "refused": refuses,
                "disk full": is_full,
                "cancelled": lambda _qemu: scope.cancel(reason="the asker has had enough"),
            }
            bench.world.plan(step, befalls.get(misfortune, silent))
            with suppress(AgentisoError):
                await subject.ask(message)
        over = bench.world.forget_plans()
        for qemu in bench.world.alive:
            qemu.mute = False
            qemu.go_on()
        state = await subject.agrees()
        # What is read now is read from a machine that stands still, or the test fails.
        taken = await subject.ask(w.TakeCheckpoint("looking"))
        assert state != "paused" or subject.qemu.held or not taken.checkpoint.processes_held
        bench.world.store.release("looking")
        assert await subject.agrees() == state
        # And it can go on.
        await subject.ask(w.RestoreSnapshot("point"))
        assert await subject.read() == "marked"
        for snapshot in (await subject.info()).snapshots:
            if snapshot.name != "point":
                await subject.ask(w.DeleteSnapshot(snapshot.name))
        if over:
            break
    else:
        raise AssertionError(f"{operation} has more than {STEPS} steps")
