"""The closed sets of messages that the registry and the workspace actors understand.

Each message is frozen and says what it answers with (its type parameter), whether it runs beside others
(`CONCURRENT`), how long an asker waits by default (`DEADLINE_S`) and, for workspaces, in which lifecycle states it is
legal (`LEGAL`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, TypeAlias

import attrs

from actors.file_messages import FileWork
from actors.guest_model import Diff
from actors.job_messages import JobWork
from actors.lifecycle import State
from actors.machine.checkpoint import Checkpoint
from actors.model import (
    LIBRARY,
    ExportReport,
    ForkReport,
    ImportReport,
    Lifetime,
    PoolInfo,
    PortForward,
    Shape,
    SnapshotInfo,
    TemplateInfo,
    WorkspaceInfo,
)
from actors.record import WorkspaceRecord
from actors.runtime import ActorRef, Message

BOOT_DEADLINE_S = 300.0
"""A cold boot under software emulation on a busy host, with a template's checkpoint after it."""
GUEST_DEADLINE_S = float("inf")
"""Guest work is bounded by its own time limit and by the channel's, not by the mailbox."""

SETTLED: Final = frozenset({State.RUNNING, State.PAUSED, State.SUSPENDED, State.STOPPED, State.FAILED})
"""The states of a workspace that somebody has."""

OnProgress: TypeAlias = Callable[[str], None]
"""Called with what is being done, a few words, when something that may take over a second begins."""


# -- to a workspace -----------------------------------------------------------------------------------------------


@attrs.frozen
class Start(Message[WorkspaceInfo]):
    """Restore the first machine of a new workspace from a checkpoint, or boot it cold without one."""

    checkpoint: Checkpoint | None
    LEGAL: ClassVar[frozenset[State]] = frozenset({State.CREATING, State.STOPPED, State.FAILED})
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Prepare(Message[None]):
    """Restore a machine for the pool, which waits for its identity, its processes held."""

    checkpoint: Checkpoint
    LEGAL: ClassVar[frozenset[State]] = frozenset({State.CREATING})
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Claim(Message[WorkspaceInfo]):
    """Give the prepared machine its identity; ``record`` is that of the workspace which it becomes."""

    record: WorkspaceRecord
    LEGAL: ClassVar[frozenset[State]] = frozenset({State.CREATING})
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Stop(Message[WorkspaceInfo]):
    """End the machine after its guest has written its disks; a suspended workspace loses its memory."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.RUNNING, State.PAUSED, State.SUSPENDED})


@attrs.frozen
class Pause(Message[WorkspaceInfo]):
    """Have the machine stand still, its memory kept on the host, until it is resumed."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.RUNNING})


@attrs.frozen
class Suspend(Message[WorkspaceInfo]):
    """Checkpoint the workspace, then end its machine: it costs only disk until it is resumed."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.RUNNING, State.PAUSED})
    DEADLINE_S: ClassVar[float] = 120.0


@attrs.frozen
class Resume(Message[WorkspaceInfo]):
    """Have a paused or suspended workspace run on where it was."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.PAUSED, State.SUSPENDED})
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class SetLifetime(Message[WorkspaceInfo]):
    """Set, or with ``None`` unset, when the workspace is suspended or destroyed without being asked."""

    lifetime: Lifetime


@attrs.frozen
class TakeCheckpoint(Message["CheckpointTaken"]):
    """Checkpoint the workspace, whose machine runs on; the result is held in the store for ``owner``."""

    owner: str
    durable: bool = False
    """Whether its disk shall be whole without the memory, and both survive a power failure."""
    LEGAL: ClassVar[frozenset[State]] = SETTLED
    DEADLINE_S: ClassVar[float] = 120.0


@attrs.frozen
class CheckpointTaken:
    """A checkpoint and what it cost."""

    checkpoint: Checkpoint
    pause_ms: float
    copied_bytes: int


