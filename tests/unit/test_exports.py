"""Files outside of the state directory: finished wholly, or removed, and never anybody else's."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.model.errors import HostFailed, InvalidArgument, NoCapacity
from actors.model.journal import DamagedJournal, Journal, Kind
from actors.registry.exports import DIRECTORY, Exports


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    return directory / "box.agentiso"


def intents(state_dir: Path) -> list[str]:
    return [intent.name for intent in Journal(state_dir / DIRECTORY).intents()]


KILLED_IN_ITS_MIDDLE = """
import os, sys
from pathlib import Path
from actors.registry.exports import Exports
with Exports(Path(sys.argv[1])).file(Path(sys.argv[2])) as fd:
    os.write(fd, b"half")
    os._exit(0)
"""


def abandon(state_dir: Path, target: Path) -> Path:
    """Begin an export in a process that ends in its middle, and return the file that it leaves."""
    subprocess.run([sys.executable, "-c", KILLED_IN_ITS_MIDDLE, state_dir, target], check=True, timeout=60)
    [part] = target.parent.iterdir()
    assert part.read_bytes() == b"half"
    return part


def test_a_finished_file_has_its_name_and_no_intent(
    state_dir: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Exports(state_dir).file(target) as fd:
        os.write(fd, b"whole")
        assert not target.exists()
        assert len(intents(state_dir)) == 1
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]
    assert intents(state_dir) == []
    assert caplog.text == ""


def test_a_failed_file_is_gone_at_once(state_dir: Path, target: Path) -> None:
    def half() -> None:
        with Exports(state_dir).file(target) as fd:
            os.write(fd, b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(target.parent.iterdir()) == []
    assert intents(state_dir) == []


def test_nothing_is_replaced_that_came_meanwhile(state_dir: Path, target: Path) -> None:
    def while_somebody_else_writes() -> None:
        with Exports(state_dir).file(target):
            target.write_bytes(b"theirs")

    with pytest.raises(InvalidArgument, match="somebody else"):
        while_somebody_else_writes()
    assert target.read_bytes() == b"theirs"
    assert list(target.parent.iterdir()) == [target]


def test_what_a_killed_supervisor_left_is_removed(state_dir: Path, target: Path) -> None:
    part = abandon(state_dir, target)
    Exports(state_dir).finish()
    assert not part.exists()
    assert intents(state_dir) == []


@pytest.mark.parametrize("content", [b"", b"not half of an export"])
def test_somebody_elses_file_of_that_name_stays(state_dir: Path, target: Path, content: bytes) -> None:
    part = abandon(state_dir, target)
    part.rename(target)
    part.write_bytes(content)
    Exports(state_dir).finish()
    assert part.read_bytes() == content
    assert intents(state_dir) == []


def test_what_cannot_be_removed_now_is_removed_later(
    state_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = abandon(state_dir, target)

    def fail(_path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, f"no rights ({missing_ok})")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(HostFailed):
            Exports(state_dir).finish()
    assert part.exists()
    assert len(intents(state_dir)) == 1
    Exports(state_dir).finish()
    assert not part.exists()


def test_what_is_under_way_is_no_leftover(state_dir: Path, target: Path) -> None:
    exports = Exports(state_dir)
    with exports.file(target) as fd:
        exports.finish()
        os.write(fd, b"whole")
    assert target.read_bytes() == b"whole"


def write(state_dir: Path, target: Path, content: bytes = b"whole") -> None:
    with Exports(state_dir).file(target) as fd:
        os.write(fd, content)


def test_its_name_is_on_stable_storage_before_the_other_one_and_the_intent_go(
    state_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == target.parent:
            seen.append((len(list(target.parent.iterdir())), len(intents(state_dir))))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    write(state_dir, target)
    assert seen == [(2, 1)]


def test_a_name_that_is_not_on_stable_storage_is_free_again(
    state_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == target.parent:
            raise OSError(errno.EIO, "an error of the disk")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="an error of the disk"):
            write(state_dir, target)
    assert list(target.parent.iterdir()) == []
    write(state_dir, target)


def test_a_file_system_that_cannot_flush_directories_takes_exports(
    state_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == target.parent:
            raise OSError(errno.EINVAL, "Invalid argument")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    write(state_dir, target)
    assert target.read_bytes() == b"whole"


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the file system know no hard links, as FAT does not."""

    def link(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


def test_a_file_system_without_hard_links_takes_exports(
    state_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    write(state_dir, target)
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]
    assert intents(state_dir) == []


def test_nothing_is_replaced_without_hard_links_either(
    state_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)

    def while_somebody_else_writes() -> None:
        with Exports(state_dir).file(target):
            target.write_bytes(b"theirs")

    with pytest.raises(InvalidArgument, match="somebody else"):
        while_somebody_else_writes()
    assert target.read_bytes() == b"theirs"
    assert list(target.parent.iterdir()) == [target]


def test_what_is_whole_is_no_failure_if_that_cannot_be_written_down_now(
    state_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_journal: Journal, _kind: Kind, _name: str) -> None:
        raise NoCapacity("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "gone", gone)
        write(state_dir, target)
    assert len(intents(state_dir)) == 1
    Exports(state_dir).finish()
    assert target.read_bytes() == b"whole"
    assert intents(state_dir) == []


@pytest.mark.parametrize("name", ["\u754c" * 82, "x" * 255, "\udcff" * 255])
def test_a_name_may_be_as_long_as_a_name_can_be(state_dir: Path, target: Path, name: str) -> None:
    write(state_dir, target.with_name(name))
    assert [path.name for path in target.parent.iterdir()] == [name]
    assert intents(state_dir) == []


def test_a_relative_path_is_written_down_whole(state_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(target.parent)
    with Exports(state_dir).file(Path(target.name)):
        (intent,) = Journal(state_dir / DIRECTORY).intents()
        assert Path(intent.facts["path"]).parent == target.parent
        monkeypatch.chdir("/")
    assert target.exists()


def test_one_that_cannot_be_finished_keeps_no_other(
    state_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(state_dir / DIRECTORY)
    journal.path.parent.mkdir()
    journal.will(Kind.EXPORT, "too long", path=str(target.with_name("\u754c" * 100)))
    journal.will(Kind.EXPORT, "no path", path="\0")
    journal.will(Kind.EXPORT, "out of reach", path="/out/of/reach.part")
    part = abandon(state_dir, target)
    lstat = Path.lstat

    def refused(path: Path) -> os.stat_result:
        if path.name == "reach.part":
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(path))
        return lstat(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", refused)
        with pytest.raises(HostFailed, match="is not connected"):
            Exports(state_dir).finish()
    assert not part.exists()
    assert intents(state_dir) == ["out of reach"]
    Exports(state_dir).finish()
    assert intents(state_dir) == []


def test_of_a_damaged_journal_it_is_said_what_to_do_with_exports(state_dir: Path) -> None:
    journal = state_dir / DIRECTORY / "journal"
    journal.parent.mkdir()
    journal.write_text(json.dumps("damaged") + "\n")
    with pytest.raises(DamagedJournal) as caught:
        Exports(state_dir).finish()
    assert ".part" in caught.value.remedy
    assert "workspace" not in caught.value.remedy
