"""The values that cross the actors' borders: requests' results, facts about workspaces, evidence.

Frozen, comparable, free of behaviour.  Times are seconds since the Unix epoch, durations seconds, unless a name says
otherwise.
"""

from __future__ import annotations

from typing import Final

import attrs

LIBRARY: Final = "library"
"""Owner of the workspaces that no session asked for."""
USER: Final = "cli"
"""Owner of those that the user made at the command line."""


@attrs.frozen
class Shape:
    """How large a workspace is."""

    vcpus: int = 2
    memory_mb: int = 512
    disk_gb: int = 10


@attrs.frozen
class PortForward:
    """A port of the host's loopback address whose connections reach a port of the guest."""

    guest_port: int
    host_port: int
    fault: str = ""
    """Why it does not work although it is wanted; empty when nothing is wrong."""


@attrs.frozen
class NetworkInfo:
    """The network backend of a workspace and what it lets through."""

    backend: str
    """``user`` (slirp, no privilege) or ``none``."""
    allow_internet: bool
    mac: str | None = None
    ip: str | None = None
    allow_inter_vm: bool = False
    """Whether other workspaces may reach it; never on the backends there are."""
    allowed_ports: tuple[int, ...] = ()
    """Ports that others may reach without a forward; none on the backends there are."""
    port_forwards: tuple[PortForward, ...] = ()


@attrs.frozen
class HookOutcome:
    """What became of one program of ``/etc/agentiso/after-restore.d``."""

    name: str
    exit_code: int | None
    """``None`` when it did not run to its end; ``error`` then says why."""
    error: str = ""


@attrs.frozen
class CarriedJob:
    """A job that ran on through a restore."""

    job_id: str
    carried_from: str | None
    """Its id in the workspace of which this one is a fork; ``None`` when it keeps the one it had."""
    command: str


@attrs.frozen
class Evidence:
    """What a guest proved after a restore, before anybody could use it."""

    epoch: str
    """UUID of this restore, made by the host."""
    nonce_matched: bool
    """The guest's memory held the nonce recorded at the checkpoint."""
    generation: int
    """How many restores this memory has been through, counted in guest memory."""
    rng_reseeded: bool
    """The guest kernel took fresh host entropy and confirmed the reseed."""
    clock_step_s: float
    """By how much the wall clock was corrected."""
    hostname: str
    """The hostname the guest reports after it took its new identity."""
    processes_held: bool = False
    """Whether the guest's processes stood still from before the checkpoint until all this was proven."""
    clock_error_ms: float = 0.0
    """Bound on the wall clock's error when the guest was released."""
    hooks: tuple[HookOutcome, ...] = ()
    """The guest's own programs that ran after the restore, in their order."""
    connections_closed: int = 0
    """TCP connections of the checkpoint's that were ended, since their peers do not know this machine."""
    jobs: tuple[CarriedJob, ...] = ()
    """The commands that run on."""


@attrs.frozen
class Lineage:
    """Where a forked workspace came from."""

    workspace_id: str
    name: str
    checkpoint_id: str
    snapshot: str | None
    """Name of the snapshot it was forked from; ``None`` for a fork of the running workspace."""


@attrs.frozen
class SnapshotInfo:
    """A named checkpoint in a workspace's tree."""

    id: str
    name: str
    parent: str | None
    """Name of the snapshot the workspace stood on when this one was taken."""
    created_at: float
    has_memory: bool
    size_bytes: int
    """Bytes allocated on the host for this snapshot alone (RAM image and device state)."""
    is_head: bool = False
    """Whether the workspace stands on it: its present state grew out of this one."""


@attrs.frozen
class UndoInfo:
    """An automatic checkpoint: what `undo` goes back to."""

    before: str
    """What was done next, and can be undone."""
    created_at: float
    has_memory: bool
    size_bytes: int


@attrs.frozen
class Lifetime:
    """When a workspace is put away or destroyed without being asked."""

    idle_suspend_s: float | None = None
    """It is suspended once nobody has asked it for anything for so long, and resumes when somebody does."""
    ttl_s: float | None = None
    """It is destroyed so long after this was set."""


