# Made by `python -m tools.stubs`.

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Literal

from anyio.from_thread import BlockingPortal

from actors.model.guest import (
    Diff,
    Edited,
    ExecResult,
    FileContent,
    FileEntry,
    InputTaken,
    JobEnd,
    JobInfo,
    JobList,
    JobOutput,
    SearchResult,
    TreeReport,
)
from actors.model.info import (
    ExportReport,
    ForkReport,
    ImageInfo,
    ImageRemoval,
    ImportReport,
    Lifetime,
    PoolInfo,
    PortForward,
    SnapshotInfo,
    TemplateInfo,
    WorkspaceInfo,
)
from actors.model.settings import Limits, Settings
from actors.registry.messages import OnProgress
from actors.workspace.job_messages import OnOutput
from agentiso.library.files import HostPath, OnBytes
from agentiso.library.git import GitClone, GitCommit, GitDiff, GitPush
from agentiso.library.git_text import GitStatus
from agentiso.library.jobs import OutputEvent

__all__ = [
    "Face",
    "Files",
    "Fork",
    "Git",
    "Images",
    "Imported",
    "Jobs",
    "Output",
    "Ports",
    "Snapshots",
    "System",
    "Templates",
    "Workspace",
    "face_of",
    "open_system",
]

class Face:
    def __init__(self, portal: BlockingPortal, behind: Any) -> None: ...

def face_of(kind: type) -> type[Face]: ...

class System(Face):
    @property
    def settings(self) -> Settings: ...
    @property
    def templates(self) -> Templates: ...
    @property
    def images(self) -> Images: ...
    def create(
        self,
        name: str | None = None,
        *,
        image: str | None = None,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_gb: int | None = None,
        network: str | None = None,
        allow_internet: bool | None = None,
        lifetime: Lifetime | None = None,
        on_progress: OnProgress | None = None,
        owner: str = ...,
    ) -> Workspace: ...
    def workspace(
        self,
        name: str | None = None,
        *,
        image: str | None = None,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_gb: int | None = None,
        network: str | None = None,
        allow_internet: bool | None = None,
        lifetime: Lifetime | None = None,
        on_progress: OnProgress | None = None,
    ) -> AbstractContextManager[Workspace]: ...
    def get(self, workspace: str) -> Workspace: ...
    def adopt(self, workspace: Workspace, owner: str) -> WorkspaceInfo: ...
    def import_workspace(
        self,
        source: Path | str | BinaryIO,
        name: str | None = None,
        *,
        on_progress: OnProgress | None = None,
        owner: str = ...,
    ) -> Imported: ...
    def pool(self) -> PoolInfo: ...
    def list(self) -> tuple[WorkspaceInfo, ...]: ...
    def wait_changed(self, since: int | None = None, *, workspace_id: str | None = None) -> int: ...

class Imported(Face):
    @property
    def workspace(self) -> Workspace: ...
    @property
    def report(self) -> ImportReport: ...

class Workspace(Face):
    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def files(self) -> Files: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def snapshots(self) -> Snapshots: ...
    @property
    def ports(self) -> Ports: ...
    @property
    def git(self) -> Git: ...
    def info(self) -> WorkspaceInfo: ...
    def exec(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        yield_s: float | None = None,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
        max_output_bytes: int = 262144,
        on_output: OnOutput | None = None,
    ) -> ExecResult: ...
    def stream(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
    ) -> AbstractContextManager[Output]: ...
    def set_env(self, variables: dict[str, str | None]) -> int: ...
    def console(self, max_bytes: int = 4096) -> str: ...
    def qemu_log(self, max_bytes: int = 4096) -> str: ...
    def undo(self) -> WorkspaceInfo: ...
    def fork(
        self,
        count: int = 1,
        *,
        snapshot: str | None = None,
        names: Sequence[str] | None = None,
        name_prefix: str | None = None,
        owner: str = ...,
    ) -> Fork: ...
    def forked(
        self,
        count: int = 1,
        *,
        snapshot: str | None = None,
        names: Sequence[str] | None = None,
        name_prefix: str | None = None,
    ) -> AbstractContextManager[Fork]: ...
    def set_network_policy(
        self,
        *,
        allow_internet: bool | None = None,
        allow_inter_vm: bool | None = None,
        allowed_ports: Sequence[int] | None = None,
    ) -> WorkspaceInfo: ...
    def export(
        self, target: Path | str | BinaryIO, *, snapshot: str | None = None, on_progress: OnProgress | None = None
    ) -> ExportReport: ...
    def start(self) -> WorkspaceInfo: ...
    def stop(self) -> WorkspaceInfo: ...
    def pause(self) -> WorkspaceInfo: ...
    def suspend(self) -> WorkspaceInfo: ...
    def resume(self) -> WorkspaceInfo: ...
    def set_lifetime(self, *, idle_suspend_s: float | None = None, ttl_s: float | None = None) -> WorkspaceInfo: ...
    def destroy(self) -> None: ...

class Fork(Face):
    @property
    def report(self) -> ForkReport: ...
    @property
    def workspaces(self) -> tuple[Workspace, ...]: ...
    def __iter__(self) -> Iterator[Workspace]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Workspace: ...

