"""What a start finds that is not as it was left: no work is lost, and nothing else is kept from going on.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors.machine.storage.store import Store
from actors.model import files
from actors.model import record as records
from actors.model.errors import ActorGone, AgentisoError, HostFailed, IllegalState
from actors.model.files import earlier_of
from actors.model.info import Lifetime, WorkspaceInfo
from actors.model.journal import DamagedJournal, Intent, Journal
from actors.model.names import new_id
from actors.registry import messages as r
from actors.registry import recovery
from actors.registry.lock import LOCK
from actors.registry.places import KNOWN
from actors.registry.supervisor import open_supervisor
from actors.registry.workspaces import Workspaces
from actors.workspace import messages as w
from tests.stateful.simulated import BLANK, Process, Qmp
from tests.stateful.supervised import LIMIT_S, READING, Remains, Site, leave_unswept


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    leave_unswept(monkeypatch)
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


# -- what the machine stands on


async def killed_after_a_switch(site: Site) -> tuple[WorkspaceInfo, Remains]:
    """Return what is left by a supervisor that is killed when the disk has been switched, and nobody has noted it."""
    left: list[Remains] = []
    finish = Qmp.finish

    async def seen(qmp: Qmp, pending: Any, **options: Any) -> dict[str, Any]:
        found = await finish(qmp, pending, **options)
        if pending[0] == "blockdev-snapshot-sync":
            left.append(site.remains())
        return found

    async with site.supervisor():
        info = await site.create("one")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Qmp, "finish", seen)
            await site.tell("one", w.CreateSnapshot("point"))
    return info, left[0]


async def test_the_layer_of_a_machine_is_held_although_its_journal_can_be_read_only_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, left = await killed_after_a_switch(site)
    site.put_back(left)
    qemu, read, journals = site.qemu(info), Journal.intents, list[Path]()
    assert qemu.disk.stem != site.record(info).layer

    def intents(journal: Journal) -> tuple[Intent, ...]:
        if journal.path.is_relative_to(site.directory(info)):
            journals.append(journal.path)
            if len(journals) == 2:
                raise DamagedJournal(f"{journal.path} cannot be read: {os.strerror(errno.EMFILE)}.")
        return read(journal)

    monkeypatch.setattr(Journal, "intents", intents)
    async with site.supervisor():
        await site.world.store.collect()
        assert qemu.disk.exists()
        await site.wait_for_state("one", "running")
        await site.world.store.collect()
        assert qemu.disk.exists()
        assert site.qemu(info) is qemu


# -- records that a power loss has taken part of


async def lost_power(site: Site) -> tuple[WorkspaceInfo, Path]:
    """Leave a workspace whose last record names a layer that never reached the disk; the one before is whole."""
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "precious")
        await site.tell("one", w.Stop())
        await site.world.store.flush()
    path = site.directory(info) / records.RECORD
    earlier_of(path).write_text(path.read_text())
    site.alter(info, lambda record: record.update(layer=new_id()))
    return info, path


@contextlib.contextmanager
def unread(how: str) -> Iterator[None]:
    """Have a start fail before it has read the workspaces, or one that reads none of them."""

    def failing(*_arguments: object, **_options: object) -> None:
        raise HostFailed("It ends here.") if how == "the start fails" else OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "read_all" if how == "the start fails" else "read_one", failing)
        yield


@pytest.mark.parametrize("how", ["the start fails", "it cannot be read", "it is read"])
async def test_a_workspace_goes_back_to_its_last_whole_record_whichever_start_finds_it(site: Site, how: str) -> None:
    info, path = await lost_power(site)
    if how != "it is read":
        with unread(how), contextlib.suppress(HostFailed):
            async with site.supervisor():
                assert (await site.diagnosis()).damaged
        assert earlier_of(path).exists()
    async with site.supervisor():
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "precious")
        assert (await site.diagnosis()).healthy
    assert site.record(info).layer


async def test_a_workspace_that_is_read_again_later_goes_back_too(site: Site) -> None:
    await lost_power(site)
    with unread("it cannot be read"):
        async with site.supervisor():
            assert (await site.diagnosis()).damaged
            await crash_registry(site)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(recovery, "read_one", READ_ONE)
                assert (await site.diagnosis(again=True)).healthy
            await site.tell("one", w.Start(None))
            assert await site.read("one") == (BLANK, "precious")


READ_ONE = recovery.read_one


@pytest.mark.parametrize("error", READING)
async def test_a_workspace_whose_record_before_cannot_be_read_is_left_until_it_can(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    _, path = await lost_power(site)
    before = earlier_of(path).read_text()

    def read_json(file: Path) -> Any:
        if file == earlier_of(path):
            raise OSError(error, os.strerror(error), str(file))
        return files.read_json(file)

    with monkeypatch.context() as patch:
        patch.setattr(records, "read_json", read_json)
        async with site.supervisor():
            assert [trouble.path for trouble in (await site.diagnosis()).damaged] == [str(path.parent)]
    assert earlier_of(path).read_text() == before
    async with site.supervisor():
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "precious")


async def test_a_registry_that_follows_one_that_crashed_changes_no_record_of_an_actor_that_lives(site: Site) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.world.store.flush()
        path = site.directory(info) / records.RECORD
        earlier_of(path).write_text(path.read_text())
        site.alter(info, lambda record: record.update(layer=new_id()))
        before = path.read_text()
        await crash_registry(site)
        assert path.read_text() == before


async def test_a_workspace_whose_machine_runs_does_not_go_back_to_a_record_that_does_not_name_it(site: Site) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.tell("one", w.Stop())
        await site.world.store.flush()
        path = site.directory(info) / records.RECORD
        before = path.read_text()
        await site.tell("one", w.Start(None))
        await site.write("one", "mark")
    qemu = site.qemu(info)
    earlier_of(path).write_text(before)
    site.alter(info, lambda record: record.update(suspended=new_id()))
    async with site.supervisor():
        assert site.qemu(info) is qemu
        assert await site.read("one") == ("mark", "mark")


async def test_what_a_killed_supervisor_had_not_flushed_is_not_taken_for_flushed_by_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.tell("one", w.Stop())
        await site.world.store.flush()
    path = site.directory(info) / records.RECORD
    flushed = path.read_text()
    earlier_of(path).write_text(flushed)
    site.alter(info, lambda record: record.update(idle_suspend_s=1000.0))

    async def flush(_store: Store) -> None:
        await trio.lowlevel.checkpoint()

    async with site.supervisor():
        layer = site.record(info).layer
        assert layer is not None
        assert {path, path.parent, site.world.store.layer(layer)} <= site.world.store.unflushed
        with monkeypatch.context() as patch:
            patch.setattr(Store, "flush", flush)
            await site.tell("one", w.SetLifetime(Lifetime(idle_suspend_s=2000.0)))
            assert earlier_of(path).read_text() == flushed
        await site.world.store.flush()
        assert not earlier_of(path).exists()
    assert site.record(info).idle_suspend_s == 2000.0


# -- places that are exchanged while a supervisor runs


async def test_a_registry_that_restarts_over_another_directory_waits_for_its_own_and_collects_nothing(
    site: Site, tmp_path: Path
) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "mark")
        await site.tell("one", w.Suspend())
    root, needs = site.state_dir / "workspaces", site.record(info).needs
    async with site.supervisor():
        await site.tell("one", w.Resume())
        await site.tell("one", w.Suspend())
        needs = site.record(info).needs
        away = root.rename(tmp_path / "away")
        root.mkdir()

        async def crash(_workspaces: Workspaces) -> None:
            raise ZeroDivisionError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Workspaces, "list", crash)
            with pytest.raises(ActorGone):
                await site.infos()
        await site.world.store.collect()
        with pytest.raises(AgentisoError):
            await site.registry.ask(r.ListWorkspaces(), deadline_s=0.5)
        assert needs <= site.stored()
        root.rmdir()
        away.rename(root)
        assert (await site.infos())["one"].state == "suspended"
        await site.tell("one", w.Resume())
        assert await site.read("one") == ("mark", "mark")


# -- what lies among the workspaces and is none


async def suspended(site: Site) -> WorkspaceInfo:
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "mark")
        await site.tell("one", w.Suspend())
    return info


@pytest.mark.parametrize("name", ["notes", "{0}", "0123456789", "backup"])
async def test_a_directory_among_the_workspaces_that_is_none_is_left_and_told_and_harms_nobody(
    site: Site, name: str
) -> None:
    info = await suspended(site)
    stray = site.state_dir / "workspaces" / name.format(info.workspace_id[:1])
    stray.mkdir()
    async with site.supervisor():
        assert stray.is_dir()
        found = await site.diagnosis(again=True)
        assert [(trouble.what, trouble.path) for trouble in found.damaged] == [(stray.name, str(stray))]
        assert not found.collection
        await site.world.store.collect()
        await site.tell("one", w.Resume())
        assert await site.read("one") == ("mark", "mark")
        stray.rmdir()
        assert (await site.diagnosis(again=True)).healthy


@pytest.mark.parametrize("name", [".DS_Store", "lost+found", ".Trash"])
async def test_what_lies_anywhere_is_not_even_told(site: Site, name: str) -> None:
    await suspended(site)
    (site.state_dir / "workspaces" / name).mkdir()
    async with site.supervisor():
        assert (await site.diagnosis()).healthy


async def test_a_file_among_the_workspaces_keeps_nothing_from_being_removed(site: Site) -> None:
    info = await suspended(site)
    for name in ("notes.txt", "0a1b2c3d"):
        (site.state_dir / "workspaces" / name).touch()
    async with site.supervisor():
        await site.registry.ask(r.DestroyWorkspace("one"))
        assert not site.directory(info).exists()
        assert not await site.unneeded()
        assert {trouble.what for trouble in (await site.diagnosis()).damaged} == {"notes.txt", "0a1b2c3d"}


@pytest.mark.parametrize("name", ["{0}.old", "0a1b2c3d"])
async def test_a_workspace_that_was_put_aside_under_another_name_keeps_what_it_stands_on(site: Site, name: str) -> None:
    info = await suspended(site)
    needs, directory = site.record(info).needs, site.directory(info)
    aside = directory.rename(directory.with_name(name.format(directory.name)))
    async with site.supervisor():
        await site.registry.ask(r.Collect())
        assert needs <= site.stored()
        (trouble,) = (await site.diagnosis()).damaged
        assert "not named after it" in trouble.why
    aside.rename(directory)
    async with site.supervisor():
        await site.tell("one", w.Resume())
        assert await site.read("one") == ("mark", "mark")


async def test_a_workspace_that_was_put_elsewhere_by_a_link_keeps_what_it_stands_on_while_that_leads_nowhere(
    site: Site, tmp_path: Path
) -> None:
    info = await suspended(site)
    needs, directory = site.record(info).needs, site.directory(info)
    elsewhere = directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "mounted")
    async with site.supervisor():
        assert not (await site.diagnosis(again=True)).healthy
        await site.registry.ask(r.Collect())
        assert needs <= site.stored()
        elsewhere.rename(tmp_path / "mounted")
        assert (await site.diagnosis(again=True)).healthy
        await site.tell("one", w.Resume())
        assert await site.read("one") == ("mark", "mark")


async def test_a_supervisor_that_keeps_nothing_removes_no_directory_that_is_not_its_own(site: Site) -> None:
    site.settings.state_dir.mkdir()
    with trio.fail_after(LIMIT_S):
        async with open_supervisor(site.settings, site.load, keep=False) as site.registry:
            info = await site.create("one")
            (site.state_dir / "workspaces" / "notes").mkdir()
    assert not site.directory(info).exists()
    assert (site.state_dir / "workspaces" / "notes").is_dir()


# -- machines that do not end, and caches that cannot be read


async def test_a_machine_of_nobody_that_does_not_end_is_told_and_keeps_nothing_from_starting(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "mark")
    left = site.remains()
    site.put_back(left)
    orphan = attrs.evolve(
        site.qemu(info),
        uuid="11111111-1111-4111-8111-111111111111",
        pid=9999,
        directory=site.state_dir / "templates" / "boot-12345678" / "machines" / "aaaaaaaa",
        owner=None,
        dead=trio.Event(),
    )
    site.world.qemus[orphan.uuid] = orphan
    end, stuck = Process.end, [True]

    async def end_unless_stuck(process: Process, grace_s: float = 0.0) -> bool:
        if process._qemu is orphan and stuck:
            await trio.lowlevel.checkpoint()
            return False
        return await end(process, grace_s)

    monkeypatch.setattr(Process, "end", end_unless_stuck)
    async with site.supervisor():
        assert await site.read("one") == ("mark", "mark")
        found = await site.diagnosis(again=True)
        assert [(trouble.what, trouble.path) for trouble in found.damaged] == [
            ("machine aaaaaaaa", str(orphan.directory))
        ]
        assert "does not end" in found.damaged[0].why
        stuck.clear()
        assert (await site.diagnosis(again=True)).healthy
        assert orphan.dead.is_set()


@pytest.mark.parametrize("which", ["imports", "templates"])
@pytest.mark.parametrize("error", READING)
async def test_a_cache_that_cannot_be_listed_is_told_and_keeps_nothing_from_starting(
    site: Site, monkeypatch: pytest.MonkeyPatch, which: str, error: int
) -> None:
    async with site.supervisor():
        await site.create("one")
        await site.write("one", "mark")
    (site.state_dir / "imports").mkdir(exist_ok=True)
    before, iterdir = site.stored(), Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path == site.state_dir / which:
            raise OSError(error, os.strerror(error), str(path))
        return iterdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refused)
        async with site.supervisor():
            assert await site.read("one") == ("mark", "mark")
            assert [trouble.path for trouble in (await site.diagnosis(again=True)).damaged] == [
                str(site.state_dir / which)
            ]
            await site.registry.ask(r.Collect())
            assert before <= site.stored()
            patch.setattr(Path, "iterdir", iterdir)
            assert (await site.diagnosis(again=True)).healthy
            (_,) = await site.registry.ask(r.ListTemplates())
            assert before <= site.stored()


# -- a copy of a state directory whose machines run


@pytest.mark.parametrize("served", [False, True])
async def test_a_copy_has_the_workspaces_of_its_original_and_leaves_its_machines_alone(
    site: Site, tmp_path: Path, served: bool
) -> None:
    async with site.supervisor():
        info = await site.create("one")
        await site.write("one", "precious")
        await site.tell("one", w.CreateSnapshot("point"))
        await site.write("one", "later")
    qemu, original = site.qemu(info), site.settings
    qemu.owned = served
    before = {path for path in site.state_dir.rglob("*") if path.name != LOCK}
    copy = shutil.copytree(site.state_dir, tmp_path / "copy")
    (copy / KNOWN).unlink()
    site.settings = attrs.evolve(original, state_dir=copy)
    async with site.supervisor():
        found = (await site.infos())["one"]
        assert (found.state, found.ended) == ("failed", None)
        assert f"process {qemu.pid}, is that of another state directory" in str(found.failure)
        with pytest.raises(IllegalState):
            await site.tell("one", w.Stop())
        await site.tell("one", w.Start(None))
        assert await site.read("one") == (BLANK, "later")
        await site.tell("one", w.RestoreSnapshot("point"))
        assert await site.read("one") == ("precious", "precious")
        await site.registry.ask(r.DestroyWorkspace("one"))
    assert site.world.alive == [qemu]
    assert {path for path in original.state_dir.rglob("*") if path.name != LOCK} == before
    site.settings, qemu.owned = original, False
    async with site.supervisor():
        assert (await site.infos())["one"].state == "running"
        assert await site.read("one") == ("later", "later")
