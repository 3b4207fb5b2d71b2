"""What is asked of a registry beside other work, by callers who fail, or of what cannot be read: it answers the truth.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors.machine.storage import collection, integrity
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import (
    ActorGone,
    AgentisoError,
    ConsumerFailed,
    DeadlineExceeded,
    HostFailed,
    NotFound,
    Unfinished,
)
from actors.model.journal import JOURNAL, Journal, Kind
from actors.model.names import new_id
from actors.registry import exports, plans, pool
from actors.registry import messages as r
from actors.workspace import messages as w
from actors.workspace.resources import Resources
from tests.stateful.supervised import Site, leave_unswept

THREAD_S = 30
"""The longest that a thread waits for the test."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    leave_unswept(monkeypatch)
    return Site(tmp_path, monkeypatch)


class Held:
    """A function that runs in a thread, and is held there the first time, before it begins or once it is over."""

    def __init__(self, real: Callable[..., Any], *, after: bool = False) -> None:
        self._real, self._after = real, after
        self._reached, self._released = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        found = self._real(*arguments) if self._after else None
        if not self._reached.is_set():
            self._reached.set()
            assert self._released.wait(THREAD_S)
        return found if self._after else self._real(*arguments)

    async def reached(self) -> None:
        assert await trio.to_thread.run_sync(self._reached.wait, THREAD_S)

    def release(self) -> None:
        self._released.set()


# -- ids