class Files(Face):
    def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> FileContent: ...
    def open_read(
        self, path: str, *, offset: int = 0, limit: int | None = None
    ) -> AbstractContextManager[Iterator[bytes]]: ...
    def write(self, path: str, content: bytes | str | Iterator[bytes], *, mode: int | None = 420) -> int: ...
    def edit(self, path: str, old: str, new: str, *, replace_all: bool = False) -> Edited: ...
    def list(self, path: str) -> tuple[FileEntry, ...]: ...
    def stat(self, path: str, *, follow: bool = True) -> FileEntry: ...
    def search(
        self,
        pattern: str,
        path: str = "/",
        *,
        glob: str | None = None,
        fixed: bool = False,
        ignore_case: bool = False,
        max_results: int = 100,
        timeout_s: float = 30.0,
    ) -> SearchResult: ...
    def upload(
        self, host_path: HostPath, guest_path: str, *, exclude: Sequence[str] = ..., on_bytes: OnBytes = ...
    ) -> TreeReport: ...
    def upload_tree(self, host_dir: HostPath, guest_dir: str, *, exclude: Sequence[str] = ...) -> TreeReport: ...
    def download(
        self, guest_path: str, host_path: HostPath, *, exclude: Sequence[str] = ..., on_bytes: OnBytes = ...
    ) -> TreeReport: ...
    def download_tree(self, guest_dir: str, host_dir: HostPath, *, exclude: Sequence[str] = ...) -> TreeReport: ...
    def upload_from(
        self,
        host_path: HostPath,
        guest_path: str,
        roots: Sequence[Path] | None,
        *,
        exclude: Sequence[str] = ...,
        on_bytes: OnBytes = ...,
    ) -> TreeReport: ...
    def download_to(
        self,
        guest_path: str,
        host_path: HostPath,
        roots: Sequence[Path] | None,
        *,
        limits: Limits | None = None,
        exclude: Sequence[str] = ...,
        on_bytes: OnBytes = ...,
    ) -> TreeReport: ...

class Git(Face):
    def clone(
        self,
        url: str,
        path: str = ...,
        *,
        branch: str | None = None,
        depth: int | None = None,
        timeout_s: float = 300.0,
    ) -> GitClone: ...
    def status(self, path: str = ...) -> GitStatus: ...
    def diff(
        self,
        path: str = ...,
        *,
        staged: bool = False,
        stat: bool = False,
        file_path: str | None = None,
        max_bytes: int = 65536,
    ) -> GitDiff: ...
    def commit(
        self,
        message: str,
        path: str = ...,
        *,
        add_all: bool = True,
        author_name: str | None = None,
        author_email: str | None = None,
    ) -> GitCommit: ...
    def push(
        self,
        path: str = ...,
        *,
        remote: str = "origin",
        branch: str | None = None,
        force: bool = False,
        set_upstream: bool = False,
        timeout_s: float = 120.0,
    ) -> GitPush: ...

class Images(Face):
    def list(self) -> tuple[ImageInfo, ...]: ...
    def remove(self, image: str, *, force: bool = False) -> ImageRemoval: ...

class Jobs(Face):
    def start(
        self,
        command: str | Sequence[str],
        *,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
        timeout_s: float | None = None,
        stdin: bool = False,
        terminal: tuple[int, int] | None = None,
        job_id: str | None = None,
    ) -> JobInfo: ...
    def run(
        self,
        command: str | Sequence[str],
        *,
        job_id: str | None = None,
        timeout_s: float | None = None,
        yield_s: float | None = None,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
        max_output_bytes: int = 262144,
        on_output: OnOutput | None = None,
    ) -> ExecResult: ...
    def poll(self, job_id: str, *, cursors: tuple[int, int] = ..., max_bytes: int = 65536) -> JobOutput: ...
    def wait(
        self,
        job_id: str,
        *,
        wait_s: float = 60.0,
        text: str | None = None,
        output: bool = False,
        cursors: tuple[int, int] = ...,
        max_bytes: int = 65536,
    ) -> JobOutput: ...
    def follow(self, job_id: str, *, cursors: tuple[int, int] = ...) -> AbstractContextManager[Output]: ...
    def kill(self, job_id: str, signal: int = 9, *, wait_s: float = 5.0) -> JobEnd: ...
    def input(self, job_id: str, data: bytes | str = b"", *, end: bool = False) -> InputTaken: ...
    def resize(self, job_id: str, rows: int, cols: int) -> None: ...
    def list(self) -> JobList: ...
    def release(self, job_id: str) -> None: ...
    def text(self, job_id: str) -> str: ...

class Output(Face):
    @property
    def job(self) -> JobInfo | None: ...
    @property
    def lost(self) -> tuple[int, int]: ...
    def __iter__(self) -> Output: ...
    def __next__(self) -> OutputEvent: ...

class Ports(Face):
    def forward(self, guest_port: int, host_port: int | None = None) -> PortForward: ...
    def remove(self, guest_port: int) -> PortForward: ...
    def list(self) -> tuple[PortForward, ...]: ...

class Snapshots(Face):
    def create(self, name: str, *, include_memory: bool = True) -> SnapshotInfo: ...
    def list(self) -> tuple[SnapshotInfo, ...]: ...
    def restore(self, snapshot: str, *, disk_only: bool = False) -> WorkspaceInfo: ...
    def diff(self, base: str, other: str | None = None, *, path: str = "/", unified: bool = False) -> Diff: ...
    def delete(self, name: str, *, cascade: bool = False) -> tuple[str, ...]: ...

class Templates(Face):
    def warm(
        self,
        image: str | None = None,
        *,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_gb: int | None = None,
        network: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> TemplateInfo: ...
    def list(self) -> tuple[TemplateInfo, ...]: ...
    def drop(self, *ids: str) -> tuple[TemplateInfo, ...]: ...

def open_system(
    settings: Settings | None = None, *, keep: bool = False, attach: bool | Literal["auto"] = False
) -> AbstractContextManager[System]: ...
