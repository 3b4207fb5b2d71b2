"""An image stays while anything stands on it, or may: in every state, and whatever cannot be read.

The actors, records, store, checkpoints and images are the real ones, over simulated machines (see `simulated`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import imagebuild
from actors.machine import start as starting
from actors.machine.storage.qcow2_layers import Qcow2Layers
from actors.model import record as records
from actors.model.errors import AgentisoError, ImageInUse, NotFound
from actors.model.info import ImageRemoval, Shape
from actors.model.settings import Limits, Settings
from actors.model.settings import Pool as PoolSettings
from actors.registry import messages as r
from actors.registry import pool as pools
from actors.registry.supervisor import open_supervisor
from actors.workspace import messages as w
from agentiso.library.image_shelf import Shelf
from imagebuild import Image, ImageError
from tests.images import put_image
from tests.stateful.simulated import World

LIMIT_S = 60


@attrs.define
class Place:
    """A state directory, its images, and the supervisors that run there one after the other."""

    root: Path
    world: World
    settings: Settings
    registry: r.RegistryRef = attrs.field(init=False)

    @property
    def images(self) -> Path:
        return self.root / "images"

    @asynccontextmanager
    async def supervised(self) -> AsyncIterator[None]:
        shelf = Shelf(self.images, self.settings.state_dir)
        async with open_supervisor(self.settings, shelf.load, keep=True, shelf=shelf) as self.registry:
            yield

    async def create(self, name: str, image: str = "base") -> str:
        return (await self.registry.ask(r.CreateWorkspace(name, image=image))).found.workspace_id

    async def tell(self, name: str, message: Any) -> Any:
        return await (await self.registry.ask(r.FindWorkspace(name))).ref.ask(message)

    async def remove(self, image: str = "base", *, force: bool = False) -> ImageRemoval:
        return await self.registry.ask(r.RemoveImage(image, force))

    async def refused(self, image: str = "base") -> str:
        """Return why an image is not removed, after which it is there as before, names and files."""
        before = self.files()
        with pytest.raises(ImageInUse) as caught:
            await self.remove(image)
        assert self.files() == before
        return caught.value.message

    async def used_by(self, digest: str) -> tuple[str, ...]:
        images = await self.registry.ask(r.ListImages())
        return next(image.used_by for image in images if image.digest == digest)

    def files(self) -> set[str]:
        found = (Path(top, name) for top, _, names in os.walk(self.images) for name in names)
        return {str(path.relative_to(self.images)) for path in found if path.parent != self.images}


@pytest.fixture
def pool() -> PoolSettings:
    return PoolSettings()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: PoolSettings) -> Place:
    settings = Settings(
        state_dir=tmp_path / "state",
        shape=Shape(vcpus=1, memory_mb=128, disk_gb=1),
        network="none",
        limits=Limits(memory_reserve_mb=0),
        pool=pool,
    )
    return Place(tmp_path, World(monkeypatch), settings)


@pytest.fixture
async def base(place: Place) -> AsyncIterator[Image]:
    """The image ``base``, while a supervisor runs."""
    image = put_image(place.images, "base", "base")
    with trio.fail_after(LIMIT_S):
        async with place.supervised():
            yield image


async def test_a_template_is_stale_without_its_image_only_where_others_are(base: Image, place: Place) -> None:
    await place.registry.ask(r.WarmTemplate())
    away = place.root / "away"
    place.images.rename(away)
    assert [template.stale for template in await place.registry.ask(r.ListTemplates())] == [None]
    assert await place.registry.ask(r.DropTemplates()) == ()
    away.rename(place.images)
    put_image(place.images, "other", "other")
    (place.images / "names" / "base").unlink()
    (place.images / base.digest).rename(place.root / "gone")
    (template,) = await place.registry.ask(r.ListTemplates())
    assert template.stale == "its image base is not there"
    assert await place.registry.ask(r.DropTemplates()) == (template,)


@pytest.mark.parametrize("state", ["running", "paused", "suspended", "stopped", "failed"])
async def test_an_image_with_a_workspace_in_any_state_is_not_removed(place: Place, base: Image, state: str) -> None:
    await place.create("demo")
    match state:
        case "paused":
            await place.tell("demo", w.Pause())
        case "suspended":
            await place.tell("demo", w.Suspend())
        case "stopped":
            await place.tell("demo", w.Stop())
        case "failed":
            since = await place.registry.ask(r.AwaitChange(None, None))
            place.world.alive[-1].dead.set()
            await place.registry.ask(r.AwaitChange(since, None))
    said = await place.refused()
    assert f"workspace demo ({state})" in said
    assert await place.used_by(base.digest) == (f"workspace demo ({state})", *await templates(place))
    await place.registry.ask(r.DestroyWorkspace("demo"))
    assert (await place.remove()).files_removed
    assert place.files() == set()


async def templates(place: Place) -> list[str]:
    return [f"template {info.id[:8]}" for info in await place.registry.ask(r.ListTemplates())]


async def test_the_snapshots_that_would_be_lost_are_named(place: Place, base: Image) -> None:
    await place.create("demo")
    await place.tell("demo", w.CreateSnapshot("tidy"))
    await place.tell("demo", w.CreateSnapshot("golden"))
    await place.tell("demo", w.Stop())
    assert "workspace demo (stopped, with the snapshots tidy, golden)" in await place.refused()


async def test_a_fork_keeps_the_image_of_its_parent_that_is_gone(place: Place, base: Image) -> None:
    await place.create("parent")
    await place.registry.ask(r.ForkWorkspace("parent", names=("child",)))
    await place.registry.ask(r.DestroyWorkspace("parent"))
    assert "workspace child (running)" in await place.refused()


async def test_templates_alone_go_with_their_image_and_the_answer_says_so(place: Place, base: Image) -> None:
    other = put_image(place.images, "other", "other")
    await place.registry.ask(r.WarmTemplate("base"))
    await place.registry.ask(r.WarmTemplate("other"))
    gone, kept = (f"template {info.id[:8]}" for info in await place.registry.ask(r.ListTemplates()))
    removal = await place.remove()
    assert (removal.dropped, removal.names, removal.files_removed) == ((gone,), ("base",), True)
    assert await place.used_by(other.digest) == (kept,)
    assert not (place.images / base.digest).exists()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Happens once the pool has two machines."""
    event, add = trio.Event(), pools.Pool._add

    async def added(pool: pools.Pool, *arguments: Any) -> None:
        await add(pool, *arguments)
        if pool.info().ready == 2:
            event.set()

    monkeypatch.setattr(pools, "QUIET_S", 0.0)
    monkeypatch.setattr(pools.Pool, "_add", added)
    return event


