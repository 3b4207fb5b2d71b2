"""A workspace's disk as one raw file, for tools that know no qcow2 (QEMU, docs/interop/qcow2.txt)."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import BinaryIO

from actors.machine.storage.qcow2 import CLUSTER, HEADER, backing_chain, read_header

OFFSET = 0x00FF_FFFF_FFFF_FE00
ZERO = 1


def flatten(layer: Path, target: Path) -> None:
    """Write what a chain of layers over a raw image holds; the machine that uses it has ended."""
    chain = backing_chain(layer)
    bottom = read_header(chain[-1]).backing
    assert bottom is not None
    shutil.copyfile(bottom, target)
    with target.open("r+b") as flat:
        flat.truncate(read_header(layer).virtual_size_bytes)
        for path in reversed(chain):
            data = path.read_bytes()
            fields = HEADER.unpack_from(data)
            l1_entries, l1_offset = fields[7], fields[8]
            for number, entry in enumerate(struct.unpack_from(f">{l1_entries}Q", data, l1_offset)):
                if entry & OFFSET:
                    _copy(data, entry & OFFSET, number * (CLUSTER // 8) * CLUSTER, flat)


def _copy(data: bytes, table: int, start: int, flat: BinaryIO) -> None:
    for number, entry in enumerate(struct.unpack_from(f">{CLUSTER // 8}Q", data, table)):
        if entry:
            at = entry & OFFSET
            flat.seek(start + number * CLUSTER)
            flat.write(bytes(CLUSTER) if entry & ZERO else data[at : at + CLUSTER].ljust(CLUSTER, b"\0"))
