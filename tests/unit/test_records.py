"""What workspaces and checkpoints write down: it comes back as it was, and shows when it is not what was written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.machine.storage import integrity
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.seal import digest_of, seal_of
from actors.machine.storage.store import Store
from actors.model import record as records
from actors.model.end import End, EndReason
from actors.model.errors import CheckpointUnusable
from actors.model.files import earlier_of
from actors.model.info import Evidence, HookOutcome, Lineage, Shape
from actors.model.journal import Journal, Kind
from actors.model.machine import Fingerprint, MachineRecord, ProcessIdentity
from actors.model.record import SnapshotRecord, WorkspaceRecord
from actors.model.states import State
from tests.stateful.supervised import READING, unreadable

FINGERPRINT = Fingerprint("7.2", "tcg", "max", 1, 128, "digest", "none", "serial")
EVIDENCE = Evidence(
    "epoch", True, 3, True, 0.5, "name", True, 1.5, (HookOutcome("10-a", 0), HookOutcome("20-b", None, "no such file"))
)
RECORD = WorkspaceRecord(
    id="0a1b2c3d-0000-4000-8000-000000000000",
    name="name",
    image="base",
    image_digest="digest",
    shape=Shape(),
    network="user",
    allow_internet=False,
    mac="52:54:0a:1b:2c:3d",
    channel="serial",
    accelerator="tcg",
    created_at=1.5,
    state=State.RUNNING,
    layer="layer",
    disk_bytes=2**30,
    checkpoint="checkpoint",
    machine=MachineRecord(
        ProcessIdentity(1, 2, "uuid"),
        "/state/workspaces/0a1b2c3d/machines/one",
        "epoch",
        "00",
        "11",
        "/state/checkpoints/two/ram",
    ),
    snapshots=(SnapshotRecord("id", "one", None, 1.0, "checkpoint", True, 5),),
    head="id",
    forked_from=Lineage("id", "parent", "checkpoint", None),
    evidence=EVIDENCE,
    started_by="restore",
    start_seconds=0.1,
    ended=End(EndReason.SIGNAL, "It was ended.", 2.5, "SIGKILL", "console", "qemu"),
)


def test_a_record_from_before_ends_were_written_down_can_be_read(tmp_path: Path) -> None:
    directory = records.directory_of(tmp_path, RECORD.id)
    directory.mkdir(parents=True)
    path = records.save(tmp_path, attrs.evolve(RECORD, ended=None))
    written = json.loads(path.read_bytes())
    del written["ended"]
    path.write_text(json.dumps(written))
    assert records.load(directory) == attrs.evolve(RECORD, ended=None, machine=machine_in(tmp_path))


def machine_in(state_dir: Path) -> MachineRecord:
    """Return what a record of a state directory names as its machine."""
    assert RECORD.machine is not None
    directory, ram = records.directory_of(state_dir, RECORD.id) / "machines" / "one", state_dir / "checkpoints/two/ram"
    return attrs.evolve(RECORD.machine, directory=str(directory), ram=str(ram))


@pytest.mark.parametrize("own_ram", [False, True])
def test_a_record_comes_back_as_it_was_and_names_nothing_outside_of_its_state_directory(
    tmp_path: Path, own_ram: bool
) -> None:
    directory = records.directory_of(tmp_path, RECORD.id)
    directory.mkdir(parents=True)
    machine, expected = RECORD.machine, machine_in(tmp_path)
    assert machine is not None
    if own_ram:
        machine = attrs.evolve(machine, ram=f"{machine.directory}/ram")
        expected = attrs.evolve(expected, ram=f"{expected.directory}/ram")
    records.save(tmp_path, attrs.evolve(RECORD, machine=machine))
    first = records.load(directory)
    assert first == attrs.evolve(RECORD, machine=expected)
    records.save(tmp_path, first)
    assert records.load(directory) == first


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.make_directories()
    return made


def kept(store: Store, *, digest: bool) -> Checkpoint:
    """Write a small checkpoint, with holes, as one that an earlier supervisor has kept."""
    directory = store.checkpoint("one")
    directory.mkdir()
    with (directory / "ram").open("wb") as file:
        file.truncate(2**20)
        file.seek(300_000)
        file.write(b"memory")
    (directory / "devices").write_bytes(b"devices")
    made = Checkpoint("one", 1.0, FINGERPRINT, "layer", 2**30, True, "00", "11", 5, seal_of(directory))
    store.save(attrs.evolve(made, digest=digest_of(directory) if digest else ""))
    return store.load("one")


@pytest.mark.parametrize("digest", [True, False])
def test_a_checkpoint_as_it_was_written_is_taken(store: Store, digest: bool) -> None:
    integrity.verify(store, kept(store, digest=digest))


def test_a_copied_checkpoint_is_taken_for_its_digest_whatever_its_holes(store: Store) -> None:
    made = kept(store, digest=True)
    ram = store.checkpoint("one") / "ram"
    filled = ram.read_bytes()
    ram.unlink()
    ram.write_bytes(filled)
    integrity.verify(store, made)


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("name", ["ram", "devices"])
def test_an_altered_checkpoint_is_refused(store: Store, name: str, digest: bool) -> None:
    made = kept(store, digest=digest)
    with (store.checkpoint("one") / name).open("r+b") as file:
        file.write(b"x")
    with pytest.raises(CheckpointUnusable, match="altered"):
        integrity.verify(store, made)


def test_a_checkpoint_that_is_altered_after_it_was_verified_is_refused(store: Store) -> None:
    made = kept(store, digest=True)
    integrity.verify(store, made)
    ram = store.checkpoint("one") / "ram"
    times = ram.stat()
    with ram.open("r+b") as file:
        file.write(b"x")
    os.utime(ram, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(CheckpointUnusable, match="altered"):
        integrity.verify(store, made)


def test_a_decayed_checkpoint_is_refused_at_its_first_use(store: Store) -> None:
    """What the disk itself has changed, no time shows."""
    made = kept(store, digest=True)
    decayed = attrs.evolve(made, digest="0" * 64)
    with pytest.raises(CheckpointUnusable, match="damaged"):
        integrity.verify(store, decayed)


async def test_a_checkpoint_that_was_not_flushed_is_taken_until_the_host_boots_again(store: Store) -> None:
    boot = integrity.BOOT_ID.read_text().strip()
    made = attrs.evolve(kept(store, digest=False), boot=boot)
    integrity.verify(store, made)
    store.verified.clear()
    with pytest.raises(CheckpointUnusable, match="damaged"):
        integrity.verify(store, attrs.evolve(made, boot="the boot before"))
    await integrity.add_digest(store, made)
    settled = store.load("one")
    assert (settled.boot, bool(settled.digest)) == ("", True)
    integrity.verify(store, settled)


def test_a_checkpoint_without_its_memory_is_refused(store: Store) -> None:
    made = kept(store, digest=True)
    shutil.rmtree(store.checkpoint("one"))
    with pytest.raises(CheckpointUnusable, match="cannot be read"):
        integrity.verify(store, made)


# -- what cannot be read, or removed


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = records.directory_of(tmp_path, RECORD.id)
    found.mkdir(parents=True)
    return found


@pytest.mark.parametrize("error", READING)
def test_a_record_that_cannot_be_read_is_not_taken_for_the_one_before(
    tmp_path: Path, directory: Path, error: int
) -> None:
    records.save(tmp_path, attrs.evolve(RECORD, layer="before"))
    path = records.save(tmp_path, RECORD, keep_earlier=True)
    with unreadable(error, path):
        with pytest.raises(records.DamagedRecord, match=os.strerror(error)):
            records.load(directory)
        assert not records.is_whole(directory)
    assert records.is_whole(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "{}", "\0" * 500, '{"state": "paused"}'])
def test_what_is_no_record_is_damaged(tmp_path: Path, directory: Path, text: str) -> None:
    (directory / records.RECORD).write_text(text)
    with pytest.raises(records.DamagedRecord):
        records.load(directory)


def test_a_record_with_a_field_that_is_not_known_is_damaged(tmp_path: Path, directory: Path) -> None:
    path = records.save(tmp_path, RECORD)
    path.write_text(json.dumps({**json.loads(path.read_text()), "invented_later": 1}))
    with pytest.raises(records.DamagedRecord, match="invented_later"):
        records.load(directory)


def test_a_workspace_without_any_record_is_damaged(directory: Path) -> None:
    with pytest.raises(records.DamagedRecord):
        records.load(directory)


def test_a_record_that_was_cut_off_is_not_whole_while_the_one_before_tells_how_it_was(
    tmp_path: Path, directory: Path
) -> None:
    path = records.save(tmp_path, RECORD)
    records.save(tmp_path, attrs.evolve(RECORD, layer="after"), keep_earlier=True)
    path.write_bytes(path.read_bytes()[:100])
    assert not records.is_whole(directory)
    assert records.load(directory) == attrs.evolve(RECORD, machine=machine_in(tmp_path))


def test_a_record_whose_replacement_was_interrupted_is_whole(tmp_path: Path, directory: Path) -> None:
    path = records.save(tmp_path, RECORD)
    assert records.is_whole(directory)
    path.rename(earlier_of(path))
    assert records.is_whole(directory)
    earlier_of(path).unlink()
    assert not records.is_whole(directory)


@pytest.mark.parametrize("error", READING)
def test_whether_a_directory_is_empty_is_not_guessed(
    directory: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    assert records.is_empty(directory)
    (directory / f".{records.RECORD}.new").touch()
    assert records.is_empty(directory)
    (directory / "something").touch()
    assert not records.is_empty(directory)
    monkeypatch.setattr(Path, "iterdir", _fail_with(error))
    with pytest.raises(OSError, match=os.strerror(error)):
        records.is_empty(directory)


def _fail_with(error: int) -> Any:
    def fail(path: Path, *_arguments: object, **_options: object) -> None:
        raise OSError(error, os.strerror(error), str(path))

    return fail


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.EBUSY])
def test_what_cannot_be_removed_keeps_the_record_and_the_journal_and_nothing_else(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    records.save(tmp_path, RECORD)
    records.save(tmp_path, RECORD, keep_earlier=True)
    Journal(directory).will(Kind.DESTROY, directory.name)
    for name in ("machines", "exports"):
        (directory / name / "inner").mkdir(parents=True)
    (directory / "log").touch()
    rmtree = shutil.rmtree

    def fail(path: Path, *arguments: Any, **options: Any) -> None:
        if Path(path).name == "machines":
            _fail_with(error)(path)
        rmtree(path, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", fail)
        with pytest.raises(OSError, match=os.strerror(error)):
            records.remove(directory)
        assert {path.name for path in directory.iterdir()} == {"machines", *records.LAST}
        assert records.load(directory) == attrs.evolve(RECORD, machine=machine_in(tmp_path))
    records.remove(directory)
    assert not directory.exists()
    records.remove(directory)


@pytest.mark.parametrize("kept", records.LAST)
def test_a_removal_that_ends_anywhere_leaves_what_tells_that_it_was_begun(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """The journal, which says so, goes last; no earlier record is left alone without the one that followed it."""
    records.save(tmp_path, RECORD)
    records.save(tmp_path, RECORD, keep_earlier=True)
    Journal(directory).will(Kind.DESTROY, directory.name)
    unlink = Path.unlink

    def fail(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == kept:
            _fail_with(errno.EIO)(path)
        unlink(path, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", fail)
        with pytest.raises(OSError, match="error"):
            records.remove(directory)
    left = {path.name for path in directory.iterdir()}
    assert left == set(records.LAST[records.LAST.index(kept) :])
    records.remove(directory)
    assert not directory.exists()


def test_a_removal_follows_no_link(tmp_path: Path, directory: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (directory / "link").symlink_to(elsewhere)
    records.remove(directory)
    assert (elsewhere / "kept").exists()
