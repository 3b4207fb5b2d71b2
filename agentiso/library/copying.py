"""Files and directory trees of the host, as streams: read for a guest, written from one.

The disk is touched in threads, about a megabyte at a time, so that memory stays flat however large the whole is.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import trio

from actors.machine.guest.files import closing
from actors.model.errors import AgentisoError, GuestRefused, InvalidArgument, NoCapacity
from agentiso.library.host_paths import Place
from guest import tree
from guest.filework import InvalidRequest
from guest.newfile import NewFile

EXHAUSTED: Final = (errno.ENOSPC, errno.EDQUOT)
BATCH_BYTES: Final = 1024 * 1024
PIECE_BYTES: Final = 256 * 1024
OnBytes = Callable[[int], None]
"""Called with the size of each piece."""


class CopyFailed(AgentisoError):
    """The host's side of a transfer failed: a file cannot be read or written."""

    code = "copy_failed"
    usual_remedy = "Look at that path of the host: its rights, its kind, its disk."


async def read_tree(place: Place, exclude: Sequence[str], notes: tree.Notes, on_bytes: OnBytes) -> AsyncIterator[bytes]:
    """Yield the records of a directory of the host."""
    # Its last name is a real directory, no link: the place was resolved.
    fd = _open(place, os.O_RDONLY | os.O_DIRECTORY)
    records = tree.read(f"/proc/self/fd/{fd}/.", exclude, notes)
    try:
        with _reported(place):
            while batch := await trio.to_thread.run_sync(_next, records):
                for record in batch:
                    on_bytes(len(record))
                    yield record
    finally:
        records.close()
        os.close(fd)


def _next(records: Iterator[bytes]) -> list[bytes]:
    batch: list[bytes] = []
    size = 0
    while size < BATCH_BYTES and (record := next(records, None)) is not None:
        batch.append(record)
        size += len(record)
    return batch


async def read_file(place: Place, on_bytes: OnBytes) -> AsyncIterator[bytes]:
    """Yield the content of a file of the host, as far as it reaches at first."""
    fd = _open(place, os.O_RDONLY | os.O_NONBLOCK)
    try:
        remaining = os.fstat(fd).st_size
        with _reported(place):
            while remaining > 0 and (piece := await trio.to_thread.run_sync(os.read, fd, min(remaining, PIECE_BYTES))):
                remaining -= len(piece)
                on_bytes(len(piece))
                yield piece
    finally:
        os.close(fd)


def look(place: Place) -> os.stat_result:
    """Return what is known of a file or directory of the host.

    Raises:
        InvalidArgument: it is neither.

    """
    facts = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise InvalidArgument(f"{place.shown!r} is neither a file nor a directory.", remedy="Name one of these.")
    return facts


class TreeSink:
    """Writes a tree from a guest, which is hostile, into a directory of the host."""

    def __init__(self, place: Place, writing: tree.Writing, on_bytes: OnBytes) -> None:
        self._place = place
        self._writing = writing
        self._on_bytes = on_bytes
        self._batch: list[bytes] = []
        self._size = 0

    async def take(self, record: bytes) -> None:
        """Take one record."""
        self._batch.append(record)
        self._size += len(record)
        self._on_bytes(len(record))
        if self._size >= BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what was taken."""
        batch, self._batch, self._size = self._batch, [], 0
        await trio.to_thread.run_sync(self._write, batch)

    def _write(self, batch: list[bytes]) -> None:
        with _reported(self._place):
            for record in batch:
                self._writing.take(record)

    async def finish(self) -> dict[str, Any]:
        """Write the rest and say what was done."""
        await self.flush()
        return await trio.to_thread.run_sync(self._writing.finish)


@asynccontextmanager
async def writing_tree(place: Place, *, max_entries: int, max_bytes: int, on_bytes: OnBytes) -> AsyncIterator[TreeSink]:
    """Yield what writes a tree at a place of the host; whole files stay if it fails, half ones do not.

    Raises:
        CopyFailed: it cannot be written.
        GuestRefused: the guest's stream is malformed, leads out of the place, or is too large.

    """
    with _reported(place):
        if not os.path.lexists(place.path):
            os.mkdir(place.name, 0o755, dir_fd=place.directory)
        fd = _open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            path = f"/proc/self/fd/{fd}/."
            writing = tree.Writing(path, trusted=False, max_entries=max_entries, max_bytes=max_bytes)
        finally:
            os.close(fd)
        try:
            yield TreeSink(place, writing, on_bytes)
        except BaseException:
            writing.abandon()
            raise


class FileSink:
    """Writes a file of the host beside its place."""

    def __init__(self, place: Place, file: NewFile, on_bytes: OnBytes) -> None:
        self._place = place
        self._file = file
        self._on_bytes = on_bytes
        self.size = 0

    async def take(self, piece: bytes) -> None:
        """Append a piece."""
        await trio.to_thread.run_sync(self._write, piece)
        self.size += len(piece)
        self._on_bytes(len(piece))

    def _write(self, piece: bytes) -> None:
        with _reported(self._place):
            self._file.write(piece)

    def set_mode(self, mode: int) -> None:
        """Give the file the permissions it had in the guest, as far as the host takes them over."""
        os.fchmod(self._file.fd, mode & tree.HOST_MODE | 0o600)


@asynccontextmanager
async def writing_file(place: Place, on_bytes: OnBytes) -> AsyncIterator[FileSink]:
    """Yield what writes a file of the host, which appears whole at the end or not at all."""
    with _reported(place):
        file = NewFile(place.directory, place.name)
        try:
            yield FileSink(place, file, on_bytes)
            file.put()
        except BaseException:
            file.discard()
            raise


@contextmanager
def _reported(place: Place) -> Iterator[None]:
    """Turn what the host's disk says, or a tree that is refused, into our errors."""
    try:
        yield
    except InvalidRequest as error:
        raise GuestRefused(f"The tree from the guest was refused: {error}.") from error
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise NoCapacity(f"The host's disk is full: {place.shown}.", remedy="Make room on it.") from error
        raise CopyFailed(f"{place.shown} cannot be transferred: {error.strerror}.") from error


async def guarded(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield what a caller's own iterable does; what goes wrong in it is this transfer's failure, nobody else's."""
    try:
        async with closing(pieces):
            async for piece in pieces:
                yield bytes(memoryview(piece))
    except AgentisoError:
        raise
    except Exception as error:
        raise CopyFailed(f"The content was not produced to its end: {error!r}.") from error


def _open(place: Place, flags: int) -> int:
    try:
        return os.open(place.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory)
    except OSError as error:
        raise CopyFailed(f"{place.shown} cannot be opened: {error.strerror}.") from error
