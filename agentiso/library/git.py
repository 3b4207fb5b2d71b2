"""Git in a workspace's guest: the guest's own git, run with argument lists, its answers read."""

from __future__ import annotations

from typing import Final

import attrs

from actors.model.errors import AgentisoError, GuestRefused, InvalidArgument
from actors.model.guest import ExecResult
from actors.model.text import shown
from agentiso.library.execution import Executes
from agentiso.library.git_text import Address, GitStatus, check_ref, check_remote, check_url, hint, parse_status, redact

WORKSPACE: Final = "/workspace"
"""Where a repository is unless another path is given."""
LOCAL_LIMIT_S: Final = 60.0
MAX_STATUS_BYTES: Final = 4 * 1024 * 1024
MAX_MESSAGE_CHARS: Final = 64 * 1024
ENVIRONMENT: Final = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C.UTF-8",
}
AUTHOR: Final = ("agentiso", "agentiso@localhost")
"""Of commits where neither the call nor the guest's configuration names one."""


class GitFailed(AgentisoError):
    """Git refused or failed; the message has its words, credentials cut out."""

    code = "git_failed"
    usual_remedy = "Run git in the guest with exec to see more."


@attrs.frozen
class GitClone:
    """A fresh clone."""

    path: str
    url: str
    """Without credentials, as the clone remembers it."""
    commit_sha: str
    branch: str | None


@attrs.frozen
class GitDiff:
    """Changes as text."""

    diff: str
    truncated: bool
    """Whether its end was cut off."""
    diff_bytes: int
    stat: str
    """Files and lines changed, in words."""


@attrs.frozen
class GitCommit:
    """A commit, or that there was nothing to commit."""

    status: str
    """``committed`` or ``nothing_to_commit``."""
    commit_sha: str = ""
    branch: str | None = None
    summary: str = ""


@attrs.frozen
class GitPush:
    """A push that the remote took."""

    remote: str
    branch: str
    output: str


