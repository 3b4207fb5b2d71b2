"""Which tools a client is shown: all, or the few with which a small model gets by."""

from __future__ import annotations

from typing import Final

from agentiso.mcp.tools import Tool
from agentiso.protocol.sessions import Client

MAX_CORE: Final = 14
CORE: Final = frozenset(
    {
        "workspace_create", "workspace_list", "workspace_fork", "workspace_destroy",
        "exec", "exec_background", "exec_poll", "exec_kill",
        "file_read", "file_write", "file_edit", "file_list",
        "snapshot_create", "snapshot_restore",
    }
)  # fmt: skip
"""Make a machine, work in it, keep its state, try several ways, clean up."""


def is_shown(tool: Tool, client: Client) -> bool:
    """Tell whether a tool is there for a client; hidden ones are for the command line."""
    if tool.hidden:
        return client.is_user
    return client.profile == "full" or tool.name in CORE
