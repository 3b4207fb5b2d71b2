"""What a model reads of a result, beside the structured content that programs read.

The protocol wants the JSON again as text, for clients from before structured content.  They get it.  Of later ones some
hand both to the model and some the text alone: it is short, therefore, and has what matters in a form that is read as
it is, output as output, a file as its text, a list as lines.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import singledispatch
from typing import Any, Final

import attrs
import mcp_types as types

from actors.model.text import plain, printable
from agentiso.display.units import size, span
from agentiso.mcp.tools.commands import ExecToolResult, ParallelItem, ParallelResult
from agentiso.mcp.tools.files import FileListResult, FileReadResult, FileSearchResult
from agentiso.mcp.tools.git import GitDiffResult, GitStatusResult
from agentiso.mcp.tools.jobs import Listed, PollResult
from agentiso.mcp.tools.jobs import ListResult as JobListResult
from agentiso.mcp.tools.lifecycle import LogsResult
from agentiso.mcp.tools.results import JobResult, NodeResult, SummaryResult, WorkspaceResult
from agentiso.mcp.tools.snapshots import Change, DiffResult, SnapshotListResult
from agentiso.mcp.tools.tool import Done
from agentiso.mcp.tools.workspaces import BatchForkResult, ForkToolResult, ListResult
from agentiso.mcp.uris import job_uri

STRUCTURED_SINCE: Final = "2025-06-18"
"""The version of the protocol that brought structured content and links to resources."""


def content_of(result: Any, workspace_id: str | None, protocol_version: str) -> list[types.ContentBlock]:
    """Return the content of a call's result: its text and, where output was cut, a link to all of it."""
    if protocol_version < STRUCTURED_SINCE:
        return [types.TextContent(type="text", text=json.dumps(plain(attrs.asdict(result))))]
    content: list[types.ContentBlock] = [types.TextContent(type="text", text=printable(text_of(result)))]
    if workspace_id is not None and _was_cut(result):
        uri, name = job_uri(workspace_id, result.job_id), f"output of job {result.job_id}"
        content.append(types.ResourceLink(uri=uri, name=name, description="All that is kept.", mime_type="text/plain"))
    return content


def _was_cut(result: Any) -> bool:
    match result:
        case ExecToolResult(truncated=cut):
            return cut
        case PollResult(left_bytes=left):
            return left > 0
    return False


@singledispatch
def text_of(result: Any) -> str:
    """Return the text of a result: its JSON, unless it reads better otherwise."""
    return json.dumps(plain(attrs.asdict(result)))


def _lines(*parts: str | Iterable[str]) -> str:
    """Return texts as lines, without those that are empty."""
    flat = [part for each in parts for part in ([each] if isinstance(each, str) else each)]
    return "\n".join(part.rstrip("\n") for part in flat if part)


@text_of.register
def _(r: Done) -> str:
    return r.message


def _state(r: JobResult | Listed) -> str:
    return "running" if r.running else f"exit {r.exit_code}" if r.exit_code is not None else f"signal {r.signal}"


@text_of.register
def _job(r: JobResult) -> str:
    head = f"{_state(r)}, {r.duration_secs:.1f} s, job {r.job_id}" + (f". {r.note}" if r.note else "")
    # Output goes out as it came, with its spaces and empty lines.
    texts = [head, r.stdout.removesuffix("\n") if r.stdout else ""]
    texts += [f"--- stderr\n{r.stderr.removesuffix(chr(10))}"] if r.stderr else []
    return "\n".join(text for text in texts if text)


@text_of.register
def _(r: PollResult) -> str:
    cursors = f"Read on: stdout_cursor={r.stdout_cursor} stderr_cursor={r.stderr_cursor}"
    on = cursors if r.running or r.left_bytes else ""
    more = f", {r.left_bytes} bytes now" if r.left_bytes else ""
    lost = f"{r.lost_bytes} earlier bytes are not kept any more." if r.lost_bytes else ""
    found = "The text has appeared." if r.text_found else ""
    return _lines(_job(r), found, lost, on + more)


@text_of.register
def _(r: ParallelResult) -> str:
    return _lines(
        f"{r.succeeded} exited with 0, {r.failed} did not; {r.elapsed_ms / 1000:.1f} s",
        (_lines(f"== {i.workspace_id}: {i.error or _ended(i)}", i.stdout, i.stderr) for i in r.results),
    )


def _ended(item: ParallelItem) -> str:
    end = f"exit {item.exit_code}" if item.exit_code is not None else "ended by a signal"
    return end + (", timed out" if item.timed_out else "") + f", job {item.job_id}"


@text_of.register
def _(r: JobListResult) -> str:
    jobs = [f"{job.job_id}  {_state(job)}  {job.duration_secs:.1f} s  {job.command[:200]!r}" for job in r.jobs]
    return _lines(r.note, jobs) or "no jobs"


