"""Results that several tools share, made of what the library returns."""

from __future__ import annotations

import attrs

from actors.model import Evidence, NetworkInfo, SnapshotInfo, UndoInfo, WorkspaceInfo
from agentiso.mcp.schema import describe


@attrs.frozen
class Resources:
    vcpus: int = describe("Virtual CPUs.")
    memory_mb: int = describe("Memory in MB.")
    disk_gb: int = describe("Disk in GB.")


@attrs.frozen
class SnapshotResult:
    id: str = describe("Id of the snapshot.")
    name: str = describe("Its name, unique within the workspace.")
    has_memory: bool = describe("Whether running processes come back with it.")
    parent: str | None = describe("The snapshot that the workspace stood on.")
    created_at: float = describe("Seconds since the Unix epoch.")
    size_bytes: int = describe("What its memory occupies on the host.")
    is_head: bool = describe("Whether the present state grew out of it.")


@attrs.frozen
class StateResult:
    """What a model needs to know after a change."""

    workspace_id: str = describe("Opaque id; valid until the workspace is destroyed.")
    name: str = describe("Its name.")
    state: str = describe("running, paused, suspended, stopped or failed.")
    ip: str | None = describe("The guest's address on its own network.")
    resources: Resources = describe("Its size.")
    started_by: str = describe("restore (memory kept) or cold_boot.")
    start_seconds: float = describe("How long its machine took to start.")
    note: str = describe("What else there is to know.")


@attrs.frozen
class SummaryResult:
    """One line of a list."""

    workspace_id: str = describe("Its id.")
    name: str = describe("Its name.")
    state: str = describe("Its state.")
    ip: str | None = describe("The guest's address.")
    base_image: str = describe("The image it was made from.")
    resources: Resources = describe("Its size.")
    forked_from: str | None = describe("The workspace it was forked from.")
    snapshot_count: int = describe("How many snapshots it has.")
    created_at: float = describe("Seconds since the Unix epoch.")
    owner: str = describe("The session whose it is.")
    owned: bool = describe("Whether you may use it; if not, see workspace_adopt.")


@attrs.frozen
class EvidenceResult:
    generation: int = describe("Restores that this memory has been through.")
    nonce_matched: bool = describe("Its memory is the checkpoint's.")
    rng_reseeded: bool = describe("Its random generator got fresh entropy.")
    processes_held: bool = describe("No process ran before all was proven.")
    clock_error_ms: float = describe("Bound on its clock's error at the start.")
    connections_closed: int = describe("Stale TCP connections that were ended.")
    failed_hooks: list[str] = describe("Its after-restore programs that failed.")


@attrs.frozen
class LineageResult:
    workspace_id: str = describe("Id of the parent.")
    name: str = describe("The parent's name.")
    snapshot: str | None = describe("The snapshot; null: forked while it ran.")


@attrs.frozen
class LifetimeResult:
    idle_suspend_secs: float | None = describe("Suspended when idle for so long; wakes on use.")
    idle_secs: float = describe("Idle for so long now.")
    expires_at: float | None = describe("When it is destroyed, Unix epoch.")
    suspended_by: str | None = describe("request, or idle.")


@attrs.frozen
class UndoResult:
    before: str = describe("What undo takes back.")
    created_at: float = describe("When, Unix epoch.")


@attrs.frozen
class ForwardResult:
    guest_port: int = describe("Port in the guest.")
    host_port: int = describe("Port of the host's 127.0.0.1.")
    fault: str = describe("Why it does not work now; empty if it does.")


@attrs.frozen
class NetworkResult:
    allow_internet: bool = describe("Whether the guest may reach the internet.")
    allow_inter_vm: bool = describe("Whether other workspaces may reach it.")
    allowed_ports: list[int] = describe("Ports that others may reach.")
    port_forwards: list[ForwardResult] = describe("Forwarded ports.")


@attrs.frozen
class WorkspaceResult:
    workspace_id: str = describe("Its id.")
    name: str = describe("Its name.")
    state: str = describe("creating, running, paused, suspended, stopped, failed or destroyed.")
    ip: str | None = describe("The guest's address on its own network.")
    base_image: str = describe("The image it was made from.")
    resources: Resources = describe("Its size.")
    network: NetworkResult = describe("What its network lets through.")
    accelerator: str = describe("kvm, or tcg for software emulation.")
    created_at: float = describe("Seconds since the Unix epoch.")
    disk_volsize_bytes: int = describe("Size of its disk.")
    disk_used_bytes: int | None = describe("What its disk and snapshots occupy on the host, memory apart.")
    started_by: str = describe("restore (memory kept), pool (restored ahead) or cold_boot.")
    start_seconds: float = describe("How long its machine took to start.")
    evidence: EvidenceResult | None = describe("What it proved at its last start.")
    forked_from: LineageResult | None = describe("Where it came from.")
    snapshots: list[SnapshotResult] = describe("Its snapshots, oldest first.")
    undo: list[UndoResult] = describe("What can be undone, oldest first.")
    lifetime: LifetimeResult = describe("What becomes of it without being asked.")
    failure: str | None = describe("Why it failed, if it did.")
    owner: str = describe("The session whose it is.")


def snapshot_result(s: SnapshotInfo) -> SnapshotResult:
    """Describe a snapshot."""
    return SnapshotResult(s.id, s.name, s.has_memory, s.parent, s.created_at, s.size_bytes, s.is_head)


def state_result(info: WorkspaceInfo) -> StateResult:
    """Describe what a workspace has become."""
    return StateResult(
        workspace_id=info.workspace_id,
        name=info.name,
        state=info.state,
        ip=info.network.ip,
        resources=_resources(info),
        started_by=info.started_by,
        start_seconds=info.start_seconds,
        note=info.note or info.failure or "",
    )


def summary_result(info: WorkspaceInfo, *, owned: bool) -> SummaryResult:
    """Describe a workspace in a line, to a session whose it is or not."""
    return SummaryResult(
        workspace_id=info.workspace_id,
        name=info.name,
        state=info.state,
        ip=info.network.ip,
        base_image=info.image,
        resources=_resources(info),
        forked_from=info.forked_from.name if info.forked_from else None,
        snapshot_count=len(info.snapshots),
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
        workspace_id=info.workspace_id,
        name=info.name,
        state=info.state,
        ip=info.network.ip,
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
        snapshots=[snapshot_result(s) for s in info.snapshots],
        undo=[_undo(step) for step in info.undo],
        lifetime=LifetimeResult(info.idle_suspend_s, info.idle_s, info.expires_at, info.suspended_by),
        failure=info.failure,
        owner=info.owner,
    )


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