@attrs.frozen
class CreateSnapshot(Message[SnapshotInfo]):
    """Keep a checkpoint under a name in the workspace's tree."""

    name: str
    with_memory: bool = True
    LEGAL: ClassVar[frozenset[State]] = SETTLED
    DEADLINE_S: ClassVar[float] = 120.0


@attrs.frozen
class FindSnapshot(Message[Checkpoint]):
    """Look a snapshot's checkpoint up by name."""

    name: str


@attrs.frozen
class CompareNodes(Message[Diff]):
    """Tell what differs below a directory between a snapshot and another one, or between it and now."""

    base: str
    other: str | None = None
    path: str = "/"
    texts: bool = False
    """Whether differences of text are wanted too."""
    LEGAL: ClassVar[frozenset[State]] = SETTLED
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class RestoreSnapshot(Message[WorkspaceInfo]):
    """Bring the workspace back to a snapshot; the old machine runs until the new one is proven.

    With ``disk_only`` the snapshot's memory is left out, and the machine boots from its disk.
    """

    name: str
    disk_only: bool = False
    LEGAL: ClassVar[frozenset[State]] = SETTLED
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Undo(Message[WorkspaceInfo]):
    """Go back to where the workspace was before its last restore; what came after that is lost."""

    LEGAL: ClassVar[frozenset[State]] = SETTLED
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class DeleteSnapshot(Message[tuple[str, ...]]):
    """Forget a snapshot, its children then being its parent's; with ``cascade`` them too.  Answers with their names."""

    name: str
    cascade: bool = False


@attrs.frozen
class SetOwner(Message[WorkspaceInfo]):
    """Have the workspace be another session's."""

    owner: str
    LEGAL: ClassVar[frozenset[State]] = SETTLED


@attrs.frozen
class AddForward(Message[PortForward]):
    """Forward a port of the host, a free one if ``None``, to a port of the guest."""

    guest_port: int
    host_port: int | None = None
    LEGAL: ClassVar[frozenset[State]] = SETTLED


@attrs.frozen
class RemoveForward(Message[PortForward]):
    """Forward to a port of the guest no longer; answers with what it was."""

    guest_port: int
    LEGAL: ClassVar[frozenset[State]] = SETTLED


@attrs.frozen
class SetNetworkPolicy(Message[WorkspaceInfo]):
    """Change what the network lets through; what is ``None`` stays as it is."""

    allow_internet: bool | None = None
    allow_inter_vm: bool | None = None
    allowed_ports: tuple[int, ...] | None = None
    LEGAL: ClassVar[frozenset[State]] = SETTLED
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Destroy(Message[None]):
    """End the machine and remove all that the workspace owns."""

    DEADLINE_S: ClassVar[float] = 60.0


@attrs.frozen
class Describe(Message[WorkspaceInfo]):
    """Tell all that is known of the workspace; with ``measured`` also what it occupies on the host's disk."""

    measured: bool = False
    CONCURRENT: ClassVar[bool] = True


@attrs.frozen
class ReadLog(Message[str]):
    """Return the end of a log of the machine: of the guest's ``console``, or of ``qemu``; empty without a machine."""

    log: str = "console"
    max_bytes: int = 4096
    CONCURRENT: ClassVar[bool] = True


GuestWork: TypeAlias = JobWork | FileWork
"""What runs in the guest beside anything else, and wakes a workspace that was put away for idleness."""
WorkspaceChange: TypeAlias = (
    Start
    | Prepare
    | Claim
    | Stop
    | Pause
    | Suspend
    | Resume
    | SetLifetime
    | TakeCheckpoint
    | CreateSnapshot
    | FindSnapshot
    | RestoreSnapshot
    | Undo
    | DeleteSnapshot
    | AddForward
    | RemoveForward
    | SetNetworkPolicy
    | SetOwner
    | Destroy
)
"""What is done one after the other."""
Look: TypeAlias = Describe | ReadLog
"""What is answered at once, whatever else is being done."""
WorkspaceMessage: TypeAlias = GuestWork | WorkspaceChange | CompareNodes | Look
WorkspaceRef: TypeAlias = ActorRef[Any]


