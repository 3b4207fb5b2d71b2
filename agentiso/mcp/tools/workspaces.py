"""Tools for the life of workspaces."""

from __future__ import annotations

from typing import Final

import attrs

from actors.model.errors import InvalidArgument
from actors.model.info import ForkedChild, ForkReport, Lifetime
from actors.registry import messages as r
from agentiso.library.templates import asked_shape
from agentiso.mcp.schema import describe, outline
from agentiso.mcp.tools.ownership import check_destroyable
from agentiso.mcp.tools.results import (
    CreateResult,
    SummaryResult,
    WorkspaceResult,
    create_result,
    summary_result,
    workspace_result,
)
from agentiso.mcp.tools.tool import KEY, MAX_KEY_CHARS, Call, Done, Tool, WorkspaceArguments

MAX_NOTED: Final = 5


@attrs.frozen
class CreateArguments:
    name: str | None = describe("1-63 of a-z, 0-9, '-'. Absent: made up", None)
    base_image: str | None = describe("Absent: the configured one", None)
    vcpus: int | None = None
    memory_mb: int | None = None
    disk_gb: int | None = None
    allow_internet: bool | None = describe("Internet access; off by default", None)
    idle_suspend_secs: float | None = describe("Suspend when idle so long", None)
    idempotency_key: str | None = describe(KEY, None, maxLength=MAX_KEY_CHARS)
    ttl_secs: float | None = describe("Destroy it after this", None)


@attrs.frozen
class ListArguments:
    state_filter: str | None = describe(
        "Only workspaces in this state", None, enum=["running", "paused", "stopped", "suspended", "failed", None]
    )


@attrs.frozen
class ListResult:
    workspaces: list[SummaryResult] = outline("Oldest first")
    note: str = describe()
    """What is not listed, since it is damaged."""


@attrs.frozen
class DestroyArguments:
    workspace_id: str
    force: bool = describe("Even if another session's work is lost", False)
    idempotency_key: str | None = describe(KEY, None, maxLength=MAX_KEY_CHARS)


@attrs.frozen
class ForkArguments:
    workspace_id: str
    count: int = describe("How many children, 1 to 50", 1, minimum=1, maximum=50)
    snapshot_name: str | None = describe("Absent: the workspace as it is now", None)
    idempotency_key: str | None = describe(KEY, None, maxLength=MAX_KEY_CHARS)
    new_name: str | None = describe("Name of an only child", None)
    name_prefix: str | None = describe("Names: PREFIX-1 and on", None)


@attrs.frozen
class ForkChild:
    name: str
    workspace_id: str | None
    ready_ms: float | None
    error: str | None
    carried_jobs: dict[str, str] = describe("their ids here, by those in the parent")
    connections_closed: int | None = describe()


@attrs.frozen
class ForkToolResult:
    forked_from: str = describe("The parent's id")
    pause_ms: float | None = describe()
    """The parent stood still for it."""
    copied_bytes: int = describe()
    dropped_forwards: list[int] = describe()
    """The parent's forwarded ports, which are not its children's."""
    workers: list[ForkChild] = outline("The children")
    note: str = describe()
    """Why they booted from the disk, if they have no memory of the parent's."""


@attrs.frozen
class BatchForkArguments:
    workspace_id: str
    count: int = describe("How many workers, 1 to 20", minimum=1, maximum=20)
    snapshot_name: str = describe("Absent: golden", "golden")
    name_prefix: str = describe("Names: PREFIX-1 and on. Absent: worker", "worker")
    idempotency_key: str | None = describe(KEY, None, maxLength=MAX_KEY_CHARS)


@attrs.frozen
class BatchWorker:
    workspace_id: str
    name: str
    ip: str | None


@attrs.frozen
class BatchFailure:
    index: int
    name: str
    error: str


@attrs.frozen
class BatchForkResult:
    source_workspace_id: str
    snapshot_name: str
    requested_count: int
    success_count: int
    failure_count: int
    workers: list[BatchWorker] = outline()
    failures: list[BatchFailure] = outline()
    note: str = describe()


async def _create(call: Call, a: CreateArguments) -> CreateResult:
    settings, unset = call.system.settings, call.system.settings.lifetime
    lifetime = Lifetime(
        unset.idle_suspend_s if a.idle_suspend_secs is None else a.idle_suspend_secs,
        unset.ttl_s if a.ttl_secs is None else a.ttl_secs,
    )
    message = r.CreateWorkspace(
        a.name, a.base_image, asked_shape(settings, a.vcpus, a.memory_mb, a.disk_gb), allow_internet=a.allow_internet,
        lifetime=lifetime, on_progress=call.report, owner=call.client.session,
    )  # fmt: skip
    return create_result((await call.system.registry.ask(message)).info)


