"""Layers as qcow2 overlays: ``layers/<id>.qcow2``, each naming the one it stands on.  Needs nothing of the host.

A name is absolute, and relative in one that was moved or copied with its state directory (`Qcow2Layers.bring_home`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from actors.machine.storage import qcow2
from actors.machine.storage.layers import Base
from actors.model.errors import CheckpointUnusable
from actors.model.files import failures_reported
from actors.model.names import is_id

SUFFIX: Final = ".qcow2"


class Qcow2Layers:
    """The backend that always works."""

    name = "qcow2"

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "layers"

    def prepare(self) -> None:
        """Create the directory of layers."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, layer: str) -> Path:
        """Return a layer's file."""
        return self._directory / f"{layer}{SUFFIX}"

    def create(self, layer: str, *, over: str | Base, size_bytes: int) -> Path:
        """Write an empty overlay."""
        path, (backing, backing_format) = self.path(layer), self._backing(over)
        with failures_reported():
            qcow2.create_overlay(path, backing=backing, backing_format=backing_format, virtual_size_bytes=size_bytes)
        return path

    def receive(self, layer: str, file: Path, *, over: str | Base) -> int:
        """Give a foreign overlay a header of our own, and its place."""
        backing, backing_format = self._backing(over)
        qcow2.rebase(file, backing=backing, backing_format=backing_format)
        size_bytes = qcow2.read_header(file).virtual_size_bytes
        file.rename(self.path(layer))
        return size_bytes

    def switch(self, device: str, layer: str) -> tuple[str, dict[str, Any]]:
        """Have QEMU open the overlay that was made already."""
        arguments = {"device": device, "snapshot-file": str(self.path(layer)), "format": "qcow2", "mode": "existing"}
        return "blockdev-snapshot-sync", arguments

    def depends_on(self, layer: str) -> tuple[str, ...]:
        """Follow the headers to the bottom."""
        found: list[str] = []
        while (layer := self._below(layer)) != "":
            if layer in found:
                path = str(self.path(layer))
                raise CheckpointUnusable(f"The disk layer {path} stands on itself.", path=path)
            found.append(layer)
        return tuple(found)

    def _below(self, layer: str) -> str:
        """Return the layer that one stands on; empty for a raw file, which is no layer.

        Its name alone counts: a state directory may have been moved, or be reached by another path.
        """
        backing = qcow2.read_header(self.path(layer)).backing
        return backing.stem if backing is not None and backing.suffix == SUFFIX and is_id(backing.stem) else ""

    def base(self, layer: str) -> Path | None:
        """Read what the last header names."""
        bottom = (layer, *self.depends_on(layer))[-1]
        return qcow2.read_header(self.path(bottom)).backing

    def owned(self) -> frozenset[str]:
        """Look into the directory."""
        names = (path.stem for path in self._directory.iterdir() if path.suffix == SUFFIX)
        return frozenset(name for name in names if is_id(name))

    def usage_bytes(self, layers: Iterable[str]) -> int:
        """Add up the blocks of the files that are there."""
        total = 0
        for layer in set(layers):
            try:
                total += self.path(layer).stat().st_blocks * 512
            except FileNotFoundError:
                continue
        return total

    def remove(self, layer: str) -> None:
        """Remove the file."""
        self.path(layer).unlink(missing_ok=True)

    def _backing(self, over: str | Base) -> tuple[Path, str]:
        return (over.path, "raw") if isinstance(over, Base) else (self.path(over), "qcow2")

    # -- moved or copied

    def astray(self) -> dict[str, Path]:
        """Return the layers that name a file elsewhere although the same is here, each with that file.

        Raises:
            OSError: one cannot be read.

        """
        there = {layer: backing for layer, backing in self._named().items() if self._counterpart(backing).exists()}
        return {
            layer: backing
            for layer, backing in there.items()
            if not (backing.exists() and backing.samefile(self._counterpart(backing)))
        }

    def bring_home(self) -> None:
        """Have layers stand on what was copied or moved with them; nobody may have any open.  Errors as above."""
        for layer, backing in self.astray().items():
            own = self._counterpart(backing)
            # ``..`` leads elsewhere from behind a link.
            beside = own.parent == self._directory or not self._directory.is_symlink()
            qcow2.rename_backing(self.path(layer), Path(os.path.relpath(own, self._directory)) if beside else own)

    def standing_in(self, place: Path) -> list[str]:
        """Return the layers that stand on what is called by a path within a directory; errors as above."""
        return [layer for layer, backing in self._named().items() if backing.is_relative_to(place)]

    def _named(self) -> dict[str, Path]:
        """Return what each layer stands on, by the path that it names; of a damaged one that cannot be told."""
        found: dict[str, Path] = {}
        for layer in self.owned():
            with contextlib.suppress(CheckpointUnusable):
                if (backing := qcow2.read_header(self.path(layer)).backing) is not None:
                    found[layer] = backing
        return found

    def _counterpart(self, backing: Path) -> Path:
        """Return where here the same file is that a layer names elsewhere, if there is one."""
        if backing.suffix == SUFFIX:
            return self._directory / backing.name
        return self._directory.parent.joinpath("images", *backing.parts[-2:])
