"""Commands that carry workspaces to files and back."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from actors.model.errors import AgentisoError, InvalidArgument
from agentiso.cli.common import Commands, call_tool, show
from agentiso.cli.output import OutputFailed, write_all
from agentiso.cli.parser import Misuse

STDOUT: Final = "-"
STDIN: Final = "-"
PIECE_BYTES: Final = 1024 * 1024
EXPORT_EXAMPLES: Final = """\
  agentiso export demo demo.agentiso
  agentiso export demo@tidy - | ssh host 'cat > tidy.agentiso'
  agentiso export demo - --json > demo.agentiso   the JSON goes to the standard error then
"""
IMPORT_EXAMPLES: Final = """\
  agentiso import demo.agentiso again    a workspace named again
  ssh host 'cat demo.agentiso' | agentiso import -
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("export", _export, "write a workspace, memory and disk, to a file", EXPORT_EXAMPLES)
    made.add_argument("workspace", metavar="WORKSPACE[@SNAPSHOT]", help="as it is now, or a snapshot of it")
    made.add_argument("file", help="to make; - for the standard output")
    made = commands.add("import", _import, "make a workspace of an exported file", IMPORT_EXAMPLES)
    made.add_argument("file", help="that `agentiso export` wrote; - for the standard input")
    made.add_argument("name", nargs="?", help="of the workspace; the one that it had unless given")


def _export(a: Any) -> int:
    workspace, _, snapshot = a.workspace.partition("@")
    given = {"workspace_id": workspace, "snapshot_name": snapshot or None}
    if a.file == STDOUT:
        if sys.stdout.isatty():
            raise Misuse("An export is no text for a terminal.", remedy="Name a file, or lead the output into a pipe.")
        with _pipe_to_stdout() as path:
            result = call_tool(a, "workspace_export", path=str(path), **given)
        if a.json:
            # The standard output is the file.
            print(json.dumps(result), file=sys.stderr)
        return 0
    result = call_tool(a, "workspace_export", path=str(Path(a.file).absolute()), **given)
    what = "memory and disk" if result["has_memory"] else "the disk"
    size = f"{result['size_bytes'] / 2**20:.0f} MiB in {result['seconds']:.1f} s"
    return show(a, result, f"{a.workspace} was exported to {a.file}: {what}, {size}")


def _import(a: Any) -> int:
    with _opened(a.file) as path:
        result = call_tool(a, "workspace_import", path=str(path), name=a.name)
    text = f"{result['name']} is running ({result['started_by']}, {result['seconds']:.1f} s)"
    return show(a, result, f"{text}\n{result['note']}" if result["note"] else text)


@contextmanager
def _named_pipe() -> Iterator[Path]:
    """Make a pipe that the supervisor can open by its name; it goes however this process ends."""
    with tempfile.TemporaryDirectory(prefix="agentiso-", ignore_cleanup_errors=True) as directory:
        path = Path(directory) / "pipe"
        os.mkfifo(path, 0o600)
        yield path


@contextmanager
def _pipe_to_stdout() -> Iterator[Path]:
    """Make a pipe for the supervisor; what it writes there goes to the standard output.

    Raises:
        OutputFailed: not all of it could be written, whatever else the block says.

    """
    with _named_pipe() as path:
        yield from _copied_to_stdout(path)


def _copied_to_stdout(path: Path) -> Iterator[Path]:
    # Open from the start, so that the supervisor finds a reader; its end is ours to close when all is written.
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    os.set_blocking(reader, True)
    failures: list[OutputFailed] = []

    def copy() -> None:
        # Closed last: by then it is known why the supervisor's next write fails.
        with os.fdopen(reader, "rb", buffering=0) as source:
            try:
                while piece := source.read(PIECE_BYTES):
                    write_all(sys.stdout.fileno(), piece)
            except OutputFailed as error:
                failures.append(error)

    # Nobody waits for one that hangs, since whoever reads our output does, once this command is interrupted.
    copying = threading.Thread(target=copy, daemon=True)
    copying.start()
    try:
        try:
            yield path
        finally:
            os.close(writer)
        copying.join()
    finally:
        if failures:
            raise failures[0]


class InputFailed(AgentisoError):
    """What is to be imported cannot be read."""

    code = "input_failed"
    usual_remedy = "Look at what it is read from."


@contextmanager
def _opened(name: str) -> Iterator[Path]:
    """Yield the path of a file that the supervisor can open: what is no plain file it gets through a pipe.

    Names such as ``/dev/stdin`` and ``/dev/fd/63`` mean something within this process alone.

    Raises:
        InvalidArgument: it is a terminal, or cannot be opened.
        InputFailed: not all of it could be read, whatever else the block says.

    """
    path = Path(name).absolute()
    try:
        if name != STDIN and not _is_pipe(path):
            yield path
            return
        source = open(0 if name == STDIN else path, "rb", buffering=0, closefd=name != STDIN)  # noqa: SIM115
    except OSError as error:
        raise InvalidArgument(f"{name} cannot be read: {error.strerror}.", remedy="Name another file.") from error
    if source.isatty():
        raise InvalidArgument(
            "A terminal has no exported workspace.", remedy="Name a file, or lead one in: agentiso import - < FILE"
        )
    with _pipe_from(source) as pipe:
        yield pipe


def _is_pipe(path: Path) -> bool:
    """Tell whether a name is of something that has to be opened here; of what is not there the supervisor tells."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    # A descriptor's name may lead to a plain file.
    return path.parts[1] in ("dev", "proc") if stat.S_ISREG(mode) else not stat.S_ISDIR(mode)


@contextmanager
def _pipe_from(source: BinaryIO) -> Iterator[Path]:
    """Make a pipe for the supervisor, and have what is read from a source written there."""
    with _named_pipe() as path:
        yield from _copied_from(source, path)


def _copied_from(source: BinaryIO, path: Path) -> Iterator[Path]:
    failures: list[InputFailed] = []

    def copy() -> None:
        # Opened once the supervisor has opened it; one that reads no more has its reasons, and tells them.
        with source, suppress(OutputFailed, FileNotFoundError), path.open("wb", buffering=0) as target:
            while piece := _read(source, failures):
                write_all(target.fileno(), piece)

    # Nobody waits for one that hangs: whoever writes to our input may stall, and this command be interrupted.
    threading.Thread(target=copy, daemon=True).start()
    try:
        yield path
    finally:
        if failures:
            raise failures[0]


def _read(source: BinaryIO, failures: list[InputFailed]) -> bytes:
    """Read a piece, or nothing once there is no more; a failure is noted before the pipe's end can tell of it."""
    try:
        return source.read(PIECE_BYTES)
    except OSError as error:
        failures.append(InputFailed(f"The input cannot be read: {error.strerror}."))
        return b""