@text_of.register
def _(r: FileReadResult) -> str:
    if r.size_bytes == 0:
        return "(an empty file)"
    part = f"\n[{r.returned_bytes} of {r.size_bytes} bytes]" if r.returned_bytes < r.size_bytes else ""
    return f"{'' if r.encoding == 'utf-8' else '[base64] '}{r.content}{part}"


@text_of.register
def _(r: FileListResult) -> str:
    slash = {"dir": "/", "symlink": "@"}
    entries = [f"{e.permissions} {e.size:>9} {e.name}{slash.get(e.kind, '')}" for e in r.entries]
    return _lines(entries, r.note) or "empty"


@text_of.register
def _(r: FileSearchResult) -> str:
    more = "; there is more" if r.truncated else ""
    found = f"{len(r.matches)} lines in {r.files} files searched{more}"
    return _lines(found, (f"{m.path}:{m.line}:{m.text}" for m in r.matches))


@text_of.register
def _(r: GitStatusResult) -> str:
    kinds = {"staged": r.staged, "modified": r.modified, "untracked": r.untracked, "conflicted": r.conflicted}
    head = r.error or f"on {r.branch}, {r.ahead} ahead, {r.behind} behind; {r.changes} changes"
    return _lines(head, (f"{kind}: {path}" for kind, paths in kinds.items() for path in paths))


@text_of.register
def _(r: GitDiffResult) -> str:
    return _lines(r.stat, r.diff) or "no changes"


@text_of.register
def _(r: LogsResult) -> str:
    return _lines(
        *([f"== console\n{r.console}"] if r.console is not None else []),
        *([f"== QEMU\n{r.stderr}"] if r.stderr is not None else []),
    )


def _life(w: SummaryResult | WorkspaceResult) -> str:
    return f"{w.state} ({w.ended})" if w.ended else w.state


@text_of.register
def _(r: ListResult) -> str:
    lines = [
        f"{w.name}  {_life(w)}  {w.base_image}, {w.resources.memory_mb} MB  {w.workspace_id}"
        + (f"  from {w.forked_from}" if w.forked_from else "")
        + ("" if w.owned else f"  {w.owner}'s")
        for w in r.workspaces
    ]
    return _lines(lines or "no workspaces", r.note)


@text_of.register
def _(w: WorkspaceResult) -> str:
    shape, internet = w.resources, "internet" if w.network.allow_internet else "no internet"
    ports = ", ".join(f"127.0.0.1:{f.host_port} to {f.guest_port}" for f in w.network.port_forwards)
    return _lines(
        f"{w.name} is {_life(w)}, {w.workspace_id}" + (f": {w.failure}" if w.failure else ""),
        f"its guest has not answered for {span(time.time() - w.mute_since)}" if w.mute_since else "",
        f"{w.base_image}, {shape.vcpus} vCPUs, {shape.memory_mb} MB, {shape.disk_gb} GB, {w.accelerator}, {internet}",
        f"forwards {ports}" if ports else "",
        f"forked from {w.forked_from.name}" if w.forked_from else "",
        f"snapshots: {', '.join(s.name + (' (here)' if s.is_head else '') for s in w.snapshots) or 'none'}",
    )


@text_of.register
def _(r: SnapshotListResult) -> str:
    return _lines(_node(s) for s in r.snapshots) or "no snapshots"


def _node(s: NodeResult) -> str:
    what = f"memory {size(s.size_bytes)}" if s.has_memory else "disk only"
    return f"{s.name}  {what}" + (f"  on {s.parent}" if s.parent else "") + ("  (here)" if s.is_head else "")


@text_of.register
def _(r: DiffResult) -> str:
    head = f"{r.change_count} changed" + ("; some are left out" if r.truncated else "")
    return _lines(head, (_change(c) for c in r.changes), r.diff)


def _change(c: Change) -> str:
    sign = {"added": "+", "removed": "-"}.get(c.change, "~")
    return f"{sign} {c.path}{'/' if c.kind == 'dir' else ''}" + (f"  mode {c.mode_change}" if c.mode_change else "")


@text_of.register
def _(r: ForkToolResult) -> str:
    jobs = {w.name: f"  jobs {json.dumps(w.carried_jobs)}" if w.carried_jobs else "" for w in r.workers}
    ports = ", ".join(map(str, r.dropped_forwards))
    return _lines(
        (f"{w.name}  {w.error or w.workspace_id}{jobs[w.name]}" for w in r.workers),
        f"not forwarded to them: port {ports}" if ports else "",
        r.note,
    )


@text_of.register
def _(r: BatchForkResult) -> str:
    return _lines(
        f"{r.success_count} of {r.requested_count} from {r.snapshot_name}",
        (f"{w.name}  {w.workspace_id}" for w in r.workers),
        (f"{f.name}  {f.error}" for f in r.failures),
        r.note,
    )
