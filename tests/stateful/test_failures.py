"""What fails in an ordinary way, in the background or in a nursery, harms nobody but who asked for it.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors.machine import start as starting
from actors.machine.machine import Machine
from actors.machine.storage import integrity
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import ActorGone, GuestRefused, NoCapacity
from actors.model.image import BootImage
from actors.model.info import Lifetime, Shape, WorkspaceInfo
from actors.model.settings import Limits, Settings
from actors.model.settings import Pool as PoolSettings
from actors.registry import messages as r
from actors.registry.pool import Pool
from actors.registry.supervisor import open_supervisor
from actors.registry.workspaces import Workspaces
from actors.runtime import Supervisor, background
from actors.workspace import compare as looking
from actors.workspace import lifecycle as running
from actors.workspace import lifetime
from actors.workspace import messages as w
from actors.workspace.actor import WorkspaceActor
from tests.stateful.simulated import World

LIMIT_S = 60
SOON_S = 0.01


@attrs.frozen
class Running:
    """A supervisor over simulated machines."""

    world: World
    registry: r.RegistryRef
    lives: list[str] = attrs.field(factory=list)
    """Of workspace actors; one that crashed has several."""

    async def create(self, name: str, **options: Any) -> WorkspaceInfo:
        return (await self.registry.ask(r.CreateWorkspace(name, **options))).info

    async def tell(self, name: str, message: Any) -> Any:
        return await (await self.registry.ask(r.FindWorkspace(name))).ref.ask(message)

    async def wait_until(self, holds: Callable[[dict[str, WorkspaceInfo]], bool]) -> None:
        """Wait for changes until something holds of all workspaces, by name."""
        since = await self.registry.ask(r.AwaitChange(None, None))
        while not holds({info.name: info for info in await self.registry.ask(r.ListWorkspaces())}):
            since = await self.registry.ask(r.AwaitChange(since, None))


@pytest.fixture
def pool() -> PoolSettings:
    return PoolSettings()


@pytest.fixture
async def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: PoolSettings) -> AsyncIterator[Running]:
    files = tmp_path / "image"
    files.mkdir()
    for name in ("kernel", "initrd", "layer", "root.raw"):
        (files / name).touch()
    image = BootImage("base", "0" * 64, files / "kernel", files / "initrd", files / "layer", files / "root.raw")

    async def load(_name: str) -> BootImage:
        await trio.lowlevel.checkpoint()
        return image

    settings = Settings(
        state_dir=tmp_path / "state",
        shape=Shape(vcpus=1, memory_mb=128, disk_gb=1),
        network="none",
        limits=Limits(memory_reserve_mb=0),
        pool=pool,
    )
    monkeypatch.setattr(background, "RETRY_S", SOON_S)
    monkeypatch.setattr(lifetime, "CLOCK_LOOK_S", SOON_S)
    world = World(monkeypatch)
    lives, setup = list[str](), WorkspaceActor.setup

    async def setup_counted(actor: WorkspaceActor) -> None:
        lives.append(actor.name)
        await setup(actor)

    monkeypatch.setattr(WorkspaceActor, "setup", setup_counted)
    with trio.fail_after(LIMIT_S):
        async with open_supervisor(settings, load, keep=False) as registry:
            yield Running(world, registry, lives)


def failing(times: int, error: BaseException, function: Callable[..., Any]) -> tuple[Callable[..., Any], list[object]]:
    """Return what raises an error so many times before it does what a function does, and what it was called with."""
    calls: list[object] = []

    async def call(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        await trio.lowlevel.checkpoint()
        if len(calls) <= times:
            raise error
        return await function(*arguments, **options)

    return call, calls


async def test_a_fork_that_is_cancelled_leaves_no_child(system: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = await system.create("parent")
    first, prove = trio.Event(), starting.prove

    async def prove_one(machine: Machine, *arguments: Any, **options: Any) -> None:
        if not first.is_set():
            first.set()
            await prove(machine, *arguments, **options)
            return
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await machine.end()

    monkeypatch.setattr(starting, "prove", prove_one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(system.registry.ask, r.ForkWorkspace("parent", 2))
        await system.wait_until(lambda infos: [info.state for info in infos.values()].count("running") == 2)
        nursery.cancel_scope.cancel()
    assert [info.workspace_id for info in await _all(system)] == [parent.workspace_id]
    assert len(system.world.alive) == 1


async def _all(system: Running) -> tuple[WorkspaceInfo, ...]:
    return await system.registry.ask(r.ListWorkspaces())


@pytest.mark.parametrize("error", [NoCapacity("The disk is full."), OSError(errno.EIO, "an error of the disk")])
async def test_an_expired_workspace_that_cannot_be_destroyed_is_tried_again_and_harms_nobody(
    system: Running, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    forget, calls = failing(2, error, Workspaces.destroy)
    monkeypatch.setattr(Workspaces, "destroy", forget)
    await system.create("kept")
    await system.create("brief", lifetime=Lifetime(ttl_s=SOON_S))
    # A registry that crashed would answer with `ActorGone`.
    await system.wait_until(lambda infos: infos.keys() == {"kept"})
    assert len(calls) == 3


async def test_an_expiry_is_told_to_the_registry_that_follows_one_that_crashed(
    system: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget, _ = failing(1, ZeroDivisionError(), Workspaces.destroy)
    monkeypatch.setattr(Workspaces, "destroy", forget)
    await system.create("brief")
    await system.tell("brief", w.SetLifetime(Lifetime(ttl_s=SOON_S)))
    found = {"brief"}
    while found:
        try:
            found = {info.name for info in await _all(system)}
        except ActorGone:
            continue


async def test_a_machines_end_that_cannot_be_written_down_is_noticed_all_the_same(
    system: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        await system.create(name)
    save, broken = records.save, [True]

    def fail(*arguments: Any, **options: Any) -> Path:
        if broken.pop():
            broken.append(False)
            raise OSError(errno.EIO, "an error of the disk")
        broken.append(False)
        return save(*arguments, **options)

    monkeypatch.setattr(records, "save", fail)
    (qemu,) = [qemu for qemu in system.world.alive if qemu.memory == "" and qemu.uuid == await _uuid(system, "one")]
    qemu.dead.set()
    await system.wait_until(lambda infos: infos["one"].state == "failed")
    await system.tell("one", w.Start(None))
    assert system.lives == ["workspace one", "workspace other"]


async def _uuid(system: Running, name: str) -> str:
    info: WorkspaceInfo = await system.tell(name, w.Describe())
    directory = records.directory_of(system.world.store.checkpoint("x").parent.parent, info.workspace_id)
    machine = records.load(directory).machine
    assert machine is not None
    return machine.process.uuid


@pytest.mark.parametrize(
    ("where", "name", "message"),
    [
        (running, "suspend", w.SetLifetime(Lifetime(idle_suspend_s=SOON_S))),
        (integrity, "add_digest_later", w.CreateSnapshot("point")),
        (Store, "flush_soon", w.TakeCheckpoint("somebody")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_a_workspace_does_by_itself_is_tried_again_when_it_fails(
    system: Running,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    message: Any,
) -> None:
    done = trio.Event()
    original = getattr(where, name)

    async def finish(*arguments: Any, **options: Any) -> None:
        await original(*arguments, **options)
        done.set()

    call, _ = failing(2, OSError(errno.EIO, "an error of the disk"), finish)
    await system.create("one")
    monkeypatch.setattr(lifetime if where is running else where, name, call)
    monkeypatch.setattr(integrity, "DIGEST_DELAY_S", SOON_S)
    await system.tell("one", message)
    await done.wait()
    await system.tell("one", w.Describe())
    assert system.lives == ["workspace one"]


async def test_a_comparison_that_fails_on_both_sides_is_refused_and_the_workspace_goes_on(
    system: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_arguments: object) -> None:
        await trio.lowlevel.checkpoint()
        raise GuestRefused("What the guest tells of its files exceeds 64 MiB.")

    async def both(*_arguments: object) -> None:
        await refuse()

    await system.create("one")
    await system.tell("one", w.CreateSnapshot("point"))
    monkeypatch.setattr(looking, "_walk", both)
    with pytest.raises(GuestRefused, match="exceeds 64 MiB"):
        await system.tell("one", w.CompareNodes("point"))
    assert (await system.tell("one", w.Describe())).state == "running"
    assert system.lives == ["workspace one"]


async def test_a_full_disk_met_within_a_nursery_is_a_refusal(system: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fill(*_arguments: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.ENOSPC, "No space left on device")

    await system.create("one")
    await system.tell("one", w.CreateSnapshot("point"))
    monkeypatch.setattr(looking, "_walk", fill)
    with pytest.raises(NoCapacity, match="disk is full"):
        await system.tell("one", w.CompareNodes("point"))
    assert (await system.tell("one", w.Describe())).state == "running"


@pytest.mark.parametrize("pool", [PoolSettings(size=1)])
async def test_a_pool_that_cannot_live_is_given_up_and_the_rest_goes_on(
    system: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = trio.Event()

    async def crash(_pool: Pool) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    monkeypatch.setattr(Pool, "_drop_unusable", crash)
    give_up = Supervisor._give_up
    monkeypatch.setattr(Supervisor, "_give_up", lambda *given: (give_up(*given), given_up.set()))
    await system.create("one")
    await given_up.wait()
    assert await system.create("two")


@pytest.mark.parametrize("pool", [PoolSettings(size=1)])
async def test_a_registry_that_crashed_leaves_no_second_keeper_of_the_pool(
    system: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    keepers: list[Pool] = []
    keep = Pool.keep

    async def keep_counted(pool: Pool) -> None:
        keepers.append(pool)
        try:
            await keep(pool)
        finally:
            keepers.remove(pool)

    async def crash(_workspaces: Workspaces) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Pool, "keep", keep_counted)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Workspaces, "list", crash)
            with pytest.raises(ActorGone):
                await _all(system)
        await _all(system)
        await system.create(f"made-{len(keepers)}")
        await system.registry.ask(r.DestroyWorkspace("made-1"))
    assert len(keepers) == 1
