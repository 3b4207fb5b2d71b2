"""What every storage backend does, whichever it is.  A new one is added to `BACKENDS` and has to pass all of this."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.machine.storage.layers import Base, Layers
from actors.machine.storage.qcow2_layers import Qcow2Layers
from actors.model.errors import AgentisoError, CheckpointUnusable, HostFailed, NoCapacity
from actors.model.names import new_id
from tests.stateful.supervised import READING, unreadable

BACKENDS: list[Callable[[Path], Layers]] = [Qcow2Layers]
GIB = 2**30
SIZE_BYTES = 3 * GIB + 512


@pytest.fixture(params=BACKENDS, ids=lambda make: make.name)
def make(request: pytest.FixtureRequest) -> Callable[[Path], Layers]:
    """Return what makes the layers of a state directory."""
    found: Callable[[Path], Layers] = request.param
    return found


@pytest.fixture
def layers(make: Callable[[Path], Layers], tmp_path: Path) -> Layers:
    (tmp_path / "state").mkdir()
    made = make(tmp_path / "state")
    made.prepare()
    return made


@pytest.fixture
def base(tmp_path: Path) -> Base:
    path = tmp_path / "root.raw"
    path.touch()
    os.truncate(path, GIB)
    return Base(path)


def stack(layers: Layers, base: Base, count: int) -> list[str]:
    """Make layers, each over the one before, and return them from the bottom up."""
    made: list[str] = []
    for _ in range(count):
        layer = new_id()
        layers.create(layer, over=made[-1] if made else base, size_bytes=SIZE_BYTES)
        made.append(layer)
    return made


def test_its_place_is_the_owners_alone_and_may_be_there_already(layers: Layers, base: Base) -> None:
    layers.prepare()
    (layer,) = stack(layers, base, 1)
    assert layers.path(layer).stat().st_mode & 0o077 == 0
    assert layers.path(layer).parent.stat().st_mode & 0o077 == 0


def test_a_layer_stands_on_all_that_are_below_it_nearest_first(layers: Layers, base: Base) -> None:
    made = stack(layers, base, 4)
    assert layers.depends_on(made[0]) == ()
    assert layers.depends_on(made[3]) == (made[2], made[1], made[0])


def test_all_layers_are_owned_until_they_are_removed(layers: Layers, base: Base) -> None:
    assert layers.owned() == frozenset()
    made = stack(layers, base, 3)
    assert layers.owned() == set(made)
    layers.remove(made[2])
    assert layers.owned() == {made[0], made[1]}
    layers.remove(made[2])


def test_what_is_not_named_like_one_of_ours_is_no_layer(layers: Layers, base: Base) -> None:
    (layer,) = stack(layers, base, 1)
    place = layers.path(layer).parent
    for name in ("notes.txt", "precious.qcow2", f"{new_id()}.bak", f"{new_id()}.qcow2.new", new_id()[:8]):
        (place / name).touch()
    assert layers.owned() == {layer}


def test_no_layer_takes_the_place_of_another(layers: Layers, base: Base) -> None:
    (layer,) = stack(layers, base, 1)
    before = layers.path(layer).read_bytes()
    with pytest.raises(FileExistsError):
        layers.create(layer, over=base, size_bytes=GIB)
    assert layers.path(layer).read_bytes() == before


@pytest.mark.parametrize(("error", "kind"), [(errno.ENOSPC, NoCapacity), (errno.EIO, HostFailed)])
def test_a_disk_that_fails_or_is_full_leaves_no_half_of_a_layer(
    layers: Layers, base: Base, monkeypatch: pytest.MonkeyPatch, error: int, kind: type[AgentisoError]
) -> None:
    for step in range(8):
        failed = _fail(monkeypatch, step, error)
        layer = new_id()
        try:
            layers.create(layer, over=base, size_bytes=GIB)
        except kind:
            assert layer not in layers.owned()
        else:
            assert layers.depends_on(layer) == ()
            layers.remove(layer)
        monkeypatch.undo()
        if not failed:
            return
    raise AssertionError("a layer takes more than eight writes")


def _fail(patch: pytest.MonkeyPatch, step: int, error: int) -> list[int]:
    """Have the disk fail from a write on; return what is filled when that comes to pass."""
    failed, left, real = list[int](), [step], Path.open

    class Failing:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, data: bytes) -> int:
            if not left[0]:
                failed.append(1)
                raise OSError(error, os.strerror(error))
            left[0] -= 1
            count: int = self._file.write(data)
            return count

    patch.setattr(Path, "open", lambda path, *arguments, **options: Failing(real(path, *arguments, **options)))
    return failed


def test_a_layer_takes_little_room_and_each_is_counted_once(layers: Layers, base: Base) -> None:
    made = stack(layers, base, 2)
    one = layers.usage_bytes([made[0]])
    assert 0 < one < 2**20
    assert layers.usage_bytes([*made, *made]) == one + layers.usage_bytes([made[1]])
    assert layers.usage_bytes([]) == layers.usage_bytes([new_id()]) == 0


def test_a_state_directory_that_was_moved_has_the_same_layers(
    make: Callable[[Path], Layers], layers: Layers, base: Base, tmp_path: Path
) -> None:
    made = stack(layers, base, 3)
    (tmp_path / "state").rename(tmp_path / "moved")
    moved = make(tmp_path / "moved")
    moved.prepare()
    assert moved.owned() == set(made)
    assert moved.depends_on(made[2]) == (made[1], made[0])


def test_a_state_directory_that_is_reached_by_another_path_has_the_same_layers(
    make: Callable[[Path], Layers], layers: Layers, base: Base, tmp_path: Path
) -> None:
    made = stack(layers, base, 2)
    (tmp_path / "link").symlink_to(tmp_path / "state")
    linked = make(tmp_path / "link")
    over = new_id()
    linked.create(over, over=made[1], size_bytes=SIZE_BYTES)
    for either in (layers, linked):
        assert either.depends_on(over) == (made[1], made[0])


def test_a_layer_from_elsewhere_stands_on_what_it_is_told_to(
    make: Callable[[Path], Layers], layers: Layers, base: Base, tmp_path: Path
) -> None:
    abroad = make(tmp_path / "abroad")
    abroad.prepare()
    foreign = stack(abroad, base, 2)[1]
    (bottom,) = stack(layers, base, 1)
    received = new_id()
    assert layers.receive(received, abroad.path(foreign), over=bottom) == SIZE_BYTES
    assert layers.owned() == {bottom, received}
    assert layers.depends_on(received) == (bottom,)
    assert foreign not in abroad.owned()


@pytest.mark.parametrize("content", [b"", b"text", b"QFI\xfb", b"\0" * 65536])
def test_what_is_no_layer_is_not_received(layers: Layers, base: Base, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(CheckpointUnusable):
        layers.receive(new_id(), file, over=base)
    assert layers.owned() == frozenset()
    assert file.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"QFI", b"\0" * 65536])
def test_a_layer_whose_header_is_damaged_does_not_stand_on_nothing(layers: Layers, base: Base, content: bytes) -> None:
    made = stack(layers, base, 3)
    layers.path(made[1]).write_bytes(content)
    for layer in made[1:]:
        with pytest.raises(CheckpointUnusable, match=made[1]):
            layers.depends_on(layer)
    assert layers.depends_on(made[0]) == ()
    assert layers.owned() == set(made)


def test_a_layer_that_is_missing_below_another_is_not_passed_over(layers: Layers, base: Base) -> None:
    made = stack(layers, base, 3)
    layers.remove(made[0])
    with pytest.raises(CheckpointUnusable, match=f"{made[0]}.* is missing"):
        layers.depends_on(made[2])


@pytest.mark.parametrize("error", READING)
def test_a_layer_that_cannot_be_read_does_not_stand_on_nothing(layers: Layers, base: Base, error: int) -> None:
    made = stack(layers, base, 2)
    with unreadable(error, layers.path(made[0])), pytest.raises(OSError, match=os.strerror(error)):
        layers.depends_on(made[1])


@pytest.mark.parametrize("error", READING)
def test_what_cannot_be_listed_is_not_nothing(
    layers: Layers, base: Base, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    stack(layers, base, 1)

    def fail(path: Path) -> None:
        raise OSError(error, os.strerror(error), str(path))

    for name in ("iterdir", "glob"):
        monkeypatch.setattr(Path, name, fail)
    with pytest.raises(OSError, match=os.strerror(error)):
        layers.owned()


@pytest.mark.parametrize("error", READING)
def test_what_cannot_be_removed_is_told(
    layers: Layers, base: Base, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    (layer,) = stack(layers, base, 1)

    def fail(path: Path, *_arguments: object, **_options: object) -> None:
        raise OSError(error, os.strerror(error), str(path))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", fail)
        with pytest.raises(OSError, match=os.strerror(error)):
            layers.remove(layer)
    assert layers.owned() == {layer}


def test_layers_that_stand_on_each_other_are_damage(layers: Layers, base: Base) -> None:
    one, other = stack(layers, base, 2)
    copy = layers.path(other).read_bytes()
    layers.path(one).write_bytes(copy.replace(one.encode(), other.encode()))
    with pytest.raises(CheckpointUnusable, match="stands on itself"):
        layers.depends_on(other)


def test_a_machine_is_told_to_go_on_on_a_layer_that_is_there(layers: Layers, base: Base) -> None:
    (layer,) = stack(layers, base, 1)
    command, arguments = layers.switch("root", layer)
    assert command == "blockdev-snapshot-sync"
    assert arguments["device"] == "root"
    assert arguments["snapshot-file"] == str(layers.path(layer))
    assert arguments["mode"] == "existing"
