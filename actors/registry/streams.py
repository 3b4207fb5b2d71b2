"""Files and pipes that are read and written in a thread which ends soon after its caller has given up.

A pipe may have nobody at its other end, or somebody who does nothing, for ever.  So a thread never blocks in one: it
waits until there is something to read, or room, and looks meanwhile whether it is still wanted.  Regular files are used
as they are, and so are objects that are streams by what they do alone: no descriptor of theirs can be waited for.
"""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import trio

from actors.model.errors import InvalidArgument
from actors.registry.consumers import callers_own

LOOK_S: Final = 0.2
"""How long a thread waits before it looks whether it is still wanted."""
ROOM_BYTES: Final = select.PIPE_BUF
"""What a pipe or socket that has room takes without blocking (pipe(7))."""

Read = Callable[[int], "bytes | None"]
Write = Callable[[memoryview], int]


@contextmanager
def reading(source: Path | BinaryIO) -> Iterator[Read]:
    """Yield what reads at most so many bytes of a file, of a pipe that may still lack its writer, or of a stream.

    Raises:
        InvalidArgument: the file cannot be opened, or is of another kind.

    """
    if not isinstance(source, Path):
        yield _stream_reader(source)
        return
    try:
        # Not blocking: a pipe is open at once, and ready to be read when somebody writes to it.
        fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"{source} cannot be read: {error.strerror}.", remedy="Name another file.") from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise InvalidArgument(f"{source} is not a file.", remedy="Name a file that `agentiso export` has written.")
        yield _reader(fd, lambda count: _some(fd, count))
    finally:
        os.close(fd)


@contextmanager
def pipe_writing(path: Path) -> Iterator[Write]:
    """Yield what writes to a named pipe, which somebody has to have open for reading.

    Raises:
        OSError: nobody has.

    """
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield _writer(fd)
    finally:
        os.close(fd)


def stream_writer(target: BinaryIO | io.RawIOBase) -> Write:
    """Return what writes some bytes to a caller's stream, and tells how many."""
    if (fd := _endless(target)) is not None:
        target.flush()
        return _writer(fd)

    def write(view: memoryview) -> int:
        with _callers_stream():
            count = int(target.write(view) or 0)
        if count <= 0:
            # It takes nothing now, and may never take any more.
            trio.from_thread.check_cancelled()
        return max(count, 0)

    return write


def _stream_reader(source: BinaryIO) -> Read:
    if (fd := _endless(source)) is None:
        return lambda count: _read_of(source, count)
    # With one call to the system at most, so that nothing stays behind in a buffer where it is not waited for.
    return _reader(fd, getattr(source, "read1", source.read))


def _read_of(source: BinaryIO, count: int) -> bytes | None:
    with _callers_stream():
        data = source.read(count)
        return None if data is None else bytes(memoryview(data))


def _callers_stream() -> AbstractContextManager[None]:
    return callers_own("The stream", OSError, ValueError)


def _endless(stream: object) -> int | None:
    """Return the descriptor of a plain file object over what may block for ever; ``None`` for anything else."""
    raw = stream.raw if isinstance(stream, io.BufferedReader | io.BufferedWriter) else stream
    if not isinstance(raw, io.FileIO):
        return None
    mode = os.fstat(raw.fileno()).st_mode
    return raw.fileno() if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) else None


def _reader(fd: int, some: Read) -> Read:
    def read(count: int) -> bytes | None:
        while True:
            _wait(fd, select.POLLIN)
            if (data := some(count)) is not None:
                return data

    return read


def _writer(fd: int) -> Write:
    def write(view: memoryview) -> int:
        _wait(fd, select.POLLOUT)
        try:
            return os.write(fd, view[:ROOM_BYTES])
        except BlockingIOError:
            return 0

    return write


def _some(fd: int, count: int) -> bytes | None:
    try:
        return os.read(fd, count)
    except BlockingIOError:
        return None


def _wait(fd: int, event: int) -> None:
    """Wait, in a thread of trio's, until a descriptor is ready or broken, or raise `trio.Cancelled`."""
    waiting = select.poll()
    waiting.register(fd, event)
    while not waiting.poll(LOOK_S * 1000):
        trio.from_thread.check_cancelled()