# -- to the registry ----------------------------------------------------------------------------------------------


@attrs.frozen
class CreateWorkspace(Message[WorkspaceInfo]):
    """Make a new workspace from an image's template; unset values come from the settings."""

    name: str | None = None
    image: str | None = None
    shape: Shape | None = None
    network: str | None = None
    allow_internet: bool | None = None
    lifetime: Lifetime | None = None
    on_progress: OnProgress | None = None
    owner: str = LIBRARY
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class WarmTemplate(Message[TemplateInfo]):
    """Make the template of a shape ahead; unset values come from the settings."""

    image: str | None = None
    shape: Shape | None = None
    network: str | None = None
    on_progress: OnProgress | None = None
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class ListTemplates(Message[tuple[TemplateInfo, ...]]):
    """Describe all templates, oldest first."""

    CONCURRENT: ClassVar[bool] = True


@attrs.frozen
class DropTemplates(Message[tuple[TemplateInfo, ...]]):
    """Forget templates by their ids, or without any the stale ones; answers with what went."""

    ids: tuple[str, ...] | None = None
    CONCURRENT: ClassVar[bool] = True


@attrs.frozen
class ExportWorkspace(Message[ExportReport]):
    """Write a workspace as it is now, or a snapshot, to a file or a stream."""

    workspace: str
    target: Path | BinaryIO
    snapshot: str | None = None
    on_progress: OnProgress | None = None
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = float("inf")


@attrs.frozen
class ImportWorkspace(Message[ImportReport]):
    """Make a workspace of an exported one; without a name it gets the one that it had, if that is free."""

    source: Path | BinaryIO
    name: str | None = None
    on_progress: OnProgress | None = None
    owner: str = LIBRARY
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = float("inf")


@attrs.frozen
class DescribePool(Message[PoolInfo]):
    """Describe the pool of machines that are restored ahead."""

    CONCURRENT: ClassVar[bool] = True


@attrs.frozen
class ForkWorkspace(Message[ForkReport]):
    """Fork a workspace, running or from a snapshot, into ``count`` new ones."""

    workspace: str
    count: int = 1
    snapshot: str | None = None
    names: tuple[str, ...] | None = None
    name_prefix: str | None = None
    owner: str = LIBRARY
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class FindWorkspace(Message["Found"]):
    """Resolve a name, an id or an unambiguous id prefix of at least 8 digits."""

    workspace: str
    CONCURRENT: ClassVar[bool] = True


@attrs.frozen
class Found:
    """A workspace's handle."""

    workspace_id: str
    name: str
    ref: WorkspaceRef
    owner: str


@attrs.frozen
class ListWorkspaces(Message[tuple[WorkspaceInfo, ...]]):
    """Describe all workspaces, oldest first."""

    CONCURRENT: ClassVar[bool] = True


@attrs.frozen
class AwaitChange(Message[int]):
    """Answer with how many changes of workspaces there were, once one came after the first ``since``.

    With ``workspace_id`` it has to be that workspace's, which one that is not there has always had.
    """

    since: int | None = None
    workspace_id: str | None = None
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = float("inf")


@attrs.frozen
class AdoptWorkspace(Message[WorkspaceInfo]):
    """Have a workspace that is ``expected``'s be ``owner``'s."""

    workspace: str
    owner: str
    expected: str
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = 120.0


@attrs.frozen
class DestroyWorkspace(Message[None]):
    """Destroy a workspace and forget its name."""

    workspace: str
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = 90.0


RegistryMessage: TypeAlias = (
    CreateWorkspace
    | ForkWorkspace
    | FindWorkspace
    | ListWorkspaces
    | AwaitChange
    | AdoptWorkspace
    | DestroyWorkspace
    | WarmTemplate
    | ListTemplates
    | DropTemplates
    | DescribePool
    | ExportWorkspace
    | ImportWorkspace
)
RegistryRef: TypeAlias = ActorRef[Any]