async def _list(call: Call, a: ListArguments) -> ListResult:
    infos = [info for info in await call.system.list() if a.state_filter in (None, info.state)]
    damaged = (await call.system.registry.ask(r.Diagnose(again=False))).damaged
    whats = ", ".join(trouble.what for trouble in damaged[:MAX_NOTED])
    note = f"Damaged or not understood, and left alone: {whats}; see agentiso://doctor" if damaged else ""
    return ListResult([summary_result(info, owned=call.gate.owns(call.client, info.owner)) for info in infos], note)


async def _info(call: Call, a: WorkspaceArguments) -> WorkspaceResult:
    return workspace_result(await (await call.workspace(a.workspace_id)).info())


async def _destroy(call: Call, a: DestroyArguments) -> Done:
    ws = await call.find(a.workspace_id)
    await check_destroyable(call, ws, force=a.force)
    call.report("ending its machine")
    await ws.destroy()
    return Done(f"Workspace {ws.name} was destroyed.")


async def _fork(call: Call, a: ForkArguments) -> ForkToolResult:
    if a.new_name and a.count != 1:
        raise InvalidArgument("new_name names one child, but count is not 1.", remedy="Use name_prefix.")
    ws = await call.workspace(a.workspace_id)
    names = [a.new_name] if a.new_name else None
    call.report(f"starting {a.count} from {a.snapshot_name or 'a checkpoint'}")
    fork = await ws.fork(
        a.count, snapshot=a.snapshot_name, names=names, name_prefix=a.name_prefix, owner=call.client.session
    )
    report = fork.report
    return ForkToolResult(
        ws.id, report.pause_ms, report.copied_bytes, list(report.dropped_forwards),
        [_fork_child(child) for child in report.children], report.note,
    )  # fmt: skip


def _fork_child(child: ForkedChild) -> ForkChild:
    closed = child.evidence.connections_closed if child.evidence else None
    return ForkChild(child.name, child.workspace_id, child.ready_ms, child.error, _carried(child), closed)


def _carried(child: ForkedChild) -> dict[str, str]:
    jobs = child.evidence.jobs if child.evidence else ()
    return {job.carried_from: job.job_id for job in jobs if job.carried_from is not None}


async def _batch_fork(call: Call, a: BatchForkArguments) -> BatchForkResult:
    ws = await call.workspace(a.workspace_id)
    call.report(f"forking {a.count} workers")
    fork = await ws.fork(a.count, snapshot=a.snapshot_name, name_prefix=a.name_prefix, owner=call.client.session)
    return _batch_result(fork.report, a.snapshot_name)


def _batch_result(report: ForkReport, snapshot: str) -> BatchForkResult:
    workers = [BatchWorker(c.workspace_id, c.name, c.ip) for c in report.children if c.workspace_id]
    failures = [BatchFailure(c.index, c.name, c.error or "") for c in report.children if not c.workspace_id]
    return BatchForkResult(
        report.parent, snapshot, len(report.children), len(workers), len(failures), workers, failures,
        report.note,
    )  # fmt: skip


TOOLS: Final = (
    Tool("workspace_create", "Make a disposable Linux machine, root inside, that lives until workspace_destroy. To "
         "copy a prepared one: workspace_fork. Tools take its name or id as workspace_id.", CreateArguments,
         CreateResult, _create),
    Tool("workspace_list", "All workspaces and their states. Another session's is not owned until workspace_adopt.",
         ListArguments, ListResult, _list, read_only=True),
    Tool("workspace_info", "All that is known of one workspace.", WorkspaceArguments, WorkspaceResult, _info,
         read_only=True),
    Tool("workspace_destroy", "End a workspace for good, with its snapshots. Its forks live on.", DestroyArguments,
         Done, _destroy, destructive=True, idempotent=True),
    Tool("workspace_fork", "Copy a workspace, memory and disk, into new ones that go on from the same instant with "
         "identities of their own. It runs on.", ForkArguments, ForkToolResult, _fork),
    Tool("workspace_batch_fork", "Fork workers from a snapshot, each may fail alone. Without a snapshot: "
         "workspace_fork.", BatchForkArguments, BatchForkResult, _batch_fork),
)  # fmt: skip
