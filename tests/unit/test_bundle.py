"""Bundles come back as they were written, and anything else is refused."""

from __future__ import annotations

import io
import itertools
import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.machine.storage import extents, qcow2
from actors.model.errors import CheckpointUnusable, RemoteProtocolError
from actors.model.info import Shape
from actors.model.machine import Fingerprint
from actors.registry.bundle import BadBundle, BundleReader, BundleWriter, Manifest, Memory, layer_name

PAGE = 4096
FINGERPRINT = Fingerprint("7.2", "tcg", "max", 1, 128, "digest", "none", "serial")
MEMORY = Memory(FINGERPRINT, "00" * 32, "11" * 16, True, 2**20, ((0, 100), (4096, 5)), 7)
MANIFEST = Manifest(1, "name", "base", "digest", Shape(1, 128, 1), "user", "serial", 1.5, 2**30, (3, 600), MEMORY)
CONTENTS = {
    layer_name(0): b"abc",
    layer_name(1): b"x" * 600,
    "ram": b"r" * 105,
    "devices": b"devices",
}


def nothing(_count: int) -> None:
    pass


def written() -> bytes:
    target = io.BytesIO()
    writer = BundleWriter(target.write, nothing)
    writer.add_manifest(MANIFEST)
    for name, content in CONTENTS.items():
        writer.add(name, len(content), [content])
    writer.finish()
    return target.getvalue()


def read(data: bytes) -> tuple[Manifest, dict[str, bytes]]:
    reader = BundleReader(io.BytesIO(data).read, nothing)
    manifest = reader.manifest()
    found = {name: b"".join(reader.member(name, len(content))) for name, content in CONTENTS.items()}
    reader.finish()
    return manifest, found


def test_a_bundle_comes_back_as_it_was_and_any_tar_can_list_it() -> None:
    data = written()
    assert read(data) == (MANIFEST, CONTENTS)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["manifest.json", *CONTENTS, "digests.json"]


@given(st.data())
def test_a_bundle_with_any_byte_changed_that_matters_is_refused(data: st.DataObject) -> None:
    good = written()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(bad))
    except BadBundle:
        return
    # Padding, and the fields of a header that nobody looks at, are all that may change.
    assert found == (MANIFEST, CONTENTS)


@given(st.integers(0, len(written()) - 2 * tarfile.BLOCKSIZE - 1))
def test_a_bundle_that_ends_early_is_refused(length: int) -> None:
    # What pads the last member may be missing like the blocks that end an archive.
    with pytest.raises(BadBundle):
        read(written()[: min(length, len(written()) - 3 * tarfile.BLOCKSIZE)])


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "layers/9.qcow2", "manifest.json"])
def test_a_member_with_another_name_is_refused(name: str) -> None:
    target = io.BytesIO()
    writer = BundleWriter(target.write, nothing)
    writer.add_manifest(MANIFEST)
    writer.add(name, 3, [b"abc"])
    with pytest.raises(BadBundle, match=r"where layers/0\.qcow2 has to be"):
        read(target.getvalue())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.XHDTYPE])
def test_a_member_that_is_no_file_is_refused(kind: bytes) -> None:
    target = io.BytesIO()
    BundleWriter(target.write, nothing).add_manifest(MANIFEST)
    header = tarfile.TarInfo(layer_name(0))
    header.type, header.linkname = kind, "/etc/passwd"
    target.write(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(BadBundle, match="has to be"):
        read(target.getvalue())


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"layers": ()},
        {"layers": (-1,)},
        {"memory": attrs.evolve(MEMORY, extents=((5, 10), (0, 3)))},
        {"memory": attrs.evolve(MEMORY, extents=((2**20 - 1, 2),))},
        {"memory": attrs.evolve(MEMORY, key="no hex")},
    ],
)
def test_a_manifest_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    target = io.BytesIO()
    BundleWriter(target.write, nothing).add_manifest(attrs.evolve(MANIFEST, **changes))
    with pytest.raises(BadBundle):
        read(target.getvalue())


def test_a_file_that_is_no_bundle_is_refused() -> None:
    for data in (b"", b"hello", bytes(10240), os.urandom(10240)):
        with pytest.raises(BadBundle):
            read(data)


# -- extents


