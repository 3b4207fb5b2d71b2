"""A file that appears whole: before that it has no name, and where it must have one it goes with its writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guest.newfile import NewFile

LIMIT_S = 60
CONTENT = b"some content"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["nameless", "named"])
def named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system knows no files without a name."""
    really = os.open

    def refuses(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return really(path, flags, *rest, **options)

    if request.param == "named":
        monkeypatch.setattr(os, "open", refuses)
    return bool(request.param == "named")


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_new_file_appears_whole_in_the_place_of_another(
    tmp_path: Path, directory: int, before: bytes | None, *, named: bool
) -> None:
    target = tmp_path / "file"
    if before is not None:
        target.write_bytes(before)
    file = NewFile(directory, "file")
    file.write(CONTENT)
    assert len(list(tmp_path.iterdir())) == named + target.exists()
    file.put()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", CONTENT)]


def test_a_new_file_that_is_discarded_leaves_nothing(tmp_path: Path, directory: int, *, named: bool) -> None:
    (tmp_path / "taken").mkdir()
    first, second = NewFile(directory, "first"), NewFile(directory, "taken")
    first.discard()
    with pytest.raises(IsADirectoryError, match="taken"):
        second.put()
    second.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


KILLED = {
    "a file of the host": """
        async def main():
            with opened(path, None, must_exist=False) as place:
                async with writing_file(place, lambda _size: None) as sink:
                    await sink.take(b"some content")
                    end()
        trio.run(main)
    """,
    "a tree": """
        writing = tree.Writing(os.path.dirname(path), trusted=False, max_entries=9, max_bytes=999)
        facts = {"path": "file", "kind": "file", "mode": 0o600, "mtime": 0, "target": ""}
        writing.take(tree.ENTRY + json.dumps(facts).encode())
        writing.take(tree.CONTENT + b"some content")
        end()
    """,
    "a file of the guest": """
        Writing({"path": path, "mode": 0o644}).write(b"some content")
        end()
    """,
}
BEGINNING = """
import json, os, signal, sys, trio
from agentiso.library.copying import writing_file
from agentiso.library.host_paths import opened
from guest import tree
from guest.filework import Writing
path = sys.argv[1]
def end():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("what", KILLED)
def test_who_is_killed_while_it_writes_leaves_nothing(tmp_path: Path, what: str) -> None:
    program = BEGINNING + textwrap.dedent(KILLED[what])
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "file")], timeout=LIMIT_S, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
