"""Empty qcow2 overlays, written directly: starting ``qemu-img`` would cost more than a restored machine's devices.

Format: QEMU, docs/interop/qcow2.txt.  Clusters of 64 KiB; cluster 0 holds the header, 1 the refcount table, 2 its one
refcount block, 3 and on the empty L1 table.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import attrs

from actors.model.errors import CheckpointUnusable

MAGIC: Final = 0x514649FB
CLUSTER_BITS: Final = 16
CLUSTER: Final = 1 << CLUSTER_BITS
BYTES_PER_L1_ENTRY: Final = CLUSTER * (CLUSTER // 8)
BACKING_FORMAT: Final = 0xE2792ACA
HEADER: Final = struct.Struct(">IIQIIQIIQQIIQQQQII")
LENGTH_AT: Final = 16
"""Where in a header the length of the backing file's name is."""
MAX_BACKING_NAME_BYTES: Final = 1023


@attrs.frozen
class Qcow2Header:
    """What an image says of itself."""

    virtual_size_bytes: int
    backing: Path | None


def create_overlay(path: Path, *, backing: Path, backing_format: str, virtual_size_bytes: int) -> None:
    """Write an empty overlay over ``backing``, which is named by its absolute path; on failure nothing is left.

    QEMU calls an image whose disk was switched to it otherwise than by its path if that is named by a relative one.

    Raises:
        FileExistsError: there is something at ``path``.

    """
    l1_entries = -(-virtual_size_bytes // BYTES_PER_L1_ENTRY)
    l1_clusters = -(-l1_entries * 8 // CLUSTER)
    first = _first_cluster(
        backing, backing_format, virtual_size_bytes, l1=(l1_entries, 3 * CLUSTER), refcounts=(CLUSTER, 1)
    )
    clusters = 3 + l1_clusters
    with ExitStack() as undo:
        with path.open("xb") as file:
            undo.callback(path.unlink, missing_ok=True)
            path.chmod(0o600)
            file.write(first)
            file.seek(CLUSTER)
            file.write(struct.pack(">Q", 2 * CLUSTER))
            file.seek(2 * CLUSTER)
            file.write(struct.pack(f">{clusters}H", *[1] * clusters))
            file.truncate(clusters * CLUSTER)
        undo.pop_all()


def read_header(path: Path) -> Qcow2Header:
    """Read an image's header.

    Raises:
        CheckpointUnusable: it is not a qcow2 image, or not there.
        OSError: it cannot be read.

    """
    try:
        with path.open("rb") as file:
            raw = file.read(CLUSTER)
    except FileNotFoundError as error:
        raise CheckpointUnusable(f"The disk layer {path} is missing.", path=str(path)) from error
    if len(raw) < HEADER.size or HEADER.unpack_from(raw)[0] != MAGIC:
        raise CheckpointUnusable(
            f"The disk layer {path} is damaged: it is not a qcow2 image.",
            remedy="Go back to a snapshot that does not stand on it; `agentiso doctor` names who does.",
            path=str(path),
        )
    fields = HEADER.unpack_from(raw)
    offset, length, size = fields[2], fields[3], fields[5]
    name = raw[offset : offset + length].decode(errors="replace") if offset else ""
    # One that is relative is so to the image's own directory.
    return Qcow2Header(size, path.parent / name if name else None)


def rename_backing(path: Path, backing: Path) -> bool:
    """Have an image that nobody has open name what it stands on by another path; return whether there is room for it.

    That is written in one piece.
    """
    name = str(backing).encode()
    with path.open("r+b") as file:
        head = bytearray(file.read(CLUSTER))
        offset, length = HEADER.unpack_from(head)[2:4]
        if len(name) > length:
            return False
        head[offset : offset + length] = name.ljust(length, b"\0")
        struct.pack_into(">I", head, LENGTH_AT, len(name))
        file.seek(0)
        file.write(head[: offset + length])
        file.flush()
        os.fsync(file.fileno())
    return True


def rebase(path: Path, *, backing: Path, backing_format: str) -> None:
    """Have an image that came from elsewhere stand on ``backing``, and on nothing that it names itself.

    The header is written anew of its tables' places alone.  An image that needs more than that to be read, such as a
    data file beside it, encryption or compression, is refused.

    Raises:
        CheckpointUnusable: it is no such image.

    """
    with path.open("rb") as file:
        raw = file.read(HEADER.size)
    if len(raw) < HEADER.size or HEADER.unpack(raw)[0] != MAGIC:
        raise CheckpointUnusable("A disk layer is not a qcow2 image.")
    fields = HEADER.unpack(raw)
    version, bits, size, encryption, l1_entries, l1_offset, table_offset, table_clusters = (
        fields[index] for index in (1, 4, 5, 6, 7, 8, 9, 10)
    )
    snapshots, incompatible, refcount_order = fields[11], fields[13], fields[16]
    offsets = (l1_offset, table_offset)
    plain = (version, bits, encryption, snapshots, incompatible, refcount_order) == (3, CLUSTER_BITS, 0, 0, 0, 4)
    if not plain or any(offset < CLUSTER or offset % CLUSTER for offset in offsets):
        raise CheckpointUnusable("A disk layer is a qcow2 image of a kind that agentiso never makes.")
    _write_header(
        path, backing, backing_format, size,
        l1=(l1_entries, l1_offset), refcounts=(table_offset, table_clusters),
    )  # fmt: skip


def _write_header(
    path: Path, backing: Path, backing_format: str, size: int, *, l1: tuple[int, int], refcounts: tuple[int, int]
) -> None:
    first = _first_cluster(backing, backing_format, size, l1=l1, refcounts=refcounts)
    with path.open("r+b") as file:
        file.write(first + bytes(CLUSTER - len(first)))


def _first_cluster(
    backing: Path, backing_format: str, size: int, *, l1: tuple[int, int], refcounts: tuple[int, int]
) -> bytes:
    name = str(backing.absolute()).encode()
    if len(name) > MAX_BACKING_NAME_BYTES:
        raise CheckpointUnusable(f"The path {backing} is too long for a qcow2 header ({MAX_BACKING_NAME_BYTES} bytes).")
    kind = backing_format.encode()
    extension = struct.pack(">II", BACKING_FORMAT, len(kind)) + kind + bytes(-len(kind) % 8) + bytes(8)
    header = HEADER.pack(
        *(MAGIC, 3, HEADER.size + len(extension), len(name), CLUSTER_BITS, size, 0, *l1),
        *(*refcounts, 0, 0, 0, 0, 0, 4, HEADER.size),
    )
    return header + extension + name


def backing_chain(path: Path) -> list[Path]:
    """Return an image and all qcow2 images it stands on, nearest first; raw files end the chain unnamed."""
    chain = []
    current: Path | None = path
    while current is not None and current.suffix == ".qcow2":
        chain.append(current)
        current = read_header(current).backing
    return chain