async def test_whatever_is_made_under_an_id_that_begins_like_anothers_gets_another_id(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        begin = (await site.create("precious")).workspace_id[:8]
        await site.write("precious", "work")
    site.with_pool(1)
    monkeypatch.setattr(pool, "QUIET_S", 0.01)
    for module, name in ((plans, "entrant"), (plans, "of_child"), (pool, "new_record")):
        monkeypatch.setattr(module, name, beginning_with(begin, getattr(module, name)))
    async with site.supervisor():
        while not (await site.registry.ask(r.DescribePool())).ready:
            await trio.sleep(0.01)
        await site.create("second")
        report = (await site.registry.ask(r.ForkWorkspace("precious", count=2))).report
        infos = await site.infos()
        assert len({info.workspace_id[:8] for info in infos.values()}) == 4
        assert {child.workspace_id for child in report.children} < {info.workspace_id for info in infos.values()}
        assert await site.read("precious") == ("work", "work")
        for name in infos:
            await site.registry.ask(r.DestroyWorkspace(name))
        assert await site.infos() == {}


def beginning_with(begin: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function return what has an id that begins like another one."""

    def call(*arguments: Any, **options: Any) -> Any:
        return attrs.evolve(real(*arguments, **options), id=begin + new_id()[8:])

    return call


# -- beside a collection


async def test_a_survey_beside_a_collection_is_answered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site.supervisor():
        await site.create("one")
        await site.tell("one", w.CreateSnapshot("point"))
        (site.state_dir / "checkpoints" / new_id()).mkdir()
        survey = Held(collection.survey)
        monkeypatch.setattr(collection, "survey", survey)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.registry.ask, r.Collect(dry_run=True))
            await survey.reached()
            nursery.start_soon(site.tell, "one", w.DeleteSnapshot("point"))
            nursery.start_soon(site.world.store.collect)
            # Neither is over before the survey is, which is not to be waited for.
            with trio.move_on_after(0.2):
                await site.collected.wait()
            survey.release()
        assert (await site.diagnosis()).healthy


@pytest.mark.parametrize("begin", ["inventory", "completed"])
async def test_what_is_made_during_a_collection_is_neither_missed_nor_robbed(
    site: Site, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    async with site.supervisor():
        await site.create("one")
        look = Held(getattr(collection, begin), after=True)
        monkeypatch.setattr(collection, begin, look)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.world.store.collect)
            await look.reached()
            await site.write("one", "work")
            await site.tell("one", w.CreateSnapshot("point"))
            await site.write("one", "more")
            look.release()
        assert site.world.store.trouble == ""
        await site.tell("one", w.RestoreSnapshot("point"))
        assert await site.read("one") == ("work", "work")


async def test_what_is_missing_and_held_is_still_told(site: Site) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.tell("one", w.Stop())
        layer = site.record(info).layer
        assert layer is not None
        site.world.store.layer(layer).unlink()
        await site.world.store.collect()
        assert f"{layer} is needed and is not there" in site.world.store.trouble


async def test_a_template_that_is_dropped_while_it_is_looked_at_is_described(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        await site.create("one")
        verify = Held(integrity.verify, after=True)
        monkeypatch.setattr(integrity, "verify", verify)
        described = []
        async with trio.open_nursery() as nursery:

            async def warm() -> None:
                described.append(await site.registry.ask(r.WarmTemplate()))

            nursery.start_soon(warm)
            await verify.reached()
            (template,) = await site.registry.ask(r.ListTemplates())
            await site.registry.ask(r.DropTemplates((template.id,)))
            verify.release()
        assert [each.id for each in described] == [template.id]
        await site.create("two")


# -- callers who fail


async def test_what_a_caller_gave_to_be_called_ends_its_call_alone(site: Site, tmp_path: Path) -> None:
    def boom(_step: str) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody reads")

    class Sink(io.RawIOBase):
        def write(self, _data: object) -> int:
            raise ZeroDivisionError

    async with site.supervisor():
        await site.create("one")
        path = tmp_path / "one.bundle"
        await site.registry.ask(r.ExportWorkspace("one", path))
        messages: list[Any] = [
            r.CreateWorkspace("two", on_progress=boom),
            r.WarmTemplate(on_progress=boom),
            r.ExportWorkspace("one", tmp_path / "two.bundle", on_progress=boom),
            r.ExportWorkspace("one", Sink()),  # type: ignore[arg-type]
            r.ExportWorkspace("one", io.StringIO()),  # type: ignore[arg-type]
            r.ImportWorkspace(path, on_progress=boom),
            r.ImportWorkspace(io.StringIO("text")),  # type: ignore[arg-type]
        ]
        for message in messages:
            with pytest.raises(ConsumerFailed):
                await site.registry.ask(message)
            assert list(await site.infos()) == ["one"]
        assert not (tmp_path / "two.bundle").exists()


async def test_a_stream_that_takes_nothing_keeps_no_caller_that_has_given_up(site: Site) -> None:
    written = threading.Event()

    class Full(io.RawIOBase):
        def write(self, _data: object) -> None:
            written.set()

    async with site.supervisor():
        await site.create("one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.registry.ask, r.ExportWorkspace("one", Full()))  # type: ignore[arg-type]
            assert await trio.to_thread.run_sync(written.wait, THREAD_S)
            nursery.cancel_scope.cancel()
        assert list(await site.infos()) == ["one"]


# -- exports


async def test_exports_that_cannot_be_finished_are_told_and_block_no_collection(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        await site.create("one")
    directory = site.state_dir / exports.DIRECTORY
    directory.mkdir(exist_ok=True)
    Journal(directory).will(Kind.EXPORT, new_id(), path="/mnt/stick/.a.part")
    lstat = Path.lstat

    def refused(path: Path) -> os.stat_result:
        if path.is_relative_to("/mnt/stick"):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(path))
        return lstat(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", refused)
        async with site.supervisor():
            found = await site.diagnosis()
            assert [trouble.what for trouble in found.damaged] == ["an export"]
            assert found.collection == ()
    (directory / JOURNAL).write_text("damaged\n")
    async with site.supervisor():
        found = await site.diagnosis()
        assert "machine" not in found.damaged[0].remedy
        assert found.collection == ()
        assert site.world.store.blocked == {}
        (directory / JOURNAL).unlink()
        assert (await site.diagnosis(again=True)).healthy


async def test_an_export_to_a_long_name_is_made(site: Site, tmp_path: Path) -> None:
    target = tmp_path / ("界" * 82)
    async with site.supervisor():
        await site.create("one")
        await site.registry.ask(r.ExportWorkspace("one", target))
        await site.registry.ask(r.ImportWorkspace(target, "two"))
        assert set(await site.infos()) == {"one", "two"}


# -- late, or cancelled


async def test_a_destruction_that_is_late_is_said_to_go_on_and_does(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        await site.create("one")
        remove = Held(records.remove)
        monkeypatch.setattr(records, "remove", remove)
        with pytest.raises(Unfinished, match="goes on by itself"):
            await site.registry.ask(r.DestroyWorkspace("one"), deadline_s=0.1)
        assert (await site.infos())["one"].state == "destroying"
        remove.release()
        await site.wait_until(lambda infos: not infos)


async def test_templates_that_are_dropped_and_late_are_not_said_to_be_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        await site.create("one")
        (template,) = await site.registry.ask(r.ListTemplates())

        async def slow(_store: Store) -> list[str]:
            await trio.sleep_forever()
            raise AssertionError

        with monkeypatch.context() as patch:
            patch.setattr(Store, "collect", slow)
            with pytest.raises(DeadlineExceeded, match="stays done"):
                await site.registry.ask(r.DropTemplates((template.id,)), deadline_s=0.1)
        assert await site.registry.ask(r.ListTemplates()) == ()


async def owners(site: Site) -> set[str]:
    """Return whose a workspace ``one`` is as the registry, its actor and its record say."""
    found, info = await site.registry.ask(r.FindWorkspace("one")), (await site.infos())["one"]
    return {found.owner, info.owner, site.record(info).owner}


async def test_an_adoption_that_is_cancelled_gives_a_workspace_one_owner(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        await site.create("one", owner="a")
        reached, released, flush = trio.Event(), trio.Event(), Store.flush

        async def held(store: Store) -> None:
            reached.set()
            await released.wait()
            await flush(store)

        monkeypatch.setattr(Store, "flush", held)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.registry.ask, r.AdoptWorkspace("one", owner="b", expected="a"))
            await reached.wait()
            nursery.cancel_scope.cancel()
            released.set()
        assert await owners(site) == {"b"}
        await site.registry.ask(r.AdoptWorkspace("one", owner="c", expected="b"))
        assert await owners(site) == {"c"}


@pytest.mark.parametrize(("when", "owner"), [("save", "a"), ("settle", "b")])
async def test_an_adoption_of_which_nothing_is_known_is_what_the_record_says(
    site: Site, monkeypatch: pytest.MonkeyPatch, when: str, owner: str
) -> None:
    async with site.supervisor():
        await site.create("one", owner="a")

        def bug(*_arguments: object, **_options: object) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(Resources, when, bug)
            with pytest.raises(ActorGone):
                await site.registry.ask(r.AdoptWorkspace("one", owner="b", expected="a"))
        assert await owners(site) == {owner}


# -- what cannot be read


async def test_no_template_is_dropped_since_its_image_cannot_be_read(site: Site) -> None:
    async with site.supervisor():
        await site.create("one")
        known = await site.registry.ask(r.ListTemplates())
        site.images_fail = True
        assert [template.stale for template in await site.registry.ask(r.ListTemplates())] == [None]
        assert await site.registry.ask(r.DropTemplates()) == ()
        site.images_fail = False
        assert await site.registry.ask(r.ListTemplates()) == known


async def test_of_an_import_whose_image_cannot_be_read_that_is_said(site: Site, tmp_path: Path) -> None:
    async with site.supervisor():
        await site.create("one")
        await site.registry.ask(r.ExportWorkspace("one", tmp_path / "one.bundle"))
        site.images_fail = True
        with pytest.raises(HostFailed, match="The images cannot be read"):
            await site.registry.ask(r.ImportWorkspace(tmp_path / "one.bundle"))


async def test_a_name_is_not_said_to_be_nobodys_while_a_record_cannot_be_read(site: Site) -> None:
    async with site.supervisor():
        info = await site.create("one")
        with pytest.raises(NotFound, match="There is no workspace 'nobody'"):
            await site.registry.ask(r.FindWorkspace("nobody"))
    path = site.directory(info) / records.RECORD
    whole = path.read_bytes()
    path.write_bytes(b"{")
    async with site.supervisor():
        with pytest.raises(NotFound, match=f"that can be read.*workspace {info.workspace_id[:8]}") as caught:
            await site.registry.ask(r.FindWorkspace("one"))
        assert "doctor" in caught.value.remedy
        path.write_bytes(whole)
        assert (await site.diagnosis(again=True)).healthy
        await site.registry.ask(r.FindWorkspace("one"))


async def test_every_answer_here_is_an_error_of_ours(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number the host answers with, the registry lives."""
    async with site.supervisor():
        await site.create("one")
        for number in (errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTCONN, errno.EINVAL):

            def mkdir(path: Path, *_arguments: object, number: int = number, **_options: object) -> None:
                raise OSError(number, os.strerror(number), str(path))

            with monkeypatch.context() as patch:
                patch.setattr(Path, "mkdir", mkdir)
                with pytest.raises(AgentisoError) as caught:
                    await site.create("two")
                assert caught.value.code == "host_failed"
            assert list(await site.infos()) == ["one"]
