"""Whether the memory of a checkpoint is what was saved, and what has to be written down so that this can be told."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import attrs
import trio

from actors.machine.storage.checkpoint import RECORD, Checkpoint
from actors.machine.storage.seal import digest_of, seal_of
from actors.machine.storage.store import Store
from actors.model.errors import CheckpointUnusable, NoCapacity
from actors.model.files import failures_reported, make_durable

DIGEST_DELAY_S: Final = 2.0
"""A fresh checkpoint is most often restored, forked or let go of at once; reading it all would hold that up."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def verify(store: Store, checkpoint: Checkpoint) -> None:
    """Make sure that a checkpoint's memory is what was saved.

    All of it is read at the first use in a supervisor's life, and whenever the files were touched meanwhile.

    Raises:
        CheckpointUnusable: it was altered, is damaged or missing.
        HostFailed, NoCapacity: it cannot be read now.

    """
    if not checkpoint.has_memory:
        return
    directory = store.checkpoint(checkpoint.id)
    try:
        with failures_reported():
            _compare(store, checkpoint, directory)
    except OSError as error:
        raise CheckpointUnusable(f"The memory of checkpoint {checkpoint.id} cannot be read: {error}.") from error


def _compare(store: Store, checkpoint: Checkpoint, directory: Path) -> None:
    seal, known = seal_of(directory), store.verified.get(checkpoint.id)
    if seal == known:
        return
    # Without a digest, which a crash may have prevented, the seal is all there is.  After a power loss it may be
    # that of files whose contents were not written.
    sealed = known is None and not checkpoint.digest and seal == checkpoint.seal
    sealed = sealed and checkpoint.boot in ("", host_boot())
    if not sealed and digest_of(directory) != checkpoint.digest:
        raise CheckpointUnusable(
            f"The memory of checkpoint {checkpoint.id} was altered, or is damaged.",
            remedy="Restore another snapshot, or start the workspace from its disk.",
        )
    store.verified[checkpoint.id] = seal


async def add_digest(store: Store, checkpoint: Checkpoint) -> None:
    """Flush a checkpoint that is kept and record its digest, unless its files were touched since it was taken."""
    if not checkpoint.has_memory:
        return
    directory = store.checkpoint(checkpoint.id)
    # It may be deleted meanwhile, or before.
    with contextlib.suppress(FileNotFoundError):
        if checkpoint.boot:
            await make_durable(*store.files_of(checkpoint))
        digest = await trio.to_thread.run_sync(digest_of, directory, abandon_on_cancel=True)
        if (directory / RECORD).exists() and seal_of(directory) == checkpoint.seal:
            # The record that this one replaces would survive a power loss, which must not take both.
            known = attrs.evolve(checkpoint, digest=digest, boot="")
            await trio.to_thread.run_sync(lambda: store.save(known, flushed=True))


async def add_digest_later(store: Store, checkpoint: Checkpoint) -> None:
    """Do so once whoever took the checkpoint has had the host to himself for a while."""
    await trio.sleep(DIGEST_DELAY_S)
    # Where there is no room for it, the seal has to do.
    with contextlib.suppress(NoCapacity):
        await add_digest(store, checkpoint)


def host_boot() -> str:
    """Return the id of the host's present boot (random(4))."""
    return BOOT_ID.read_text().strip()
