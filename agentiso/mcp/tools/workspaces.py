"""Tools for the life of workspaces."""

from __future__ import annotations

from typing import Final

import attrs

from actors.errors import InvalidArgument
from actors.model import ForkedChild, ForkReport, Lifetime
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.ownership import check_destroyable
from agentiso.mcp.tools.results import (
    StateResult,
    SummaryResult,
    WorkspaceResult,
    state_result,
    summary_result,
    workspace_result,
)
from agentiso.mcp.tools.tool import KEY, WORKSPACE, Call, Done, Tool, WorkspaceArguments


@attrs.frozen
class CreateArguments:
    name: str | None = describe("1-63 of a-z, 0-9 and '-'; becomes the hostname. Made up if absent.", None)
    base_image: str | None = describe("Image to start from; the configured one if absent.", None)
    vcpus: int | None = describe("Virtual CPUs.", None)
    memory_mb: int | None = describe("Memory in MB.", None)
    disk_gb: int | None = describe("Disk in GB.", None)
    allow_internet: bool | None = describe("Whether the guest may reach the internet; off by default.", None)
    idle_suspend_secs: float | None = describe("Suspend when idle for so long; it wakes on use.", None)
    idempotency_key: str | None = describe(KEY, None)
    ttl_secs: float | None = describe("Destroy after so long.", None)


@attrs.frozen
class ListArguments:
    state_filter: str | None = describe(
        "Only workspaces in this state.", None, enum=["running", "paused", "stopped", "suspended", "failed", None]
    )


@attrs.frozen
class ListResult:
    workspaces: list[SummaryResult] = describe("Oldest first.")


@attrs.frozen
class DestroyArguments:
    workspace_id: str = describe(WORKSPACE)
    force: bool = describe("Even if another session's work is lost with it.", False)
    idempotency_key: str | None = describe(KEY, None)


@attrs.frozen
class ForkArguments:
    workspace_id: str = describe(WORKSPACE)
    count: int = describe("How many children.", 1, minimum=1, maximum=50)
    snapshot_name: str | None = describe("Fork from this snapshot; absent: the running workspace, as it is now.", None)
    idempotency_key: str | None = describe(KEY, None)
    new_name: str | None = describe("Name of the child, if there is one only.", None)
    name_prefix: str | None = describe("Children are named PREFIX-1 and on.", None)


@attrs.frozen
class ForkChild:
    name: str = describe("The child's name.")
    workspace_id: str | None = describe("Its id; null if it failed.")
    ready_ms: float | None = describe("Time from the fork point to its proven start.")
    error: str | None = describe("Why it failed; the others are not affected.")
    carried_jobs: dict[str, str] = describe("Jobs that run on in it: their ids here, by those in the parent.")


@attrs.frozen
class ForkToolResult:
    forked_from: str = describe("Id of the parent, which runs on.")
    snapshot: str | None = describe("The snapshot forked from; null: the running workspace.")
    pause_ms: float | None = describe("How long the parent stood still.")
    workers: list[ForkChild] = describe("One per child; all stem from the same instant.")


@attrs.frozen
class BatchForkArguments:
    workspace_id: str = describe(WORKSPACE)
    count: int = describe("How many.", minimum=1, maximum=20)
    snapshot_name: str = describe("The snapshot to fork from.", "golden")
    name_prefix: str = describe("Workers are named PREFIX-1 and on.", "worker")


@attrs.frozen
class BatchWorker:
    workspace_id: str = describe("Its id.")
    name: str = describe("Its name.")
    ip: str | None = describe("Its address.")


@attrs.frozen
class BatchFailure:
    index: int = describe("Which one.")
    name: str = describe("Its name.")
    error: str = describe("Why it failed.")


@attrs.frozen
class BatchForkResult:
    source_workspace_id: str = describe("Id of the parent.")
    snapshot_name: str = describe("The snapshot forked from.")
    requested_count: int = describe("Asked for.")
    success_count: int = describe("Running.")
    failure_count: int = describe("Failed; the others are not affected.")
    workers: list[BatchWorker] = describe("Those that run.")
    failures: list[BatchFailure] = describe("Those that do not.")


