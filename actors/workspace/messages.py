"""The closed sets of messages that a workspace actor understands.

Each message is frozen and says what it answers with (its type parameter), whether it runs beside others
(`CONCURRENT`), how long an asker waits by default (`DEADLINE_S`), what has become of it if its handler is cancelled
(`WHEN_CANCELLED`) and, for workspaces, in which lifecycle states it is legal (`LEGAL`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import attrs

from actors.machine.storage.checkpoint import Checkpoint
from actors.model.guest import Diff
from actors.model.info import Lifetime, PortForward, SnapshotInfo, WorkspaceInfo
from actors.model.record import WorkspaceRecord
from actors.model.states import State
from actors.runtime import ActorRef, Message, WhenCancelled
from actors.workspace.file_messages import FileWork
from actors.workspace.job_messages import JobWork

R = TypeVar("R")
BOOT_DEADLINE_S = 300.0
"""A cold boot under software emulation on a busy host, with a template's checkpoint after it."""
GUEST_DEADLINE_S = float("inf")
"""Guest work is bounded by its own time limit and by the channel's, not by the mailbox."""

SETTLED: Final = frozenset({State.RUNNING, State.PAUSED, State.SUSPENDED, State.STOPPED, State.FAILED})
"""The states of a workspace that somebody has, and whose machine can be talked to if it has one."""
WAYS_BACK: Final = SETTLED | {State.UNREACHABLE}
"""The states in which what needs nothing of the machine is possible."""


# -- to a workspace -----------------------------------------------------------------------------------------------


@attrs.frozen
class Change(Message[R]):
    """What is done wholly or, if it fails or is cancelled, not at all."""

    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.REVERTS


@attrs.frozen
class Start(Change[WorkspaceInfo]):
    """Restore the first machine of a new workspace from a checkpoint, or boot it cold without one."""

    checkpoint: Checkpoint | None
    LEGAL: ClassVar[frozenset[State]] = frozenset({State.CREATING, State.STOPPED, State.FAILED})
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Prepare(Change[None]):
    """Restore a machine for the pool, which waits for its identity, its processes held."""

    checkpoint: Checkpoint
    LEGAL: ClassVar[frozenset[State]] = frozenset({State.CREATING})
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Claim(Change[WorkspaceInfo]):
    """Give the prepared machine its identity; ``record`` is that of the workspace which it becomes."""

    record: WorkspaceRecord
    LEGAL: ClassVar[frozenset[State]] = frozenset({State.CREATING})
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Stop(Message[WorkspaceInfo]):
    """End the machine after its guest has written its disks; a suspended workspace loses its memory."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.RUNNING, State.PAUSED, State.SUSPENDED, State.UNREACHABLE})


@attrs.frozen
class Pause(Change[WorkspaceInfo]):
    """Have the machine stand still, its memory kept on the host, until it is resumed."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.RUNNING})


@attrs.frozen
class Suspend(Change[WorkspaceInfo]):
    """Checkpoint the workspace, then end its machine: it costs only disk until it is resumed."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.RUNNING, State.PAUSED})
    DEADLINE_S: ClassVar[float] = 120.0


@attrs.frozen
class Resume(Change[WorkspaceInfo]):
    """Have a paused or suspended workspace run on where it was."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.PAUSED, State.SUSPENDED})
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class SetLifetime(Change[WorkspaceInfo]):
    """Set, or with ``None`` unset, when the workspace is suspended or destroyed without being asked."""

    lifetime: Lifetime


@attrs.frozen
class TakeCheckpoint(Change["CheckpointTaken"]):
    """Checkpoint the workspace, whose machine runs on; the result is held in the store for ``owner``."""

    owner: str
    durable: bool = False
    """Whether its disk shall be whole without the memory, and both survive a power failure."""
    LEGAL: ClassVar[frozenset[State]] = SETTLED
    DEADLINE_S: ClassVar[float] = 120.0


@attrs.frozen
class CheckpointTaken:
    """A checkpoint, what it cost, and the workspace as it is then."""

    checkpoint: Checkpoint
    pause_ms: float
    copied_bytes: int
    info: WorkspaceInfo


@attrs.frozen
class CreateSnapshot(Change[SnapshotInfo]):
    """Keep a checkpoint under a name in the workspace's tree."""

    name: str
    with_memory: bool = True
    LEGAL: ClassVar[frozenset[State]] = SETTLED
    DEADLINE_S: ClassVar[float] = 120.0


@attrs.frozen
class FindSnapshot(Message[CheckpointTaken]):
    """Look a snapshot's checkpoint up by name; it is held in the store for ``owner``."""

    name: str
    owner: str
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


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
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


@attrs.frozen
class RestoreSnapshot(Change[WorkspaceInfo]):
    """Bring the workspace back to a snapshot; the old machine runs until the new one is proven.

    With ``disk_only`` the snapshot's memory is left out, and the machine boots from its disk.
    """

    name: str
    disk_only: bool = False
    LEGAL: ClassVar[frozenset[State]] = WAYS_BACK
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Undo(Change[WorkspaceInfo]):
    """Go back to where the workspace was before its last restore; what came after that is lost."""

    LEGAL: ClassVar[frozenset[State]] = WAYS_BACK
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class DeleteSnapshot(Change[tuple[str, ...]]):
    """Forget a snapshot, its children then being its parent's; with ``cascade`` them too.  Answers with their names."""

    name: str
    cascade: bool = False


@attrs.frozen
class SetOwner(Change[WorkspaceInfo]):
    """Have the workspace be another session's."""

    owner: str
    LEGAL: ClassVar[frozenset[State]] = WAYS_BACK


@attrs.frozen
class AddForward(Change[PortForward]):
    """Forward a port of the host, a free one if ``None``, to a port of the guest."""

    guest_port: int
    host_port: int | None = None
    LEGAL: ClassVar[frozenset[State]] = SETTLED


@attrs.frozen
class RemoveForward(Change[PortForward]):
    """Forward to a port of the guest no longer; answers with what it was."""

    guest_port: int
    LEGAL: ClassVar[frozenset[State]] = SETTLED


@attrs.frozen
class SetNetworkPolicy(Change[WorkspaceInfo]):
    """Change what the network lets through; what is ``None`` stays as it is."""

    allow_internet: bool | None = None
    allow_inter_vm: bool | None = None
    allowed_ports: tuple[int, ...] | None = None
    LEGAL: ClassVar[frozenset[State]] = SETTLED
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S


@attrs.frozen
class Describe(Message[WorkspaceInfo]):
    """Tell all that is known of the workspace; with ``measured`` also what it occupies on the host's disk."""

    measured: bool = False
    CONCURRENT: ClassVar[bool] = True
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


@attrs.frozen
class ReadLog(Message[str]):
    """Return the end of a log of the machine, or of the last one: of the guest's ``console``, or of ``qemu``."""

    log: str = "console"
    max_bytes: int = 4096
    CONCURRENT: ClassVar[bool] = True
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


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
)
"""What is done one after the other."""
Look: TypeAlias = Describe | ReadLog
"""What is answered at once, whatever else is being done."""
WorkspaceMessage: TypeAlias = GuestWork | WorkspaceChange | CompareNodes | Look
WorkspaceRef: TypeAlias = ActorRef[Any]
