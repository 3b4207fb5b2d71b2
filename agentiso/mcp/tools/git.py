"""Tools for git repositories in the guest."""

from __future__ import annotations

from typing import Final

import attrs

from agentiso.library.git import WORKSPACE as REPOSITORY
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import LONG, Call, Tool

PATH: Final = f"Absent: {REPOSITORY}"


@attrs.frozen
class GitCloneArguments:
    workspace_id: str
    url: str = describe("http(s)://, git://, ssh:// or user@host:path; a token in it is not stored")
    path: str = describe(f"New or empty. {PATH}", REPOSITORY)
    branch: str | None = describe("Branch or tag", None)
    depth: int | None = describe("Only so many commits", None, minimum=1)


@attrs.frozen
class GitCloneResult:
    path: str
    url: str
    """Without credentials."""
    commit_sha: str
    branch: str | None


@attrs.frozen
class GitStatusArguments:
    workspace_id: str
    path: str = describe(PATH, REPOSITORY)


@attrs.frozen
class GitStatusResult:
    branch: str | None
    ahead: int
    behind: int
    staged: list[str] = describe("Paths, at most 200 of a kind")
    modified: list[str] = describe()
    untracked: list[str] = describe()
    conflicted: list[str] = describe()
    changes: int = describe("How many in all")
    dirty: bool = describe()
    error: str = describe("Why there is no status")


@attrs.frozen
class GitDiffArguments:
    workspace_id: str
    path: str = describe(PATH, REPOSITORY)
    staged: bool = describe("Only what is staged", False)
    stat: bool = describe("Only files and line counts", False)
    file_path: str | None = describe("Only this file or directory", None)
    max_bytes: int = describe("The rest is cut off", 65536, minimum=256, maximum=262144)


@attrs.frozen
class GitDiffResult:
    diff: str = describe("Untracked files are not in it")
    truncated: bool = describe()
    diff_bytes: int = describe("Uncut")
    stat: str = describe()


@attrs.frozen
class GitCommitArguments:
    workspace_id: str
    message: str = describe(maxLength=LONG)
    path: str = describe(PATH, REPOSITORY)
    add_all: bool = describe("Stage all changes first; the default", True)
    author_name: str | None = describe("Absent: as configured", None)
    author_email: str | None = describe("Absent: as configured", None)


@attrs.frozen
class GitCommitResult:
    status: str = describe("committed or nothing_to_commit")
    commit_sha: str = describe()
    short_sha: str = describe()
    branch: str | None = describe()
    summary: str = describe()


@attrs.frozen
class GitPushArguments:
    workspace_id: str
    path: str = describe(PATH, REPOSITORY)
    remote: str = describe("Absent: origin", "origin")
    branch: str | None = describe("Absent: the one checked out", None)
    force: bool = describe("Overwrite what it has", False)
    set_upstream: bool = describe("Track its branch from now on", False)
    timeout_secs: float = describe("Absent: 120", 120.0, minimum=1, maximum=3600)


@attrs.frozen
class GitPushResult:
    remote: str
    branch: str
    output: str


async def _clone(call: Call, a: GitCloneArguments) -> GitCloneResult:
    call.report("cloning")
    made = await (await call.workspace(a.workspace_id)).git.clone(a.url, a.path, branch=a.branch, depth=a.depth)
    return GitCloneResult(made.path, made.url, made.commit_sha, made.branch)


async def _status(call: Call, a: GitStatusArguments) -> GitStatusResult:
    s = await (await call.workspace(a.workspace_id)).git.status(a.path)
    return GitStatusResult(
        s.branch, s.ahead, s.behind, list(s.staged), list(s.modified), list(s.untracked), list(s.conflicted),
        s.changes, s.dirty, s.error,
    )  # fmt: skip


async def _diff(call: Call, a: GitDiffArguments) -> GitDiffResult:
    git = (await call.workspace(a.workspace_id)).git
    d = await git.diff(a.path, staged=a.staged, stat=a.stat, file_path=a.file_path, max_bytes=a.max_bytes)
    text = d.diff
    if d.truncated:
        how = "file_path narrows it; or exec git diff > FILE, and file_read that"
        text += f"\n[... {d.diff_bytes} bytes in all, the rest is cut; {how} ...]\n"
    return GitDiffResult(text, d.truncated, d.diff_bytes, d.stat)


async def _commit(call: Call, a: GitCommitArguments) -> GitCommitResult:
    git = (await call.workspace(a.workspace_id)).git
    c = await git.commit(a.message, a.path, add_all=a.add_all, author_name=a.author_name, author_email=a.author_email)
    return GitCommitResult(c.status, c.commit_sha, c.commit_sha[:10], c.branch, c.summary)


async def _push(call: Call, a: GitPushArguments) -> GitPushResult:
    git = (await call.workspace(a.workspace_id)).git
    call.report("pushing")
    p = await git.push(
        a.path, remote=a.remote, branch=a.branch, force=a.force, set_upstream=a.set_upstream, timeout_s=a.timeout_secs
    )
    return GitPushResult(p.remote, p.branch, p.output)


TOOLS: Final = (
    Tool("git_clone", "Clone a repository into the guest. From beyond it that needs allow_internet.", GitCloneArguments,
         GitCloneResult, _clone, open_world=True),
    Tool("git_status", "Branch and changed paths of a repository.", GitStatusArguments, GitStatusResult, _status,
         read_only=True),
    Tool("git_diff", "Changes of a repository as text.", GitDiffArguments, GitDiffResult, _diff, read_only=True),
    Tool("git_commit", "Commit the changes of a repository.", GitCommitArguments, GitCommitResult, _commit),
    Tool("git_push", "Push a branch.", GitPushArguments, GitPushResult, _push, destructive=True, open_world=True),
)  # fmt: skip
