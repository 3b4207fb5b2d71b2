"""A workspace's end: whatever comes between, nothing of it is left, and until then it says so and keeps its name.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors.machine import start
from actors.machine.machine import Machine
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import ActorGone, AgentisoError, NameTaken, Unfinished
from actors.model.info import Lifetime, WorkspaceInfo
from actors.model.journal import Journal
from actors.model.settings import Quotas
from actors.registry import messages as r
from actors.registry import workspaces
from actors.registry.admission import QuotaExceeded
from actors.registry.workspaces import Workspaces
from actors.runtime import Supervisor
from actors.workspace import messages as w
from actors.workspace.actor import WorkspaceActor
from tests.stateful.simulated import BLANK, Process
from tests.stateful.supervised import LIMIT_S, SOON_S, Remains, Site

OWNER = "session"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    found = Site(tmp_path, monkeypatch)
    found.settings = attrs.evolve(found.settings, quotas=Quotas(workspaces=1))
    return found


async def create(site: Site, name: str = "one") -> WorkspaceInfo:
    return await site.create(name, owner=OWNER)


async def check_gone(site: Site, info: WorkspaceInfo) -> None:
    """Have nothing be left of a workspace, and its name and its place in the quota be given back."""
    assert info.name not in await site.infos()
    assert not site.directory(info).exists()
    assert not [qemu for qemu in site.world.alive if qemu.directory.is_relative_to(site.directory(info))]
    await site.world.store.collect()
    assert not await site.unneeded()
    assert not [owner for owner in _owners(site) if info.workspace_id in owner]
    assert (await site.diagnosis()).healthy
    again = await create(site, info.name)
    with pytest.raises(QuotaExceeded):
        await create(site, "another")
    await site.registry.ask(r.DestroyWorkspace(again.workspace_id))


def _owners(site: Site) -> set[str]:
    return {owner for owners in site.world.store.holds.holders().values() for owner in owners}


@contextmanager
def stuck(site: Site, *, error: int = errno.EIO) -> Iterator[None]:
    """Have what is in the directories of workspaces not be removable for the length of a block."""
    real = shutil.rmtree

    def rmtree(path: Any, *arguments: Any, **options: Any) -> None:
        if Path(path).is_relative_to(site.state_dir / "workspaces") and not options.get("ignore_errors"):
            raise OSError(error, os.strerror(error), str(path))
        real(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        yield


# -- whatever its actor is up to


async def test_a_workspace_whose_actor_was_given_up_is_destroyed_wholly(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspaces, "REVIVE_S", 1000.0)
    async with site.supervisor():
        info = await create(site)
        ref = (await site.registry.ask(r.FindWorkspace("one"))).ref
        while not ref.stopped.is_set():
            site.world.plan(0, _crash)
            with contextlib.suppress(AgentisoError):
                await site.read("one")
        assert (await site.infos())["one"].state == "unreachable"
        assert not site.qemu(info).dead.is_set()
        await site.registry.ask(r.DestroyWorkspace("one"))
        await check_gone(site, info)


def _crash(_qemu: object) -> None:
    raise RuntimeError("a bug")


async def test_a_workspace_in_the_middle_of_a_long_change_is_destroyed_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        info = await create(site)
        await site.tell("one", w.CreateSnapshot("point"))
        reached = trio.Event()

        async def prove(machine: Machine, *_arguments: Any, **_options: Any) -> None:
            reached.set()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await machine.end()

        with monkeypatch.context() as patch:
            patch.setattr(start, "prove", prove)
            async with trio.open_nursery() as nursery:

                async def restore() -> None:
                    with pytest.raises(ActorGone):
                        await site.tell("one", w.RestoreSnapshot("point"))

                nursery.start_soon(restore)
                await reached.wait()
                await site.registry.ask(r.DestroyWorkspace("one"))
        await check_gone(site, info)


@pytest.mark.parametrize(
    ("where", "name"),
    [(Journal, "flush"), (Process, "end"), (Supervisor, "stop"), (WorkspaceActor, "teardown"), (Store, "collect")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_a_workspace_whose_destroyer_goes_away_is_destroyed_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    async with site.supervisor():
        info = await create(site)
        asking, real, reached = trio.CancelScope(), getattr(where, name), trio.Event()

        async def cancelled(*arguments: Any, **options: Any) -> Any:
            reached.set()
            asking.cancel()
            return await real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(where, name, cancelled)
            with asking:
                await site.registry.ask(r.DestroyWorkspace("one"))
        assert reached.is_set()
        await site.wait_until(lambda infos: "one" not in infos)
        await check_gone(site, info)


async def test_a_destroy_that_is_cancelled_before_it_begins_changes_nothing(site: Site) -> None:
    async with site.supervisor():
        await create(site)
        with trio.CancelScope() as asking:
            asking.cancel()
            await site.registry.ask(r.DestroyWorkspace("one"))
        assert (await site.infos())["one"].state == "running"
        assert await site.read("one") == (BLANK, BLANK)


async def test_all_who_ask_for_the_same_end_learn_of_it(site: Site) -> None:
    async with site.supervisor():
        info = await create(site)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(site.registry.ask, r.DestroyWorkspace("one"))
        await check_gone(site, info)


# -- what cannot be removed


async def test_a_workspace_that_cannot_be_removed_is_told_keeps_its_name_and_goes_at_the_next_try(site: Site) -> None:
    async with site.supervisor():
        info = await create(site)
        with stuck(site):
            with pytest.raises(Unfinished):
                await site.registry.ask(r.DestroyWorkspace("one"))
            found = (await site.infos())["one"]
            assert found.state == "destroying"
            assert "could not be destroyed wholly" in (found.failure or "")
            (told,) = (await site.diagnosis()).half_done
            assert told.remedy == "agentiso destroy one"
            assert not site.world.alive
            with pytest.raises(NameTaken):
                await site.create("one")
            with pytest.raises(QuotaExceeded):
                await create(site, "another")
            with pytest.raises(ActorGone):
                await site.tell("one", w.Start(None))
        await site.registry.ask(r.DestroyWorkspace("one"))
        await check_gone(site, info)


async def test_a_workspace_that_cannot_be_removed_is_removed_by_the_next_supervisor(site: Site) -> None:
    async with site.supervisor():
        info = await create(site)
        with stuck(site), pytest.raises(Unfinished):
            await site.registry.ask(r.DestroyWorkspace("one"))
    async with site.supervisor():
        await check_gone(site, info)


async def test_what_can_still_not_be_removed_at_the_start_is_told_and_goes_later(site: Site) -> None:
    async with site.supervisor():
        info = await create(site)
        with stuck(site), pytest.raises(Unfinished):
            await site.registry.ask(r.DestroyWorkspace("one"))
    with stuck(site):
        async with site.supervisor():
            assert not await site.infos()
            (told,) = (await site.diagnosis()).damaged
            assert told.path == str(site.directory(info))
    async with site.supervisor():
        await check_gone(site, info)


async def test_a_workspace_is_destroyed_although_that_cannot_be_written_down(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_facts: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with site.supervisor():
        info = await create(site)
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "_append", full)
            await site.registry.ask(r.DestroyWorkspace("one"))
        await check_gone(site, info)


async def test_an_expired_workspace_that_cannot_be_removed_harms_nobody_and_goes_once_it_can(site: Site) -> None:
    async with site.supervisor():
        await site.create("kept")
        info = await create(site)
        with stuck(site):
            await site.tell("one", w.SetLifetime(Lifetime(ttl_s=SOON_S)))
            found = await site.wait_until(lambda infos: infos["one"].failure is not None)
            assert found["one"].state == "destroying"
            assert await site.read("kept") == (BLANK, BLANK)
        await site.wait_until(lambda infos: infos.keys() == {"kept"})
        assert not site.directory(info).exists()
        assert (await site.diagnosis()).healthy


async def test_what_a_create_that_failed_has_left_is_told_and_goes_once_it_can(site: Site) -> None:
    async with site.supervisor():
        await site.registry.ask(r.WarmTemplate())
        site.world.plan_start_failure()
        with stuck(site):
            with pytest.raises(AgentisoError):
                await create(site)
            assert not await site.infos()
            (told,) = (await site.diagnosis()).damaged
            assert told.what.startswith("what is left of workspace")
            # Its name and its share of the quota are free.
            info = await create(site)
        assert (await site.diagnosis(again=True)).healthy
        assert [path.name for path in Path(told.path).parent.glob("[!.]*")] == [info.workspace_id[:8]]


# -- who ends in the middle of it


async def kill_in_the_middle(site: Site, monkeypatch: pytest.MonkeyPatch) -> tuple[WorkspaceInfo, list[Remains]]:
    """Destroy a workspace; return what would be left by a supervisor that is killed at each step of that."""
    left: list[Remains] = []

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left.append(site.remains())
            return real(*arguments, **options)

        return call

    async with site.supervisor():
        info = await create(site)
        await site.tell("one", w.CreateSnapshot("point"))
        with monkeypatch.context() as patch:
            append = Journal._append

            def appended(journal: Journal, fact: dict[str, Any]) -> None:
                append(journal, fact)
                left.append(site.remains())

            patch.setattr(Journal, "_append", appended)
            for where, name in ((records, "remove"), (Path, "unlink"), (Path, "rmdir"), (shutil, "rmtree")):
                patch.setattr(where, name, before(getattr(where, name)))
            await site.registry.ask(r.DestroyWorkspace("one"))
    return info, left


async def test_a_destroy_whose_supervisor_is_killed_is_finished_by_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, left = await kill_in_the_middle(site, monkeypatch)
    assert len(left) >= 5
    for remains in left:
        site.put_back(remains)
        async with site.supervisor():
            await check_gone(site, info)


async def test_a_destroy_is_finished_by_the_registry_that_follows_one_that_crashed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, reached, go_on = records.remove, trio.Event(), threading.Event()

    def remove_slowly(directory: Path) -> None:
        trio.from_thread.run_sync(reached.set)
        assert go_on.wait(LIMIT_S)
        remove(directory)

    async def crash(_workspaces: Workspaces) -> None:
        raise ZeroDivisionError

    async with site.supervisor():
        info = await create(site)
        with monkeypatch.context() as patch:
            patch.setattr(records, "remove", remove_slowly)
            async with trio.open_nursery() as nursery:

                async def destroy() -> None:
                    with pytest.raises(ActorGone):
                        await site.registry.ask(r.DestroyWorkspace("one"))

                nursery.start_soon(destroy)
                await reached.wait()
                with monkeypatch.context() as broken:
                    broken.setattr(Workspaces, "list", crash)
                    with pytest.raises(ActorGone):
                        await site.infos()
                go_on.set()
        await check_gone(site, info)


# -- machines of the pool


async def test_a_machine_of_the_pool_that_cannot_be_removed_goes_at_the_next_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.with_pool(1)
    async with site.supervisor():
        await _pool_is_full(site)
        directory = next((site.state_dir / "workspaces").glob("[!.]*"))
    with stuck(site):
        async with site.supervisor():
            assert directory.exists()
            assert not [qemu for qemu in site.world.alive if qemu.directory.is_relative_to(directory)]
    site.with_pool(0)
    async with site.supervisor():
        assert not directory.exists()
        assert not site.world.alive


async def test_a_workspace_from_the_pool_is_destroyed_wholly(site: Site) -> None:
    site.with_pool(1)
    async with site.supervisor():
        await _pool_is_full(site)
        info = await create(site)
        assert (await site.registry.ask(r.DescribePool())).claimed == 1
        await site.registry.ask(r.DestroyWorkspace("one"))
        await check_gone(site, info)


async def _pool_is_full(site: Site) -> None:
    await site.registry.ask(r.WarmTemplate())
    while (await site.registry.ask(r.DescribePool())).ready < 1:
        await trio.sleep(SOON_S)
