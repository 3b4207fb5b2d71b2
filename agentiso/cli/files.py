"""The command that copies files."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from actors.model.errors import InvalidArgument
from agentiso.cli.common import Commands, call_tool, show
from agentiso.client.tools import ToolFailed, call
from agentiso.library.config import load_settings

EXAMPLES = """\
  agentiso cp notes.txt demo:/root/           a file into a directory of the guest
  agentiso cp ./project demo:/workspace       a directory, under a name of its own
  agentiso cp demo:/workspace/out . --exclude '*.o'
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("cp", _cp, "copy files and directories into a workspace, or out of one", EXAMPLES)
    made.add_argument("source", help="a path here, or WORKSPACE:PATH")
    made.add_argument("target", help="the same; a directory that exists gets the source in it, under its name")
    made.add_argument("--exclude", action="append", metavar="PATTERN", help="leave such names or paths out (again)")


def _cp(a: Any) -> int:
    source, target = split(a.source), split(a.target)
    if (source is None) == (target is None):
        raise InvalidArgument(
            "One of source and target has to be in a workspace, and the other here.",
            remedy="Write it as WORKSPACE:PATH, with an absolute path.",
        )
    if target is not None:
        return _upload(a, Path(a.source), *target)
    assert source is not None
    return _download(a, *source, Path(a.target))


def _upload(a: Any, source: Path, workspace: str, path: str) -> int:
    if not source.exists():
        raise InvalidArgument(f"There is no {source}.", remedy="Look at the path.")
    if path.endswith("/") or _kind(a, workspace, path) == "dir":
        path = f"{path.rstrip('/')}/{source.resolve().name}"
    total = source.stat().st_size if source.is_file() else None
    result = _transfer(a, "file_upload", total, workspace, str(source.absolute()), path)
    return _tell(a, result, f"{workspace}:{path}")


def _download(a: Any, workspace: str, path: str, target: Path) -> int:
    facts = call_tool(a, "file_stat", workspace_id=workspace, path=path)
    if target.is_dir():
        target = target / (Path(path).name or workspace)
    total = facts["size"] if facts["kind"] == "file" else None
    result = _transfer(a, "file_download", total, workspace, str(target.absolute()), path)
    return _tell(a, result, str(target))


def _tell(a: Any, result: dict[str, Any], where: str) -> int:
    for line in result["skipped"]:
        print(f"left out: {line}", file=sys.stderr)
    if result["skipped_count"] > len(result["skipped"]):
        print(f"left out: {result['skipped_count'] - len(result['skipped'])} more", file=sys.stderr)
    what = "1 entry" if result["entries"] == 1 else f"{result['entries']} files and directories"
    show(a, result, f"copied to {where}: {what}, {result['size_bytes']} bytes")
    return 1 if result["skipped_count"] else 0


def _kind(a: Any, workspace: str, path: str) -> str | None:
    """Return what is at a path of the guest, if anything is."""
    try:
        return str(call_tool(a, "file_stat", workspace_id=workspace, path=path)["kind"])
    except ToolFailed as error:
        if error.facts.get("code") == "guest_refused":
            return None
        raise


def split(text: str) -> tuple[str, str] | None:
    """Return the workspace and the path of ``WORKSPACE:PATH``, or ``None`` for a path here."""
    workspace, colon, path = text.partition(":")
    return (workspace, path) if colon and path.startswith("/") and "/" not in workspace else None


def _transfer(a: Any, tool: str, total: int | None, workspace: str, host_path: str, guest_path: str) -> dict[str, Any]:
    """Have the supervisor, which runs as the same user, do it; on a terminal a bar shows how far it is."""
    values = {"workspace_id": workspace, "host_path": host_path, "guest_path": guest_path}
    if a.exclude:
        values["exclude"] = a.exclude
    settings = load_settings(a.config)

    def run(report: Callable[[str], None]) -> dict[str, Any]:
        return trio.run(call, settings, a.config, tool, values, report, None)

    if not sys.stderr.isatty():
        return run(lambda _text: None)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    name = TextColumn(Path(host_path).name)
    bars = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*bars, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)

        def report(text: str) -> None:
            if found := re.match(r"\d+", text):
                progress.update(task, completed=int(found[0]))

        return run(report)
