"""What the commands write: the first failure of it ends the command, in whatever way it was written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from actors.model.errors import AgentisoError


class OutputFailed(AgentisoError):
    """The output cannot be written."""

    code = "output_failed"
    usual_remedy = "Look at what it is written to: a file, and its disk."


class ReaderGone(OutputFailed):
    """Whoever reads the output has enough of it."""


@contextmanager
def checked_stdout() -> Iterator[None]:
    """Have the block fail, with `OutputFailed`, unless all is written that it prints."""
    stdout: TextIO | None = sys.stdout
    if stdout is None:
        # It was closed from the start: whoever started the command wants none.
        yield
        return
    sys.stdout = checked = cast("Any", _Checked(stdout))
    try:
        try:
            yield
        finally:
            checked.flush()
    except OutputFailed:
        # Nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        raise
    finally:
        sys.stdout = stdout


class _Checked:
    """A standard output that tells of its own failures as such."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _reported():
            return self._stream.write(text)

    def flush(self) -> None:
        with _reported():
            self._stream.flush()


def write_all(fd: int, data: bytes) -> None:
    """Write all of some bytes, however long that takes."""
    with _reported():
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                # Somebody who shares the terminal made it so.
                os.set_blocking(fd, True)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone("Nobody reads the output any more.") from error
    except OSError as error:
        raise OutputFailed(f"The output cannot be written: {error.strerror}.") from error
