"""What is damaged is told and left alone, and is taken up again, without a restart, once it is mended.

The actors, records, store and checkpoints are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import errno
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from actors.machine import start
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.errors import HostFailed, MachineFailed, NotFound
from actors.model.image import BootImage
from actors.model.info import Diagnosis, Shape
from actors.model.journal import JOURNAL, Journal, Kind
from actors.model.settings import Limits, Settings
from actors.registry import messages as r
from actors.registry import recovery, troubles
from actors.registry.supervisor import open_supervisor
from actors.runtime import background
from actors.workspace import messages as w
from actors.workspace.resources import Resources
from tests.stateful.simulated import Guest, World

LIMIT_S = 60
FOLLOWING = "5e1f7a52-0000-4000-8000-000000000001"


@attrs.define
class Place:
    """A state directory, and the supervisors that run there one after the other."""

    settings: Settings
    world: World
    image: BootImage
    registry: r.RegistryRef = attrs.field(init=False)

    @property
    def state_dir(self) -> Path:
        return self.settings.state_dir

    @asynccontextmanager
    async def supervised(self) -> AsyncIterator[None]:
        async def load(_name: str) -> BootImage:
            await trio.lowlevel.checkpoint()
            return self.image

        async with open_supervisor(self.settings, load, keep=True) as self.registry:
            yield

    async def tell(self, name: str, message: Any) -> Any:
        return await (await self.registry.ask(r.FindWorkspace(name))).ref.ask(message)

    async def states(self) -> dict[str, str]:
        return {info.name: info.state for info in await self.registry.ask(r.ListWorkspaces())}

    async def diagnosis(self, *, again: bool = True) -> Diagnosis:
        return await self.registry.ask(r.Diagnose(again))

    def record(self, workspace_id: str) -> Path:
        return records.directory_of(self.state_dir, workspace_id) / records.RECORD

    def layers(self) -> set[str]:
        return {path.name for path in (self.state_dir / "layers").glob("[!.]*")}


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    files = tmp_path / "image"
    files.mkdir()
    for name in ("kernel", "initrd", "layer", "root.raw"):
        (files / name).touch()
    image = BootImage("base", "0" * 64, files / "kernel", files / "initrd", files / "layer", files / "root.raw")
    settings = Settings(
        state_dir=tmp_path / "state",
        shape=Shape(vcpus=1, memory_mb=128, disk_gb=1),
        network="none",
        limits=Limits(memory_reserve_mb=0),
    )
    with trio.fail_after(LIMIT_S):
        yield Place(settings, World(monkeypatch), image)


async def damaged_one(place: Place, part: str = records.RECORD, *, stopped: bool = False) -> Callable[[], None]:
    """Make a workspace ``demo`` of which a file is damaged while no supervisor runs; return what mends that."""
    async with place.supervised():
        workspace_id = (await place.registry.ask(r.CreateWorkspace("demo"))).found.workspace_id
        await place.tell("demo", w.CreateSnapshot("tidy"))
        if stopped:
            await place.tell("demo", w.Stop())
    path = place.record(workspace_id).with_name(part)
    whole = path.read_bytes() if path.exists() else b""
    path.write_bytes(b"damaged\n")

    def mend() -> None:
        path.write_bytes(whole)

    return mend


@pytest.mark.parametrize("part", [records.RECORD, JOURNAL])
@pytest.mark.parametrize("stopped", [False, True])
async def test_a_workspace_whose_files_are_mended_comes_back_without_a_restart(
    place: Place, part: str, *, stopped: bool
) -> None:
    mend = await damaged_one(place, part, stopped=stopped)
    alive, layers = place.world.alive, place.layers()
    async with place.supervised():
        found = await place.diagnosis()
        # A machine that the record names is its workspace's, whatever is the matter with that.
        unknown = ["machine"] if part == records.RECORD and not stopped else []
        assert [trouble.what.split()[0] for trouble in found.damaged] == ["workspace", *unknown]
        assert found.collection[0].remedy
        assert all(trouble.path and trouble.why and trouble.remedy for trouble in found.damaged)
        assert await place.states() == {}
        await place.registry.ask(r.Collect())
        assert place.layers() == layers
        mend()
        assert (await place.diagnosis()).healthy
        assert await place.states() == {"demo": "stopped" if stopped else "running"}
        assert place.world.alive == alive
        assert place.world.store.blocked == {}
        await place.tell("demo", w.RestoreSnapshot("tidy"))
        await place.registry.ask(r.DestroyWorkspace("demo"))
        assert (await place.diagnosis()).healthy


async def test_what_is_mended_is_found_by_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    mend = await damaged_one(place)
    monkeypatch.setattr(troubles, "LOOK_AGAIN_S", 0.01)
    async with place.supervised():
        since = await place.registry.ask(r.AwaitChange(None, None))
        mend()
        while not await place.states():
            since = await place.registry.ask(r.AwaitChange(since, None))
        assert (await place.diagnosis()).healthy


async def test_a_diagnosis_can_be_had_without_trying_again(place: Place) -> None:
    mend = await damaged_one(place)
    async with place.supervised():
        mend()
        assert not (await place.diagnosis(again=False)).healthy
        assert (await place.diagnosis()).healthy


async def test_one_that_is_moved_away_is_forgotten_and_its_files_are_collected(place: Place, tmp_path: Path) -> None:
    await damaged_one(place, stopped=True)
    async with place.supervised():
        (directory,) = (place.state_dir / "workspaces").glob("[!.]*")
        directory.rename(tmp_path / "away")
        assert (await place.diagnosis()).healthy
        (template,) = await place.registry.ask(r.ListTemplates())
        kept = [piece.kept_by for piece in await place.registry.ask(r.Collect(dry_run=True)) if piece.kept_by]
        assert kept
        assert all(template.id in str(each) or "checkpoint" in str(each) for each in kept)


async def test_a_name_that_was_given_away_meanwhile_names_neither_until_one_of_them_goes(place: Place) -> None:
    mend = await damaged_one(place)
    async with place.supervised():
        new = (await place.registry.ask(r.CreateWorkspace("demo"))).found.workspace_id
        mend()
        assert (await place.diagnosis()).healthy
        ids = {info.workspace_id for info in await place.registry.ask(r.ListWorkspaces())}
        assert len(ids) == 2
        with pytest.raises(NotFound, match="2 workspaces are named 'demo'") as caught:
            await place.registry.ask(r.DestroyWorkspace("demo"))
        assert all(each in caught.value.message for each in ids)
        await place.registry.ask(r.DestroyWorkspace(new))
        assert {(await place.registry.ask(r.FindWorkspace("demo"))).workspace_id} == ids - {new}


async def test_a_template_that_is_mended_serves_again(place: Place) -> None:
    async with place.supervised():
        made = await place.registry.ask(r.WarmTemplate())
    (path,) = (place.state_dir / "templates").glob("*.json")
    whole = path.read_bytes()
    path.write_bytes(b"{}")
    async with place.supervised():
        (trouble,) = (await place.diagnosis()).damaged
        assert trouble.what == f"template {made.id[:8]}"
        # Those that can be read are listed all the same.
        assert await place.registry.ask(r.ListTemplates()) == ()
        path.write_bytes(whole)
        assert (await place.diagnosis()).healthy
        assert await place.registry.ask(r.ListTemplates()) == (made,)


async def test_what_could_not_be_removed_is_told_and_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.supervised():
        workspace_id = (await place.registry.ask(r.CreateWorkspace("demo"))).found.workspace_id
        await place.tell("demo", w.Stop())
    directory = place.record(workspace_id).parent
    place.record(workspace_id).unlink()
    (directory / JOURNAL).write_text(f'{{"do": "will", "kind": "destroy", "name": "{directory.name}"}}\n')

    def refuses(_directory: Path) -> None:
        raise HostFailed("An error of the disk.")

    with monkeypatch.context() as patch:
        patch.setattr(records, "remove", refuses)
        async with place.supervised():
            (trouble,) = (await place.diagnosis()).damaged
            assert (trouble.path, trouble.why) == (str(directory), "An error of the disk.")
            patch.undo()
            place.world._substitute(monkeypatch)
            assert (await place.diagnosis()).healthy
            assert not directory.exists()


async def test_a_machine_of_which_nothing_is_known_is_told_until_it_has_ended(place: Place, tmp_path: Path) -> None:
    await damaged_one(place)
    async with place.supervised():
        (directory,) = (place.state_dir / "workspaces").glob("[!.]*")
        directory.rename(tmp_path / "away")
        (trouble,) = (await place.diagnosis()).damaged
        (qemu,) = place.world.alive
        assert (trouble.path, f"kill {qemu.pid}" in trouble.remedy) == (str(qemu.directory), True)
        qemu.dead.set()
        assert (await place.diagnosis()).healthy


async def test_a_workspace_whose_actor_cannot_begin_keeps_its_layers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.supervised():
        workspace_id = (await place.registry.ask(r.CreateWorkspace("demo"))).found.workspace_id
        await place.tell("demo", w.Stop())
    # Its disk was about to be switched to this one when its supervisor ended.
    record = records.load(place.record(workspace_id).parent)
    assert record.layer is not None
    switched = place.world.store.layers.create(FOLLOWING, over=record.layer, size_bytes=record.disk_bytes)
    Journal(place.record(workspace_id).parent).will(Kind.LAYER, FOLLOWING, over=record.layer)
    layers = place.layers()
    assert switched.name in layers

    def fails(_own: Resources) -> None:
        raise HostFailed("Too many open files.")

    monkeypatch.setattr(Resources, "reload", fails)
    async with place.supervised():
        assert await place.states() == {"demo": "unreachable"}
        (trouble,) = (await place.diagnosis()).unreachable
        assert "Too many open files" in trouble.why
        await place.registry.ask(r.Collect())
        assert place.layers() == layers


async def test_a_workspace_that_lost_both_its_actor_and_its_record_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.supervised():
        workspace_id = (await place.registry.ask(r.CreateWorkspace("demo"))).found.workspace_id
    monkeypatch.setattr(Resources, "reload", lambda _own: (_ for _ in ()).throw(HostFailed("An error.")))
    async with place.supervised():
        place.record(workspace_id).write_text("damaged")
        assert await place.states() == {"demo": "unreachable"}
        (trouble,) = (await place.diagnosis()).damaged
        assert (trouble.what, trouble.path) == ("workspace demo", str(place.record(workspace_id).parent))


async def test_a_dry_run_says_who_keeps_what_and_a_collection_takes_the_rest(place: Place) -> None:
    async with place.supervised():
        demo = (await place.registry.ask(r.CreateWorkspace("demo"))).found.workspace_id
        (template,) = await place.registry.ask(r.ListTemplates())
        place.world.store.blocked["a test"] = "It says so."
        left = place.state_dir / "checkpoints" / "5e1f7a52-0000-4000-8000-000000000000"
        left.mkdir()
        pieces = {piece.id: piece for piece in await place.registry.ask(r.Collect(dry_run=True))}
        owners = {keeper for piece in pieces.values() for keeper in piece.kept_by}
        assert {f"workspace:{demo}", f"template:{template.id}"} <= owners
        assert [piece.path for piece in pieces.values() if not piece.kept_by] == [str(left)]
        assert await place.registry.ask(r.Collect()) == ()
        assert "a test" in (await place.diagnosis()).collection[0].why
        del place.world.store.blocked["a test"]
        assert [piece.path for piece in await place.registry.ask(r.Collect())] == [str(left)]


@pytest.mark.parametrize("part", [records.RECORD, JOURNAL])
async def test_a_dry_run_calls_nothing_unneeded_that_a_workspace_may_need_which_cannot_be_read(
    place: Place, part: str
) -> None:
    mend = await damaged_one(place, part, stopped=True)
    async with place.supervised():
        (trouble,) = (await place.diagnosis()).damaged
        pieces = await place.registry.ask(r.Collect(dry_run=True))
        assert any(not piece.kept_by for piece in pieces)
        assert all(piece.kept_by or piece.maybe_kept_by == (trouble.what,) for piece in pieces)
        mend()
        assert (await place.diagnosis()).healthy
        assert all(piece.kept_by for piece in await place.registry.ask(r.Collect(dry_run=True)))


async def test_a_dry_run_lists_everything_although_a_layer_is_damaged(place: Place) -> None:
    async with place.supervised():
        demo = (await place.registry.ask(r.CreateWorkspace("demo"))).found.workspace_id
        await place.tell("demo", w.CreateSnapshot("tidy"))
        await place.tell("demo", w.Stop())
        left = place.state_dir / "checkpoints" / "5e1f7a52-0000-4000-8000-000000000000"
        left.mkdir()
        layer = place.world.store.layer(records.load(place.record(demo).parent).layer or "")
        whole = layer.read_bytes()
        layer.write_bytes(b"junk")
        pieces = {piece.path: piece for piece in await place.registry.ask(r.Collect(dry_run=True))}
        assert (pieces[str(layer)].kept_by, pieces[str(left)].kept_by) == ((f"workspace:{demo}",), ())
        assert pieces[str(left)].maybe_kept_by == (f"the file {layer.name}",)
        assert await place.registry.ask(r.Collect()) == ()
        (trouble,) = (await place.diagnosis()).damaged
        assert (trouble.path, "is damaged" in trouble.why, "workspace demo" in trouble.why) == (str(layer), True, True)
        assert "agentiso destroy demo" in trouble.remedy
        layer.write_bytes(whole)
        assert (await place.diagnosis()).healthy
        assert not left.exists()


async def test_a_machine_that_ended_by_itself_is_told_with_its_ways_back(place: Place) -> None:
    async with place.supervised():
        await place.registry.ask(r.CreateWorkspace("demo"))
        await place.tell("demo", w.CreateSnapshot("tidy"))
        (qemu,) = place.world.alive
        qemu.dead.set()
        while (await place.states())["demo"] != "failed":
            await place.registry.ask(r.AwaitChange(None, None))
        (trouble,) = (await place.diagnosis()).failed
        assert (trouble.what, "agentiso start demo" in trouble.remedy) == ("workspace demo", True)
        assert "agentiso snapshot restore demo tidy" in trouble.remedy
        await place.tell("demo", w.Start(None))
        assert (await place.diagnosis()).healthy


async def test_a_silent_guest_is_told_with_what_needs_no_answer_of_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.supervised():
        await place.registry.ask(r.CreateWorkspace("demo"))
        monkeypatch.setattr(Guest, "mute_since", time.time() - 6.5)
        (trouble,) = (await place.diagnosis()).unreachable
        assert "Its guest has not answered for" in trouble.why
        assert "agentiso stop demo" in trouble.remedy


async def test_what_is_done_and_not_on_the_disk_yet_is_told_until_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "RETRY_S", 0.01)

    async def fails(_store: Store) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EIO, "An error of the disk")

    async with place.supervised():
        await place.registry.ask(r.CreateWorkspace("demo"))
        with monkeypatch.context() as patch:
            patch.setattr(Store, "flush", fails)
            assert "not on the host's disk yet" in (await place.tell("demo", w.Stop())).note
            (trouble,) = (await place.diagnosis()).half_done
            assert (trouble.what, "An error of the disk" in trouble.why) == ("workspace demo", True)
        while not (await place.diagnosis()).healthy:
            await trio.sleep(0.01)


async def test_a_machine_that_cannot_be_reached_is_told_without_its_logs_and_without_advice_about_starts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.supervised():
        await place.registry.ask(r.CreateWorkspace("demo"))

    async def fails(*_arguments: object, **_options: object) -> None:
        await trio.lowlevel.checkpoint()
        raise MachineFailed("It is late.\nConsole: many lines\n", remedy="Run `agentiso check`.")

    monkeypatch.setattr(start, "adopt", fails)
    async with place.supervised():
        (trouble,) = (await place.diagnosis()).unreachable
        assert trouble.why == "Its machine runs and cannot be reached: It is late. It is left alone and tried again."
        assert "agentiso stop demo" in trouble.remedy


async def test_what_blocked_a_registry_that_crashed_blocks_the_next_one_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    mend = await damaged_one(place, stopped=True)

    def crashes(*_arguments: object) -> None:
        raise RuntimeError("a bug")

    async with place.supervised():
        mend()
        with monkeypatch.context() as patch:
            patch.setattr(recovery, "read_one", crashes)
            with pytest.raises(Exception, match="crashed"):
                await place.diagnosis()
        while not await place.states():
            await place.registry.ask(r.AwaitChange(None, None))
        assert place.world.store.blocked == {}
        assert (await place.diagnosis()).healthy
