"""The tools: what each takes, does and gives, and how it is described to a model."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs

from actors.errors import InvalidArgument
from actors.messages import OnProgress
from actors.model import ExecResult, WorkspaceInfo
from agentiso.mcp.schema import describe
from agentiso.system import System

WORKSPACE: Final = "Name, id, or an id's unambiguous prefix of at least 8 digits."
DEFAULT_OUTPUT_BYTES: Final = 16 * 1024
MAX_FILE_BYTES: Final = 256 * 1024


@attrs.frozen
class Tool:
    """One tool; its handler gets the system, the structured arguments and a function to report progress to."""

    name: str
    title: str
    description: str
    arguments: type
    result: type
    handler: Callable[[System, Any, OnProgress], Awaitable[Any]]
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False


# -- arguments and results ----------------------------------------------------------------------------------------


@attrs.frozen
class CreateArguments:
    name: str | None = describe("1-63 of a-z, 0-9 and '-'; becomes the hostname. Made up if absent.", None)
    base_image: str | None = describe("Image to start from; the configured one if absent.", None)
    vcpus: int | None = describe("Virtual CPUs.", None)
    memory_mb: int | None = describe("Memory in MB.", None)
    disk_gb: int | None = describe("Disk in GB.", None)
    allow_internet: bool | None = describe("Whether the guest may reach the internet; off by default.", None)


@attrs.frozen
class WorkspaceArguments:
    workspace_id: str = describe(WORKSPACE)


@attrs.frozen
class ListArguments:
    state_filter: str | None = describe(
        "Only workspaces in this state.", None, enum=["running", "stopped", "suspended", "failed", None]
    )


@attrs.frozen
class Resources:
    vcpus: int = describe("Virtual CPUs.")
    memory_mb: int = describe("Memory in MB.")
    disk_gb: int = describe("Disk in GB.")


@attrs.frozen
class SnapshotResult:
    id: str = describe("Id of the snapshot.")
    name: str = describe("Its name, unique within the workspace.")
    has_memory: bool = describe("Whether running processes come back with it.")
    parent: str | None = describe("The snapshot that the workspace stood on.")
    created_at: float = describe("Seconds since the Unix epoch.")


@attrs.frozen
class WorkspaceResult:
    workspace_id: str = describe("Opaque id; valid until the workspace is destroyed.")
    name: str = describe("Its name.")
    state: str = describe("creating, running, paused, suspended, stopped, failed or destroyed.")
    ip: str | None = describe("The guest's address on its own network.")
    base_image: str = describe("The image it was made from.")
    resources: Resources = describe("Its size.")
    allow_internet: bool = describe("Whether the guest may reach the internet.")
    accelerator: str = describe("kvm, or tcg for software emulation.")
    started_by: str = describe("restore (memory kept) or cold_boot.")
    start_seconds: float = describe("How long its present machine took to start.")
    forked_from: str | None = describe("Name of the workspace it was forked from.")
    snapshots: list[SnapshotResult] = describe("Its snapshots, oldest first.")
    restore_proven: bool = describe("Whether nonce, random generator and clock were proven at the last start.")
    failure: str | None = describe("Why it failed, if it did.")


@attrs.frozen
class ListResult:
    workspaces: list[WorkspaceResult] = describe("Oldest first.")


@attrs.frozen
class Done:
    message: str = describe("What was done.")


@attrs.frozen
class ExecArguments:
    workspace_id: str = describe(WORKSPACE)
    command: str = describe("Shell command, run by /bin/sh -c as root.")
    timeout_secs: float = describe("After this its whole process group is killed.", 120.0, minimum=0.1, maximum=86400)
    workdir: str | None = describe("Absolute directory to run in; / if absent.", None)
    env: dict[str, str] | None = describe("Additional environment.", None)
    max_output_bytes: int = describe(
        "Kept of each stream, head and tail.", DEFAULT_OUTPUT_BYTES, minimum=256, maximum=262144
    )


@attrs.frozen
class ExecToolResult:
    exit_code: int | None = describe("Exit status; null if a signal ended it. Non-zero is a result, not an error.")
    signal: int | None = describe("The signal that ended it.")
    stdout: str = describe("Standard output; a mark stands where it was cut.")
    stderr: str = describe("Standard error, likewise.")
    stdout_bytes: int = describe("True size of the standard output.")
    stderr_bytes: int = describe("True size of the standard error.")
    truncated: bool = describe("Whether anything was cut.")
    timed_out: bool = describe("Whether the time limit ended it.")
    duration_secs: float = describe("How long it ran.")
    note: str = describe("What was killed and why, if anything was.")


@attrs.frozen
class FileReadArguments:
    workspace_id: str = describe(WORKSPACE)
    path: str = describe("Absolute path in the guest.")
    offset: int = describe("First byte.", 0, minimum=0)
    limit: int = describe("At most this many bytes.", DEFAULT_OUTPUT_BYTES, minimum=1, maximum=MAX_FILE_BYTES)


@attrs.frozen
class FileReadResult:
    content: str = describe("Text, or base64 if it is not UTF-8.")
    encoding: str = describe("utf-8 or base64.")
    offset: int = describe("First byte returned.")
    returned_bytes: int = describe("Bytes returned.")
    size_bytes: int = describe("Size of the whole file; read on from offset + returned_bytes.")


@attrs.frozen
class FileWriteArguments:
    workspace_id: str = describe(WORKSPACE)
    path: str = describe("Absolute path in the guest; parents are made.")
    content: str = describe("The whole content.")
    encoding: str = describe("How content is encoded.", "utf-8", enum=["utf-8", "base64"])
    mode: str | None = describe("Octal permissions such as 0644; an existing file keeps its own.", None)


@attrs.frozen
class FileListArguments:
    workspace_id: str = describe(WORKSPACE)
    path: str = describe("Absolute directory in the guest.")


@attrs.frozen
class Entry:
    name: str = describe("Name within the directory.")
    kind: str = describe("file, dir, symlink or other.")
    size: int = describe("Bytes.")
    permissions: str = describe("Octal permissions.")
    modified: float = describe("Seconds since the Unix epoch.")


@attrs.frozen
class FileListResult:
    entries: list[Entry] = describe("Sorted by name.")


@attrs.frozen
class SnapshotCreateArguments:
    workspace_id: str = describe(WORKSPACE)
    name: str = describe("1-63 of a-z, 0-9 and '-', unique within the workspace.")
    include_memory: bool = describe("Keep running processes too; without it a restore boots cold.", True)


@attrs.frozen
class SnapshotListResult:
    snapshots: list[SnapshotResult] = describe("Oldest first.")


@attrs.frozen
class SnapshotRestoreArguments:
    workspace_id: str = describe(WORKSPACE)
    snapshot_name: str = describe("The snapshot to go back to.")


@attrs.frozen
class ForkArguments:
    workspace_id: str = describe(WORKSPACE)
    count: int = describe("How many children.", 1, minimum=1, maximum=50)
    snapshot_name: str | None = describe("Fork from this snapshot; absent: the running workspace, as it is now.", None)
    new_name: str | None = describe("Name of the child, if there is one only.", None)
    name_prefix: str | None = describe("Children are named PREFIX-1 and on.", None)


@attrs.frozen
class ForkChild:
    name: str = describe("The child's name.")
    workspace_id: str | None = describe("Its id; null if it failed.")
    ready_ms: float | None = describe("Time from the fork point to its proven start.")
    error: str | None = describe("Why it failed; the others are not affected.")


@attrs.frozen
class ForkToolResult:
    forked_from: str = describe("Id of the parent, which runs on.")
    snapshot: str | None = describe("The snapshot forked from; null: the running workspace.")
    pause_ms: float | None = describe("How long the parent stood still.")
    workers: list[ForkChild] = describe("One per child; all stem from the same instant.")


# -- handlers -----------------------------------------------------------------------------------------------------


def _workspace(info: WorkspaceInfo) -> WorkspaceResult:
    return WorkspaceResult(
        workspace_id=info.workspace_id,
        name=info.name,
        state=info.state,
        ip=info.network.ip,
        base_image=info.image,
        resources=Resources(info.shape.vcpus, info.shape.memory_mb, info.shape.disk_gb),
        allow_internet=info.network.allow_internet,
        accelerator=info.accelerator,
        started_by=info.started_by,
        start_seconds=info.start_seconds,
        forked_from=info.forked_from.name if info.forked_from else None,
        snapshots=[SnapshotResult(s.id, s.name, s.has_memory, s.parent, s.created_at) for s in info.snapshots],
        restore_proven=info.evidence is not None and info.evidence.rng_reseeded,
        failure=info.failure,
    )


async def _create(system: System, a: CreateArguments, report: OnProgress) -> WorkspaceResult:
    ws = await system.create(
        a.name, image=a.base_image, vcpus=a.vcpus, memory_mb=a.memory_mb, disk_gb=a.disk_gb,
        allow_internet=a.allow_internet, on_progress=report,
    )  # fmt: skip
    return _workspace(await ws.info())


async def _list(system: System, a: ListArguments, _report: OnProgress) -> ListResult:
    infos = [info for info in await system.list() if a.state_filter in (None, info.state)]
    return ListResult([_workspace(info) for info in infos])


async def _info(system: System, a: WorkspaceArguments, _report: OnProgress) -> WorkspaceResult:
    return _workspace(await (await system.get(a.workspace_id)).info())


async def _destroy(system: System, a: WorkspaceArguments, _report: OnProgress) -> Done:
    ws = await system.get(a.workspace_id)
    await ws.destroy()
    return Done(f"Workspace {ws.name} was destroyed; its forks live on.")


def cut(data: bytes, total: int) -> str:
    """Return output as text, with a mark in the middle if bytes are missing there."""
    if total <= len(data):
        return data.decode(errors="replace")
    half = len(data) - len(data) // 2
    mark = f"\n[... {total - len(data)} of {total} bytes cut here; redirect to a file and use file_read ...]\n"
    return data[:half].decode(errors="replace") + mark + data[half:].decode(errors="replace")


async def _exec(system: System, a: ExecArguments, _report: OnProgress) -> ExecToolResult:
    ws = await system.get(a.workspace_id)
    r: ExecResult = await ws.exec(
        a.command, timeout_s=a.timeout_secs, workdir=a.workdir, env=a.env, max_output_bytes=a.max_output_bytes
    )
    return ExecToolResult(
        exit_code=r.exit_code,
        signal=r.signal,
        stdout=cut(r.stdout, r.stdout_bytes),
        stderr=cut(r.stderr, r.stderr_bytes),
        stdout_bytes=r.stdout_bytes,
        stderr_bytes=r.stderr_bytes,
        truncated=r.stdout_bytes > len(r.stdout) or r.stderr_bytes > len(r.stderr),
        timed_out=r.timed_out,
        duration_secs=r.duration_s,
        note=r.note,
    )


async def _file_read(system: System, a: FileReadArguments, _report: OnProgress) -> FileReadResult:
    found = await (await system.get(a.workspace_id)).read_file(a.path, offset=a.offset, limit=a.limit)
    try:
        content, encoding = found.content.decode(), "utf-8"
    except UnicodeDecodeError:
        content, encoding = base64.b64encode(found.content).decode(), "base64"
    return FileReadResult(content, encoding, a.offset, len(found.content), found.size_bytes)


async def _file_write(system: System, a: FileWriteArguments, _report: OnProgress) -> Done:
    try:
        content = base64.b64decode(a.content, validate=True) if a.encoding == "base64" else a.content.encode()
        mode = None if a.mode is None else int(a.mode, 8)
    except ValueError as error:
        raise InvalidArgument(
            f"content or mode cannot be decoded: {error}.", remedy="Mend it and try again."
        ) from error
    if mode is not None and not 0 <= mode <= 0o7777:
        raise InvalidArgument(f"{a.mode} is not a file mode.", remedy="Use octal permissions such as 0644.")
    size = await (await system.get(a.workspace_id)).write_file(a.path, content, mode=mode)
    return Done(f"{size} bytes were written to {a.path}.")


async def _file_list(system: System, a: FileListArguments, _report: OnProgress) -> FileListResult:
    entries = await (await system.get(a.workspace_id)).list_files(a.path)
    return FileListResult([Entry(e.name, e.kind, e.size_bytes, f"{e.mode:04o}", e.modified_at) for e in entries])


async def _snapshot_create(system: System, a: SnapshotCreateArguments, _report: OnProgress) -> SnapshotResult:
    s = await (await system.get(a.workspace_id)).snapshot(a.name, include_memory=a.include_memory)
    return SnapshotResult(s.id, s.name, s.has_memory, s.parent, s.created_at)


async def _snapshot_list(system: System, a: WorkspaceArguments, _report: OnProgress) -> SnapshotListResult:
    found = await (await system.get(a.workspace_id)).snapshots()
    return SnapshotListResult([SnapshotResult(s.id, s.name, s.has_memory, s.parent, s.created_at) for s in found])


async def _snapshot_restore(system: System, a: SnapshotRestoreArguments, _report: OnProgress) -> WorkspaceResult:
    return _workspace(await (await system.get(a.workspace_id)).restore(a.snapshot_name))


async def _fork(system: System, a: ForkArguments, _report: OnProgress) -> ForkToolResult:
    if a.new_name and a.count != 1:
        raise InvalidArgument("new_name names one child, but count is not 1.", remedy="Use name_prefix.")
    ws = await system.get(a.workspace_id)
    names = [a.new_name] if a.new_name else None
    report = (await ws.fork(a.count, snapshot=a.snapshot_name, names=names, name_prefix=a.name_prefix)).report
    workers = [ForkChild(c.name, c.workspace_id, c.ready_ms, c.error) for c in report.children]
    return ForkToolResult(ws.id, report.snapshot, report.pause_ms, workers)


TOOLS: Final = (
    Tool("workspace_create", "Create a workspace",
         "Make a disposable Linux machine of your own, root inside. It lives until workspace_destroy. "
         "To copy one that you have prepared, use workspace_fork.", CreateArguments, WorkspaceResult, _create),
    Tool("workspace_list", "List workspaces", "All workspaces and their states.", ListArguments, ListResult, _list,
         read_only=True),
    Tool("workspace_info", "Describe a workspace", "All that is known of one workspace.", WorkspaceArguments,
         WorkspaceResult, _info, read_only=True),
    Tool("workspace_destroy", "Destroy a workspace", "End a workspace for good, with its snapshots. Its forks live on.",
         WorkspaceArguments, Done, _destroy, destructive=True, idempotent=True),
    Tool("exec", "Run a command", "Run a shell command in a workspace and wait for its end. Start servers with '&' and "
         "their output redirected.", ExecArguments, ExecToolResult, _exec, destructive=True),
    Tool("file_read", "Read a file", "Read a guest file, or a piece of it.", FileReadArguments, FileReadResult,
         _file_read, read_only=True),
    Tool("file_write", "Write a file", "Replace a guest file atomically.", FileWriteArguments, Done, _file_write,
         destructive=True, idempotent=True),
    Tool("file_list", "List a directory", "List a guest directory.", FileListArguments, FileListResult, _file_list,
         read_only=True),
    Tool("snapshot_create", "Take a snapshot", "Keep the workspace's present state, processes included, under a name; "
         "it runs on.", SnapshotCreateArguments, SnapshotResult, _snapshot_create),
    Tool("snapshot_list", "List snapshots", "The snapshots of a workspace.", WorkspaceArguments, SnapshotListResult,
         _snapshot_list, read_only=True),
    Tool("snapshot_restore", "Restore a snapshot", "Go back to a snapshot in place. What came after it is lost unless "
         "it was kept in another snapshot; the other snapshots stay.", SnapshotRestoreArguments, WorkspaceResult,
         _snapshot_restore, destructive=True),
    Tool("workspace_fork", "Fork a workspace", "Copy a running workspace, memory and disk, into new ones that go on "
         "from the same instant with identities of their own. The parent runs on.", ForkArguments, ForkToolResult,
         _fork),
)  # fmt: skip
