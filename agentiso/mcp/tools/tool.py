"""What a tool is, and what its handler works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs

from actors.messages import OnProgress
from agentiso.gate import Gate
from agentiso.mcp.schema import describe
from agentiso.sessions import LOCAL, Client
from agentiso.system import System
from agentiso.workspace import Workspace

WORKSPACE: Final = "Name, id, or an id's unambiguous prefix of at least 8 digits."


@attrs.frozen
class Call:
    """One call of a tool."""

    system: System
    report: OnProgress
    """Takes progress, a few words, for the client."""
    gate: Gate
    """The rules between sessions."""
    client: Client = LOCAL
    """Who calls."""

    async def workspace(self, workspace: str) -> Workspace:
        """Find the workspace that an argument names, for its owner.

        Raises:
            NotOwner: it is another session's.

        """
        found = await self.system.get(workspace)
        self.gate.check_owner(self.client, found)
        return found


@attrs.frozen
class Tool:
    """One tool; its handler gets the call and the structured arguments."""

    name: str
    title: str
    description: str
    arguments: type
    result: type
    handler: Callable[[Call, Any], Awaitable[Any]]
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    hidden: bool = False
    """Whether it is the command line's own: neither shown to sessions nor carried out for them."""


@attrs.frozen
class WorkspaceArguments:
    workspace_id: str = describe(WORKSPACE)


@attrs.frozen
class Done:
    message: str = describe("What was done.")
