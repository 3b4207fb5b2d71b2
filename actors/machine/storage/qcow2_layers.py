"""Layers as qcow2 overlays: ``layers/<id>.qcow2``, each naming the one it stands on.  Needs nothing of the host.

A name is relative where that is in the same state directory, so that a copy stands on its own, and one that was moved
on what was moved with it.  Earlier ones are absolute until then.
"""

from __future__ import annotations

import contextlib
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
        if isinstance(over, Base):
            return self._relative(over.path.absolute()), "raw"
        return Path(self.path(over).name), "qcow2"

    def _relative(self, path: Path) -> Path:
        """Return by which name a layer is to stand on a file: beside a directory that is a link nothing else is."""
        root = self._directory.parent.absolute()
        beside = path.is_relative_to(root) and not self._directory.is_symlink()
        return Path("..") / path.relative_to(root) if beside else path

    def bring_home(self) -> None:
        """Have layers stand on what was copied or moved with them; nobody may use any of them.

        Raises:
            OSError: one cannot be read or written.

        """
        for layer in self.owned():
            # What is damaged is so wherever it is.
            with contextlib.suppress(CheckpointUnusable):
                backing = qcow2.read_header(self.path(layer)).backing
                if backing is not None and (its := self._counterpart(backing)) is not None:
                    qcow2.rename_backing(self.path(layer), its)

    def _counterpart(self, backing: Path) -> Path | None:
        """Return by which name a layer is to stand on what is here instead of the same file elsewhere."""
        if backing.suffix == SUFFIX:
            own, name = self._directory / backing.name, Path(backing.name)
        else:
            own = self._directory.parent.absolute().joinpath("images", *backing.parts[-2:])
            name = self._relative(own)
        if not own.exists() or (backing.exists() and own.samefile(backing)):
            return None
        return name

    def standing_in(self, place: Path) -> list[str]:
        """Return the layers that stand on what is called by a path within a directory; errors as above."""
        found = []
        for layer in self.owned():
            with contextlib.suppress(CheckpointUnusable):
                backing = qcow2.read_header(self.path(layer)).backing
                if backing is not None and backing.is_relative_to(place):
                    found.append(layer)
        return found
