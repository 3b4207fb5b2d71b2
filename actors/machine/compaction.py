"""Keeping chains of disk layers short: the newest ones are merged into the active one while the machine runs.

Every checkpoint of a running machine puts a layer on its disk.  QEMU opens and reads through all of them, so beyond a
bound the topmost are streamed into the active layer (QEMU: ``block-stream``).  Layers are only read: whoever else
stands on one keeps it, and what nobody stands on any more is swept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from actors.machine.machine import Machine
from actors.machine.qemu.command_line import ROOT_DEVICE
from actors.machine.storage import qcow2
from actors.model.errors import QmpError

POLL_S: Final = 0.02
LIMIT_S: Final = 100.0
"""Beyond it the machine goes on with the chain it has."""
CANCEL_LIMIT_S: Final = 10.0


def choose_base(sizes: Sequence[int], max_layers: int) -> int:
    """Return the index of the layer on which the active one, index 0, will stand; ``sizes`` are bytes, top first.

    At least half of what is allowed is merged.  Below that a layer is only copied if it is smaller than all above it
    together, so that a large old layer is not copied again and again; the lowest layer, the template's, never is.
    """
    base = min(max(2, max_layers // 2), len(sizes) - 1)
    while base < len(sizes) - 1 and sizes[base] < sum(sizes[:base]):
        base += 1
    return base


async def compact(machine: Machine, layer: Path, max_layers: int) -> None:
    """Merge the topmost layers under a running machine's disk if there are more than ``max_layers``.

    A merge that QEMU refuses, that takes too long, that finds the host's disk full or that is cancelled changes
    nothing: the next checkpoint tries it again.

    Raises:
        MachineFailed: QEMU died or does not answer.

    """
    chain = qcow2.backing_chain(layer)
    if len(chain) <= max_layers:
        return
    base = chain[choose_base([path.stat().st_blocks * 512 for path in chain], max_layers)]
    with contextlib.suppress(QmpError):
        await machine.qmp.execute("block-stream", {"device": ROOT_DEVICE, "job-id": ROOT_DEVICE, "base": str(base)})
    try:
        with trio.move_on_after(LIMIT_S):
            while await _under_way(machine):  # noqa: ASYNC110 (QEMU is asked, which no event here can do)
                await trio.sleep(POLL_S)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CANCEL_LIMIT_S):
            while await _under_way(machine):
                await machine.qmp.execute("block-job-cancel", {"device": ROOT_DEVICE, "force": True})
                await trio.sleep(POLL_S)


async def _under_way(machine: Machine) -> bool:
    return bool((await machine.qmp.execute("query-block-jobs"))["return"])
