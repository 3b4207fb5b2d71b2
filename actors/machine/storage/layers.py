"""What a storage backend is: it keeps disk layers, each over another layer or over an image's root disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import attrs


@attrs.frozen
class Base:
    """A raw file below all layers: an image's root disk."""

    path: Path


class Layers(Protocol):
    """The disk layers of one state directory; every backend passes the same conformance tests.

    Nothing here decides what is needed: that is the store's.  A method that cannot read what it needs raises `OSError`
    or `CheckpointUnusable`; none takes what it cannot read for something that is not there.
    """

    name: str
    """Of the backend, as `check` and the configuration name it."""

    def prepare(self) -> None:
        """Create the backend's own place, readable by the owner alone."""

    def path(self, layer: str) -> Path:
        """Return the file, or the device, by which QEMU opens a layer."""

    def create(self, layer: str, *, over: str | Base, size_bytes: int) -> Path:
        """Create an empty layer over another one, or over a raw file; on failure nothing is left.

        Raises:
            NoCapacity, HostFailed: the host's disk is full, or fails.
            FileExistsError: there is such a layer.

        """

    def receive(self, layer: str, file: Path, *, over: str | Base) -> int:
        """Take a layer's file that came from elsewhere, have it stand on ``over``, and return its size in bytes.

        Raises:
            CheckpointUnusable: it is not a file of this backend's kind.

        """

    def switch(self, device: str, layer: str) -> tuple[str, dict[str, Any]]:
        """Return the QMP command by which a machine's disk goes on on an empty layer over its present one."""

    def depends_on(self, layer: str) -> tuple[str, ...]:
        """Return the layers that one stands on, nearest first."""

    def base(self, layer: str) -> Path | None:
        """Return the raw file at the bottom of what a layer stands on; ``None`` if there is none."""

    def owned(self) -> frozenset[str]:
        """Return all layers that there are; what is not named like one of ours is none."""

    def usage_bytes(self, layers: Iterable[str]) -> int:
        """Return what layers occupy on the host, each counted once and without what they stand on."""

    def remove(self, layer: str) -> None:
        """Remove a layer; no-op if it is gone already."""
