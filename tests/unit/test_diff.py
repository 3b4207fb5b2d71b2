"""The comparison of two looks at a file system, and the walk that takes one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.diff import MAX_TEXT_LINES, Entry, compare, decide, unified
from guest.filework import InvalidRequest
from guest.walk import MAX_DIGESTS, digests, walk

ENTRIES = st.builds(
    Entry,
    kind=st.sampled_from(["file", "dir", "symlink", "other"]),
    size_bytes=st.integers(0, 2),
    mode=st.sampled_from([0o644, 0o755]),
    mtime_ns=st.integers(0, 1),
    ctime_ns=st.integers(0, 1),
    inode=st.integers(0, 1),
    target=st.sampled_from([None, "there"]),
)
WALKS = st.dictionaries(st.sampled_from([f"/{name}" for name in "abcdefgh"]), ENTRIES)
FILE = Entry("file", 3, 0o644, 10, 10, 1)


def seen(directory: Path, limit: int = 1000) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    facts, pieces = walk({"path": str(directory), "max_entries": limit})
    lines = [json.loads(line) for line in b"".join(pieces).splitlines()]
    return facts, {line[0]: line[1:] for line in lines}


@given(WALKS, WALKS)
def test_every_path_is_certain_doubtful_or_the_same(before: dict[str, Entry], after: dict[str, Entry]) -> None:
    changes, doubtful = compare(before, after)
    paths = [change.path for change in changes]
    assert paths == sorted(set(paths))
    assert not set(paths) & set(doubtful)
    assert {c.path for c in changes if c.change == "added"} == after.keys() - before.keys()
    assert {c.path for c in changes if c.change == "removed"} == before.keys() - after.keys()
    for path in before.keys() & after.keys():
        if path not in paths and path not in doubtful:
            assert before[path].facts == after[path].facts
            assert before[path].kind != "file" or before[path] == after[path]
    for path in doubtful:
        assert before[path].kind == after[path].kind == "file"
        assert before[path].size_bytes == after[path].size_bytes


@given(WALKS, WALKS)
def test_the_reverse_comparison_is_the_mirror_image(before: dict[str, Entry], after: dict[str, Entry]) -> None:
    there, doubtful = compare(before, after)
    back, doubtful_too = compare(after, before)
    mirror = {"added": "removed", "removed": "added", "changed": "changed"}
    assert [(c.path, c.before, c.after) for c in there] == [(c.path, c.after, c.before) for c in back]
    assert [mirror[c.change] for c in there] == [c.change for c in back]
    assert doubtful == doubtful_too


@given(WALKS)
def test_nothing_differs_from_itself(found: dict[str, Entry]) -> None:
    assert compare(found, dict(found)) == ([], [])


def test_content_decides_about_a_file_that_was_only_touched() -> None:
    before, after = (
        {"/a": FILE, "/b": FILE, "/c": FILE},
        {path: attrs.evolve(FILE, mtime_ns=11) for path in ("/a", "/b", "/c")},
    )
    changes, doubtful = compare(before, after)
    assert (changes, doubtful) == ([], ["/a", "/b", "/c"])
    decided = decide(doubtful, before, after, ({"/a": "x", "/b": "x", "/c": None}, {"/a": "x", "/b": "y", "/c": None}))
    assert [change.path for change in decided] == ["/b", "/c"]


def test_a_changed_mode_or_target_is_a_change_of_itself() -> None:
    link = attrs.evolve(FILE, kind="symlink", target="here")
    before = {"/a": FILE, "/l": link}
    after = {"/a": attrs.evolve(FILE, mode=0o600, ctime_ns=11), "/l": attrs.evolve(link, target="there")}
    changes, doubtful = compare(before, after)
    assert [(c.path, c.change) for c in changes] == [("/a", "changed"), ("/l", "changed")]
    assert doubtful == []


def test_text_is_shown_and_what_is_no_text_or_too_long_is_not() -> None:
    shown = unified("/etc/motd", b"one\ntwo\n", b"one\nthree\n")
    assert shown.splitlines() == ["--- a/etc/motd", "+++ b/etc/motd", "@@ -1,2 +1,2 @@", " one", "-two", "+three"]
    assert unified("/a", b"\0", b"text") == ""
    assert unified("/a", b"\xff", b"text") == ""
    assert unified("/a", b"\n" * (MAX_TEXT_LINES + 1), b"") == ""


def test_a_walk_sees_each_file_once_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("abc")
    (tmp_path / "link").symlink_to("sub")
    os.mkfifo(tmp_path / "pipe", 0o600)
    os.symlink("x", os.fsencode(tmp_path) + b"/\xff")  # noqa: PTH211 (a name of bytes)
    facts, found = seen(tmp_path)
    assert facts == {"truncated": False}
    kinds = {os.fsencode(path).removeprefix(os.fsencode(tmp_path)): entry[0] for path, entry in found.items()}
    assert kinds == {b"/sub": "dir", b"/sub/file": "file", b"/link": "symlink", b"/pipe": "other", b"/\xff": "symlink"}
    assert found[f"{tmp_path}/link"][6] == "sub"
    assert seen(tmp_path / "missing") == ({"truncated": False}, {})


def test_a_walk_ends_at_its_limit_and_says_so(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).touch()
    facts, found = seen(tmp_path, 4)
    assert facts == {"truncated": True}
    assert len(found) == 4
    assert seen(tmp_path, 5)[0] == {"truncated": False}


def test_digests_are_of_files_alone_and_a_pipe_does_not_block_them(tmp_path: Path) -> None:
    (tmp_path / "same").write_text("abc")
    (tmp_path / "also").write_text("abc")
    (tmp_path / "link").symlink_to("same")
    os.mkfifo(tmp_path / "pipe")
    asked = [str(tmp_path / name) for name in ("same", "also", "link", "pipe", "missing")]
    said = [json.loads(line) for line in b"".join(digests({"paths": asked})).splitlines() if line]
    assert said[0] == said[1]
    assert said[0]
    assert said[2:] == [None, None, None]
    with pytest.raises(InvalidRequest):
        digests({"paths": ["/"] * (MAX_DIGESTS + 1)})
