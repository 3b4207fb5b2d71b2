"""Files outside of the state directory: finished wholly, or removed, and never anybody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.model.errors import HostFailed, InvalidArgument
from actors.model.journal import Journal
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


def test_a_finished_file_has_its_name_and_no_intent(state_dir: Path, target: Path) -> None:
    with Exports(state_dir).file(target) as fd:
        os.write(fd, b"whole")
        assert not target.exists()
        assert len(intents(state_dir)) == 1
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]
    assert intents(state_dir) == []


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
