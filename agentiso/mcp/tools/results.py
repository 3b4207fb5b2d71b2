"""Results that several tools share, made of what the library returns."""

from __future__ import annotations

import attrs

from actors.model import NetworkInfo, SnapshotInfo, WorkspaceInfo
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
    workspace_id: str = describe("Opaque id; valid until the workspace is destroyed.")
    name: str = describe("Its name.")
    state: str = describe("creating, running, paused, suspended, stopped, failed or destroyed.")
    ip: str | None = describe("The guest's address on its own network.")
    base_image: str = describe("The image it was made from.")
    resources: Resources = describe("Its size.")
    network: NetworkResult = describe("What its network lets through.")
    accelerator: str = describe("kvm, or tcg for software emulation.")
    started_by: str = describe("restore (memory kept) or cold_boot.")
    start_seconds: float = describe("How long its present machine took to start.")
    forked_from: str | None = describe("Name of the workspace it was forked from.")
    snapshots: list[SnapshotResult] = describe("Its snapshots, oldest first.")
    restore_proven: bool = describe("Whether nonce, random generator and clock were proven at the last start.")
    failure: str | None = describe("Why it failed, if it did.")


def snapshot_result(s: SnapshotInfo) -> SnapshotResult:
    """Describe a snapshot."""
    return SnapshotResult(s.id, s.name, s.has_memory, s.parent, s.created_at)


def network_result(network: NetworkInfo) -> NetworkResult:
    """Describe what a network lets through."""
    return NetworkResult(
        network.allow_internet,
        network.allow_inter_vm,
        list(network.allowed_ports),
        [ForwardResult(f.guest_port, f.host_port, f.fault) for f in network.port_forwards],
    )


def workspace_result(info: WorkspaceInfo) -> WorkspaceResult:
    """Describe a workspace."""
    return WorkspaceResult(
        workspace_id=info.workspace_id,
        name=info.name,
        state=info.state,
        ip=info.network.ip,
        base_image=info.image,
        resources=Resources(info.shape.vcpus, info.shape.memory_mb, info.shape.disk_gb),
        network=network_result(info.network),
        accelerator=info.accelerator,
        started_by=info.started_by,
        start_seconds=info.start_seconds,
        forked_from=info.forked_from.name if info.forked_from else None,
        snapshots=[snapshot_result(s) for s in info.snapshots],
        restore_proven=info.evidence is not None and info.evidence.rng_reseeded,
        failure=info.failure,
    )
