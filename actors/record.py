"""What a workspace writes down so that it survives its supervisor.

One ``record.json`` in the workspace's directory, written by its own actor alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import attrs
import cattrs

from actors.errors import AgentisoError
from actors.lifecycle import State
from actors.machine.files import read_json, replace_json
from actors.machine.machine import MachineRecord
from actors.model import Evidence, Lineage, Shape
from actors.names import short

RECORD: Final = "record.json"
SCHEMA: Final = 1


@attrs.frozen
class SnapshotRecord:
    """A named checkpoint in the tree."""

    id: str
    name: str
    parent: str | None
    """Id of the snapshot the workspace stood on."""
    created_at: float
    checkpoint: str
    has_memory: bool
    size_bytes: int


@attrs.frozen
class WorkspaceRecord:
    """All of a workspace that must outlive its supervisor."""

    id: str
    name: str
    image: str
    image_digest: str
    shape: Shape
    network: str
    allow_internet: bool
    mac: str
    channel: str
    accelerator: str
    created_at: float
    state: State
    layer: str | None = None
    """The active disk layer; ``None`` before the first start."""
    disk_bytes: int = 0
    checkpoint: str | None = None
    """The checkpoint whose RAM image the machine maps; ``None`` after a cold boot."""
    machine: MachineRecord | None = None
    snapshots: tuple[SnapshotRecord, ...] = ()
    head: str | None = None
    """Id of the snapshot that the workspace stands on."""
    forked_from: Lineage | None = None
    evidence: Evidence | None = None
    started_by: str = ""
    start_seconds: float = 0.0
    failure: str | None = None
    schema: int = SCHEMA

    @property
    def needs(self) -> frozenset[str]:
        """The layers and checkpoints that this workspace stands on."""
        own = {self.layer, self.checkpoint} - {None}
        return frozenset(own | {snapshot.checkpoint for snapshot in self.snapshots})  # type: ignore[arg-type]


_converter = cattrs.Converter(forbid_extra_keys=True)


def directory_of(state_dir: Path, workspace_id: str) -> Path:
    """Return the directory that holds all of one workspace."""
    return state_dir / "workspaces" / short(workspace_id)


def save(state_dir: Path, record: WorkspaceRecord) -> Path:
    """Replace the record on disk and return its path."""
    path = directory_of(state_dir, record.id) / RECORD
    replace_json(path, _converter.unstructure(record))
    return path


def remove(directory: Path) -> None:
    """Remove a workspace's directory, its record last, so that what a crash leaves can still be read."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name != RECORD and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != RECORD:
            path.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def is_empty(directory: Path) -> bool:
    """Tell whether a workspace's directory holds no record yet, or no longer, nor anything else of worth."""
    return {path.name for path in directory.iterdir()} <= {f".{RECORD}.new"}


class DamagedRecord(AgentisoError):
    """A workspace's record cannot be read; its files are left alone."""

    code = "damaged_record"


def load(directory: Path) -> WorkspaceRecord:
    """Read the record in a workspace's directory.

    Raises:
        DamagedRecord: it is missing, damaged, or of another schema.

    """
    path = directory / RECORD
    try:
        return _converter.structure(read_json(path), WorkspaceRecord)
    except (OSError, ValueError, TypeError, KeyError, cattrs.BaseValidationError) as error:
        raise DamagedRecord(
            f"The workspace record {path} cannot be read: {error}.",
            remedy="The workspace is left alone; move its directory away to forget it.",
        ) from error
