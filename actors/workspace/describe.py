"""What callers are told of a workspace, made of its record."""

from __future__ import annotations

import attrs

from actors.machine.choice import Choice
from actors.machine.network.protocol import Network
from actors.model.info import NetworkInfo, PortForward, WorkspaceInfo
from actors.model.record import WorkspaceRecord
from actors.model.states import State
from actors.workspace import tree


def describe(
    record: WorkspaceRecord,
    networks: Choice[Network],
    *,
    idle_s: float,
    disk_used_bytes: int | None = None,
    note: str = "",
) -> WorkspaceInfo:
    """Return all that is known of a workspace, also of one whose network this version does not have."""
    network = networks.get(record.network)
    wired = network is not None and network.wired
    facts = record.machine.link if record.machine else {}
    return WorkspaceInfo(
        workspace_id=record.id,
        name=record.name,
        state=str(record.state),
        image=record.image,
        image_digest=record.image_digest,
        shape=record.shape,
        network=NetworkInfo(
            backend=record.network,
            allow_internet=record.allow_internet,
            mac=record.mac if wired else None,
            ip=network.address(facts) if network else None,
            port_forwards=_forwards(record),
        ),
        accelerator=record.accelerator,
        channel=record.channel,
        created_at=record.created_at,
        started_by=record.started_by,
        start_seconds=record.start_seconds,
        forked_from=record.forked_from,
        snapshots=tree.infos(record),
        evidence=record.evidence,
        failure=record.failure,
        undo=tree.undo_infos(record),
        suspended_by=record.suspended_by,
        idle_suspend_s=record.idle_suspend_s,
        idle_s=idle_s,
        expires_at=record.expires_at,
        disk_bytes=record.disk_bytes,
        disk_used_bytes=disk_used_bytes,
        note=note,
        owner=record.owner,
        adopted_from=record.adopted_from,
    )


def _forwards(record: WorkspaceRecord) -> tuple[PortForward, ...]:
    """Return the forwards, which lead nowhere while there is no machine."""
    if record.state in (State.RUNNING, State.PAUSED):
        return record.forwards
    fault = f"The workspace is {record.state}."
    return tuple(attrs.evolve(forward, fault=fault) for forward in record.forwards)
