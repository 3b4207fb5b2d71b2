"""How a program gets at the workspaces of a state directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from actors.model.settings import Settings
from actors.registry.supervisor import open_supervisor
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

    At the end the workspaces made here are destroyed, unless ``keep``: then their machines run on.

    Raises:
        SupervisorRunning: another supervisor holds the state directory, and ``attach`` is false.
        HostUnfit: the supervisor to attach to does not start.

    """
    chosen = settings or load_settings()
    if attach is True or (attach == "auto" and is_running(chosen)):
        async with attach_to(chosen, keep=keep) as (registry, theirs):
            yield System(registry, theirs)
    else:
        shelf = Shelf(chosen.images, chosen.state_dir)
        async with open_supervisor(chosen, shelf.load, keep=keep, shelf=shelf) as registry:
            yield System(registry, chosen)
