"""The record of a checkpoint: what it is, and where its disk stands."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import cattrs

from actors.model.errors import CheckpointUnusable
from actors.model.files import failures_reported, read_json, replace_json
from actors.model.machine import Fingerprint
from guest.untrusted import MALFORMED

RECORD: Final = "checkpoint.json"


@attrs.frozen
class Checkpoint:
    """An immutable instant of a machine; the files are in the store under `id`."""

    id: str
    created_at: float
    fingerprint: Fingerprint | None
    """What its memory needs; ``None`` for the disk of a workspace without a machine."""
    layer: str
    """Id of the disk layer that was frozen; its chain is the whole disk."""
    disk_bytes: int
    """Virtual size of the disk."""
    has_memory: bool
    key: str
    """The channel key that the guest's memory holds, hexadecimal."""
    nonce: str
    """The nonce that the guest's memory holds, hexadecimal."""
    size_bytes: int
    """Bytes allocated on the host for memory and device state."""
    seal: str = ""
    """Of its memory and device state; see `actors.machine.storage.seal`."""
    digest: str = ""
    """Of the same; empty until it has been computed, and for checkpoints that are not kept."""
    boot: str = ""
    """The host's boot with which its files may be lost; empty once they are on stable storage."""
    processes_held: bool = False
    """Whether the guest's processes stood still; then none runs in a restored machine before it has proven itself."""
    alone: bool = False
    """Whether the guest did not answer when it was taken: a machine restored from its memory may not either."""


_converter = cattrs.Converter(forbid_extra_keys=True)


def write(directory: Path, checkpoint: Checkpoint, *, flushed: bool = False) -> None:
    """Write the checkpoint's record into its directory; from here on it exists."""
    replace_json(directory / RECORD, _converter.unstructure(checkpoint), flushed=flushed)


def read(directory: Path) -> Checkpoint:
    """Read the record of the checkpoint in a directory.

    Raises:
        CheckpointUnusable: it is missing or damaged.
        HostFailed, NoCapacity: it cannot be read now.

    """
    path = directory / RECORD
    try:
        with failures_reported():
            return _converter.structure(read_json(path), Checkpoint)
    except (OSError, *MALFORMED, cattrs.BaseValidationError) as error:
        raise CheckpointUnusable(f"The checkpoint {directory.name} cannot be read from {path}: {error}.") from error


def layer_of(directory: Path) -> str | None:
    """Return the id of the disk layer of the checkpoint in ``directory``, or ``None`` if it is half-made.

    Raises:
        CheckpointUnusable: its record is there and is not one.
        OSError: its record cannot be read.

    """
    try:
        layer = read_json(directory / RECORD)["layer"]
        if isinstance(layer, str):
            return layer
        reason = "it names no disk layer"
    except FileNotFoundError:
        return None
    except MALFORMED as error:
        reason = repr(error)
    raise CheckpointUnusable(
        f"The record of checkpoint {directory.name} is damaged: {reason}.", path=str(directory / RECORD)
    )
