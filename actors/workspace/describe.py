"""What callers are told of a workspace, made of its record."""

from __future__ import annotations

import attrs

from actors.machine.choice import Choice
from actors.machine.network.protocol import Network
from actors.machine.qemu.end_reason import PANIC
from actors.model.end import End
from actors.model.info import Hindrance, NetworkInfo, PortForward, WorkspaceInfo
from actors.model.record import WorkspaceRecord
from actors.model.states import State
from actors.workspace import tree


def describe(
    record: WorkspaceRecord,
    networks: Choice[Network],
    *,
    idle_s: float,
    mute_since: float | None = None,
    hindrance: Hindrance | None = None,
    undone: str = "",
    disk_used_bytes: int | None = None,
    note: str = "",
) -> WorkspaceInfo:
    """Return all that is known of a workspace, also of one whose network this version does not have."""
    network = networks.get(record.network)
    wired, failed = network is not None and network.wired, record.state is State.FAILED
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
        failure=f"{record.failure} {ways_back(record)}" if failed and record.failure else record.failure,
        ended=record.ended if failed else None,
        mute_since=mute_since,
        hindrance=hindrance,
        undone=undone,
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


def failure_of(end: End) -> str:
    """Return the sentences that tell of an end."""
    shown = end.console_line and not end.sentence.endswith(f": {end.console_line.removeprefix(PANIC)}.")
    return f"{end.sentence} The console's last line: {end.console_line!r}." if shown else end.sentence


def ways_back(record: WorkspaceRecord) -> str:
    """Say what can be done about a workspace that failed: of what is not there to go back to, nothing is said."""
    ways = ["Start it again from its disk", "restore a snapshot", "undo its last restore", "or destroy it."]
    there = [True, record.snapshots, record.undo, True]
    return ", ".join(way for way, is_there in zip(ways, there, strict=True) if is_there)


def _forwards(record: WorkspaceRecord) -> tuple[PortForward, ...]:
    """Return the forwards, which lead nowhere while there is no machine."""
    if record.state in (State.RUNNING, State.PAUSED):
        return record.forwards
    fault = f"The workspace is {record.state}."
    return tuple(attrs.evolve(forward, fault=fault) for forward in record.forwards)
