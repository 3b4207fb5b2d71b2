"""Tools for git repositories in the guest."""

from __future__ import annotations

from typing import Final

import attrs

from agentiso.git import WORKSPACE as REPOSITORY
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import WORKSPACE, Call, Tool

PATH: Final = "The repository in the guest."


@attrs.frozen
class GitCloneArguments:
    workspace_id: str = describe(WORKSPACE)
    url: str = describe("http(s)://, git://, ssh:// or user@host:path. A token in it is used once and not stored.")
    path: str = describe("Directory in the guest, new or empty.", REPOSITORY)
    branch: str | None = describe("Branch or tag.", None)
    depth: int | None = describe("Only this many commits.", None, minimum=1)


@attrs.frozen
class GitCloneResult:
    path: str = describe("Where it is.")
    url: str = describe("Without credentials.")
    commit_sha: str = describe("What is checked out; empty if nothing is.")
    branch: str | None = describe("Its branch.")


@attrs.frozen
class GitStatusArguments:
    workspace_id: str = describe(WORKSPACE)
    path: str = describe(PATH, REPOSITORY)


@attrs.frozen
class GitStatusResult:
    branch: str | None = describe("Null when none is checked out.")
    ahead: int = describe("Commits that the upstream lacks.")
    behind: int = describe("Commits that only the upstream has.")
    staged: list[str] = describe("Paths, at most 200 of each kind.")
    modified: list[str] = describe("Changed but not staged.")
    untracked: list[str] = describe("Not known to git.")
    conflicted: list[str] = describe("With merge conflicts.")
    changes: int = describe("How many there are in all.")
    dirty: bool = describe("Whether there are any.")
    error: str = describe("Why there is no status, for instance that this is no repository.")


@attrs.frozen
class GitDiffArguments:
    workspace_id: str = describe(WORKSPACE)
    path: str = describe(PATH, REPOSITORY)
    staged: bool = describe("What is staged instead of what is not.", False)
    stat: bool = describe("Only files and line counts.", False)
    file_path: str | None = describe("Only this file or directory.", None)
    max_bytes: int = describe("The rest is cut off.", 65536, minimum=256, maximum=262144)


@attrs.frozen
class GitDiffResult:
    diff: str = describe("The changes; untracked files are not among them.")
    truncated: bool = describe("Whether the end was cut off.")
    diff_bytes: int = describe("Its whole size.")
    stat: str = describe("Files and lines changed.")


@attrs.frozen
class GitCommitArguments:
    workspace_id: str = describe(WORKSPACE)
    message: str = describe("The commit message.")
    path: str = describe(PATH, REPOSITORY)
    add_all: bool = describe("Stage every change first, new files too.", True)
    author_name: str | None = describe("As configured if absent.", None)
    author_email: str | None = describe("As configured if absent.", None)


@attrs.frozen
class GitCommitResult:
    status: str = describe("committed or nothing_to_commit.")
    commit_sha: str = describe("The commit.")
    short_sha: str = describe("Its first digits.")
    branch: str | None = describe("The branch it is on.")
    summary: str = describe("Subject, files and lines.")


@attrs.frozen
class GitPushArguments:
    workspace_id: str = describe(WORKSPACE)
    path: str = describe(PATH, REPOSITORY)
    remote: str = describe("Name of the remote.", "origin")
    branch: str | None = describe("The one checked out if absent.", None)
    force: bool = describe("Overwrite what the remote has.", False)
    set_upstream: bool = describe("Track the remote's branch from now on.", False)
    timeout_secs: float = describe("Ended after this.", 120.0, minimum=1, maximum=3600)


@attrs.frozen
class GitPushResult:
    remote: str = describe("Where it went.")
    branch: str = describe("What was pushed.")
    output: str = describe("What git said.")


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
    return GitDiffResult(d.diff, d.truncated, d.diff_bytes, d.stat)


async def _commit(call: Call, a: GitCommitArguments) -> GitCommitResult:
    git = (await call.workspace(a.workspace_id)).git
    c = await git.commit(a.message, a.path, add_all=a.add_all, author_name=a.author_name, author_email=a.author_email)
    return GitCommitResult(c.status, c.commit_sha, c.commit_sha[:10], c.branch, c.summary)


async def _push(call: Call, a: GitPushArguments) -> GitPushResult:
    p = await (await call.workspace(a.workspace_id)).git.push(
        a.path, remote=a.remote, branch=a.branch, force=a.force, set_upstream=a.set_upstream, timeout_s=a.timeout_secs
    )
    return GitPushResult(p.remote, p.branch, p.output)


TOOLS: Final = (
    Tool("git_clone", "Clone a repository", "Clone a repository into the guest. Needs allow_internet for what is not "
         "in the guest.", GitCloneArguments, GitCloneResult, _clone, open_world=True),
    Tool("git_status", "Git status", "Branch and changed paths of a repository.", GitStatusArguments, GitStatusResult,
         _status, read_only=True),
    Tool("git_diff", "Git diff", "Changes of a repository as text.", GitDiffArguments, GitDiffResult, _diff,
         read_only=True),
    Tool("git_commit", "Git commit", "Commit the changes of a repository.", GitCommitArguments, GitCommitResult,
         _commit),
    Tool("git_push", "Git push", "Push a branch.", GitPushArguments, GitPushResult, _push, destructive=True,
         open_world=True),
)  # fmt: skip
