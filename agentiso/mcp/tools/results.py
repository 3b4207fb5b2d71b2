"""Results that several tools share, made of what the library returns."""

from __future__ import annotations

import attrs

from actors.model.info import Evidence, NetworkInfo, SnapshotInfo, UndoInfo, WorkspaceInfo
from agentiso.mcp.schema import describe, outline


@attrs.frozen
class Resources:
    vcpus: int
    memory_mb: int
    disk_gb: int


@attrs.frozen
class SnapshotResult:
    id: str
    name: str
    has_memory: bool = describe("Whether processes come back with it")
    created_at: float = describe("Unix time")
    size_bytes: int = describe("Of its memory")


@attrs.frozen
class SnapshotCreateResult(SnapshotResult):
    """A snapshot that was just taken."""

    pause_ms: float | None = describe()
    """The workspace stood still for it."""
    duration_secs: float | None = describe()
    note: str = describe()


@attrs.frozen
class NodeResult(SnapshotResult):
    """A snapshot and its place in the tree."""

    parent: str | None = describe()
    is_head: bool = describe()
    """Whether the present state grew out of it."""


@attrs.frozen
class BriefResult:
    """What a model needs to know a workspace by."""

    workspace_id: str
    name: str
    state: str
    ip: str | None


@attrs.frozen
class StateResult(BriefResult):
    """What has become of a workspace after a change; workspace_info tells all of it."""

    note: str
    """How it came about."""


@attrs.frozen
class CreateResult(StateResult):
    resources: Resources = outline()


@attrs.frozen
class SummaryResult(BriefResult):
    """One line of a list."""

    base_image: str
    resources: Resources = outline()
    forked_from: str | None = describe()
    snapshot_count: int = describe()
    ended: str | None = describe()
    created_at: float = describe("Unix time")
    owner: str = describe("Its session")
    owned: bool = describe("By you")


@attrs.frozen
class EvidenceResult:
    generation: int
    """Restores that this memory has been through."""
    nonce_matched: bool
    """Its memory is the checkpoint's."""
    rng_reseeded: bool
    """Its random generator got fresh entropy."""
    processes_held: bool
    """No process ran before all was proven."""
    clock_error_ms: float
    """Bound on its clock's error at the start."""
    connections_closed: int
    """Stale TCP connections that were ended."""
    failed_hooks: list[str]
    """Its after-restore programs that failed."""


@attrs.frozen
class LineageResult:
    workspace_id: str
    name: str
    snapshot: str | None
    """``None``: forked while it ran."""


@attrs.frozen
class LifetimeResult:
    idle_suspend_secs: float | None
    expires_at: float | None = describe("Unix time")


@attrs.frozen
class IdleResult(LifetimeResult):
    idle_secs: float = describe()
    """Idle for so long now."""
    suspended_by: str | None = describe()
    """``request`` or ``idle``."""


@attrs.frozen
class UndoResult:
    before: str
    """What undo takes back."""
    created_at: float


@attrs.frozen
class ForwardResult:
    guest_port: int
    host_port: int
    """Of 127.0.0.1."""
    fault: str
    """Why it does not work now; empty if it does."""


@attrs.frozen
class NetworkResult:
    allow_internet: bool
    allow_inter_vm: bool
    """Whether other workspaces may reach it."""
    allowed_ports: list[int]
    """Those that others may reach."""
    port_forwards: list[ForwardResult]


@attrs.frozen
class WorkspaceResult(BriefResult):
    base_image: str
    resources: Resources = outline()
    network: NetworkResult = outline("What gets through; port_forwards", parts=False)
    accelerator: str = describe()
    created_at: float = describe("Unix time")
    disk_volsize_bytes: int = describe()
    disk_used_bytes: int | None = describe()
    started_by: str = describe("restore, pool or cold_boot")
    start_seconds: float = describe()
    evidence: EvidenceResult | None = outline("Proven at its last start", parts=False)
    forked_from: LineageResult | None = outline("The parent", parts=False)
    snapshots: list[NodeResult] = outline("As in snapshot_list", parts=False)
    undo: list[UndoResult] = outline("Oldest first", parts=False)
    lifetime: IdleResult = outline("When it is suspended or destroyed", parts=False)
    failure: str | None = describe()
    ended: str | None = describe()
    """Why its machine did: ``panic``, ``oom``, ``signal``..."""
    mute_since: float | None = describe("Unix time")
    owner: str = describe()
    """The session whose it is."""


@attrs.frozen
class JobResult:
    """How a command is, or was."""

    job_id: str
    running: bool
    exit_code: int | None
    """`None` if it runs, or a signal ended it."""
    signal: int | None
    stdout: str
    stderr: str
    timed_out: bool
    duration_secs: float
    note: str
    """What was killed and why."""


