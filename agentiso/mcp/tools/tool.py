"""What a tool is, and what its handler works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import attrs

from actors.registry.messages import OnProgress
from agentiso.access.audit import Entry
from agentiso.access.gate import Gate
from agentiso.library.system import System
from agentiso.library.workspace import Workspace
from agentiso.protocol.sessions import LOCAL, Client

KEY: Final = "For retries: same key, same result"
COMMAND: Final = "For /bin/sh -c, as root"
WORKDIR: Final = "Absolute. Absent: /"
MAX_KEY_CHARS: Final = 200
LONG: Final = 16 * 1024 * 1024
"""Characters of text that only the message it comes in bounds, or what takes it, which then says what to do instead."""


Confirm: TypeAlias = Callable[[str], Awaitable[bool | None]]


@attrs.frozen
class Call:
    """One call of a tool."""

    system: System
    report: OnProgress
    """Takes progress, a few words, for the client."""
    gate: Gate
    """The rules between sessions."""
    entry: Entry
    """What the audit log will say of the call."""
    confirm: Confirm
    """Asks the person behind the client; tells `None` if it cannot."""
    client: Client = LOCAL
    """Who calls."""
    cancelled: Callable[[], bool] = lambda: False
    """Whether the client has taken the call back, which is not the same as that it has gone."""

    async def workspace(self, workspace: str) -> Workspace:
        """Find the workspace that an argument names, for its owner.

        Raises:
            NotOwner: it is another session's.

        """
        found = await self.find(workspace)
        self.gate.check_owner(self.client, found)
        return found

    async def find(self, workspace: str) -> Workspace:
        """Find a workspace, whosever it is: the caller sees to it that nothing is done which only its owner may."""
        found = await self.system.get(workspace)
        self.entry.about(found.id, found.name)
        return found


@attrs.frozen
class Tool:
    """One tool; its handler gets the call and the structured arguments."""

    name: str
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
    workspace_id: str


@attrs.frozen
class Done:
    message: str