@attrs.frozen
class WorkspaceInfo:
    """All that is known of a workspace."""

    workspace_id: str
    name: str
    state: str
    image: str
    image_digest: str
    shape: Shape
    network: NetworkInfo
    accelerator: str
    channel: str
    created_at: float
    started_by: str
    """``restore``, ``pool`` (restored ahead) or ``cold_boot``: how the present machine came to run."""
    start_seconds: float
    """How long that start took."""
    forked_from: Lineage | None = None
    snapshots: tuple[SnapshotInfo, ...] = ()
    evidence: Evidence | None = None
    failure: str | None = None
    """Why the workspace is in state ``failed``."""
    undo: tuple[UndoInfo, ...] = ()
    """What can be undone, oldest first."""
    suspended_by: str | None = None
    """``request``, or ``idle``: then it resumes when it is asked for something."""
    idle_suspend_s: float | None = None
    idle_s: float = 0.0
    """How long nobody has asked it for anything."""
    expires_at: float | None = None
    """When it will be destroyed."""
    disk_bytes: int = 0
    """Size of its disk as the guest sees it."""
    disk_used_bytes: int | None = None
    """What its disk layers occupy on the host, snapshots included and the image not; where it was asked for."""
    note: str = ""
    """What the caller should know of how this came about."""
    owner: str = LIBRARY
    """The session whose workspace it is."""
    adopted_from: str | None = None
    """The session whose it was before."""


@attrs.frozen
class TemplateInfo:
    """A checkpoint of a freshly booted guest, from which workspaces are made."""

    id: str
    image: str
    image_digest: str
    shape: Shape
    """Its disk is the least that a workspace made from it has."""
    network: str
    channel: str
    qemu: str
    """Version and build."""
    created_at: float
    size_bytes: int
    """Bytes allocated on the host for its memory, device state and disk layer."""
    stale: str | None
    """Why no workspace can be made from it any more."""


@attrs.frozen
class ExportReport:
    """What was exported."""

    size_bytes: int
    """Of the file."""
    has_memory: bool
    seconds: float


@attrs.frozen
class ImportReport:
    """What was imported."""

    workspace: WorkspaceInfo
    memory_kept: bool
    """Whether it goes on where it was; if not, it was booted from its disk."""
    note: str
    """Why its memory could not be kept, if it had any."""
    seconds: float


@attrs.frozen
class PoolInfo:
    """The machines that are restored ahead."""

    size: int
    """How many there shall be; 0 when the pool is off."""
    ready: int
    claimed: int
    """How many became a workspace's."""
    missed: int
    """How many workspaces found none that fits."""
    failure: str | None
    """Why the last one could not be restored; it is tried again."""


@attrs.frozen
class ExecResult:
    """The outcome of a command in a guest.

    ``stdout`` and ``stderr`` hold at most the caller's cap, head and tail kept; ``*_bytes`` are the true totals.
    """

    exit_code: int | None
    """``None`` when a signal ended the command."""
    signal: int | None
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    timed_out: bool
    duration_s: float
    note: str = ""
    """What was killed and why, when something was."""
    job_id: str = ""
    """By which its output can be asked for again."""
    running: bool = False
    """Whether it goes on: then this is what came so far."""


@attrs.frozen
class CommandSpec:
    """A command to be run in a guest."""

    command: str | tuple[str, ...]
    """A string goes to ``/bin/sh -c``, a sequence is run as it is."""
    workdir: str | None = None
    env: dict[str, str] | None = attrs.field(default=None, repr=False)
    timeout_s: float | None = None
    """After this its process group and all descendants are killed."""
    stdin: bool = False
    """Whether its standard input can be written to; otherwise it is empty."""
    terminal: tuple[int, int] | None = None
    """Rows and columns of a terminal that it is given instead of pipes; its output is then all on stdout."""


@attrs.frozen
class JobInfo:
    """A command of a guest: each is a job, independent of who began it or asks for it."""

    job_id: str
    command: str
    """Its beginning."""
    running: bool
    exit_code: int | None
    """``None`` while it runs, or when a signal ended it."""
    signal: int | None
    timed_out: bool
    started_at: float
    duration_s: float
    stdout_bytes: int
    """How much it has written in all."""
    stderr_bytes: int
    note: str = ""
    """What was killed and why, when something was."""
    carried_from: str | None = None
    """Its id in the workspace of which this one is a fork."""


