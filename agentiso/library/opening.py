"""How a program gets at the workspaces of a state directory."""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import trio

from actors.model.settings import Settings
from actors.registry.supervisor import open_supervisor
from actors.runtime import open_plain_nursery
from agentiso.client.attach import attach as attach_to
from agentiso.client.dialling import is_running
from agentiso.library.config import load_settings
from agentiso.library.image_shelf import Shelf
from agentiso.library.system import System


@asynccontextmanager
async def open_system(
    settings: Settings | None = None, *, keep: bool = False, attach: bool | Literal["auto"] = False
) -> AsyncIterator[System]:
    """Yield the `System` of a state directory, whose supervisor runs in this process or, with ``attach``, in its own.

    Without ``settings`` the configuration in force is used; see `agentiso.library.config`.  With ``attach`` the running
    supervisor is used, the same as the command line and MCP clients have, and started if there is none; of
    ``settings`` only ``state_dir`` counts then.  With ``attach="auto"`` a running one is used if there is one.

    At the end the workspaces made here are destroyed, unless ``keep``: then their machines run on.  SIGTERM is such an
    end too, in the main thread of a program that has not said what it does then.  What a program that was killed has
    left is destroyed when the next supervisor of the state directory starts; what one made whose supervisor ended
    before it, once it is dead.

    Raises:
        SupervisorRunning: another supervisor holds the state directory, and ``attach`` is false.
        HostUnfit: the supervisor to attach to does not start.
        SupervisorGone: it does not answer.
        HostFailed: the state directory cannot be read.

    """
    chosen = settings or load_settings()
    shelf = Shelf(chosen.images, chosen.state_dir)
    if attach is True or (attach == "auto" and is_running(chosen)):
        async with attach_to(chosen, keep=keep) as (registry, theirs):
            yield System(registry, theirs)
    elif keep:
        async with open_supervisor(chosen, shelf.load, keep=True, shelf=shelf) as registry:
            yield System(registry, chosen)
    else:
        async with _ended_by_sigterm(), open_supervisor(chosen, shelf.load, keep=False, shelf=shelf) as registry:
            yield System(registry, chosen)


@asynccontextmanager
async def _ended_by_sigterm() -> AsyncIterator[None]:
    """Have SIGTERM cancel the block, if nothing else was arranged, and the process die of it once that has ended."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    told = False

    async def listen(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        nonlocal told
        with trio.open_signal_receiver(signal.SIGTERM) as received:
            task_status.started()
            async for _ in received:
                told = True
                scope.cancel(reason="SIGTERM")

    try:
        async with open_plain_nursery() as nursery:
            with trio.CancelScope() as scope:
                await nursery.start(listen, scope)
                yield
            nursery.cancel_scope.cancel(reason="the block has ended")
    finally:
        if told:
            signal.raise_signal(signal.SIGTERM)
