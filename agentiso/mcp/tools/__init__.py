"""The tools, one module a noun: what each takes, does and gives, and how it is described to a model."""

from typing import Final

from agentiso.mcp.tools import (
    commands,
    doctor,
    files,
    git,
    images,
    jobs,
    lifecycle,
    network,
    ownership,
    snapshots,
    templates,
    transfer,
    workspaces,
)
from agentiso.mcp.tools.tool import Call, Tool

TOOLS: Final[tuple[Tool, ...]] = (
    *workspaces.TOOLS,
    *lifecycle.TOOLS,
    *commands.TOOLS,
    *jobs.TOOLS,
    *files.TOOLS,
    *snapshots.TOOLS,
    *network.TOOLS,
    *ownership.TOOLS,
    *templates.TOOLS,
    *images.TOOLS,
    *doctor.TOOLS,
    *transfer.TOOLS,
    *git.TOOLS,
)

__all__ = ["TOOLS", "Call", "Tool"]
