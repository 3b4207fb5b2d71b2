"""The closed set of messages that the registry understands.

Each is frozen and says what it answers with, whether it runs beside others, how long an asker waits by default and what
has become of it if its handler is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeAlias

import attrs

from actors.model.info import (
    LIBRARY,
    Diagnosis,
    ExportReport,
    ForkReport,
    ImageInfo,
    ImageRemoval,
    ImportReport,
    Lifetime,
    PoolInfo,
    Shape,
    StoredPiece,
    TemplateInfo,
    WorkspaceInfo,
)
from actors.runtime import ActorRef, Message, WhenCancelled
from actors.workspace.messages import BOOT_DEADLINE_S, WorkspaceRef

OnProgress: TypeAlias = Callable[[str], None]
"""Called with what is being done, a few words, when something that may take over a second begins."""


@attrs.frozen
class CreateWorkspace(Message["Made"]):
    """Make a new workspace from an image's template; unset values come from the settings."""

    name: str | None = None
    image: str | None = None
    shape: Shape | None = None
    network: str | None = None
    allow_internet: bool | None = None
    lifetime: Lifetime | None = None
    on_progress: OnProgress | None = None
    owner: str = LIBRARY
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.REVERTS


@attrs.frozen
class WarmTemplate(Message[TemplateInfo]):
    """Make the template of a shape ahead; unset values come from the settings."""

    image: str | None = None
    shape: Shape | None = None
    network: str | None = None
    on_progress: OnProgress | None = None
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.REVERTS


@attrs.frozen
class ListTemplates(Message[tuple[TemplateInfo, ...]]):
    """Describe all templates, oldest first."""

    CONCURRENT: ClassVar[bool] = True
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


@attrs.frozen
class DropTemplates(Message[tuple[TemplateInfo, ...]]):
    """Forget templates by their ids, or without any the stale ones; answers with what went."""

    ids: tuple[str, ...] | None = None
    CONCURRENT: ClassVar[bool] = True


@attrs.frozen
class ListImages(Message[tuple[ImageInfo, ...]]):
    """Describe all images, also those without a name and those that are damaged, and who uses each."""

    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = 60.0
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


@attrs.frozen
class RemoveImage(Message[ImageRemoval]):
    """Remove an image by its name, its digest or a beginning of that, with its templates; refused while it is used.

    With ``force`` one that is used loses its name; no file is ever taken that something stands on, or may stand on.
    """

    image: str
    force: bool = False
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = 300.0


@attrs.frozen
class ExportWorkspace(Message[ExportReport]):
    """Write a workspace as it is now, or a snapshot, to a file or a stream."""

    workspace: str
    target: Path | BinaryIO
    snapshot: str | None = None
    on_progress: OnProgress | None = None
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = float("inf")
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.REVERTS


@attrs.frozen
class ImportWorkspace(Message["Imported"]):
    """Make a workspace of an exported one; without a name it gets the one that it had, if that is free."""

    source: Path | BinaryIO
    name: str | None = None
    on_progress: OnProgress | None = None
    owner: str = LIBRARY
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = float("inf")
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.REVERTS


@attrs.frozen
class DescribePool(Message[PoolInfo]):
    """Describe the pool of machines that are restored ahead."""

    CONCURRENT: ClassVar[bool] = True
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


@attrs.frozen
class ForkWorkspace(Message["Forked"]):
    """Fork a workspace, running or from a snapshot, into ``count`` new ones."""

    workspace: str
    count: int = 1
    snapshot: str | None = None
    names: tuple[str, ...] | None = None
    name_prefix: str | None = None
    owner: str = LIBRARY
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = BOOT_DEADLINE_S
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.REVERTS


@attrs.frozen
class FindWorkspace(Message["Found"]):
    """Resolve a name, an id or an unambiguous id prefix of at least 8 digits."""

    workspace: str
    CONCURRENT: ClassVar[bool] = True
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


@attrs.frozen
class Found:
    """A workspace's handle."""

    workspace_id: str
    name: str
    ref: WorkspaceRef
    owner: str


@attrs.frozen
class Made:
    """A new workspace: its handle, and all that is known of it."""

    found: Found
    info: WorkspaceInfo


@attrs.frozen
class Forked:
    """The handles of a fork's children that run, in the order of its report."""

    found: tuple[Found, ...]
    report: ForkReport


@attrs.frozen
class Imported:
    """An imported workspace's handle, and what became of its memory."""

    found: Found
    report: ImportReport


@attrs.frozen
class ListWorkspaces(Message[tuple[WorkspaceInfo, ...]]):
    """Describe all workspaces, oldest first."""

    CONCURRENT: ClassVar[bool] = True
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


@attrs.frozen
class AwaitChange(Message[int]):
    """Answer with how many changes of workspaces there were, once one came after the first ``since``.

    With ``workspace_id`` it has to be that workspace's, which one that is not there has always had.
    """

    since: int | None = None
    workspace_id: str | None = None
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = float("inf")
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.LOOKS


@attrs.frozen
class AdoptWorkspace(Message[WorkspaceInfo]):
    """Have a workspace that is ``expected``'s be ``owner``'s."""

    workspace: str
    owner: str
    expected: str
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = 120.0
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.REVERTS


@attrs.frozen
class DestroyWorkspace(Message[None]):
    """Destroy a workspace and forget its name."""

    workspace: str
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = 90.0
    WHEN_CANCELLED: ClassVar[WhenCancelled] = WhenCancelled.GOES_ON


@attrs.frozen
class Diagnose(Message[Diagnosis]):
    """Tell what is damaged, out of reach, half-done or in the way of collection, once it was tried ``again``."""

    again: bool = True
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = 120.0


@attrs.frozen
class Collect(Message[tuple[StoredPiece, ...]]):
    """Remove what nobody needs, and answer with what went; with ``dry_run`` with all there is and who keeps it."""

    dry_run: bool = False
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = 300.0


RegistryMessage: TypeAlias = (
    CreateWorkspace
    | ForkWorkspace
    | FindWorkspace
    | ListWorkspaces
    | AwaitChange
    | AdoptWorkspace
    | DestroyWorkspace
    | Diagnose
    | Collect
    | WarmTemplate
    | ListTemplates
    | DropTemplates
    | ListImages
    | RemoveImage
    | DescribePool
    | ExportWorkspace
    | ImportWorkspace
)
RegistryRef: TypeAlias = ActorRef[Any]
