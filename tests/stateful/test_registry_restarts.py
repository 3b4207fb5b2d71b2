"""What goes on while the registry, or the actor of a workspace, crashes, restarts, is given up or does not answer.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.machine.qemu import orphans
from actors.model.errors import ActorGone, AgentisoError
from actors.registry import messages as r
from actors.registry import pool as pools
from actors.registry import workspaces
from actors.registry.workspaces import Workspaces
from actors.workspace import actor as workspace_actor
from actors.workspace import messages as w
from actors.workspace.actor import WorkspaceActor
from tests.stateful.simulated import World
from tests.stateful.supervised import SOON_S, Site, leave_unswept


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    leave_unswept(monkeypatch)
    monkeypatch.setattr(pools, "QUIET_S", SOON_S)
    return Site(tmp_path, monkeypatch)


async def crash_registry(site: Site) -> None:
    """Have the registry crash, and return when the next one serves."""

    async def crash(_workspaces: Workspaces) -> None:
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspaces, "list", crash)
        with pytest.raises(ActorGone):
            await site.infos()
    await site.infos()


def crash(_of: object) -> None:
    raise ZeroDivisionError


async def wear_out(site: Site, name: str) -> None:
    """Have the actor of a workspace crash until it is given up."""
    ref = (await site.registry.ask(r.FindWorkspace(name))).ref
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkspaceActor, "_info", lambda *_given, **_options: crash(None))
        while not ref.stopped.is_set():
            with contextlib.suppress(AgentisoError):
                await ref.ask(w.Describe())


@asynccontextmanager
async def held_up(where: Any, name: str, applies: Callable[..., bool]) -> AsyncIterator[trio.Event]:
    """Have an async function wait where something applies to its arguments; give what is set when it is reached."""
    real, reached, go_on = getattr(where, name), trio.Event(), trio.Event()

    async def held(*given: Any, **options: Any) -> Any:
        if applies(*given):
            reached.set()
            await go_on.wait()
        return await real(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, held)
        try:
            yield reached
        finally:
            go_on.set()


# -- a registry that crashed


async def test_an_actor_that_is_given_up_after_its_registry_crashed_takes_nobody_along_and_comes_back(
    site: Site,
) -> None:
    async with site.supervisor():
        await site.create("one")
        await site.write("one", "mark")
        await site.create("other")
        await crash_registry(site)
        await wear_out(site, "one")
        assert (await site.infos())["other"].state == "running"
        await site.wait_for_state("one", "running")
        assert await site.read("one") == ("mark", "mark")


async def test_an_actor_that_is_given_up_while_no_registry_runs_is_found_by_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        await site.create("one")
        await site.write("one", "mark")
        worn_out, make = trio.Event(), workspaces.Workspaces.take_up

        async def take_up(made: Workspaces) -> None:
            await worn_out.wait()
            await make(made)

        ref = (await site.registry.ask(r.FindWorkspace("one"))).ref
        monkeypatch.setattr(Workspaces, "take_up", take_up)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_registry, site)
            while site.world.store.blocked.get("the start") is None:
                await trio.sleep(SOON_S)
            with monkeypatch.context() as patch:
                patch.setattr(WorkspaceActor, "_info", lambda *_given, **_options: crash(None))
                while not ref.stopped.is_set():
                    with contextlib.suppress(AgentisoError):
                        await ref.ask(w.Describe())
            worn_out.set()
        await site.wait_for_state("one", "running")
        assert await site.read("one") == ("mark", "mark")


async def test_a_registry_that_follows_one_that_crashed_leaves_no_machine_that_the_pool_of_that_made_meanwhile(
    site: Site,
) -> None:
    site.with_pool(1)
    async with site.supervisor():
        await site.registry.ask(r.WarmTemplate())
        await _pool_is_full(site)
        (first,) = _directories(site)
        take_up = Workspaces.take_up

        async def take_up_slowly(made: Workspaces) -> None:
            await take_up(made)
            # What still fills the pool has the time to fill it.
            for _ in range(50):
                await trio.sleep(SOON_S)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Workspaces, "take_up", take_up_slowly)
            await crash_registry(site)
        await _pool_is_full(site)
        assert not first.exists()
        assert len(_directories(site)) == len(site.world.alive) == 1


# -- machines of the pool


def _directories(site: Site) -> list[Path]:
    return list((site.state_dir / "workspaces").glob("[!.]*"))


async def _pool_is_full(site: Site) -> None:
    while (await site.registry.ask(r.DescribePool())).ready < 1:
        await trio.sleep(SOON_S)


async def test_a_machine_of_the_pool_goes_with_its_actor_that_crashed_and_another_one_is_made(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors, make = list[WorkspaceActor](), WorkspaceActor.__init__

    def made(actor: WorkspaceActor, *given: Any, **options: Any) -> None:
        make(actor, *given, **options)
        actors.append(actor)

    monkeypatch.setattr(WorkspaceActor, "__init__", made)
    site.with_pool(1)
    async with site.supervisor():
        await _pool_is_full(site)
        (shell,) = _directories(site)
        actors[-1].background("a bug", _crash_soon)
        while shell.exists():
            await trio.sleep(SOON_S)
        await _pool_is_full(site)
        (qemu,) = site.world.alive
        assert _directories(site) == [qemu.directory.parent.parent]
        info = await site.create("one")
        assert site.qemu(info) is qemu


async def _crash_soon() -> None:
    await trio.lowlevel.checkpoint()
    raise ZeroDivisionError


async def test_a_claimed_workspace_whose_actor_crashed_leaves_no_machine_that_was_being_started(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Path] = []

    async def seen(state_dir: Path, within: Path, *, but: str | None = None) -> None:
        ended.append(within)
        await orphans.end_machines(state_dir, within, but=but)

    monkeypatch.setattr(workspace_actor, "end_machines", seen)
    site.with_pool(1)
    async with site.supervisor():
        await _pool_is_full(site)
        info = await site.create("one")
        await site.write("one", "mark")
        assert info.started_by == "pool"
        await _pool_is_full(site)
        site.world.plan(0, crash)
        monkeypatch.setattr(World, "step", STEP)
        with pytest.raises(ActorGone):
            await site.tell("one", w.CreateSnapshot("point"))
        assert await site.read("one") == ("mark", "mark")
        assert ended == [site.directory(info)]


STEP = World.step


# -- destroyed while an actor is being started


async def test_a_workspace_whose_actor_is_being_started_again_is_destroyed_wholly(site: Site) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.tell("one", w.Suspend())
        await wear_out(site, "one")
        async with held_up(workspace_actor, "end_machines", lambda *_given: True) as reached:
            await reached.wait()
            await site.registry.ask(r.DestroyWorkspace("one"))
            assert await site.infos() == {}
        for _ in range(10):
            await trio.sleep(SOON_S)
        assert await site.infos() == {}
        assert not site.directory(info).exists()
        assert not [owner for owner in site.world.store.holds.owners if info.workspace_id in owner]
        await site.create("one")


async def test_a_workspace_that_is_read_again_while_it_is_destroyed_gets_no_actor(site: Site) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.tell("one", w.Suspend())
    record = site.directory(info) / "record.json"
    whole = record.read_text()
    record.write_text("{")
    async with site.supervisor():
        assert await site.infos() == {}
        record.write_text(whole)
        async with trio.open_nursery() as nursery, held_up(Workspaces, "_take_up", lambda *_given: True) as reached:
            nursery.start_soon(lambda: site.diagnosis(again=True))
            await reached.wait()
            await site.registry.ask(r.DestroyWorkspace("one"))
        assert await site.infos() == {}
        assert not site.directory(info).exists()
        assert not [owner for owner in site.world.store.holds.owners if info.workspace_id in owner]


# -- actors that do not answer


async def test_an_actor_that_does_not_answer_is_listed_by_its_record_and_keeps_no_other_from_being_listed(
    virtual_time: object, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspaces, "DESCRIBE_S", 0.05)
    async with site.supervisor():
        await site.create("one")
        await site.create("other")
        ref = (await site.registry.ask(r.FindWorkspace("one"))).ref
        async with held_up(WorkspaceActor, "setup", lambda actor: actor.name == "workspace one") as reached:
            with monkeypatch.context() as patch:
                patch.setattr(WorkspaceActor, "_info", lambda *_given, **_options: crash(None))
                with pytest.raises(ActorGone):
                    await ref.ask(w.Describe())
            await reached.wait()
            infos = await site.infos()
            assert {name: info.state for name, info in infos.items()} == {"one": "running", "other": "running"}
            assert "does not answer" in infos["one"].note
            assert not infos["other"].note
            (trouble,) = (await site.diagnosis()).unreachable
            assert "does not answer" in trouble.why
        await site.wait_until(lambda infos: not infos["one"].note)
        assert (await site.diagnosis()).healthy
