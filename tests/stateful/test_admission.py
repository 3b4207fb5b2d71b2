"""Many ask at once: what is let in fits the limits together, and what does not come to be has taken nothing.

The actors are the real ones, over simulated machines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors.machine.limits.memory import MemoryLedger
from actors.model.errors import AgentisoError, InvalidArgument
from actors.model.image import BootImage
from actors.model.info import Shape
from actors.model.settings import Limits, Quotas, Settings
from actors.registry import messages as r
from actors.registry.supervisor import open_supervisor
from actors.workspace import host
from actors.workspace import messages as w
from tests.stateful.simulated import World

CALLERS = 8
ALLOWED = 2
MEMORY_MB = 128
LIMIT_S = 60
AGENT = "agent"


@attrs.define
class House:
    """A supervisor whose images take as long to load as a test wants, on a host with as much memory."""

    world: World
    registry: r.RegistryRef
    ledgers: list[MemoryLedger]
    available_mb: int = 100_000
    asked: trio.Event = attrs.field(factory=trio.Event)
    """Set once an image was asked for."""
    loads: trio.Event = attrs.field(factory=trio.Event)
    """Images are loaded once this is set."""

    @property
    def reserved_mb(self) -> int:
        (ledger,) = self.ledgers
        return ledger.reserved_mb

    async def names(self) -> list[str]:
        return sorted(info.name for info in await self.registry.ask(r.ListWorkspaces()))

    async def create(self, name: str, **options: Any) -> None:
        await self.registry.ask(r.CreateWorkspace(name, **options))

    async def export(self, name: str, bundle: Path) -> Path:
        """Write a workspace's disk to a file."""
        found = await self.registry.ask(r.FindWorkspace(name))
        await found.ref.ask(w.CreateSnapshot("disk", with_memory=False))
        await self.registry.ask(r.ExportWorkspace(name, bundle, snapshot="disk"))
        return bundle


async def refusals(ask: Callable[[int], Awaitable[object]], count: int = CALLERS) -> list[str]:
    """Ask so often at once, and return the codes of what was refused."""
    codes: list[str] = []

    async def one(number: int) -> None:
        try:
            await ask(number)
        except AgentisoError as error:
            codes.append(error.code)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
    return codes


