"""Empty qcow2 overlays, written directly: starting ``qemu-img`` would cost more than a restored machine's devices.

Format: QEMU, docs/interop/qcow2.txt.  Clusters of 64 KiB; cluster 0 holds the header, 1 the refcount table, 2 its one
refcount block, 3 and on the empty L1 table.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import attrs

from actors.errors import CheckpointUnusable

MAGIC: Final = 0x514649FB
CLUSTER_BITS: Final = 16
CLUSTER: Final = 1 << CLUSTER_BITS
BYTES_PER_L1_ENTRY: Final = CLUSTER * (CLUSTER // 8)
BACKING_FORMAT: Final = 0xE2792ACA
HEADER: Final = struct.Struct(">IIQIIQIIQQIIQQQQII")
MAX_BACKING_NAME_BYTES: Final = 1023


@attrs.frozen
class Qcow2Header:
    """What an image says of itself."""

    virtual_size_bytes: int
    backing: Path | None


def create_overlay(path: Path, *, backing: Path, backing_format: str, virtual_size_bytes: int) -> None:
    """Write an empty overlay over ``backing``, which is named by its absolute path.

    Raises:
        FileExistsError: there is something at ``path``.

    """
    name = str(backing.absolute()).encode()
    if len(name) > MAX_BACKING_NAME_BYTES:
        raise CheckpointUnusable(f"The path {backing} is too long for a qcow2 header ({MAX_BACKING_NAME_BYTES} bytes).")
    l1_entries = -(-virtual_size_bytes // BYTES_PER_L1_ENTRY)
    l1_clusters = -(-l1_entries * 8 // CLUSTER)
    kind = backing_format.encode()
    extension = struct.pack(">II", BACKING_FORMAT, len(kind)) + kind + bytes(-len(kind) % 8) + bytes(8)
    header = HEADER.pack(
        *(MAGIC, 3, HEADER.size + len(extension), len(name), CLUSTER_BITS, virtual_size_bytes, 0, l1_entries),
        *(3 * CLUSTER, CLUSTER, 1, 0, 0, 0, 0, 0, 4, HEADER.size),
    )
    clusters = 3 + l1_clusters
    with path.open("xb") as file:
        path.chmod(0o600)
        file.write(header + extension + name)
        file.seek(CLUSTER)
        file.write(struct.pack(">Q", 2 * CLUSTER))
        file.seek(2 * CLUSTER)
        file.write(struct.pack(f">{clusters}H", *[1] * clusters))
        file.truncate(clusters * CLUSTER)


def read_header(path: Path) -> Qcow2Header:
    """Read an image's header.

    Raises:
        CheckpointUnusable: it is not a qcow2 image.

    """
    with path.open("rb") as file:
        raw = file.read(CLUSTER)
    if len(raw) < HEADER.size or HEADER.unpack_from(raw)[0] != MAGIC:
        raise CheckpointUnusable(f"{path} is not a qcow2 image.")
    fields = HEADER.unpack_from(raw)
    offset, length, size = fields[2], fields[3], fields[5]
    name = raw[offset : offset + length].decode(errors="replace") if offset else ""
    return Qcow2Header(size, Path(name) if name else None)


def backing_chain(path: Path) -> list[Path]:
    """Return an image and all qcow2 images it stands on, nearest first; raw files end the chain unnamed."""
    chain = []
    current: Path | None = path
    while current is not None and current.suffix == ".qcow2":
        chain.append(current)
        current = read_header(current).backing
    return chain
