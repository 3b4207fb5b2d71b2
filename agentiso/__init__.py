"""Disposable Linux machines for AI agents, forked while they run.

Synopsis::

    async with agentiso.open_system() as system:
        ws = await system.create("demo")
        result = await ws.exec("uname -a")
        children = await ws.fork(3)
"""

from actors import errors
from actors.errors import AgentisoError
from actors.model import (
    Evidence,
    ExecResult,
    FileContent,
    FileEntry,
    ForkedChild,
    ForkReport,
    Lifetime,
    Lineage,
    NetworkInfo,
    PortForward,
    Shape,
    SnapshotInfo,
    TemplateInfo,
    UndoInfo,
    WorkspaceInfo,
)
from actors.settings import Limits, Settings
from agentiso.system import System, open_system
from agentiso.workspace import Fork, Workspace

__all__ = [
    "AgentisoError",
    "Evidence",
    "ExecResult",
    "FileContent",
    "FileEntry",
    "Fork",
    "ForkReport",
    "ForkedChild",
    "Lifetime",
    "Limits",
    "Lineage",
    "NetworkInfo",
    "PortForward",
    "Settings",
    "Shape",
    "SnapshotInfo",
    "System",
    "TemplateInfo",
    "UndoInfo",
    "Workspace",
    "WorkspaceInfo",
    "errors",
    "open_system",
]