Open = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return what opens a house with some limits and quotas."""
    files = tmp_path / "image"
    files.mkdir()
    for name in ("kernel", "initrd", "layer", "root.raw"):
        (files / name).touch()
    image = BootImage("base", "0" * 64, files / "kernel", files / "initrd", files / "layer", files / "root.raw")

    @asynccontextmanager
    async def opening(max_workspaces: int = 100, **quotas: int) -> AsyncIterator[House]:
        async def load(_name: str) -> BootImage:
            house.asked.set()
            await house.loads.wait()
            return image

        class Watched(MemoryLedger):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                house.ledgers.append(self)

        settings = Settings(
            state_dir=tmp_path / "state",
            shape=Shape(vcpus=1, memory_mb=MEMORY_MB, disk_gb=1),
            network="none",
            limits=Limits(memory_reserve_mb=0, max_workspaces=max_workspaces),
            quotas=Quotas(**quotas),
        )
        house = House(World(monkeypatch), None, [])  # type: ignore[arg-type]
        house.loads.set()
        monkeypatch.setattr(host, "available_memory_mb", lambda: house.available_mb)
        monkeypatch.setattr(host, "MemoryLedger", Watched)
        with trio.fail_after(LIMIT_S):
            async with open_supervisor(settings, load, keep=False) as house.registry:
                yield house
                assert house.reserved_mb == 0

    return opening


# -- as many as are allowed


async def test_of_eight_creates_at_once_as_many_succeed_as_there_is_room_for(opened: Open) -> None:
    async with opened(max_workspaces=ALLOWED) as house:
        codes = await refusals(lambda number: house.create(f"ws-{number}"))
        assert codes == ["no_capacity"] * (CALLERS - ALLOWED)
        assert len(await house.names()) == ALLOWED
        for name in await house.names():
            await house.registry.ask(r.DestroyWorkspace(name))
        assert len(await refusals(lambda number: house.create(f"again-{number}"))) == CALLERS - ALLOWED


@pytest.mark.parametrize("quota", [{"workspaces": ALLOWED}, {"memory_mb": ALLOWED * MEMORY_MB}, {"disk_gb": ALLOWED}])
async def test_of_eight_creates_at_once_as_many_succeed_as_the_session_may_have(
    opened: Open, quota: dict[str, int]
) -> None:
    async with opened(**quota) as house:
        codes = await refusals(lambda number: house.create(f"ws-{number}", owner=AGENT))
        assert codes == ["quota_exceeded"] * (CALLERS - ALLOWED)
        assert len(await house.names()) == ALLOWED


async def test_of_eight_creates_at_once_as_many_succeed_as_the_host_has_memory_for(opened: Open) -> None:
    async with opened() as house:
        house.available_mb = ALLOWED * MEMORY_MB + 1
        codes = await refusals(lambda number: house.create(f"ws-{number}"))
        assert codes == ["no_capacity"] * (CALLERS - ALLOWED)
        assert len(await house.names()) == ALLOWED
        # What those have taken is missing from what is available by now.
        await house.create("later")


async def test_of_eight_creates_of_one_name_at_once_one_succeeds(opened: Open) -> None:
    async with opened() as house:
        codes = await refusals(lambda _number: house.create("same"))
        assert codes == ["name_taken"] * (CALLERS - 1)


async def test_of_eight_forks_at_once_as_many_succeed_as_there_is_room_for(opened: Open) -> None:
    async with opened(max_workspaces=1 + ALLOWED) as house:
        await house.create("parent")
        codes = await refusals(lambda _number: house.registry.ask(r.ForkWorkspace("parent")))
        assert codes == ["no_capacity"] * (CALLERS - ALLOWED)
        assert await house.names() == ["parent", "parent-fork-1", "parent-fork-2"]


async def test_of_eight_forks_at_once_as_many_succeed_as_the_host_has_memory_for(opened: Open) -> None:
    async with opened() as house:
        await house.create("parent")
        house.available_mb = ALLOWED * 64 + 1
        codes = await refusals(lambda _number: house.registry.ask(r.ForkWorkspace("parent")))
        assert codes == ["no_capacity"] * (CALLERS - ALLOWED)


async def test_a_fork_of_more_children_than_there_is_room_for_makes_none(opened: Open) -> None:
    async with opened(max_workspaces=1 + ALLOWED) as house:
        await house.create("parent")
        assert await refusals(lambda _number: house.registry.ask(r.ForkWorkspace("parent", ALLOWED + 1)), 1)
        assert await house.names() == ["parent"]


async def test_creates_and_forks_at_once_share_one_limit(opened: Open) -> None:
    async with opened(max_workspaces=1 + ALLOWED) as house:
        await house.create("parent")

        async def ask(number: int) -> None:
            if number % 2:
                await house.create(f"ws-{number}")
            else:
                await house.registry.ask(r.ForkWorkspace("parent"))

        assert len(await refusals(ask)) == CALLERS - ALLOWED
        assert len(await house.names()) == 1 + ALLOWED


async def test_of_eight_imports_at_once_as_many_succeed_as_there_is_room_for(opened: Open, tmp_path: Path) -> None:
    async with opened(max_workspaces=ALLOWED) as house:
        await house.create("one")
        bundle = await house.export("one", tmp_path / "one.agentiso")
        codes = await refusals(lambda number: house.registry.ask(r.ImportWorkspace(bundle, f"copy-{number}")))
        assert codes == ["no_capacity"] * (CALLERS - 1)
        assert len(await house.names()) == ALLOWED


async def test_a_template_that_is_booted_ahead_keeps_its_memory_from_others(opened: Open) -> None:
    async with opened() as house, trio.open_nursery() as nursery:
        house.available_mb, house.loads = MEMORY_MB, trio.Event()
        nursery.start_soon(house.registry.ask, r.WarmTemplate())
        await house.asked.wait()
        assert await refusals(lambda _number: house.create("none"), 1) == ["no_capacity"]
        house.loads.set()


async def test_a_comparison_is_refused_where_the_host_has_no_memory_for_its_helpers(opened: Open) -> None:
    async with opened() as house:
        await house.create("one")
        found = await house.registry.ask(r.FindWorkspace("one"))
        await found.ref.ask(w.CreateSnapshot("before"))
        house.available_mb = 0
        codes = await refusals(lambda _number: found.ref.ask(w.CompareNodes("before", "before", "/", texts=False)), 1)
        assert codes == ["no_capacity"]


# -- what does not come to be


async def test_a_create_that_is_given_up_gives_back_all_that_it_took(opened: Open) -> None:
    async with opened(max_workspaces=1, workspaces=1) as house:
        house.available_mb, house.loads = MEMORY_MB, trio.Event()
        for _ in range(3):
            house.asked = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: house.create("one", owner=AGENT))
                await house.asked.wait()
                assert house.reserved_mb == MEMORY_MB
                assert await refusals(lambda number: house.create(f"ws-{number}", owner=AGENT), 2)
                nursery.cancel_scope.cancel()
            assert house.reserved_mb == 0
            assert await house.names() == []
        house.loads.set()
        await house.create("one", owner=AGENT)


async def test_a_create_whose_machine_does_not_come_up_gives_back_all_that_it_took(opened: Open) -> None:
    async with opened(max_workspaces=1, workspaces=1) as house:
        house.available_mb = MEMORY_MB
        for _ in range(3):
            house.world.plan_start_failure()
            assert await refusals(lambda _number: house.create("one", owner=AGENT), 1) == ["machine_failed"]
        await house.create("one", owner=AGENT)


async def test_a_fork_whose_children_do_not_come_up_gives_back_all_that_it_took(opened: Open) -> None:
    async with opened(max_workspaces=2, workspaces=2, concurrent_forks=1) as house:
        await house.create("parent", owner=AGENT)
        house.available_mb = 64
        fork = r.ForkWorkspace("parent", names=("child",), owner=AGENT)
        for _ in range(3):
            house.world.plan_start_failure()
            (child,) = (await house.registry.ask(fork)).report.children
            assert child.error
        (child,) = (await house.registry.ask(fork)).report.children
        assert child.error is None
        assert await house.names() == ["child", "parent"]


async def test_an_import_that_fails_gives_back_all_that_it_took(opened: Open, tmp_path: Path) -> None:
    async with opened(max_workspaces=2, workspaces=2) as house:
        await house.create("one", owner=AGENT)
        bundle = await house.export("one", tmp_path / "one.agentiso")
        house.available_mb = MEMORY_MB
        for _ in range(3):
            house.world.plan_start_failure()
            imported = r.ImportWorkspace(bundle, "copy", owner=AGENT)
            assert await refusals(lambda _number: house.registry.ask(imported), 1)  # noqa: B023
        await house.registry.ask(imported)
        assert await house.names() == ["copy", "one"]


async def test_what_is_asked_for_wrongly_takes_nothing(opened: Open) -> None:
    async with opened(max_workspaces=1) as house:
        for options in ({"shape": Shape(99, MEMORY_MB, 1)}, {"network": "carrier-pigeon"}):
            with pytest.raises(InvalidArgument):
                await house.create("one", **options)
        with pytest.raises(InvalidArgument, match="carrier-pigeon"):
            await house.registry.ask(r.WarmTemplate(network="carrier-pigeon"))
        await house.create("one")