EXTENTS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 8)), max_size=12).map(
    lambda steps: tuple(
        (sum(gap + length for gap, length in steps[:index]) + gap, length) for index, (gap, length) in enumerate(steps)
    )
)


@given(EXTENTS, st.integers(1, 50))
def test_merged_extents_hold_all_and_leave_every_large_hole(found: tuple[extents.Extent, ...], hole: int) -> None:
    merged = extents.merge(found, hole)
    extents.check(merged, 10**6)
    covered = {byte for offset, length in merged for byte in range(offset, offset + length)}
    assert {byte for offset, length in found for byte in range(offset, offset + length)} <= covered
    for (offset, length), (following, _) in itertools.pairwise(merged):
        assert following - (offset + length) >= hole


@given(EXTENTS, st.integers(1, 7))
def test_data_goes_where_the_extents_say_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, found: tuple[extents.Extent, ...], cut: int
) -> None:
    directory = tmp_path_factory.mktemp("extents")
    size = sum(found[-1]) + 3 if found else 3
    source = bytearray(size)
    for offset, length in found:
        source[offset : offset + length] = bytes(offset % 255 + 1 for _ in range(length))
    (directory / "old").write_bytes(source)
    with (directory / "old").open("rb") as old, (directory / "new").open("wb") as new:
        data = b"".join(extents.read_data(old.fileno(), found))
        new.truncate(size)
        pieces = [data[start : start + cut] for start in range(0, len(data), cut)]
        extents.write_data(new.fileno(), found, pieces)
    assert (directory / "new").read_bytes() == source


@given(st.lists(st.tuples(st.integers(-5, 50), st.integers(-5, 50)), max_size=5), st.integers(0, 100))
def test_extents_are_taken_only_in_order_and_within_the_file(found: list[extents.Extent], size: int) -> None:
    places = [byte for offset, length in found for byte in range(offset, offset + length)]
    sound = (
        places == sorted(set(places))
        and all(0 <= byte < size for byte in places)
        and all(length > 0 for _, length in found)
    )
    if sound:
        extents.check(found, size)
    else:
        with pytest.raises(RemoteProtocolError):
            extents.check(found, size)


def test_the_holes_of_a_file_are_found(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 * 2**20)
        os.pwrite(file.fileno(), b"x" * PAGE, 2**20)
        os.pwrite(file.fileno(), b"y" * PAGE, 2**20 + 2 * PAGE)
        os.pwrite(file.fileno(), b"z" * PAGE, 32 * 2**20)
    with path.open("rb") as file:
        found = extents.extents_of(file.fileno())
    assert found == ((2**20, 3 * PAGE), (32 * 2**20, PAGE))


# -- layers


def overlay(tmp_path: Path) -> Path:
    path = tmp_path / "layer.qcow2"
    qcow2.create_overlay(path, backing=Path("/etc/passwd"), backing_format="raw", virtual_size_bytes=2**30)
    return path


def test_a_layer_stands_on_what_it_is_given_and_not_on_what_it_names(tmp_path: Path) -> None:
    path = overlay(tmp_path)
    qcow2.rebase(path, backing=tmp_path / "root.img", backing_format="raw")
    assert b"passwd" not in path.read_bytes()
    assert qcow2.read_header(path) == qcow2.Qcow2Header(2**30, tmp_path / "root.img")
    fresh = tmp_path / "fresh.qcow2"
    qcow2.create_overlay(fresh, backing=tmp_path / "root.img", backing_format="raw", virtual_size_bytes=2**30)
    assert fresh.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"RAW!"), (4, struct.pack(">I", 2)), (20, struct.pack(">I", 12)), (32, struct.pack(">I", 1)),
     (40, struct.pack(">Q", 0)), (60, struct.pack(">I", 1)), (72, struct.pack(">Q", 4))],
)  # fmt: skip
def test_a_layer_of_another_kind_is_refused(tmp_path: Path, offset: int, value: bytes) -> None:
    """Among them one that keeps its data in another file of the host, which it names."""
    path = overlay(tmp_path)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), value, offset)
    with pytest.raises(CheckpointUnusable, match="disk layer"):
        qcow2.rebase(path, backing=tmp_path / "root.img", backing_format="raw")
