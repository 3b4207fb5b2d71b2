"""Machines that nobody has any more."""

from __future__ import annotations

import shutil
from pathlib import Path

import trio

from actors.machine.qemu.process import QemuProcess, find_machines
from actors.model.errors import MachineFailed


async def end_machines(state_dir: Path, within: Path, *, but: str | None = None) -> None:
    """End the machines whose own directories are in a directory; the caller has proven that they are unneeded.

    The machine whose own directory is ``but`` runs on.

    Raises:
        MachineFailed: a process does not end.
        OSError: a process cannot be looked at.

    """
    for identity, directory in await trio.to_thread.run_sync(lambda: list(find_machines(state_dir))):
        if not directory.is_relative_to(within) or str(directory) == but:
            continue
        if (process := QemuProcess.adopt(identity)) is None:
            continue
        try:
            await process.end()
            if not process.has_ended:
                raise MachineFailed(
                    f"QEMU's process {identity.pid} does not end.", remedy="The host's kernel holds it; try again."
                )
        finally:
            process.release()


def remove_others(machines: Path, its: str | None) -> None:
    """Remove the directories of machines that have ended, all but one."""
    for directory in machines.iterdir() if machines.is_dir() else ():
        if str(directory) != its:
            shutil.rmtree(directory, ignore_errors=True)
