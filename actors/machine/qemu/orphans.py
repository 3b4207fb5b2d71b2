"""Machines that nobody has any more."""

from __future__ import annotations

import shutil
from collections.abc import Collection
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
        if (process := QemuProcess.adopt(identity, directory)) is None:
            continue
        try:
            await process.end()
            if not process.has_ended:
                raise MachineFailed(
                    f"QEMU's process {identity.pid} does not end.", remedy="The host's kernel holds it; try again."
                )
        finally:
            process.release()


def remove_others(state_dir: Path, machines: Path, its: Collection[Path]) -> None:
    """Remove the directories of machines that have ended, all but ``its``.

    Raises:
        OSError: one could not be removed; the others are.

    """
    others = {path for path in machines.iterdir() if path not in its} if machines.is_dir() else set()
    # One of which it is not known whose it is runs on.
    others -= {directory for _, directory in find_machines(state_dir)} if others else set()
    failure: OSError | None = None
    for directory in sorted(others):
        try:
            shutil.rmtree(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure
