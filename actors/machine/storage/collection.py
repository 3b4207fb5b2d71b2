"""What there is in a store, and who keeps each piece: what nobody keeps may be removed.

What is kept is read strictly: a record or a header that cannot be read, or that should be there and is not, is a
`Doubt`, and as long as there is one nothing is removed: what it stands on is not known.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from actors.machine.storage.checkpoint import layer_of
from actors.machine.storage.holds import is_block
from actors.machine.storage.layers import Layers
from actors.model.errors import CheckpointUnusable
from actors.model.info import StoredPiece
from actors.model.names import is_id

LAYER: Final = "layer"
CHECKPOINT: Final = "checkpoint"


@attrs.frozen
class Inventory:
    """The names of all that there is."""

    layers: frozenset[str]
    checkpoints: Mapping[str, Path]


@attrs.frozen
class Doubt:
    """Something that is kept and cannot be read, or is not there: it may stand on anything."""

    path: str
    why: str
    owners: tuple[str, ...]
    """Who holds what stands on it, of whom it is known."""

    @property
    def what(self) -> str:
        """A few words for it."""
        return f"the file {Path(self.path).name}"

    def __str__(self) -> str:
        return f"{self.why} {', '.join(self.owners)} stand on it."


@attrs.frozen
class Survey:
    """All that there is, and what of it is not known."""

    pieces: tuple[StoredPiece, ...]
    doubts: tuple[Doubt, ...]

    @property
    def unneeded(self) -> tuple[StoredPiece, ...]:
        """What nobody keeps, which is nothing while something is not known."""
        return () if self.doubts else tuple(piece for piece in self.pieces if not piece.kept_by)


class _Doubts:
    """What could not be read, by its path, with whoever holds what stands on it."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, set[str]]] = {}

    @contextmanager
    def noted(self, path: Path, owners: Iterable[str]) -> Iterator[None]:
        """Note what cannot be read in the block, which read ``path`` or what that stands on."""
        try:
            yield
        except (OSError, CheckpointUnusable) as error:
            facts = error.facts if isinstance(error, CheckpointUnusable) else {"path": error.filename}
            why = error.message if isinstance(error, CheckpointUnusable) else f"It cannot be read: {error}."
            self._found.setdefault(str(facts.get("path") or path), (why, set()))[1].update(owners)

    def all(self) -> tuple[Doubt, ...]:
        return tuple(Doubt(path, why, tuple(sorted(who))) for path, (why, who) in sorted(self._found.items()))


def inventory(layers: Layers, checkpoints: Path) -> Inventory:
    """Look what there is; what is not named like one of ours is none.

    Raises:
        OSError: it cannot be listed.

    """
    directories = {path.name: path for path in checkpoints.iterdir() if is_id(path.name) and path.is_dir()}
    return Inventory(layers.owned(), directories)


def completed(layers: Layers, checkpoints: Path, there: Inventory, held: Iterable[str]) -> Inventory:
    """Return an inventory with what has been made since, of all that is ``held``."""
    new = {name for name in held if name not in there.layers and name not in there.checkpoints}
    made = {name: checkpoints / name for name in new if (checkpoints / name).is_dir()}
    return Inventory(there.layers | {name for name in new if layers.path(name).exists()}, {**there.checkpoints, **made})


def survey(
    layers: Layers, there: Inventory, holders: Mapping[str, Iterable[str]], now: Mapping[str, Iterable[str]]
) -> Survey:
    """Say who keeps each piece; ``holders`` of ids are those of when the inventory was completed.

    What is not there has to be, unless nobody who held it then does so ``now``.
    """
    keepers: dict[str, set[str]] = {name: set(holders.get(name, ())) for name in (*there.layers, *there.checkpoints)}
    # Of each kept layer, who holds it or a checkpoint of it.
    owners, doubts = {name: set(held) for name, held in keepers.items()}, _Doubts()
    for name, held in holders.items():
        still = now.get(name, ())
        theirs = [owner for owner in held if owner in still and not is_block(owner)]
        with doubts.noted(there.checkpoints.get(name, layers.path(name)), theirs):
            _check_there(name, theirs, there)
    for name, directory in there.checkpoints.items():
        with doubts.noted(directory, keepers[name]):
            if keepers[name] and (layer := layer_of(directory)) is not None and layer in there.layers:
                keepers[layer].add(f"{CHECKPOINT} {name}")
                owners[layer] |= keepers[name]
    for layer in [each for each in there.layers if keepers[each]]:
        with doubts.noted(layers.path(layer), owners[layer]):
            for below in layers.depends_on(layer):
                if below in there.layers:
                    keepers[below].add(f"{LAYER} {layer}")
    pieces = [
        StoredPiece(name, CHECKPOINT, str(path), _allocated(path), tuple(sorted(keepers[name])))
        for name, path in sorted(there.checkpoints.items())
    ] + [
        StoredPiece(name, LAYER, str(layers.path(name)), layers.usage_bytes([name]), tuple(sorted(keepers[name])))
        for name in sorted(there.layers)
    ]
    return Survey(tuple(pieces), doubts.all())


def _check_there(name: str, owners: list[str], there: Inventory) -> None:
    """Raise `CheckpointUnusable` if what is written down somewhere is missing: what it stood on is not known then."""
    if not owners or name in there.layers:
        return
    directory = there.checkpoints.get(name)
    if directory is None or layer_of(directory) is None:
        raise CheckpointUnusable(f"{name} is needed and is not there, or has no record.")


def remove(layers: Layers, pieces: Iterable[StoredPiece]) -> list[str]:
    """Remove pieces, each by itself, and return the ids of what is gone.

    Raises:
        OSError: some could not be removed; the others are.

    """
    removed, failure = list[str](), None
    for piece in pieces:
        try:
            if piece.kind == LAYER:
                layers.remove(piece.id)
            else:
                shutil.rmtree(piece.path)
        except FileNotFoundError:
            # Somebody else is at it; whatever is left of it is found the next time.
            continue
        except OSError as error:
            failure = error
        else:
            removed.append(piece.id)
    if failure is not None:
        raise failure
    return removed


def _allocated(directory: Path) -> int:
    total = 0
    # What is being made may be given up meanwhile.
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_blocks * 512
    return total