async def _create(call: Call, a: CreateArguments) -> StateResult:
    unset = call.system.settings.lifetime
    lifetime = Lifetime(
        unset.idle_suspend_s if a.idle_suspend_secs is None else a.idle_suspend_secs,
        unset.ttl_s if a.ttl_secs is None else a.ttl_secs,
    )
    ws = await call.system.create(
        a.name, image=a.base_image, vcpus=a.vcpus, memory_mb=a.memory_mb, disk_gb=a.disk_gb,
        allow_internet=a.allow_internet, lifetime=lifetime, on_progress=call.report,
        owner=call.client.session,
    )  # fmt: skip
    return state_result(await ws.info())


async def _list(call: Call, a: ListArguments) -> ListResult:
    infos = [info for info in await call.system.list() if a.state_filter in (None, info.state)]
    return ListResult([summary_result(info, owned=call.gate.owns(call.client, info.owner)) for info in infos])


async def _info(call: Call, a: WorkspaceArguments) -> WorkspaceResult:
    return workspace_result(await (await call.workspace(a.workspace_id)).info())


async def _destroy(call: Call, a: DestroyArguments) -> Done:
    ws = await call.find(a.workspace_id)
    await check_destroyable(call, ws, force=a.force)
    await ws.destroy()
    return Done(f"Workspace {ws.name} was destroyed; its forks live on.")


async def _fork(call: Call, a: ForkArguments) -> ForkToolResult:
    if a.new_name and a.count != 1:
        raise InvalidArgument("new_name names one child, but count is not 1.", remedy="Use name_prefix.")
    ws = await call.workspace(a.workspace_id)
    names = [a.new_name] if a.new_name else None
    fork = await ws.fork(
        a.count, snapshot=a.snapshot_name, names=names, name_prefix=a.name_prefix, owner=call.client.session
    )
    report = fork.report
    workers = [ForkChild(c.name, c.workspace_id, c.ready_ms, c.error, _carried(c)) for c in report.children]
    return ForkToolResult(ws.id, report.snapshot, report.pause_ms, workers)


def _carried(child: ForkedChild) -> dict[str, str]:
    jobs = child.evidence.jobs if child.evidence else ()
    return {job.carried_from: job.job_id for job in jobs if job.carried_from is not None}


async def _batch_fork(call: Call, a: BatchForkArguments) -> BatchForkResult:
    ws = await call.workspace(a.workspace_id)
    call.report(f"forking {a.count} workers")
    fork = await ws.fork(a.count, snapshot=a.snapshot_name, name_prefix=a.name_prefix, owner=call.client.session)
    report = fork.report
    # All have the parent's address: each is alone on a network of its own.
    return _batch_result(report, a.snapshot_name, (await ws.info()).network.ip)


def _batch_result(report: ForkReport, snapshot: str, ip: str | None) -> BatchForkResult:
    workers = [BatchWorker(c.workspace_id, c.name, ip) for c in report.children if c.workspace_id]
    failures = [BatchFailure(c.index, c.name, c.error or "") for c in report.children if not c.workspace_id]
    return BatchForkResult(
        report.parent, snapshot, len(report.children), len(workers), len(failures), workers, failures
    )


TOOLS: Final = (
    Tool("workspace_create", "Create a workspace",
         "Make a disposable Linux machine of your own, root inside. It lives until workspace_destroy. "
         "To copy one that you have prepared, use workspace_fork.", CreateArguments, StateResult, _create),
    Tool("workspace_list", "List workspaces", "All workspaces and their states, those of other "
         "sessions too: they are not owned until you take them with workspace_adopt.", ListArguments, ListResult, _list,
         read_only=True),
    Tool("workspace_info", "Describe a workspace", "All that is known of one workspace.", WorkspaceArguments,
         WorkspaceResult, _info, read_only=True),
    Tool("workspace_destroy", "Destroy a workspace", "End a workspace for good, with its snapshots. Its forks live on.",
         DestroyArguments, Done, _destroy, destructive=True, idempotent=True),
    Tool("workspace_fork", "Fork a workspace", "Copy a running workspace, memory and disk, into new ones that go on "
         "from the same instant with identities of their own. The parent runs on.", ForkArguments, ForkToolResult,
         _fork),
    Tool("workspace_batch_fork", "Fork many workers", "Fork workers from a snapshot, each may fail alone. Without a "
         "snapshot: workspace_fork.", BatchForkArguments, BatchForkResult, _batch_fork),
)  # fmt: skip
