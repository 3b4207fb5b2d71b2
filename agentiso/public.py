"""The names of the library, as `agentiso` hands them out."""

from actors.model import errors
from actors.model.end import End, EndReason
from actors.model.errors import AgentisoError
from actors.model.guest import ExecResult, FileContent, FileEntry, InputTaken, JobEnd, JobInfo, JobList, JobOutput
from actors.model.info import (
    CarriedJob,
    Evidence,
    ExportReport,
    ForkedChild,
    ForkReport,
    ImageInfo,
    ImageRemoval,
    ImportReport,
    Lifetime,
    Lineage,
    NetworkInfo,
    PoolInfo,
    PortForward,
    Shape,
    SnapshotInfo,
    TemplateInfo,
    UndoInfo,
    WorkspaceInfo,
)
from actors.model.settings import Limits, Pool, Settings
from agentiso import blocking
from agentiso.library.jobs import Output, OutputEvent
from agentiso.library.opening import open_system
from agentiso.library.system import Imported, System
from agentiso.library.workspace import Fork, Workspace

__all__ = [
    "AgentisoError",
    "CarriedJob",
    "End",
    "EndReason",
    "Evidence",
    "ExecResult",
    "ExportReport",
    "FileContent",
    "FileEntry",
    "Fork",
    "ForkReport",
    "ForkedChild",
    "ImageInfo",
    "ImageRemoval",
    "ImportReport",
    "Imported",
    "InputTaken",
    "JobEnd",
    "JobInfo",
    "JobList",
    "JobOutput",
    "Lifetime",
    "Limits",
    "Lineage",
    "NetworkInfo",
    "Output",
    "OutputEvent",
    "Pool",
    "PoolInfo",
    "PortForward",
    "Settings",
    "Shape",
    "SnapshotInfo",
    "System",
    "TemplateInfo",
    "UndoInfo",
    "Workspace",
    "WorkspaceInfo",
    "blocking",
    "errors",
    "open_system",
]
