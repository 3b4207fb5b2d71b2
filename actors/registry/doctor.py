"""What is not as it should be, and what would mend it; what there is in the store, and who keeps it."""

from __future__ import annotations

from typing import Final

from actors.machine.storage.store import Store
from actors.model.files import failures_reported
from actors.model.info import Diagnosis, StoredPiece, Trouble
from actors.model.states import State
from actors.registry.troubles import Troubles
from actors.registry.workspaces import Workspaces

STARTING: Final = "the start"
"""What keeps the store from being collected until everything was read."""
GIVE_UP: Final = (
    "It is tried again by itself. To give its machine up: `agentiso stop {0}`, whose disk stays, or "
    "`agentiso snapshot restore {0} NAME`, or `agentiso destroy {0}`."
)


async def diagnose(workspaces: Workspaces, store: Store, troubles: Troubles, *, again: bool) -> Diagnosis:
    """Tell everything that is damaged, out of reach, half-done or in the way, after it was tried ``again``."""
    if again:
        await troubles.look_again()
        if store.trouble:
            await store.collect()
    unreachable, half_done = list[Trouble](), list[Trouble]()
    damaged = [*troubles.all(), *workspaces.unreadable()]
    for info in await workspaces.list():
        what, why = f"workspace {info.name}", info.failure or f"It is {info.state}."
        if info.state == State.UNREACHABLE:
            unreachable.append(Trouble(what, "", why, GIVE_UP.format(info.name)))
        elif info.state == State.DESTROYING:
            half_done.append(Trouble(what, "", why, f"agentiso destroy {info.name}"))
        elif info.note:
            unreachable.append(Trouble(what, "", info.note, "It is asked again each time; nothing of it is changed."))
    collection = [
        Trouble("collection", "", f"Nothing is removed, since {what} may need it: {why}", "Mend what is named.")
        for what, why in store.blocked.items()
    ]
    if store.trouble:
        collection.append(Trouble("collection", "", store.trouble, "It is tried again; mend what is named."))
    return Diagnosis(tuple(damaged), tuple(unreachable), tuple(half_done), tuple(collection))


async def collect(store: Store, *, dry_run: bool) -> tuple[StoredPiece, ...]:
    """Describe all layers and checkpoints; or remove what nobody keeps, and describe what went.

    Raises:
        HostFailed, NoCapacity, CheckpointUnusable: something that is needed cannot be read, or is not there.

    """
    with failures_reported():
        async with store.nothing_removed():
            pieces = await store.survey()
    if dry_run:
        return pieces
    removed = set(await store.collect())
    return tuple(piece for piece in pieces if piece.id in removed)
