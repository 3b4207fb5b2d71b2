"""The directories of a state directory belong together: nothing starts where one is missing, or is another one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.machine.qemu.command_line import CONSOLE_MARK
from actors.machine.qemu.logs import CONSOLE
from actors.machine.qemu.process import find_machines
from actors.machine.storage import qcow2
from actors.machine.storage.qcow2_layers import Qcow2Layers
from actors.model.errors import HostFailed
from actors.model.files import replace_json
from actors.model.names import new_id
from actors.registry import places
from actors.registry.places import CACHE, KNOWN, MARK, PATH, PLACES, claim
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


# -- one that was moved, or copied


@contextmanager
def machine_in(state_dir: Path) -> Iterator[None]:
    """A process that is a machine of a state directory, to whoever looks at its command line and what it has open."""
    directory = state_dir / "workspaces" / "one" / "machines" / "two"
    directory.mkdir(parents=True)
    with (directory / CONSOLE).open("ab") as log:
        words = ["-uuid", "1", "-add-fd", f"{CONSOLE_MARK}{log.name}"]
        child = subprocess.Popen(
            [sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE, pass_fds=[log.fileno()]
        )
    try:
        while not list(find_machines(state_dir)):
            os.sched_yield()
        yield
    finally:
        child.kill()
        child.wait()
        assert child.stdin is not None
        child.stdin.close()


def path_of(state_dir: Path) -> Any:
    return json.loads((state_dir / KNOWN).read_text()).get(PATH)


def test_one_that_was_moved_is_the_same(state_dir: Path, tmp_path: Path) -> None:
    assert path_of(state_dir) == str(state_dir)
    moved = state_dir.rename(tmp_path / "moved")
    claim(moved)
    assert path_of(moved) == str(moved)


def test_one_whose_path_was_not_written_down_is_taken_over(state_dir: Path) -> None:
    known = json.loads((state_dir / KNOWN).read_text())
    path = known.pop(PATH)
    (state_dir / KNOWN).write_text(json.dumps(known))
    with unreadable(errno.EIO, state_dir / CACHE / MARK):
        claim(state_dir)
    assert path_of(state_dir) is None
    claim(state_dir)
    assert path_of(state_dir) == path


def test_one_that_was_moved_while_its_machines_run_is_not_used_until_its_path_leads_to_it(
    state_dir: Path, tmp_path: Path
) -> None:
    with machine_in(state_dir):
        moved = state_dir.rename(tmp_path / "moved")
        with pytest.raises(HostFailed, match="1 of its machines run") as caught:
            claim(moved)
        assert f"was {state_dir} when" in caught.value.message
        assert f"ln -s {moved} {state_dir}" in caught.value.remedy
        assert path_of(moved) == str(state_dir)
        state_dir.symlink_to(moved)
        for path in (moved, state_dir):
            claim(path)
            assert path_of(path) == str(state_dir)
        state_dir.unlink()
        moved.rename(state_dir)
        claim(state_dir)
        state_dir.rename(moved)
    claim(moved)
    assert path_of(moved) == str(moved)


def test_each_path_of_a_link_is_good(state_dir: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(state_dir)
    claim(link)
    assert path_of(link) == str(state_dir)


@pytest.fixture
def chain(state_dir: Path) -> tuple[str, str]:
    """Two layers, on an image in the state directory, of an agentiso that wrote absolute paths alone."""
    first, second = new_id(), new_id()
    root = state_dir / "images" / "digest" / "root.img"
    root.parent.mkdir(parents=True)
    root.touch()
    layers = Qcow2Layers(state_dir)
    for layer, backing, kind in ((first, root, "raw"), (second, layers.path(first), "qcow2")):
        qcow2.create_overlay(layers.path(layer), backing=backing, backing_format=kind, virtual_size_bytes=2**20)
    return first, second


def stands_on(state_dir: Path, chain: tuple[str, str]) -> list[Path]:
    """Return what layers stand on, if it is there."""
    found = [qcow2.read_header(Qcow2Layers(state_dir).path(layer)).backing for layer in chain]
    return [path.resolve(strict=True) for path in found if path is not None]


@pytest.mark.parametrize("how", ["moved", "copied", "put in the place of the original"])
def test_the_layers_of_one_that_was_moved_or_copied_stand_on_what_is_there(
    state_dir: Path, tmp_path: Path, chain: tuple[str, str], how: str
) -> None:
    other, (first, second) = tmp_path / "other", chain
    before = [Qcow2Layers(state_dir).path(layer).read_bytes() for layer in chain]
    if how == "moved":
        state_dir.rename(other)
    else:
        shutil.copytree(state_dir, other)
        (other / KNOWN).unlink()
    if how == "put in the place of the original":
        shutil.rmtree(state_dir)
        other = other.rename(state_dir)
    claim(other)
    assert stands_on(other, chain) == [other / "images" / "digest" / "root.img", other / "layers" / f"{first}.qcow2"]
    assert Qcow2Layers(other).depends_on(second) == (first,)
    if how == "copied":
        claim(state_dir)
        assert [Qcow2Layers(state_dir).path(layer).read_bytes() for layer in chain] == before


def test_one_that_was_moved_without_what_its_layers_stand_on_is_not_used(
    state_dir: Path, tmp_path: Path, chain: tuple[str, str]
) -> None:
    moved = state_dir.rename(tmp_path / "moved")
    state_dir.mkdir()
    (moved / "images").rename(state_dir / "images")
    with pytest.raises(HostFailed, match="1 of its disk layers stand on what they know by that path"):
        claim(moved)
    (state_dir / "images").rename(moved / "images")
    claim(moved)
    assert len(stands_on(moved, chain)) == 2


def test_one_that_was_moved_with_its_machines_is_not_used_although_its_owner_says_that_it_is_a_copy(
    state_dir: Path, tmp_path: Path, chain: tuple[str, str]
) -> None:
    with machine_in(state_dir):
        (state_dir / KNOWN).unlink()
        claim(state_dir)
        moved = state_dir.rename(tmp_path / "moved")
        (moved / KNOWN).unlink()
        for _ in range(2):
            with pytest.raises(HostFailed, match=f"was {state_dir} when.*1 of its machines run"):
                claim(moved)
    claim(moved)
    assert len(stands_on(moved, chain)) == 2


def test_layers_that_are_kept_elsewhere_stand_on_images_that_were_moved(
    state_dir: Path, tmp_path: Path, chain: tuple[str, str]
) -> None:
    (state_dir / "layers").rename(tmp_path / "elsewhere")
    (state_dir / "layers").symlink_to(tmp_path / "elsewhere")
    moved = state_dir.rename(tmp_path / "new")
    claim(moved)
    assert stands_on(moved, chain) == [moved / "images/digest/root.img", tmp_path / f"elsewhere/{chain[0]}.qcow2"]


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
    with pytest.raises(HostFailed) as caught:
        claim(tmp_path / "restored")
    assert "Machines of the original are none of a copy's" in caught.value.remedy
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
