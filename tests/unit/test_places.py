"""The directories of a state directory belong together: nothing starts where one is missing, or is another one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from actors.model.errors import HostFailed
from actors.model.files import replace_json
from actors.model.names import new_id
from actors.registry import places
from actors.registry.places import CACHE, KNOWN, MARK, PLACES, claim
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
    shutil.rmtree(state_dir / "templates")
    claim(state_dir)
    assert (state_dir / "workspaces" / "one").is_dir()
    assert (state_dir / "templates").is_dir()


def of_an_earlier_version(state_dir: Path) -> None:
    """Have a state directory be as an agentiso leaves it that wrote down the numbers alone."""
    for name in PLACES:
        (state_dir / name / MARK).unlink()
    (state_dir / KNOWN).write_text(json.dumps({name: (state_dir / name).stat().st_ino for name in PLACES}))


def test_one_whose_directories_are_not_marked_is_taken_over_and_marked(state_dir: Path) -> None:
    of_an_earlier_version(state_dir)
    claim(state_dir)
    known = json.loads((state_dir / KNOWN).read_text())
    assert {name: json.loads((state_dir / name / MARK).read_text()) for name in PLACES} == {
        name: known[name]["id"] for name in PLACES
    }
    before = known
    claim(state_dir)
    assert json.loads((state_dir / KNOWN).read_text()) == before


def test_one_that_is_not_marked_is_not_taken_over_where_a_directory_is_another_one(state_dir: Path) -> None:
    of_an_earlier_version(state_dir)
    (state_dir / "layers").rename(state_dir / "away")
    (state_dir / "layers").mkdir()
    with pytest.raises(HostFailed, match="may not be mounted"):
        claim(state_dir)
    assert not list(state_dir.glob(f"*/{MARK}"))


def test_one_that_was_marked_when_its_supervisor_was_killed_is_taken_over(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_an_earlier_version(state_dir)
    before = (state_dir / KNOWN).read_text()

    def killed(path: Path, value: object, *, flushed: bool) -> None:
        if path.name == KNOWN:
            raise KeyboardInterrupt
        replace_json(path, value, flushed=flushed)

    with monkeypatch.context() as patch:
        patch.setattr(places, "replace_json", killed)
        with pytest.raises(KeyboardInterrupt):
            claim(state_dir)
    assert (state_dir / KNOWN).read_text() == before
    claim(state_dir)
    assert all(json.loads((state_dir / KNOWN).read_text())[name]["id"] for name in PLACES)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("mark", [None, "", "another"])
def test_another_file_system_with_the_same_number_is_another_place(
    state_dir: Path, name: str, mark: str | None
) -> None:
    """As the roots of file systems of one kind have: what is in the directory is not what was there."""
    path = state_dir / name / MARK
    own = path.read_text()
    if mark is None:
        path.unlink()
    else:
        path.write_text(json.dumps(new_id()) if mark else "")
    with pytest.raises(HostFailed, match="may not be mounted"):
        claim(state_dir)
    path.write_text(own)
    claim(state_dir)


@pytest.mark.parametrize("error", READING)
@pytest.mark.parametrize("name", PLACES)
def test_nothing_starts_where_it_cannot_be_told_which_place_it_is_but_for_the_templates(
    state_dir: Path, name: str, error: int
) -> None:
    with unreadable(error, state_dir / name / MARK):
        if name == CACHE:
            claim(state_dir)
        else:
            with pytest.raises(OSError, match=os.strerror(error)):
                claim(state_dir)
    claim(state_dir)


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
    assert not list((state_dir / name).iterdir())
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


@pytest.mark.parametrize("name", PLACES)
def test_what_is_missing_is_told_without_a_change(state_dir: Path, name: str) -> None:
    places.check(state_dir)
    shutil.rmtree(state_dir / name)
    with pytest.raises(HostFailed, match="is not there") as caught:
        places.check(state_dir)
    assert caught.value.facts["path"] == str(state_dir / name)
    assert not (state_dir / name).exists()
    places.check(state_dir / "new")
