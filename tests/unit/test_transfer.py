"""The files of an export and of an import, without a machine."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import BinaryIO

import attrs
import pytest
import trio

from actors.machine.storage import integrity, qcow2
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.layers import Base
from actors.machine.storage.seal import digest_of, seal_of
from actors.machine.storage.store import Store
from actors.model.errors import AgentisoError, InvalidArgument, NoCapacity
from actors.model.image import BootImage
from actors.model.info import NetworkInfo, Shape, WorkspaceInfo
from actors.model.machine import Fingerprint
from actors.registry import transfer
from actors.registry.bundle import BadBundle, Manifest
from actors.registry.exports import Exports
from tests.disks import small_tmpfs

LIMIT_S = 30
MIB = 2**20
FINGERPRINT = Fingerprint("7.2", "tcg", "max", 1, 128, "digest", "user", "serial")
INFO = WorkspaceInfo(
    "id", "name", "running", "base", "digest", Shape(1, 128, 1), NetworkInfo("user", False), "tcg", "serial", 1.0,
    "restore", 0.1,
)  # fmt: skip


def nothing(_text: str) -> None:
    pass


def accept(_manifest: Manifest) -> None:
    pass


LOW, TOP = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def image(directory: Path) -> BootImage:
    root = directory / "root.img"
    root.touch()
    return BootImage("base", "digest", root, root, root, root)


def store_in(directory: Path) -> Store:
    directory.mkdir()
    made = Store(directory)
    made.make_directories()
    return made


@pytest.fixture
def source(tmp_path: Path) -> tuple[Store, Checkpoint]:
    """A checkpoint with two layers, the lower of them smaller, and a memory with holes."""
    store = store_in(tmp_path / "here")
    store.layers.create(LOW, over=Base(image(tmp_path).root), size_bytes=2**29)
    store.layers.create(TOP, over=LOW, size_bytes=2**30)
    with store.layer(TOP).open("ab") as file:
        file.write(os.urandom(3 * MIB))
    directory = store.checkpoint("point")
    directory.mkdir()
    with (directory / "ram").open("wb") as file:
        file.truncate(128 * MIB)
        os.pwrite(file.fileno(), b"memory", 64 * MIB)
        os.pwrite(file.fileno(), b"end", 128 * MIB - 3)
    (directory / "devices").write_bytes(os.urandom(1000))
    made = Checkpoint("point", 1.0, FINGERPRINT, TOP, 2**30, True, "00" * 32, "11" * 16, 5)
    made = attrs.evolve(made, seal=seal_of(directory), digest=digest_of(directory))
    store.save(made)
    return store, made


async def test_a_checkpoint_comes_back_whole_sparse_and_on_this_hosts_files(
    source: tuple[Store, Checkpoint], tmp_path: Path
) -> None:
    old_store, old = source
    target = tmp_path / "file"
    with trio.fail_after(LIMIT_S):
        size = await transfer.export(old_store, old, INFO, target, nothing, Exports(tmp_path))
        assert size == target.stat().st_size < 8 * MIB
        assert target.stat().st_mode & 0o777 == 0o600
        there = tmp_path / "there"
        store = store_in(there)
        async with transfer.unpacked(there, target, accept, nothing, Store(tmp_path)) as found:
            made = await transfer.install(store, found, image(tmp_path), "owner")
        assert not list((there / "imports").iterdir())
        integrity.verify(store, store.load(made.id))
        assert made.digest == old.digest
        assert made.id != old.id
        assert (store.checkpoint(made.id) / "ram").stat().st_blocks * 512 < MIB
        chain = qcow2.backing_chain(store.layer(made.layer))
        assert len(chain) == 2
        assert all(path.is_relative_to(there) for path in chain)
        assert qcow2.read_header(chain[-1]).backing == tmp_path / "root.img"
        assert chain[0].read_bytes()[qcow2.CLUSTER :] == old_store.layer(TOP).read_bytes()[qcow2.CLUSTER :]
        assert set(await store.collect()) == set()
        store.release("owner")
        assert len(await store.collect()) == 3


async def test_a_refused_bundle_leaves_nothing(source: tuple[Store, Checkpoint], tmp_path: Path) -> None:
    stream = io.BytesIO()
    there = tmp_path / "there"
    store_in(there)

    def refuse(_manifest: Manifest) -> None:
        raise InvalidArgument("It is too large.")

    with trio.fail_after(LIMIT_S):
        await transfer.export(*source, INFO, stream, nothing, Exports(tmp_path))
        good = stream.getvalue()
        for bad in (good[:-2000], good[: 2 * MIB] + b"?" + good[2 * MIB + 1 :]):
            with pytest.raises(BadBundle):
                async with transfer.unpacked(there, io.BytesIO(bad), accept, nothing, Store(tmp_path)):
                    raise AssertionError("it was taken")
        with pytest.raises(InvalidArgument, match="too large"):
            async with transfer.unpacked(there, io.BytesIO(good), refuse, nothing, Store(tmp_path)):
                raise AssertionError("it was taken")
    assert not list((there / "imports").iterdir())


async def test_a_cancelled_export_leaves_nothing(source: tuple[Store, Checkpoint], tmp_path: Path) -> None:
    target = tmp_path / "out" / "file"
    target.parent.mkdir()
    with trio.fail_after(LIMIT_S), trio.CancelScope() as scope:
        give_up = partial(scope.cancel, reason="it is given up")
        await transfer.export(*source, INFO, target, lambda _text: give_up(), Exports(tmp_path))
    assert scope.cancelled_caught
    assert not list(target.parent.iterdir())


async def test_an_export_replaces_nothing_and_a_failed_one_says_why(
    source: tuple[Store, Checkpoint], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("mine")
    with trio.fail_after(LIMIT_S):
        for target in (tmp_path / "mine", tmp_path / "absent" / "file", tmp_path):
            with pytest.raises(InvalidArgument, match="cannot be written"):
                await transfer.export(*source, INFO, target, nothing, Exports(tmp_path))
        full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", buffering=0)
        with full, pytest.raises(AgentisoError, match="full"):
            await transfer.export(*source, INFO, full, nothing, Exports(tmp_path))
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with pytest.raises(transfer.TransferFailed):
            await transfer.export(*source, INFO, pipe, nothing, Exports(tmp_path))
    assert (tmp_path / "mine").read_text() == "mine"


async def test_an_export_to_a_full_disk_names_that_disk(source: tuple[Store, Checkpoint], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    with small_tmpfs(tmp_path / "other", 64) as other:
        with trio.fail_after(LIMIT_S), pytest.raises(NoCapacity, match=str(other / "out")) as caught:
            await transfer.export(*source, INFO, other / "out", nothing, Exports(tmp_path))
        assert "workspaces" not in caught.value.remedy
        assert not list(other.iterdir())


async def test_a_pipe_gets_the_same_as_a_file(source: tuple[Store, Checkpoint], tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", bytearray()
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY)
    os.set_blocking(reader, True)

    def read() -> None:
        with os.fdopen(reader, "rb") as stream:
            got.extend(stream.read())

    reading = threading.Thread(target=read)
    reading.start()
    with trio.fail_after(LIMIT_S):
        try:
            await transfer.export(*source, INFO, pipe, nothing, Exports(tmp_path))
        finally:
            os.close(writer)
            reading.join()
        await transfer.export(*source, INFO, tmp_path / "file", nothing, Exports(tmp_path))
    assert bytes(got) == (tmp_path / "file").read_bytes()


@contextmanager
def idle_writer(path: Path) -> Iterator[None]:
    """Have a pipe open for writing, and write nothing."""
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    os.close(reader)
    try:
        yield
    finally:
        os.close(writer)


@pytest.mark.parametrize("opened", [False, True], ids=["nobody writes to", "somebody has open and leaves alone"])
async def test_a_cancelled_import_from_a_pipe_ends_its_thread(tmp_path: Path, *, opened: bool) -> None:
    there, pipe = tmp_path / "there", tmp_path / "pipe"
    store_in(there)
    os.mkfifo(pipe)
    before = threading.active_count()
    with trio.fail_after(LIMIT_S), idle_writer(pipe) if opened else nullcontext():
        with trio.move_on_after(0.1) as scope:
            async with transfer.unpacked(there, pipe, accept, nothing, Store(tmp_path)):
                raise AssertionError("there was nothing to take")
    assert scope.cancelled_caught
    # Those that trio keeps for the next work do not read.
    assert threading.active_count() <= before + 1
    assert not list((there / "imports").iterdir())


@pytest.mark.parametrize("kind", ["path", "raw", "buffered"])
async def test_a_cancelled_export_to_a_pipe_that_nobody_reads_ends(
    source: tuple[Store, Checkpoint], tmp_path: Path, kind: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with (
        trio.fail_after(LIMIT_S),
        os.fdopen(reader, "rb"),
        pipe.open("wb", buffering=0 if kind == "raw" else -1) as stream,
        trio.move_on_after(0.3) as scope,
    ):
        await transfer.export(*source, INFO, pipe if kind == "path" else stream, nothing, Exports(tmp_path))
    assert scope.cancelled_caught


@pytest.mark.parametrize("kind", ["path", "raw", "buffered"])
async def test_an_import_from_a_pipe_waits_for_its_writer_and_takes_what_a_file_holds(
    source: tuple[Store, Checkpoint], tmp_path: Path, kind: str
) -> None:
    there, pipe = tmp_path / "there", tmp_path / "pipe"
    store = store_in(there)
    os.mkfifo(pipe)
    with trio.fail_after(LIMIT_S):
        await transfer.export(*source, INFO, tmp_path / "file", nothing, Exports(tmp_path))

        async def take() -> None:
            stream: Path | BinaryIO = pipe
            if kind != "path":
                reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
                os.set_blocking(reader, True)
                stream = os.fdopen(reader, "rb", buffering=0 if kind == "raw" else -1)
            with nullcontext() if isinstance(stream, Path) else stream:
                async with transfer.unpacked(there, stream, accept, nothing, Store(tmp_path)) as found:
                    made = await transfer.install(store, found, image(tmp_path), "owner")
                    integrity.verify(store, store.load(made.id))

        def write() -> None:
            with pipe.open("wb") as target:
                target.write((tmp_path / "file").read_bytes())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.to_thread.run_sync(write)


def test_what_differs_is_named_and_the_disk_is_left() -> None:
    made = Checkpoint("point", 1.0, FINGERPRINT, TOP, 2**30, True, "00", "11", 5)
    assert transfer.fitting(made, FINGERPRINT) == (made, "")
    kept, note = transfer.fitting(made, attrs.evolve(FINGERPRINT, qemu="9.0"))
    assert not kept.has_memory
    assert "qemu: 9.0 here, 7.2 there" in note