@pytest.mark.parametrize("pool", [PoolSettings(size=2)])
async def test_machines_of_the_pool_go_with_their_image(
    place: Place, pool: PoolSettings, full: trio.Event, base: Image
) -> None:
    await full.wait()
    assert len(place.world.alive) == 2
    assert any("of the pool" in user for user in await place.used_by(base.digest))
    removal = await place.remove()
    assert removal.files_removed
    assert "2 of the pool's machines" in removal.dropped
    assert place.world.alive == []
    assert place.files() == set()


@pytest.mark.parametrize("pool", [PoolSettings(size=1)])
async def test_a_machine_that_is_being_made_for_the_pool_gives_way(
    place: Place, pool: PoolSettings, base: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "QUIET_S", 0.0)
    begun, prove = trio.Event(), starting.prove

    async def stuck(machine: Any, *arguments: Any, **options: Any) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await machine.end()

    monkeypatch.setattr(starting, "prove", stuck)
    await begun.wait()
    assert (await place.remove()).files_removed
    monkeypatch.setattr(starting, "prove", prove)
    assert place.world.alive == []


async def test_an_image_that_a_create_is_loading_counts_as_used(
    place: Place, base: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, prepare = trio.Event(), trio.Event(), starting.prepare

    async def late(*arguments: Any, **options: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await prepare(*arguments, **options)

    monkeypatch.setattr(starting, "prepare", late)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.create, "demo")
        await begun.wait()
        said = await place.refused()
        go_on.set()
    assert "the creation of demo, which is under way" in said
    assert "workspace demo (running)" in await place.refused()


# -- what is not known


@pytest.mark.parametrize("what", ["record", "template", "layer"])
async def test_what_cannot_be_read_may_stand_on_any_image(place: Place, what: str) -> None:
    put_image(place.images, "base", "base")
    other = put_image(place.images, "other", "other")
    state_dir = place.settings.state_dir
    with trio.fail_after(LIMIT_S):
        async with place.supervised():
            workspace_id = await place.create("demo")
            await place.tell("demo", w.Stop())
        directory = records.directory_of(state_dir, workspace_id)
        layer = records.load(directory).layer
        damaged = {
            "record": directory / records.RECORD,
            "template": next((state_dir / "templates").glob("*.json")),
            "layer": state_dir / "layers" / f"{layer}.qcow2",
        }[what]
        whole = damaged.read_bytes()
        damaged.write_bytes(b"damaged\n")
        async with place.supervised():
            assert "cannot be read" in await place.refused("other")
            # The name alone is nobody's need.
            removal = await place.remove("other", force=True)
            assert (removal.names, removal.files_removed) == (("other",), False)
            assert (place.images / other.digest).is_dir()
            damaged.write_bytes(whole)
            assert (await place.registry.ask(r.Diagnose())).healthy
            assert (await place.remove(other.digest[:8])).files_removed


async def test_a_layer_keeps_its_image_whatever_the_records_say(place: Place, base: Image) -> None:
    layers = Qcow2Layers(place.settings.state_dir)
    workspace_id = await place.create("demo")
    layer = records.load(records.directory_of(place.settings.state_dir, workspace_id)).layer
    assert layer is not None
    with place.world.store.held(layer):
        await place.registry.ask(r.DestroyWorkspace("demo"))
        assert layers.base(layer) == base.file("root.img")
        assert "disk layer" in await place.refused()
    assert (await place.remove()).files_removed


async def test_by_force_an_image_that_is_used_loses_its_name_and_nothing_else(place: Place, base: Image) -> None:
    await place.create("demo")
    await place.tell("demo", w.Suspend())
    before = place.files()
    removal = await place.remove(force=True)
    assert (removal.digest, removal.names, removal.files_removed) == (base.digest, ("base",), False)
    assert removal.used_by == ("workspace demo (suspended)",)
    assert place.files() == before - {"names/base"}
    with pytest.raises(ImageInUse, match="demo"):
        await place.remove(base.digest[:8], force=True)
    await place.tell("demo", w.Resume())
    await place.tell("demo", w.Stop())
    await place.tell("demo", w.Start(None))
    await place.registry.ask(r.DestroyWorkspace("demo"))
    assert (await place.remove(base.digest[:8])).files_removed


async def test_an_image_built_anew_is_told_with_its_users_and_removed_by_its_digest(place: Place, base: Image) -> None:
    await place.create("demo")
    new = put_image(place.images, "base", "another")
    assert [(image.names, image.digest) for image in await place.registry.ask(r.ListImages())] == [
        (("base",), new.digest),
        ((), base.digest),
    ]
    assert (await place.used_by(base.digest))[0] == "workspace demo (running)"
    assert await place.used_by(new.digest) == ()
    assert "demo" in await place.refused(base.digest)
    await place.registry.ask(r.DestroyWorkspace("demo"))
    assert (await place.remove(base.digest[:10])).files_removed
    assert (await place.remove("base")).files_removed
    for text in ("base", base.digest, base.digest[:8], "", "4"):
        with pytest.raises(NotFound):
            await place.remove(text)


async def test_another_state_directory_that_stands_on_the_images_is_asked_too_even_while_it_is_not_mounted(
    place: Place, tmp_path: Path
) -> None:
    base, far = put_image(place.images, "base", "base"), tmp_path / "another"
    other = attrs.evolve(place, settings=attrs.evolve(place.settings, state_dir=far))
    with trio.fail_after(LIMIT_S):
        async with other.supervised():
            await other.create("far")
            await other.tell("far", w.Stop())
        async with place.supervised():
            assert f"workspace far (stopped), of {far}" in await place.refused()
            far.rename(tmp_path / "elsewhere")
            assert f"agentiso image forget {far}" in await place.refused()
            (trouble,) = (await place.registry.ask(r.Diagnose())).host
            assert (trouble.path, f"agentiso image forget {far}" in trouble.remedy) == (str(far), True)
            with pytest.raises(ImageInUse) as caught:
                await place.remove()
            assert f"agentiso image forget {far}" in caught.value.remedy
            # A mount point is left where nothing is mounted.
            far.mkdir()
            assert f"agentiso image forget {far}" in await place.refused()
            far.rmdir()
            (tmp_path / "elsewhere").rename(far)
            (far / "workspaces").rename(tmp_path / "elsewhere")
            (far / "workspaces").mkdir()
            assert f"agentiso image forget {far}" in await place.refused()
            (far / "workspaces").rmdir()
            (tmp_path / "elsewhere").rename(far / "workspaces")
            assert "workspace far (stopped)" in await place.refused()
            shutil.rmtree(far)
            assert imagebuild.forget_user(place.images, far)
            assert (await place.remove()).files_removed
            assert not base.directory.exists()


async def test_images_that_this_user_may_only_read_are_used_and_the_note_is_made_once_it_can_be(
    place: Place, base: Image, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [False, False, True]
    monkeypatch.setattr(imagebuild, "note_user", lambda *_arguments: answers.pop(0))
    for number in range(4):
        await place.create(f"ws-{number}")
    assert answers == []
    assert caplog.text.count("this user may not write") == 1


async def test_a_workspace_whose_use_of_an_image_cannot_be_noted_is_not_made(
    place: Place, base: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", full)
        with pytest.raises(ImageError, match="No space left"):
            await place.create("demo")
    await place.create("demo")


async def test_creates_and_removals_at_once_leave_no_workspace_without_its_image(place: Place, base: Image) -> None:
    made: list[str] = []

    async def create(number: int) -> None:
        with contextlib.suppress(AgentisoError):
            made.append(await place.create(f"ws-{number}"))

    async def remove() -> None:
        with contextlib.suppress(ImageInUse):
            await place.remove()

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(create, number)
            nursery.start_soon(remove)
    assert bool(made) == base.directory.exists()
    for number in range(len(made)):
        await place.tell(made[number], w.Stop())
        await place.tell(made[number], w.Start(None))
