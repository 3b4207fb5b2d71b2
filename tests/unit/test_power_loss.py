"""What a power loss may undo: nothing that was reported, and no record together with the one before it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import attrs
import pytest
import trio

from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.files import earlier_of
from actors.model.states import State
from tests.unit.test_records import RECORD

GARBAGE = "33333333-3333-4333-8333-333333333333"
RENAMED = attrs.evolve(RECORD, name="renamed")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = records.directory_of(tmp_path, RECORD.id)
    found.mkdir(parents=True)
    return found


def test_a_record_that_a_power_loss_left_empty_is_read_as_it_was_before(tmp_path: Path, directory: Path) -> None:
    path = records.save(tmp_path, RECORD)
    records.save(tmp_path, RENAMED, keep_earlier=True)
    assert records.load(directory).name == "renamed"
    path.write_bytes(b"")
    assert records.load(directory).name == RECORD.name


def test_a_record_whose_replacement_was_interrupted_is_read_as_it_was_before(tmp_path: Path, directory: Path) -> None:
    path = records.save(tmp_path, RECORD)
    path.rename(earlier_of(path))
    assert records.load(directory).name == RECORD.name
    path.write_text("{}")
    with pytest.raises(records.DamagedRecord):
        records.load(directory)


def test_an_earlier_record_goes_with_its_workspace(tmp_path: Path, directory: Path) -> None:
    records.save(tmp_path, RECORD)
    records.save(tmp_path, attrs.evolve(RECORD, state=State.DESTROYED), keep_earlier=True)
    records.remove(directory)
    assert not directory.exists()


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are flushed, in order, by name."""
    seen: list[Path] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        seen.append(Path(f"/proc/self/fd/{fd}").readlink())
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


async def test_nothing_is_swept_before_the_records_that_let_go_of_it_are_flushed(
    tmp_path: Path, directory: Path, flushed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.make_directories()
    garbage = store.layer(GARBAGE)
    garbage.touch()
    path = records.save(tmp_path, RECORD)
    store.unflushed.add(path)
    there: list[bool] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        there.append(garbage.exists())
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    assert await store.collect() == [GARBAGE]
    assert flushed == [path, path.parent]
    assert there == [True, True]


async def test_whoever_waits_for_a_flush_waits_for_the_one_that_is_under_way(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.unflushed.add(records.save(tmp_path, RECORD))
    begun, go_on = trio.Event(), trio.Event()

    def fsync(_fd: int) -> None:
        trio.from_thread.run_sync(begun.set)
        trio.from_thread.run(go_on.wait)

    monkeypatch.setattr(os, "fsync", fsync)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.flush)
            await begun.wait()
            with trio.move_on_after(0.05) as impatient:
                await store.flush()
            assert impatient.cancelled_caught
            go_on.set()
        await store.flush()


async def test_a_flush_passes_over_what_was_destroyed_meanwhile(tmp_path: Path, directory: Path) -> None:
    store = Store(tmp_path)
    path = records.save(tmp_path, RECORD)
    store.unflushed.add(path)
    records.remove(directory)
    await store.flush()
    assert not store.unflushed


async def test_what_could_not_be_flushed_is_not_taken_for_flushed(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    path = records.save(tmp_path, RECORD)
    store.unflushed.add(path)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", _refuse)
        with pytest.raises(OSError, match="disk"):
            await store.flush()
        await store.flush_soon()
        assert not store.is_flushed(path)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.flush()
    assert not store.is_flushed(path)
    await store.flush()
    assert store.is_flushed(path)


def _refuse(_fd: int) -> None:
    raise OSError(errno.EIO, "the disk is broken")


async def test_a_record_is_not_safe_before_its_flush_has_ended(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that is replaced meanwhile would take the place of the last one that is."""
    store = Store(tmp_path)
    path = records.save(tmp_path, RECORD)
    store.unflushed.add(path)
    safe: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _fd: safe.append(store.is_flushed(path)))
    await store.flush()
    assert safe == [False, False]
    assert store.is_flushed(path)


async def test_what_was_there_before_goes_once_the_new_record_is_flushed(tmp_path: Path, directory: Path) -> None:
    store = Store(tmp_path)
    path = records.save(tmp_path, RECORD)
    records.save(tmp_path, RENAMED, keep_earlier=True)
    store.unflushed.add(path)
    await store.flush()
    assert not earlier_of(path).exists()
    path.write_bytes(b"")
    with pytest.raises(records.DamagedRecord):
        records.load(directory)


async def test_what_was_there_before_stays_while_a_power_loss_has_left_nothing_else_that_can_be_read(
    tmp_path: Path, directory: Path
) -> None:
    store = Store(tmp_path)
    path = records.save(tmp_path, RECORD)
    records.save(tmp_path, RENAMED, keep_earlier=True)
    path.write_bytes(b"")
    store.unflushed |= {path, directory}
    await store.flush()
    assert records.load(directory).name == RECORD.name
    assert not store.is_flushed(path)
    records.save(tmp_path, RENAMED, keep_earlier=store.is_flushed(path))
    assert records.read(earlier_of(path)).name == RECORD.name
    await store.flush()
    assert records.load(directory).name == RENAMED.name
    assert not earlier_of(path).exists()
    assert store.is_flushed(path)


def test_a_damaged_record_is_left_alone_where_the_one_before_it_belonged_to_nobody(
    tmp_path: Path, directory: Path
) -> None:
    path = records.save(tmp_path, attrs.evolve(RECORD, state=State.CREATING))
    records.save(tmp_path, RECORD, keep_earlier=True)
    path.write_bytes(b"")
    with pytest.raises(records.DamagedRecord):
        records.load(directory)
