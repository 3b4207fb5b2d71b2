"""A look into nodes of a workspace's tree without disturbing it: what differs between two of them.

The workspace as it is now is looked at in place, if it runs.  A snapshot is restored as a *helper*: a machine that is
nobody's workspace, whose processes never run and whose network is down; only its guest agent answers.  Without memory
that fits, the helper boots from the snapshot's disk, and nothing of that disk is run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

import attrs
import trio

from actors.machine.guest import walks
from actors.machine.guest.client import GuestClient
from actors.machine.storage.checkpoint import Checkpoint
from actors.model.diff import MAX_TEXT_BYTES, Walk, compare, decide, unified
from actors.model.errors import AgentisoError, CheckpointUnusable, GuestRefused, InvalidArgument
from actors.model.guest import Diff, FileChange
from actors.workspace.launch import Prepared, discard, prepare
from actors.workspace.resources import Resources

MAX_ENTRIES: Final = 200_000
MAX_TEXTS: Final = 200
"""Files shown as text, at most."""
MAX_TEXT_TOTAL_BYTES: Final = 512 * 1024
TEXT_LIMIT_S: Final = 20.0
HELPER_MEMORY_MB: Final = 64
"""What a restored helper is counted with: it shares its snapshot's pages and changes few."""

T = TypeVar("T")
Client = Callable[[], Awaitable[GuestClient]]


@asynccontextmanager
async def helper(own: Resources, source: Checkpoint) -> AsyncIterator[GuestClient]:
    """Bring up a helper on a checkpoint, and end it with the block.

    Raises:
        NoCapacity: the host has no memory for it.
        MachineFailed: it did not come up.

    """
    prepared = None
    async with own.sweeping:
        own.helpers += 1
    try:
        # A guest that did not answer when it was checkpointed would hardly do so now.
        if source.has_memory and not source.alone:
            with contextlib.suppress(CheckpointUnusable):
                prepared = await _prepare(own, source, HELPER_MEMORY_MB)
        if prepared is None:
            # It has no memory, or none that fits here or answers; its disk is enough.
            prepared = await _prepare(own, attrs.evolve(source, has_memory=False), own.record.shape.memory_mb)
        await _isolate(prepared)
        yield prepared.machine.client
    finally:
        try:
            if prepared is not None:
                await discard(own.host, prepared)
        finally:
            own.helpers -= 1
            own.due()


async def _prepare(own: Resources, source: Checkpoint, memory_mb: int) -> Prepared:
    isolated = attrs.evolve(own.record, allow_internet=False)
    with own.host.memory.reserved(memory_mb):
        async with own.host.starts:
            return await prepare(own.nursery, own.host, isolated, source, keeps_logs=False)


async def _isolate(prepared: Prepared) -> None:
    """Have nothing of the guest run or reach a network; that it holds the checkpoint's key is all its proof."""
    machine, source = prepared.machine, prepared.source
    await machine.spec.network.cut_off(machine.qmp, machine.spec.link)
    if source is not None and source.has_memory and not source.processes_held:
        await machine.client.freeze()


async def diff(
    own: Resources,
    names: tuple[str, str],
    sources: tuple[Checkpoint | None, Checkpoint | None],
    live: Client,
    *,
    path: str,
    texts: bool,
) -> Diff:
    """Compare two nodes below ``path``; a source of ``None`` is the running machine, which ``live`` reaches.

    Raises:
        InvalidArgument: there are more files than can be compared.

    """
    began = time.perf_counter()
    async with own.host.looks, AsyncExitStack() as stack:
        clients = [
            await live() if source is None else await stack.enter_async_context(helper(own, source))
            for source in sources
        ]
        before, after = await _both(clients, lambda client, _side: _walk(client, path))
        changes, doubtful = await trio.to_thread.run_sync(compare, before, after)
        if doubtful:
            digests = await _both(clients, lambda client, _side: walks.digests(client, doubtful))
            changes += decide(doubtful, before, after, (digests[0], digests[1]))
        changes.sort(key=lambda change: change.path)
        truncated = False
        if texts:
            changes, truncated = await _add_texts(clients, changes)
    return Diff(
        base=names[0],
        other=names[1],
        changes=tuple(changes),
        compared=len(before.keys() | after.keys()),
        text_truncated=truncated,
        seconds=time.perf_counter() - began,
    )


async def _both(clients: list[GuestClient], look: Callable[[GuestClient, int], Awaitable[T]]) -> list[T]:
    """Look at both sides at once; if one fails, the other is not waited for, and the first failure is raised."""
    results: dict[int, T] = {}
    failures: list[AgentisoError] = []

    async def one(side: int) -> None:
        try:
            results[side] = await look(clients[side], side)
        except AgentisoError as error:
            # As it is: a group of both would be nobody's failure.
            failures.append(error)
            nursery.cancel_scope.cancel(reason="the other side failed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 0)
        nursery.start_soon(one, 1)
    if failures:
        raise failures[0]
    return [results[0], results[1]]


async def _walk(client: GuestClient, path: str) -> Walk:
    found, whole = await walks.walk(client, path, MAX_ENTRIES)
    if not whole:
        raise InvalidArgument(
            f"There are more than {MAX_ENTRIES} files below {path}.", remedy="Compare a directory that holds fewer."
        )
    return found


async def _add_texts(clients: list[GuestClient], changes: list[FileChange]) -> tuple[list[FileChange], bool]:
    """Show as text what is text, within bounds; also tell whether something was left out for them."""
    shown, total, count, deadline = [], 0, 0, trio.current_time() + TEXT_LIMIT_S
    truncated = False
    for change in changes:
        sides = (change.before, change.after)
        if all(side is None or (side.kind == "file" and side.size_bytes <= MAX_TEXT_BYTES) for side in sides):
            if count >= MAX_TEXTS or total >= MAX_TEXT_TOTAL_BYTES or trio.current_time() > deadline:
                truncated = True
            else:
                old, new = await _both(
                    clients,
                    lambda client, side, change=change, sides=sides: _content(client, change.path, sides[side]),  # type: ignore[misc]
                )
                text = await trio.to_thread.run_sync(unified, change.path, old, new)
                total, count = total + len(text), count + 1
                change = attrs.evolve(change, text=text)
        shown.append(change)
    return shown, truncated


async def _content(client: GuestClient, path: str, facts: object) -> bytes:
    if facts is None:
        return b""
    try:
        return (await client.files.read(path, 0, MAX_TEXT_BYTES + 1)).content
    except GuestRefused:
        # It went while we looked, or is not readable: then it is no text either.
        return b"\0"