class Git:
    """``workspace.git``.  Paths are absolute paths of the guest; every method may raise `GitFailed`."""

    def __init__(self, workspace: Executes) -> None:
        self._workspace = workspace

    async def clone(
        self,
        url: str,
        path: str = WORKSPACE,
        *,
        branch: str | None = None,
        depth: int | None = None,
        timeout_s: float = 300.0,
    ) -> GitClone:
        """Clone a repository into a directory that does not exist or is empty.

        Credentials in an http URL are used for this call alone: git gets them in its environment, the clone's
        configuration does not have them, and they are cut out of errors.

        Raises:
            InvalidArgument: the URL, branch, depth or path is malformed.

        """
        address = check_url(url)
        if depth is not None and depth < 1:
            raise InvalidArgument(f"A depth of {depth} is out of range.", remedy="Use 1 or more, or leave it out.")
        options = [f"--branch={check_ref(branch)}"] if branch else []
        options += [f"--depth={depth}"] if depth else []
        argv = ["clone", "--quiet", *options, "--", address.url, _path(path)]
        env = {}
        if address.with_secret:
            env = {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"url.{address.with_secret}.insteadOf",
                "GIT_CONFIG_VALUE_0": address.url,
            }
        await self._git(argv, timeout_s=timeout_s, env=env, address=address)
        found = await self._try(path, "rev-parse", "HEAD")
        sha = _text(found) if found.exit_code == 0 else ""
        return GitClone(path, redact(address.url), sha, await self._branch(path))

    async def status(self, path: str = WORKSPACE) -> GitStatus:
        """Return the state of a working tree; that the path is no repository is a result, with ``error`` set."""
        argv = ("status", "--porcelain=v2", "--branch", "-z")
        result = await self._try(path, *argv, max_output_bytes=MAX_STATUS_BYTES)
        if result.exit_code != 0:
            return GitStatus(error=_failure(result).message)
        if result.stdout_bytes > len(result.stdout):
            raise GitFailed(f"The status of {path} has {result.stdout_bytes} bytes.", remedy="Use exec: git status")
        return parse_status(result.stdout.decode(errors="replace"))

    async def diff(
        self,
        path: str = WORKSPACE,
        *,
        staged: bool = False,
        stat: bool = False,
        file_path: str | None = None,
        max_bytes: int = 65536,
    ) -> GitDiff:
        """Return what was changed but not staged, or with ``staged`` not committed; with ``stat`` only how much.

        Untracked files are not part of it.  ``file_path`` limits it to one file or directory.
        """
        if max_bytes < 1:
            raise InvalidArgument(f"max_bytes is {max_bytes}; at least 1 is needed.", remedy="Use a larger one.")
        what = ["--no-color", "--no-ext-diff", *(["--cached"] if staged else [])]
        where = ["--", file_path] if file_path else []
        counted = await self._git(["diff", *what, "--stat" if stat else "--shortstat", *where], path=path)
        if stat:
            return GitDiff("", truncated=False, diff_bytes=0, stat=_text(counted))
        # Of twice as much as is wanted, the half that is kept from the beginning is whole.
        result = await self._git(["diff", *what, *where], path=path, max_output_bytes=2 * max_bytes)
        text = result.stdout[:max_bytes].decode(errors="replace")
        return GitDiff(text, result.stdout_bytes > max_bytes, result.stdout_bytes, _text(counted))

    async def commit(
        self,
        message: str,
        path: str = WORKSPACE,
        *,
        add_all: bool = True,
        author_name: str | None = None,
        author_email: str | None = None,
    ) -> GitCommit:
        """Commit what is staged, with ``add_all`` every change; that there is nothing is a result, not an error."""
        if not message.strip() or len(message) > MAX_MESSAGE_CHARS:
            raise InvalidArgument(
                f"A commit message of {len(message)} characters is not possible.",
                remedy=f"Use 1 to {MAX_MESSAGE_CHARS}, not all of them blank.",
            )
        if add_all:
            await self._git(["add", "--all"], path=path)
        merging = (await self._try(path, "rev-parse", "--quiet", "--verify", "MERGE_HEAD")).exit_code == 0
        if not merging and (await self._try(path, "diff", "--cached", "--quiet")).exit_code == 0:
            return GitCommit("nothing_to_commit", branch=await self._branch(path))
        env = await self._author(path, author_name, author_email)
        await self._git(["commit", "--quiet", f"--message={message}"], path=path, env=env)
        sha = _text(await self._git(["rev-parse", "HEAD"], path=path))
        summary = _text(await self._git(["show", "--no-color", "--shortstat", "--format=%s", "HEAD"], path=path))
        return GitCommit("committed", sha, await self._branch(path), " ".join(summary.split())[:500])

    async def push(
        self,
        path: str = WORKSPACE,
        *,
        remote: str = "origin",
        branch: str | None = None,
        force: bool = False,
        set_upstream: bool = False,
        timeout_s: float = 120.0,
    ) -> GitPush:
        """Push a branch, the one that is checked out unless it is named.

        Raises:
            GitFailed: the remote refused it or cannot be reached; the remedy names what to do.

        """
        check_remote(remote)
        chosen = check_ref(branch) if branch else await self._branch(path)
        if chosen is None:
            raise GitFailed(f"No branch is checked out in {path}.", remedy="Name one, or check one out.")
        options = [*(["--force"] if force else []), *(["--set-upstream"] if set_upstream else [])]
        result = await self._git(
            ["push", "--porcelain", *options, "--", remote, chosen], path=path, timeout_s=timeout_s
        )
        return GitPush(remote, chosen, redact(_text(result)))

    async def _author(self, path: str, name: str | None, email: str | None) -> dict[str, str]:
        """Return the environment that names who commits, where the guest's configuration does not."""
        env = {}
        for key, given, fallback in (("name", name, AUTHOR[0]), ("email", email, AUTHOR[1])):
            known = (await self._try(path, "config", f"user.{key}")).exit_code == 0
            if given or not known:
                env[f"GIT_AUTHOR_{key.upper()}"] = given or fallback
            if not known:
                env[f"GIT_COMMITTER_{key.upper()}"] = given or fallback
        return env

    async def _branch(self, path: str) -> str | None:
        result = await self._try(path, "symbolic-ref", "--quiet", "--short", "HEAD")
        return _text(result) if result.exit_code == 0 else None

    async def _try(self, path: str, *words: str, max_output_bytes: int = 65536) -> ExecResult:
        """Run a quick git command in a repository, whatever it exits with."""
        argv = ["-C", _path(path), *words]
        return await self._run(argv, timeout_s=LOCAL_LIMIT_S, env={}, max_output_bytes=max_output_bytes)

    async def _git(
        self,
        words: list[str],
        *,
        path: str | None = None,
        timeout_s: float = LOCAL_LIMIT_S,
        env: dict[str, str] | None = None,
        max_output_bytes: int = 65536,
        address: Address | None = None,
    ) -> ExecResult:
        argv = [*(["-C", _path(path)] if path is not None else []), *words]
        result = await self._run(argv, timeout_s=timeout_s, env=env or {}, max_output_bytes=max_output_bytes)
        if result.timed_out:
            raise GitFailed(f"git {words[0]} took longer than {timeout_s:.0f} s and was ended.", remedy="Allow more.")
        if result.exit_code != 0:
            raise _failure(result, address)
        return result

    async def _run(
        self, argv: list[str], *, timeout_s: float, env: dict[str, str], max_output_bytes: int
    ) -> ExecResult:
        # Whoever owns the repository: all of the guest belongs to whoever uses it.
        command = ["git", "-c", "safe.directory=*", *argv]
        try:
            return await self._workspace.exec(
                command, timeout_s=timeout_s, env={**ENVIRONMENT, **env}, max_output_bytes=max_output_bytes
            )
        except GuestRefused as error:
            if error.facts.get("guest_code") == "no_such_program":
                raise GitFailed(
                    "There is no git in the guest.", remedy="Install it there, or use another image."
                ) from error
            raise


def _path(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"{shown(path, 200)} is not an absolute path.", remedy="Begin it with /.")
    return path


def _text(result: ExecResult) -> str:
    return result.stdout.decode(errors="replace").strip()


def _failure(result: ExecResult, address: Address | None = None) -> GitFailed:
    # After the word of what is wrong, some commands tell all of their options.
    said, _, _ = (result.stderr + result.stdout).decode(errors="replace").partition("\nusage: git")
    said = said.strip()[-2000:]
    text = redact(said, address) or f"It exited with status {result.exit_code}"
    return GitFailed(f"Git failed: {text}.", remedy=hint(text), exit_code=result.exit_code)