def taken_result(s: SnapshotInfo) -> SnapshotCreateResult:
    """Describe a snapshot that was just taken, with what it cost."""
    return SnapshotCreateResult(s.id, s.name, s.has_memory, s.created_at, s.size_bytes, s.pause_ms, s.seconds, s.note)


def node_result(s: SnapshotInfo) -> NodeResult:
    """Describe a snapshot within its tree."""
    return NodeResult(s.id, s.name, s.has_memory, s.created_at, s.size_bytes, s.parent, s.is_head)


def state_result(info: WorkspaceInfo, *, started: bool = True) -> StateResult:
    """Describe what a workspace has become; how its machine started, if it was ``started`` for that."""
    return StateResult(*_brief(info), note=_note(info) if started else info.note or "It runs on.")


def create_result(info: WorkspaceInfo) -> CreateResult:
    """Describe a new workspace."""
    return CreateResult(*_brief(info), note=_note(info), resources=_resources(info))


def summary_result(info: WorkspaceInfo, *, owned: bool) -> SummaryResult:
    """Describe a workspace in a line, to a session whose it is or not."""
    return SummaryResult(
        *_brief(info),
        base_image=info.image,
        resources=_resources(info),
        forked_from=info.forked_from.name if info.forked_from else None,
        snapshot_count=len(info.snapshots),
        ended=_ended(info),
        created_at=info.created_at,
        owner=info.owner,
        owned=owned,
    )


def network_result(network: NetworkInfo) -> NetworkResult:
    """Describe what a network lets through."""
    return NetworkResult(
        network.allow_internet,
        network.allow_inter_vm,
        list(network.allowed_ports),
        [ForwardResult(f.guest_port, f.host_port, f.fault) for f in network.port_forwards],
    )


def workspace_result(info: WorkspaceInfo) -> WorkspaceResult:
    """Describe a workspace as a whole."""
    parent = info.forked_from
    return WorkspaceResult(
        *_brief(info),
        base_image=info.image,
        resources=_resources(info),
        network=network_result(info.network),
        accelerator=info.accelerator,
        created_at=info.created_at,
        disk_volsize_bytes=info.disk_bytes,
        disk_used_bytes=info.disk_used_bytes,
        started_by=info.started_by,
        start_seconds=info.start_seconds,
        evidence=_evidence(info.evidence) if info.evidence else None,
        forked_from=LineageResult(parent.workspace_id, parent.name, parent.snapshot) if parent else None,
        snapshots=[node_result(s) for s in info.snapshots],
        undo=[_undo(step) for step in info.undo],
        lifetime=IdleResult(info.idle_suspend_s, info.expires_at, info.idle_s, info.suspended_by),
        failure=info.failure,
        ended=_ended(info),
        mute_since=info.mute_since,
        owner=info.owner,
    )


def _brief(info: WorkspaceInfo) -> tuple[str, str, str, str | None]:
    return info.workspace_id, info.name, info.state, info.network.ip


def _ended(info: WorkspaceInfo) -> str | None:
    return str(info.ended.reason) if info.ended else None


def _note(info: WorkspaceInfo) -> str:
    how = f"{info.started_by} in {info.start_seconds:.2f} s" if info.state == "running" else ""
    if how:
        how += {"cold_boot": ", no process was kept", "pool": ", it was restored ahead"}.get(info.started_by, "")
    proof = _proof(info.evidence) if how and info.evidence else ""
    return ". ".join(part for part in (how, proof, info.note, info.failure) if part)


def _proof(evidence: Evidence) -> str:
    """Say in a few words what a start has proven; `workspace_info` has all of it."""
    memory = f"memory of generation {evidence.generation}" if evidence.nonce_matched else "a fresh boot"
    return f"Proven: {memory}, new entropy, clock within {evidence.clock_error_ms:.0f} ms, hostname {evidence.hostname}"


def _resources(info: WorkspaceInfo) -> Resources:
    return Resources(info.shape.vcpus, info.shape.memory_mb, info.shape.disk_gb)


def _undo(step: UndoInfo) -> UndoResult:
    return UndoResult(step.before, step.created_at)


def _evidence(e: Evidence) -> EvidenceResult:
    return EvidenceResult(
        generation=e.generation,
        nonce_matched=e.nonce_matched,
        rng_reseeded=e.rng_reseeded,
        processes_held=e.processes_held,
        clock_error_ms=e.clock_error_ms,
        connections_closed=e.connections_closed,
        failed_hooks=[hook.name for hook in e.hooks if hook.exit_code != 0],
    )