@attrs.frozen
class JobOutput:
    """A job, and a piece of its output."""

    job: JobInfo
    stdout: bytes
    stderr: bytes
    cursors: tuple[int, int]
    """Where to read on, in stdout and in stderr."""
    lost: tuple[int, int]
    """Bytes before this piece that are not kept any more."""
    matched: bool
    """Whether the text that was waited for has appeared."""


@attrs.frozen
class JobEnd:
    """A job that was killed."""

    job: JobInfo
    signalled: bool
    """``False`` when there was nothing left to signal."""
    gone: bool
    """Whether it has ended, and with SIGKILL its descendants."""


@attrs.frozen
class JobList:
    """All jobs that a guest knows, oldest first."""

    jobs: tuple[JobInfo, ...]
    began_anew: bool
    """The guest agent ended at some time and began anew, without what it knew of jobs and of variables."""


@attrs.frozen
class InputTaken:
    """What became of bytes for a job's standard input."""

    taken_bytes: int
    closed: bool
    """Whether nobody reads it any more."""


@attrs.frozen
class FileEntry:
    """One entry of a guest directory."""

    name: str
    kind: str
    """``file``, ``dir``, ``symlink`` or ``other``."""
    size_bytes: int
    mode: int
    modified_at: float


@attrs.frozen
class FileFacts:
    """What a path is."""

    kind: str
    """``file``, ``dir``, ``symlink`` or ``other``."""
    size_bytes: int
    """Of a file; 0 for everything else."""
    mode: int


@attrs.frozen
class FileChange:
    """One path that differs between two states."""

    path: str
    change: str
    """``added``, ``removed`` or ``changed``."""
    before: FileFacts | None
    after: FileFacts | None
    text: str = ""
    """The unified difference, where that was asked for and both are text."""


@attrs.frozen
class Diff:
    """What differs between two nodes of a workspace's tree, sorted by path."""

    base: str
    other: str
    """Names of snapshots, or ``now``."""
    changes: tuple[FileChange, ...]
    compared: int
    """How many paths were looked at."""
    text_truncated: bool
    """Whether differences of text were left out, since there are too many."""
    seconds: float


@attrs.frozen
class FileContent:
    """A piece of a guest file."""

    content: bytes
    size_bytes: int
    """The whole file's size."""
    offset: int
    mode: int = 0o644
    """Its permissions."""


@attrs.frozen
class Edited:
    """What an edit did to a file."""

    replacements: int
    size_bytes: int


@attrs.frozen
class TreeReport:
    """What became of a directory tree."""

    entries: int
    """Files, directories and links written."""
    size_bytes: int
    skipped: tuple[str, ...] = ()
    """What was left out and why, the first few."""
    skipped_count: int = 0


@attrs.frozen
class Helper:
    """How a program of the guest layer is started."""

    argv: tuple[str, ...]
    workdir: str
    env: dict[str, str]


@attrs.frozen
class Match:
    """A line of a guest file that matches what was searched for."""

    path: str
    line: int
    text: str


@attrs.frozen
class SearchResult:
    """What a search found."""

    matches: tuple[Match, ...]
    files: int
    """How many files were gone through."""
    truncated: bool
    """Whether there is more."""


@attrs.frozen
class ForkedChild:
    """One child asked of a fork: either a running workspace or the error that prevented it."""

    index: int
    name: str
    workspace_id: str | None = None
    ready_ms: float | None = None
    """From the end of the checkpoint to the child's proven handshake."""
    evidence: Evidence | None = None
    error: str | None = None


@attrs.frozen
class ForkReport:
    """The outcome of one fork call; every child stems from the one checkpoint."""

    parent: str
    checkpoint_id: str
    snapshot: str | None
    pause_ms: float | None
    """How long the parent stood still; ``None`` when forked from a snapshot."""
    copied_bytes: int
    """Changed guest memory copied during the pause."""
    seconds: float
    children: tuple[ForkedChild, ...]
