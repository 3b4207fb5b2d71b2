"""Extents: where a sparse file has data, as (offset, length) in bytes, ascending, without overlap."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from actors.model.errors import RemoteProtocolError

Extent = tuple[int, int]
MERGED_BYTES: Final = 64 * 1024
"""A hole smaller than this is stored as zeros: the list of extents stays short however the memory is scattered."""
PIECE_BYTES: Final = 1024 * 1024


def extents_of(fd: int) -> tuple[Extent, ...]:
    """Return where a file has data, small holes included."""
    return merge(_data(fd), MERGED_BYTES)


def _data(fd: int) -> Iterator[Extent]:
    position, size = 0, os.fstat(fd).st_size
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, position - start


def merge(extents: Iterable[Extent], least_hole_bytes: int) -> tuple[Extent, ...]:
    """Join ascending extents between which there is less than ``least_hole_bytes``."""
    merged: list[Extent] = []
    for offset, length in extents:
        if merged and offset - sum(merged[-1]) < least_hole_bytes:
            merged[-1] = (merged[-1][0], offset + length - merged[-1][0])
        else:
            merged.append((offset, length))
    return tuple(merged)


def check(extents: Sequence[Extent], size_bytes: int) -> None:
    """Raise `RemoteProtocolError` unless these can be the extents of a file of that size."""
    end = 0
    for offset, length in extents:
        if offset < end or length <= 0:
            raise RemoteProtocolError(f"The extent of {length} bytes at {offset} is out of order.")
        end = offset + length
    if end > size_bytes:
        raise RemoteProtocolError(f"The extents end at {end}, beyond the file's {size_bytes} bytes.")


def read_data(fd: int, extents: Iterable[Extent]) -> Iterator[bytes]:
    """Yield the data of a file's extents, one after the other, in pieces."""
    for offset, length in extents:
        position, end = offset, offset + length
        while position < end:
            piece = os.pread(fd, min(PIECE_BYTES, end - position), position)
            if not piece:
                raise OSError(errno.EIO, "the file shrank while it was read")
            yield piece
            position += len(piece)


def write_data(fd: int, extents: Iterable[Extent], pieces: Iterable[bytes]) -> None:
    """Put data where the extents say; pieces may end anywhere, and together are as long as the extents."""
    places = iter(extents)
    offset = left = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            if not left:
                offset, left = next(places)
            written = os.pwrite(fd, view[:left], offset)
            offset, left, view = offset + written, left - written, view[written:]
