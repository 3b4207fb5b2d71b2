"""What a workspace writes down so that it survives its supervisor.

One ``record.json`` in the workspace's directory, written by its own actor alone.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Final

import attrs
import cattrs

from actors.model.end import End
from actors.model.errors import AgentisoError, HostFailed
from actors.model.files import earlier_of, failures_reported, read_json, replace_json
from actors.model.image import BootImage
from actors.model.info import LIBRARY, Evidence, Lifetime, Lineage, PortForward, Shape
from actors.model.journal import JOURNAL
from actors.model.machine import MachineRecord
from actors.model.names import is_short, new_id, short
from actors.model.states import UNOWNED, State
from guest.untrusted import MALFORMED

RECORD: Final = "record.json"
LAST: Final = (f".{RECORD}.earlier", RECORD, JOURNAL)
"""What is removed last of a workspace's directory, in this order."""
OTHERS: Final = ("lost+found",)
"""What a file system has in its root; it is nobody's business, like all whose name begins with a dot."""
DRAWS: Final = 8
"""How many ids are tried for a new workspace; two have the same first digits once in four thousand million draws."""
SCHEMA: Final = 1
RAM_DEPTH: Final = 3
"""A RAM image that machines share is ``checkpoints/<id>/ram`` in the state directory."""


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
class UndoRecord:
    """An automatic checkpoint, and where the workspace was in its life and its tree."""

    id: str
    before: str
    created_at: float
    checkpoint: str
    has_memory: bool
    size_bytes: int
    state: State
    head: str | None


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
    undo: tuple[UndoRecord, ...] = ()
    """Oldest first."""
    suspended: str | None = None
    """The checkpoint from which a suspended workspace resumes."""
    suspended_by: str | None = None
    idle_suspend_s: float | None = None
    expires_at: float | None = None
    """Seconds since the Unix epoch."""
    forked_from: Lineage | None = None
    forwards: tuple[PortForward, ...] = ()
    """In the order in which they were made; every machine of the workspace gets them."""
    owner: str = LIBRARY
    adopted_from: str | None = None
    evidence: Evidence | None = None
    started_by: str = ""
    start_seconds: float = 0.0
    failure: str | None = None
    ended: End | None = None
    """How the last machine ended that nobody had asked to end."""
    stands_still: bool = False
    """Whether its machine stands still until somebody resumes it, whether it can be talked to or not."""
    schema: int = SCHEMA

    @property
    def needs(self) -> frozenset[str]:
        """The layers and checkpoints that this workspace stands on."""
        named = (self.layer, self.checkpoint, self.suspended)
        own = {identifier for identifier in named if identifier is not None}
        kept = {snapshot.checkpoint for snapshot in self.snapshots} | {step.checkpoint for step in self.undo}
        return frozenset(own | kept)


_converter = cattrs.Converter(forbid_extra_keys=True)


def new_record(
    *,
    name: str,
    image: BootImage,
    shape: Shape,
    network: str,
    allow_internet: bool,
    channel: str,
    accelerator: str,
    lifetime: Lifetime,
    forked_from: Lineage | None = None,
    owner: str = LIBRARY,
    workspace_id: str | None = None,
) -> WorkspaceRecord:
    """Return the record of a workspace that does not exist yet, with a fresh identity unless it has one already."""
    workspace_id, now = workspace_id or new_id(), time.time()
    tail = short(workspace_id)
    return WorkspaceRecord(
        id=workspace_id,
        name=name,
        image=image.name,
        image_digest=image.digest,
        shape=shape,
        network=network,
        allow_internet=allow_internet,
        mac=f"52:54:{tail[0:2]}:{tail[2:4]}:{tail[4:6]}:{tail[6:8]}",
        channel=channel,
        accelerator=accelerator,
        created_at=now,
        state=State.CREATING,
        forked_from=forked_from,
        owner=owner,
        idle_suspend_s=lifetime.idle_suspend_s,
        expires_at=now + lifetime.ttl_s if lifetime.ttl_s else None,
    )


def directory_of(state_dir: Path, workspace_id: str) -> Path:
    """Return the directory that holds all of one workspace."""
    return state_dir / "workspaces" / short(workspace_id)


def may_be_workspace(path: Path) -> bool:
    """Tell whether what lies among the workspaces may be one, or may once have been; all else is not ours.

    Raises:
        OSError: it cannot be looked at.

    """
    # A link may lead to what is not mounted now.
    may_be = (path.is_dir() or path.is_symlink()) and not is_others(path)
    return may_be and (is_short(path.name) or (path / RECORD).exists())


def is_others(path: Path) -> bool:
    """Tell whether something lies among the workspaces as it may lie anywhere."""
    return path.name.startswith(".") or path.name in OTHERS


