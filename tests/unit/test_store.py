"""What the store keeps, and what it removes: only what is known to be its own and held by nobody."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.machine.storage import collection
from actors.machine.storage.checkpoint import RECORD, Checkpoint, layer_of
from actors.machine.storage.holds import Holds, is_block
from actors.machine.storage.layers import Base
from actors.machine.storage.store import Store
from actors.model.errors import CheckpointUnusable, HostFailed, NoCapacity
from actors.model.names import new_id
from tests.stateful.supervised import READING, unreadable

LIMIT_S = 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "root.raw").touch()
    made = Store(tmp_path)
    made.make_directories()
    return made


def layer(store: Store, over: str | None = None) -> str:
    made = new_id()
    root = Base(store.checkpoint("x").parent.parent / "root.raw")
    store.layers.create(made, over=over or root, size_bytes=2**20)
    return made


def checkpoint(store: Store, on: str) -> str:
    made = new_id()
    store.checkpoint(made).mkdir()
    (store.checkpoint(made) / "ram").write_bytes(b"memory")
    store.save(Checkpoint(made, 1.0, None, on, 2**20, False, "", "", 0))
    return made


def there(store: Store) -> set[str]:
    return {path.name for path in store.checkpoint("x").parent.iterdir()} | store.layers.owned()


# -- held


def test_what_anybody_holds_is_needed_until_the_last_one_has_let_go() -> None:
    holds = Holds()
    holds.set("one", {"a", "b"})
    holds.set("two", {"b"})
    assert holds.needed == {"a", "b"}
    assert {name: set(owners) for name, owners in holds.holders().items()} == {"a": {"one"}, "b": {"one", "two"}}
    holds.set("one", {"b"})
    holds.release("two")
    assert holds.needed == {"b"}
    holds.release("one")
    holds.release("one")
    assert holds.needed == frozenset()


def test_a_block_holds_what_it_names_later_and_lets_go_of_all_at_its_end() -> None:
    holds = Holds()
    with holds.held("a") as owner:
        assert is_block(owner)
        holds.set(owner, {"b"})
        assert holds.needed == {"b"}
    assert holds.needed == frozenset()


async def test_who_waits_is_told_of_what_nobody_holds_any_more_and_of_nothing_else() -> None:
    holds = Holds()
    holds.set("one", {"a"})
    holds.set("two", {"a"})
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            told = trio.Event()

            async def wait() -> None:
                await holds.wait_let_go()
                told.set()

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            holds.release("one")
            await wait_all_tasks_blocked()
            assert not told.is_set()
            holds.release("two")
        # What was let go of before somebody waits counts too.
        holds.set("one", {"b"})
        holds.release("one")
        await holds.wait_let_go()


# -- collected


async def test_what_nobody_holds_directly_or_below_is_removed(store: Store) -> None:
    bottom = layer(store)
    top, loose = layer(store, bottom), layer(store, bottom)
    kept, gone = checkpoint(store, top), checkpoint(store, loose)
    store.hold("somebody", {kept})
    assert set(await store.collect()) == {loose, gone}
    assert there(store) == {bottom, top, kept}
    store.release("somebody")
    assert set(await store.collect()) == {bottom, top, kept}
    assert store.trouble == ""


async def test_who_keeps_each_piece_is_told(store: Store) -> None:
    bottom = layer(store)
    top = layer(store, bottom)
    kept = checkpoint(store, top)
    store.hold("somebody", {kept})
    pieces = {piece.id: piece for piece in (await store.survey()).pieces}
    assert pieces[kept].kept_by == ("somebody",)
    assert pieces[top].kept_by == (f"checkpoint {kept}",)
    assert pieces[bottom].kept_by == (f"layer {top}",)
    assert all(piece.size_bytes > 0 and Path(piece.path).exists() for piece in pieces.values())


async def test_nothing_is_removed_while_something_is_in_the_way(store: Store) -> None:
    loose = layer(store)
    store.blocked["a record"] = "It cannot be read."
    assert await store.collect() == []
    assert there(store) == {loose}
    del store.blocked["a record"]
    assert await store.collect() == [loose]


async def test_nothing_is_removed_if_something_comes_in_the_way_while_records_are_flushed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose, held = layer(store), layer(store)
    flush = store.flush

    async def flush_slowly() -> None:
        await flush()
        store.hold("somebody", {held})

    monkeypatch.setattr(store, "flush", flush_slowly)
    assert await store.collect() == [loose]

    async def flush_and_block() -> None:
        await flush()
        store.blocked["a record"] = "It cannot be read."

    store.release("somebody")
    monkeypatch.setattr(store, "flush", flush_and_block)
    assert await store.collect() == []
    assert there(store) == {held}


async def test_what_is_not_named_like_one_of_ours_is_left_alone(store: Store) -> None:
    names = ["notes", "precious.qcow2", f"{new_id()}.old"]
    for name in names:
        (store.layer("x").parent / name).touch()
        (store.checkpoint(name)).mkdir()
    (store.checkpoint(new_id())).touch()
    before = there(store)
    assert await store.collect() == []
    assert there(store) == before
    assert all((store.layer("x").parent / name).exists() for name in names)


async def test_a_checkpoint_that_was_half_made_is_removed_and_one_that_is_being_made_is_not(store: Store) -> None:
    half, making = new_id(), new_id()
    for name in (half, making):
        store.checkpoint(name).mkdir()
        (store.checkpoint(name) / "ram").touch()
    with store.held(making, new_id()):
        assert await store.collect() == [half]
    assert await store.collect() == [making]


@pytest.mark.parametrize("error", READING)
async def test_a_checkpoint_whose_record_cannot_be_read_has_nothing_be_removed(store: Store, error: int) -> None:
    below = layer(store)
    kept, loose = checkpoint(store, below), layer(store)
    store.hold("somebody", {kept})
    before = there(store)
    with unreadable(error, store.checkpoint(kept) / RECORD):
        with pytest.raises(OSError, match=os.strerror(error)):
            layer_of(store.checkpoint(kept))
        with pytest.raises((HostFailed, NoCapacity)):
            store.load(kept)
        assert await store.collect() == []
        assert os.strerror(error) in store.trouble
        assert store.is_stood_on(loose)
    assert there(store) == before
    assert await store.collect() == [loose]
    assert store.trouble == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", '{"layer": 7}', "null"])
async def test_a_checkpoint_whose_record_is_damaged_has_nothing_be_removed(store: Store, text: str) -> None:
    below = layer(store)
    kept = checkpoint(store, below)
    layer(store)
    store.hold("somebody", {kept})
    (store.checkpoint(kept) / RECORD).write_text(text)
    before = there(store)
    with pytest.raises(CheckpointUnusable):
        store.load(kept)
    assert await store.collect() == []
    assert kept in store.trouble
    assert there(store) == before


async def test_a_damaged_record_of_a_checkpoint_that_nobody_holds_is_in_nobodys_way(store: Store) -> None:
    loose = checkpoint(store, layer(store))
    (store.checkpoint(loose) / RECORD).write_text("{")
    await store.collect()
    assert there(store) == set()


@pytest.mark.parametrize("whole", [True, False], ids=["gone", "without a record"])
async def test_what_is_held_and_missing_has_nothing_be_removed(store: Store, whole: bool) -> None:
    loose, missing = layer(store), new_id()
    if not whole:
        store.checkpoint(missing).mkdir()
    store.hold("workspace one", {missing})
    assert await store.collect() == []
    assert "workspace one" in store.trouble
    assert missing in store.trouble
    assert loose in there(store)
    store.release("workspace one")
    await store.collect()
    assert there(store) == set()


@pytest.mark.parametrize("content", [None, b"", b"\0" * 65536])
async def test_a_held_layer_that_is_damaged_or_missing_below_has_nothing_be_removed(
    store: Store, content: bytes | None
) -> None:
    bottom = layer(store)
    top, loose = layer(store, bottom), layer(store)
    store.hold("somebody", {top})
    if content is None:
        store.layers.remove(bottom)
    else:
        store.layer(bottom).write_bytes(content)
    assert await store.collect() == []
    assert bottom in store.trouble
    assert {top, loose} <= there(store)


@pytest.mark.parametrize("error", READING)
async def test_what_cannot_be_listed_has_nothing_be_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    loose, iterdir = layer(store), Path.iterdir

    def fail(path: Path) -> Any:
        if path == store.checkpoint("x").parent:
            raise OSError(error, os.strerror(error), str(path))
        return iterdir(path)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "iterdir", fail)
        assert await store.collect() == []
        assert os.strerror(error) in store.trouble
        assert store.is_stood_on(loose)
    assert await store.collect() == [loose]


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.EBUSY])
async def test_what_cannot_be_removed_is_told_keeps_nothing_else_and_is_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    base = layer(store)
    stuck, loose = checkpoint(store, base), checkpoint(store, base)
    rmtree = shutil.rmtree

    def fail(path: Path, *arguments: Any, **options: Any) -> None:
        if Path(path).name == stuck:
            raise OSError(error, os.strerror(error), str(path))
        rmtree(path, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", fail)
        await store.collect()
        assert os.strerror(error) in store.trouble
        assert there(store) == {stuck}
        assert not store.checkpoint(loose).exists()
    assert await store.collect() == [stuck]
    assert store.trouble == ""


async def test_what_somebody_else_has_removed_meanwhile_is_no_trouble(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = checkpoint(store, layer(store))
    survey = collection.survey

    def survey_and_lose(*arguments: Any) -> Any:
        found = survey(*arguments)
        shutil.rmtree(store.checkpoint(loose), ignore_errors=True)
        return found

    monkeypatch.setattr(collection, "survey", survey_and_lose)
    await store.collect()
    assert store.trouble == ""
    assert there(store) == set()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_nothing_is_removed_while_records_cannot_be_flushed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    loose = layer(store)
    store.unflushed.add(tmp_path / "root.raw")

    def fail(_fd: int) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        assert await store.collect() == []
        assert os.strerror(error) in store.trouble
    assert await store.collect() == [loose]


# -- stood on


async def test_a_layer_is_stood_on_by_checkpoints_and_layers_held_or_not(store: Store) -> None:
    bottom = layer(store)
    middle = layer(store, bottom)
    top = layer(store, middle)
    checkpoint(store, top)
    loose = layer(store)
    assert store.is_stood_on(bottom)
    assert store.is_stood_on(middle)
    assert store.is_stood_on(top)
    assert not store.is_stood_on(loose)


async def test_a_layer_beside_a_damaged_one_may_be_stood_on(store: Store) -> None:
    mine, damaged = layer(store), layer(store)
    store.layer(damaged).write_bytes(b"")
    assert store.is_stood_on(mine)


def test_what_layers_occupy_is_counted_once_with_what_they_stand_on(store: Store) -> None:
    bottom = layer(store)
    top = layer(store, bottom)
    one = checkpoint(store, top)
    both = store.layers.usage_bytes([bottom, top])
    assert store.disk_bytes({one, top, bottom}) == both
    assert store.disk_bytes({bottom}) == store.layers.usage_bytes([bottom])


def test_a_checkpoint_record_is_as_it_was_written(store: Store) -> None:
    one = checkpoint(store, layer(store))
    found = store.load(one)
    store.save(attrs.evolve(found, digest="x"), flushed=True)
    assert store.load(one) == attrs.evolve(found, digest="x")
