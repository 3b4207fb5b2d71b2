"""The directories of a state directory belong together: nothing starts where one is missing, or is another one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from actors.model.errors import HostFailed
from actors.registry.places import KNOWN, PLACES, claim
from tests.stateful.supervised import READING, unreadable


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    made.mkdir()
    claim(made)
    return made


def test_a_new_state_directory_gets_all_that_it_needs(state_dir: Path) -> None:
    assert {path.name for path in state_dir.iterdir()} == {*PLACES, KNOWN}
    claim(state_dir)


def test_one_of_an_earlier_version_is_taken_as_it_is(state_dir: Path) -> None:
    (state_dir / "workspaces" / "one").mkdir()
    (state_dir / KNOWN).unlink()
    (state_dir / "templates").rmdir()
    claim(state_dir)
    assert (state_dir / "workspaces" / "one").is_dir()
    assert (state_dir / "templates").is_dir()


def test_one_that_was_moved_is_the_same(state_dir: Path, tmp_path: Path) -> None:
    claim(state_dir.rename(tmp_path / "moved"))


@pytest.mark.parametrize("name", PLACES)
def test_nothing_starts_where_a_directory_is_missing_or_is_another_one(state_dir: Path, name: str) -> None:
    away = (state_dir / name).rename(state_dir / "away")
    with pytest.raises(HostFailed, match="is not there") as caught:
        claim(state_dir)
    assert KNOWN in caught.value.remedy
    (state_dir / name).mkdir()
    with pytest.raises(HostFailed, match="may not be mounted"):
        claim(state_dir)
    (state_dir / name).rmdir()
    away.rename(state_dir / name)
    claim(state_dir)


def test_a_backup_that_was_restored_is_taken_once_its_owner_has_said_so(state_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(state_dir, tmp_path / "restored")
    with pytest.raises(HostFailed):
        claim(tmp_path / "restored")
    (tmp_path / "restored" / KNOWN).unlink()
    claim(tmp_path / "restored")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null"])
def test_what_was_written_down_and_is_damaged_is_told(state_dir: Path, text: str) -> None:
    (state_dir / KNOWN).write_text(text)
    with pytest.raises(HostFailed, match="is damaged"):
        claim(state_dir)


@pytest.mark.parametrize("error", READING)
def test_what_cannot_be_read_is_not_begun_anew(state_dir: Path, error: int) -> None:
    before = (state_dir / KNOWN).read_text()
    with unreadable(error, state_dir / KNOWN), pytest.raises(OSError, match=os.strerror(error)):
        claim(state_dir)
    assert (state_dir / KNOWN).read_text() == before
