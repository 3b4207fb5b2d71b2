"""The values that cross the actors' borders: requests' results, facts about workspaces, evidence.

Frozen, comparable, free of behaviour.  Times are seconds since the Unix epoch, durations seconds, unless a name says
otherwise.
"""

from __future__ import annotations

from typing import Final

import attrs

from actors.model.end import End

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
    pause_ms: float | None = None
    """How long the workspace stood still for it; told when it is made."""
    seconds: float | None = None
    """How long it took to make; told when it is made."""
    note: str = ""
    """What the caller should know of how it was made; told when it is made."""


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
class Hindrance:
    """What keeps a machine from answering, as far as the host can tell."""

    why: str
    remedy: str
    """What a person can do about it, a command where there is one."""


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
    """Why the workspace is in state ``failed``, and the ways back."""
    ended: End | None = None
    """How its machine ended, in state ``failed``; ``None`` where no end of it was seen."""
    mute_since: float | None = None
    """Since when its machine runs and its guest does not answer; ``None`` while it does."""
    hindrance: Hindrance | None = None
    """What keeps its machine from answering, if anything is known to."""
    undone: str = ""
    """Why what was done is not on the host's disk yet, or not finished; empty if it is."""
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
class ImageInfo:
    """An image that is there, usable or not."""

    digest: str
    names: tuple[str, ...]
    """Those that lead to it; none if it was built anew under all of them since."""
    suite: str = ""
    kernel: str = ""
    """Its kernel's version."""
    size_bytes: int = 0
    fault: str = ""
    """Why nothing can be started from it; empty if it is whole."""
    used_by: tuple[str, ...] = ()
    """Who stands on it, or may do so, in a few words each: workspaces with their states, templates, disk layers."""


@attrs.frozen
class ImageRemoval:
    """What became of an image that was to be removed."""

    digest: str
    names: tuple[str, ...]
    """Those that do not lead to it any more."""
    files_removed: bool
    """Whether its files are gone too; if not, it is used, or has another name."""
    dropped: tuple[str, ...] = ()
    """The templates and the machines of the pool that went with it."""
    used_by: tuple[str, ...] = ()
    """For whom its files were left."""


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
class Trouble:
    """Something that is damaged, half-done or out of reach, and therefore left alone."""

    what: str
    """A few words: which workspace, template, machine, image or file."""
    path: str
    """Where it is on the host; empty where it is nowhere in particular."""
    why: str
    remedy: str
    """What a person can do about it, a command where there is one."""


@attrs.frozen
class Diagnosis:
    """What is not as it should be, in all that one supervisor keeps."""

    damaged: tuple[Trouble, ...]
    """What cannot be read, or is not what was written."""
    unreachable: tuple[Trouble, ...]
    """Workspaces whose machine or actor does not answer."""
    half_done: tuple[Trouble, ...]
    """What was begun and is neither finished nor undone yet; it is tried again."""
    collection: tuple[Trouble, ...]
    """Why nothing, or not all, of what nobody needs is removed."""
    failed: tuple[Trouble, ...] = ()
    """Workspaces whose machine ended by itself."""
    host: tuple[Trouble, ...] = ()
    """What of the host is in the way: a full disk, images that are kept for a directory that is not there."""

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to tell."""
        return not any(attrs.astuple(self, recurse=False))


@attrs.frozen
class StoredPiece:
    """A disk layer or a checkpoint on the host, and who keeps it."""

    id: str
    kind: str
    """``layer`` or ``checkpoint``."""
    path: str
    size_bytes: int
    """Bytes that it alone occupies."""
    kept_by: tuple[str, ...]
    """Whoever is known to need it."""
    maybe_kept_by: tuple[str, ...] = ()
    """What may need it, as far as can be told, since it cannot be read; nobody and nothing: the next collection has it.
    """


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
class ForkedChild:
    """One child asked of a fork: either a running workspace or the error that prevented it."""

    index: int
    name: str
    workspace_id: str | None = None
    ready_ms: float | None = None
    """From the end of the checkpoint to the child's proven handshake."""
    evidence: Evidence | None = None
    error: str | None = None
    ip: str | None = None
    """The child's address on its own network."""


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
    dropped_forwards: tuple[int, ...] = ()
    """Ports of the parent's guest that are forwarded to it and not to its children."""
    note: str = ""
    """Why the children boot from the disk, if there was no memory that they could go on from."""
