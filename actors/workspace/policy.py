"""What a workspace's network lets through, changed while the workspace lives.

Where the network cannot have a running machine obey another policy, the workspace gets a new machine, restored from a
checkpoint of the present one: its processes run on, its connections end.
"""

from __future__ import annotations

import trio

from actors.machine import checkpoint as checkpoints
from actors.machine import pause as standstill
from actors.machine.machine import Machine
from actors.machine.network.protocol import Policy
from actors.machine.pause import FileSystem
from actors.model.errors import IllegalState, InvalidArgument
from actors.workspace.lifecycle import bring_back
from actors.workspace.messages import SetNetworkPolicy
from actors.workspace.resources import Resources


async def change(own: Resources, wanted: SetNetworkPolicy) -> str:
    """Put a policy in force, and say how that came about.

    Raises:
        InvalidArgument: the workspace's network cannot do it; nothing was changed.
        IllegalState: it is paused.
        GuestBroken: the guest does not answer, as it would have to afterwards; nothing was changed.

    """
    _check(own, wanted)
    allow_internet = wanted.allow_internet
    if allow_internet is None or allow_internet == own.record.allow_internet:
        return "The policy is in force already."
    if own.machine is None:
        own.save(allow_internet=allow_internet)
        return "The policy is in force from the next start on."
    if own.machine.held is not None:
        raise IllegalState(f"Workspace {own.record.name} is paused.", remedy="Resume it first.")
    if await _apply(own, own.machine, allow_internet=allow_internet):
        return "The policy is in force, also for open connections."
    await _replace_machine(own, allow_internet=allow_internet)
    return "The workspace was suspended and resumed for this: its processes run on, its connections were closed."


def _check(own: Resources, wanted: SetNetworkPolicy) -> None:
    name, network = own.record.name, own.network
    if wanted.allow_internet and not network.wired:
        wired = next(known.name for known in own.host.networks if known.wired)
        raise InvalidArgument(f"Workspace {name} has no network.", remedy=f'Create one with network="{wired}" instead.')
    # What says only what is so on these networks anyway is not refused.
    if (wanted.allow_inter_vm or wanted.allowed_ports) and not network.inter_vm:
        asked = "allow_inter_vm" if wanted.allow_inter_vm else "allowed_ports"
        raise InvalidArgument(
            f"{asked} needs the tap network; workspace {name} has the {network.name} network, on which no "
            "workspace can reach another.",
            remedy="Forward single ports of the guest to the host instead.",
        )


async def _apply(own: Resources, machine: Machine, *, allow_internet: bool) -> bool:
    """Have the running machine obey a policy, or on failure the earlier one; ``False`` if only another machine can."""
    network, link, before = machine.spec.network, machine.spec.link, own.record.allow_internet
    try:
        if not await network.apply_policy(machine.qmp, link, Policy(allow_internet)):
            return False
        own.save(allow_internet=allow_internet)
    except BaseException:
        own.note(allow_internet=before)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + standstill.RESUME_LIMIT_S):
            await network.apply_policy(machine.qmp, link, Policy(before))
        raise
    return True


async def _replace_machine(own: Resources, *, allow_internet: bool) -> None:
    """Restore the machine, held still meanwhile, from a checkpoint under the new policy; on failure it runs on."""
    machine = own.live()
    await standstill.hold(machine, FileSystem.WRITTEN)
    try:
        with own.store.held(machine.layer) as owner:
            taken = await checkpoints.take(machine, own.store, with_memory=True, durable=False, intend=own.intend_layer)
            own.store.hold(owner, {taken.checkpoint.id})
            await bring_back(own, taken.checkpoint, head=own.record.head, allow_internet=allow_internet)
    except BaseException:
        if own.machine is machine:
            own.settle_layer(machine)
            await standstill.give_up(machine)
        raise