def make_directory(state_dir: Path, record: WorkspaceRecord) -> WorkspaceRecord:
    """Make the directory of a new workspace; where there is one of its name, the workspace gets another id.

    Raises:
        NoCapacity, HostFailed, OSError: it cannot be made; nothing is left.

    """
    for _ in range(DRAWS):
        with failures_reported(), contextlib.suppress(FileExistsError):
            directory_of(state_dir, record.id).mkdir(mode=0o700)
            return record
        record = attrs.evolve(record, id=new_id())
    raise HostFailed(f"{state_dir} has a directory of each name that was drawn for a workspace.")


def actor_name(workspace_id: str) -> str:
    """Return the name under which a workspace's actor is supervised."""
    return f"workspace {short(workspace_id)}"


def save(state_dir: Path, record: WorkspaceRecord, *, keep_earlier: bool = False, reserve: Path | None = None) -> Path:
    """Replace the record on disk and return its path; ``keep_earlier`` if the one there would survive a power loss.

    It may take what is in ``reserve`` where the disk is full.
    """
    path, earlier = directory_of(state_dir, record.id) / RECORD, None
    if keep_earlier:
        earlier = earlier_of(path)
    replace_json(path, _converter.unstructure(record), earlier=earlier, reserve=reserve)
    return path


def remove(directory: Path) -> None:
    """Remove a workspace's directory, record and journal last, so that what a crash leaves can still be read.

    Raises:
        OSError: something of it could not be removed; all else is gone.

    """
    failure: OSError | None = None
    for path in sorted(directory.iterdir(), key=_removal_order) if directory.is_dir() else ():
        try:
            if failure is not None and path.name in LAST:
                break
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()


def _removal_order(path: Path) -> int:
    return LAST.index(path.name) + 1 if path.name in LAST else 0


def is_empty(directory: Path) -> bool:
    """Tell whether a workspace's directory holds no record yet, nor anything else of worth."""
    return {path.name for path in directory.iterdir()} <= {f".{RECORD}.new"}


class DamagedRecord(AgentisoError):
    """A workspace's record cannot be read; its files and its machine are left alone."""

    code = "damaged_record"


def load(directory: Path) -> WorkspaceRecord:
    """Read the record in a workspace's directory.

    Raises:
        DamagedRecord: it is missing, damaged, cannot be read, or is of another schema.

    """
    path = directory / RECORD
    try:
        return read(path)
    except DamagedRecord as error:
        # The host lost its power before what was written last was on its disk, or it was being replaced.
        if not isinstance(error.__cause__, FileNotFoundError | ValueError) or not earlier_of(path).exists():
            raise
        record = read(earlier_of(path))
        if record.state in UNOWNED:
            # What has become of it since nobody knows: it is left alone.
            raise
        return record


def read(path: Path) -> WorkspaceRecord:
    """Read one file that holds a record.

    Raises:
        DamagedRecord: as above.

    """
    try:
        raw = read_json(path)
        if not isinstance(raw, dict):
            raise ValueError("it is no record")
        if raw.get("state") == State.PAUSED:
            # Not every agentiso wrote this down.
            raw["stands_still"] = True
        return _placed(_converter.structure(raw, WorkspaceRecord), path.parent)
    except (OSError, *MALFORMED, cattrs.BaseValidationError) as error:
        why = "; ".join(cattrs.transform_error(error)) if isinstance(error, cattrs.BaseValidationError) else error
        raise DamagedRecord(
            f"The workspace record {path} cannot be read: {why}.",
            remedy="The workspace is left alone, its machine too. Mend what keeps the file from being read; or, to "
            f"forget the workspace, end its machine and move {path.parent} away.",
        ) from error


def _placed(record: WorkspaceRecord, directory: Path) -> WorkspaceRecord:
    """Have a record lead nowhere but into its own state directory, whatever that was called when it was written."""
    if (machine := record.machine) is None:
        return record
    its, ram = directory / "machines" / Path(machine.directory).name, Path(machine.ram)
    shared = directory.parents[1].joinpath(*ram.parts[-RAM_DEPTH:])
    placed = its / ram.name if ram.parent == Path(machine.directory) else shared
    return attrs.evolve(record, machine=attrs.evolve(machine, directory=str(its), ram=str(placed)))


def is_whole(directory: Path) -> bool:
    """Tell whether the record that was written last is there, and not only the one before."""
    try:
        read_json(directory / RECORD)
    except FileNotFoundError:
        # Only a replacement that was interrupted leaves the one before alone, which was the last one then.
        return earlier_of(directory / RECORD).exists()
    except (OSError, ValueError):
        return False
    return True
