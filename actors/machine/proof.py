"""How a guest that was started takes on an identity and proves what it is.

A machine's `nonce` is what its memory must hold: the checkpoint's at first, then that of each identity it was given.
"""

from __future__ import annotations

import secrets
import time
from typing import Final

import attrs

from actors.machine.guest.client import CLOCK_PROMISE_S
from actors.machine.guest.identity import Identity, IdentityReply
from actors.machine.machine import Machine
from actors.machine.qemu.command_line import ROOT_DEVICE, MachinePlace
from actors.machine.storage.checkpoint import Checkpoint
from actors.model.errors import RestoreUnproven
from actors.model.guest import CommandSpec
from actors.model.info import Evidence
from actors.model.names import new_id

MIN_FILE_SYSTEM_SHARE: Final = 0.9
"""Of its disk; ext4 keeps some of it for its own tables."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 16
ENTROPY_BYTES: Final = 64
REMEDY: Final = "It was ended. Try again; if it recurs, rebuild the image."


@attrs.frozen
class Persona:
    """The identity a workspace gives to its machine."""

    workspace_id: str
    hostname: str


async def prove(machine: Machine, persona: Persona, checkpoint: Checkpoint | None, *, grows: bool) -> None:
    """Give the guest its identity and its disk's size, and hold its answers against what they must be.

    Raises:
        RestoreUnproven: one of them is not.

    """
    resizing = None
    if grows and checkpoint:
        # The disk has its size already: this makes QEMU tell the guest, whose memory knows the checkpoint's disk.
        resizing = await machine.qmp.begin("block_resize", {"device": ROOT_DEVICE, "size": machine.disk_bytes})
    identity = _new_identity(machine.spec, persona)
    reply = await machine.client.identify(identity)
    found = faults(reply, identity, machine.nonce)
    if resizing:
        await machine.qmp.finish(resizing)
    if grows and not found:
        found = await _grow(machine)
    if found:
        raise _unproven(persona, found)
    clock_error_s = await machine.client.set_clock()
    if clock_error_s > CLOCK_PROMISE_S:
        raise _unproven(persona, [f"its clock may be wrong by {clock_error_s * 1000:.0f} ms; the host is overloaded"])
    await machine.client.let_run()
    _remember(machine, identity)
    machine.evidence = Evidence(
        epoch=identity.epoch,
        nonce_matched=checkpoint is not None,
        generation=reply.generation,
        rng_reseeded=reply.rng_reseeded,
        clock_step_s=reply.clock_step_s,
        hostname=reply.hostname,
        processes_held=checkpoint is not None and checkpoint.processes_held,
        clock_error_ms=clock_error_s * 1000,
        hooks=reply.hooks,
        connections_closed=reply.connections_closed,
        jobs=reply.jobs,
    )


async def rehearse(machine: Machine, times: int) -> None:
    """Have a guest do what its start and a first command take; its processes run meanwhile.

    What its interpreter and its kernel do at the first times only, and what emulation translates then, is done for
    this machine and for all that stem from it.

    Raises:
        RestoreUnproven: it is not the guest that it was taken for.

    """
    persona = Persona(new_id(), "template")
    for _ in range(times):
        identity = _new_identity(machine.spec, persona, rehearsal=True)
        if found := faults(await machine.client.identify(identity), identity, machine.nonce):
            raise _unproven(persona, found)
        _remember(machine, identity)
        await machine.client.release()
        done = await machine.client.jobs.exec(CommandSpec("true"))
        await machine.client.jobs.release(done.job_id)


def faults(reply: IdentityReply, identity: Identity, nonce: str | None) -> list[str]:
    """Name each part of a start's proof that is missing; the guest's memory must hold ``nonce``."""
    found = [f"{part}: {text}" for part, text in sorted(reply.failures.items())]
    if reply.previous_nonce != nonce:
        found.append("its memory does not hold the checkpoint's nonce")
    if not reply.rng_reseeded:
        found.append("its kernel's random generator was not reseeded")
    if reply.hostname != identity.hostname:
        found.append(f"its hostname is {reply.hostname!r}, not {identity.hostname!r}")
    if identity.network:
        if reply.mac != identity.network.mac:
            found.append(f"its MAC address is {reply.mac}, not {identity.network.mac}")
        if reply.address != identity.network.address:
            found.append(f"its address is {reply.address}, not {identity.network.address}")
    return found


def _unproven(persona: Persona, found: list[str]) -> RestoreUnproven:
    return RestoreUnproven(
        f"The guest of {persona.hostname} could not prove a correct start: {'; '.join(found)}.", remedy=REMEDY
    )


def _remember(machine: Machine, identity: Identity) -> None:
    machine.epoch, machine.key, machine.nonce = identity.epoch, identity.key, identity.nonce.hex()


async def _grow(machine: Machine) -> list[str]:
    size_bytes = await machine.client.grow_root(machine.disk_bytes)
    if size_bytes >= machine.disk_bytes * MIN_FILE_SYSTEM_SHARE:
        return []
    return [f"its file system has {size_bytes} bytes on a disk of {machine.disk_bytes}"]


def _new_identity(spec: MachinePlace, persona: Persona, *, rehearsal: bool = False) -> Identity:
    return Identity(
        epoch=new_id(),
        time_ns=time.time_ns(),
        entropy=secrets.token_bytes(ENTROPY_BYTES),
        hostname=persona.hostname,
        nonce=secrets.token_bytes(NONCE_BYTES),
        key=secrets.token_bytes(KEY_BYTES),
        machine_id=persona.workspace_id.replace("-", ""),
        network=spec.link.identity,
        rehearsal=rehearsal,
    )
