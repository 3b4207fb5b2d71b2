"""Commands that carry workspaces to files and back."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agentiso.cli.common import Commands, call_tool, show
from agentiso.cli.output import OutputFailed, write_all

STDOUT: Final = "-"
PIECE_BYTES: Final = 1024 * 1024
EXPORT_EXAMPLES: Final = """\
  agentiso export demo demo.agentiso
  agentiso export demo@tidy - | ssh host 'cat > tidy.agentiso'
  agentiso export demo - --json > demo.agentiso   the JSON goes to the standard error then
"""
IMPORT_EXAMPLES: Final = """\
  agentiso import demo.agentiso again    a workspace named again
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("export", _export, "write a workspace, memory and disk, to a file", EXPORT_EXAMPLES)
    made.add_argument("workspace", metavar="WORKSPACE[@SNAPSHOT]", help="as it is now, or a snapshot of it")
    made.add_argument("file", help="to make; - for the standard output")
    made = commands.add("import", _import, "make a workspace of an exported file", IMPORT_EXAMPLES)
    made.add_argument("file", help="that `agentiso export` wrote")
    made.add_argument("name", nargs="?", help="of the workspace; the one that it had unless given")


def _export(a: Any) -> int:
    workspace, _, snapshot = a.workspace.partition("@")
    given = {"workspace_id": workspace, "snapshot_name": snapshot or None}
    if a.file == STDOUT:
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
    result = call_tool(a, "workspace_import", path=str(Path(a.file).absolute()), name=a.name)
    text = f"{result['name']} is running ({result['started_by']}, {result['seconds']:.1f} s)"
    return show(a, result, f"{text}\n{result['note']}" if result["note"] else text)


@contextmanager
def _pipe_to_stdout() -> Iterator[Path]:
    """Make a pipe that the supervisor can open by its name; what it writes there goes to the standard output.

    Raises:
        OutputFailed: not all of it could be written, whatever else the block says.

    """
    directory = Path(tempfile.mkdtemp(prefix="agentiso-"))
    path = directory / "pipe"
    os.mkfifo(path, 0o600)
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
        shutil.rmtree(directory, ignore_errors=True)
        if failures:
            raise failures[0]
