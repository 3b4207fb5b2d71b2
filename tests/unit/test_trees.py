"""Directory trees as streams, above all hostile ones."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from guest import tree
from guest.filework import InvalidRequest


def entry(path: Any, kind: str = "file", **facts: Any) -> bytes:
    body = {"path": path, "kind": kind, "mode": 0o644, "mtime": 1e9, "target": "", **facts}
    return tree.ENTRY + json.dumps(body).encode()


def content(data: bytes) -> bytes:
    return tree.CONTENT + data


def write(root: Path, *records: bytes, trusted: bool = False, **limits: int) -> dict[str, Any]:
    writing = tree.Writing(str(root), trusted=trusted, **{"max_entries": 1000, "max_bytes": 10**6, **limits})
    try:
        for record in records:
            writing.take(record)
        return writing.finish()
    except BaseException:
        writing.abandon()
        raise


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def listing(root: Path) -> dict[str, Any]:
    """Everything below a directory: modes of directories, modes and contents of files, targets of links."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name] = oct(stat.S_IMODE(path.stat().st_mode))
        else:
            found[name] = (oct(stat.S_IMODE(path.stat().st_mode)), path.read_bytes(), path.stat().st_mtime)
    return found


def make(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "data").write_bytes(os.urandom(200_000))
    (root / "a" / "run").write_text("x")
    (root / "a" / "run").chmod(0o755)
    (root / "empty").mkdir(mode=0o700)
    (root / "a" / "here").symlink_to("b/data")
    (root / "a" / "b" / "up").symlink_to("../run")
    (root / "nothing").touch()
    (root / os.fsdecode(b"\xff name")).write_text("not UTF-8")
    os.utime(root / "nothing", (12345, 12345))


def test_a_tree_comes_out_as_it_went_in(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    make(source)
    notes = tree.Notes()
    done = write(target, *tree.read(str(source), (), notes))
    assert listing(target) == listing(source)
    assert (done["skipped_count"], notes.count) == (0, 0)
    assert done["bytes"] == 200_000 + 1 + 9
    # A second time over what is there.
    write(target, *tree.read(str(source), (), notes))
    assert listing(target) == listing(source)


def test_what_is_excluded_special_or_unreadable_is_left_out_and_reported(tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("x")
    (tmp_path / "drop.pyc").write_text("x")
    (tmp_path / "node_modules" / "deep").mkdir(parents=True)
    (tmp_path / "src" / "out").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    notes = tree.Notes()
    records = list(tree.read(str(tmp_path), ("*.pyc", "node_modules", "src/out"), notes))
    assert [json.loads(record[1:])["path"] for record in records if record[:1] == tree.ENTRY] == ["src", "keep"]
    assert notes.count == 1
    assert "pipe" in notes.named[0]


@pytest.mark.parametrize(
    "path",
    ["/etc/x", "..", "../x", "a/../../x", "", ".", "a//b", "a/./b", "a/", "x\0y", "\ud800", 7, None, "x" * 300,
     "/".join("d" * 200)],
)  # fmt: skip
def test_paths_that_could_leave_the_target_end_the_transfer(tmp_path: Path, path: Any) -> None:
    with pytest.raises(InvalidRequest):
        write(tmp_path / "t", entry(path), content(b"evil"))
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.parametrize(
    "record",
    [b"", b"X", b"E", b"E{", b"E[]", b"E" + b"[" * 100_000, entry("d", "device"), entry("l", "symlink"),
     entry("f", mode=-1), entry("f", mode="x"), entry("f", mtime="x")],
)  # fmt: skip
def test_records_that_mean_nothing_end_the_transfer(tmp_path: Path, record: bytes) -> None:
    with pytest.raises(InvalidRequest):
        write(tmp_path / "t", record)


@pytest.mark.parametrize(
    ("path", "target", "stays"),
    [
        ("l", "a/b", True), ("d/l", "../a", True), ("d/e/l", "../../a", True), ("l", "/etc/passwd", False),
        ("l", "../x", False), ("d/l", "../../x", False), ("l", "a/../../x", False), ("l", "d/e/../..", False),
        ("l", "..", False), ("d/l", "..", True), ("l", ".", True),
    ],
)  # fmt: skip
def test_links_are_kept_only_if_they_cannot_lead_out(path: str, target: str, stays: bool, tmp_path: Path) -> None:
    assert tree.stays_within(path, target) is stays
    directories = [entry("d", "dir"), entry("d/e", "dir")]
    done = write(tmp_path / "t", *directories, entry(path, "symlink", target=target))
    assert os.path.lexists(tmp_path / "t" / path) is stays
    assert done["skipped_count"] == (0 if stays else 1)
    trusting = write(tmp_path / "u", *directories, entry(path, "symlink", target=target), trusted=True)
    assert trusting["skipped_count"] == 0


def test_nothing_is_written_through_links_that_came_with_the_tree_or_were_there(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    (outside / "victim").write_text("mine")
    target.mkdir()
    (target / "there").symlink_to(outside)
    (target / "file").symlink_to(outside / "victim")
    done = write(
        target,
        entry("there/victim"), content(b"evil"),
        entry("there", "dir"), entry("there/new"), content(b"evil"),
        entry("d", "dir"), entry("in", "symlink", target="d"), entry("in/x"), content(b"evil"),
        entry("file"), content(b"ok"),
    )  # fmt: skip
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_text() == "mine"
    assert list((target / "d").iterdir()) == []
    assert ((target / "file").read_text(), (target / "file").is_symlink()) == ("ok", False)
    assert done["skipped_count"] == 4


def test_a_guest_cannot_give_rights_or_take_more_than_its_share(tmp_path: Path) -> None:
    write(tmp_path / "t", entry("d", "dir", mode=0o7777), entry("d/x", mode=0o6777), content(b"x"))
    assert stat.S_IMODE((tmp_path / "t" / "d").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "t" / "d" / "x").stat().st_mode) == 0o755
    with pytest.raises(InvalidRequest, match="bytes"):
        write(tmp_path / "t", entry("y"), content(b"x" * 11), max_bytes=10)
    with pytest.raises(InvalidRequest, match="entries"):
        write(tmp_path / "t", entry("y"), entry("z"), max_entries=1)
    # Half a file is never seen.
    assert names(tmp_path / "t") == ["d", "y"]


def test_a_directory_where_a_file_should_be_is_left_and_reported(tmp_path: Path) -> None:
    (tmp_path / "t" / "x").mkdir(parents=True)
    (tmp_path / "t" / "f").touch()
    done = write(tmp_path / "t", entry("x"), content(b"1"), entry("f", "dir"), entry("f/y"), content(b"2"))
    assert done["skipped_count"] == 3
    assert names(tmp_path / "t") == ["f", "x"]
