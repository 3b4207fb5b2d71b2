"""Tools for files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from actors.model.errors import InvalidArgument
from actors.model.guest import FileEntry, TreeReport
from agentiso.mcp.schema import describe, outline
from agentiso.mcp.tools.tool import LONG, Call, Done, Tool

DEFAULT_READ_BYTES: Final = 16 * 1024
MAX_FILE_BYTES: Final = 256 * 1024
MAX_LISTED: Final = 500
"""Entries of a directory that are listed at once: about 12,000 tokens."""
TELL_BYTES: Final = 4 * 1024 * 1024
PATH: Final = "Absolute"
EXCLUDE: Final = "Names or paths to leave out, as *.pyc"


@attrs.frozen
class FileReadArguments:
    workspace_id: str
    path: str = describe(PATH)
    offset: int = describe("First byte", 0, minimum=0)
    limit: int = describe("At most so many bytes", DEFAULT_READ_BYTES, minimum=1, maximum=MAX_FILE_BYTES)


@attrs.frozen
class FileReadResult:
    content: str
    encoding: str = describe("utf-8, or base64 for what is not")
    returned_bytes: int = describe("Read on from offset + this")
    size_bytes: int = describe("Of the whole file")


@attrs.frozen
class FileWriteArguments:
    workspace_id: str
    path: str = describe("Absolute; parents are made")
    content: str = describe(maxLength=LONG)
    encoding: str = describe("Of content", "utf-8", enum=["utf-8", "base64"])
    mode: str | None = describe("Octal. Absent: 0644, or as it was", None)


@attrs.frozen
class FileListArguments:
    workspace_id: str
    path: str = describe(PATH)
    offset: int = describe("First entry", 0, minimum=0)


@attrs.frozen
class Entry:
    name: str
    kind: str = describe("file, dir, symlink or other")
    size: int = describe("bytes")
    permissions: str = describe("octal")
    modified: float = describe("Unix time")


@attrs.frozen
class FileListResult:
    entries: list[Entry] = outline("By name")
    note: str = describe()
    """Whether there are more, and how they are listed."""


@attrs.frozen
class FileEditArguments:
    workspace_id: str
    path: str = describe(PATH)
    old_string: str = describe("Occurs exactly once, unless replace_all", maxLength=LONG)
    new_string: str = describe(maxLength=LONG)
    replace_all: bool = False


@attrs.frozen
class FileEditResult:
    replacements: int = describe("How many")
    size_bytes: int = describe()


@attrs.frozen
class FileSearchArguments:
    workspace_id: str
    pattern: str = describe("Python regular expression, by line")
    path: str = describe(PATH)
    glob: str | None = describe("Only files of such a name or path, as *.py", None)
    fixed: bool = describe("The pattern is plain text", False)
    ignore_case: bool = False
    max_results: int = describe("At most so many lines", 50, minimum=1, maximum=1000)
    timeout_secs: float = describe("Absent: 30", 30.0, minimum=1, maximum=600)


@attrs.frozen
class MatchResult:
    path: str
    line: int
    text: str = describe("at most 500 characters")


@attrs.frozen
class FileSearchResult:
    matches: list[MatchResult] = outline("By path")
    files: int = describe("How many were searched")
    truncated: bool = describe("There is more, or time ran out")


@attrs.frozen
class UploadArguments:
    workspace_id: str
    host_path: str = describe("Absolute, within the host's transfer roots")
    guest_path: str = describe("Absolute; directories are merged")
    exclude: list[str] | None = describe(EXCLUDE, None)


@attrs.frozen
class DownloadArguments:
    workspace_id: str
    host_path: str = describe("Absolute, within the host's transfer roots")
    guest_path: str = describe("Absolute")
    exclude: list[str] | None = describe(EXCLUDE, None)


@attrs.frozen
class TransferResult:
    entries: int = describe("Files, directories and links")
    size_bytes: int = describe()
    skipped: list[str] = describe()
    """The first few, and why."""
    skipped_count: int = describe()


@attrs.frozen
class FileStatArguments:
    workspace_id: str
    path: str = describe(PATH)


async def _file_read(call: Call, a: FileReadArguments) -> FileReadResult:
    found = await (await call.workspace(a.workspace_id)).files.read(a.path, offset=a.offset, limit=a.limit)
    try:
        content, encoding = found.content.decode(), "utf-8"
    except UnicodeDecodeError:
        content, encoding = base64.b64encode(found.content).decode(), "base64"
    return FileReadResult(content, encoding, len(found.content), found.size_bytes)


async def _file_write(call: Call, a: FileWriteArguments) -> Done:
    try:
        content = base64.b64decode(a.content, validate=True) if a.encoding == "base64" else a.content.encode()
        mode = None if a.mode is None else int(a.mode, 8)
    except ValueError as error:
        raise InvalidArgument(
            f"content or mode cannot be decoded: {error}.", remedy="Mend it and try again."
        ) from error
    if mode is not None and not 0 <= mode <= 0o7777:
        raise InvalidArgument(f"{a.mode} is not a file mode.", remedy="Use octal permissions such as 0644.")
    size = await (await call.workspace(a.workspace_id)).files.write(a.path, content, mode=mode)
    return Done(f"{size} bytes were written to {a.path}.")


async def _file_list(call: Call, a: FileListArguments) -> FileListResult:
    entries = await (await call.workspace(a.workspace_id)).files.list(a.path)
    end = min(a.offset + MAX_LISTED, len(entries))
    listed = [_entry(e) for e in entries[a.offset : end]]
    note = f"The directory has {len(entries)} entries; offset={end} lists on." if end < len(entries) else ""
    return FileListResult(listed, note)


def _entry(e: FileEntry) -> Entry:
    return Entry(e.name, e.kind, e.size_bytes, f"{e.mode:04o}", e.modified_at)


async def _file_edit(call: Call, a: FileEditArguments) -> FileEditResult:
    files = (await call.workspace(a.workspace_id)).files
    edited = await files.edit(a.path, a.old_string, a.new_string, replace_all=a.replace_all)
    return FileEditResult(edited.replacements, edited.size_bytes)


async def _file_search(call: Call, a: FileSearchArguments) -> FileSearchResult:
    files = (await call.workspace(a.workspace_id)).files
    call.report("searching")
    found = await files.search(
        a.pattern, a.path, glob=a.glob, fixed=a.fixed, ignore_case=a.ignore_case, max_results=a.max_results,
        timeout_s=a.timeout_secs,
    )  # fmt: skip
    return FileSearchResult(
        [MatchResult(each.path, each.line, each.text) for each in found.matches], found.files, found.truncated
    )


async def _file_upload(call: Call, a: UploadArguments) -> TransferResult:
    files = (await call.workspace(a.workspace_id)).files
    return _transferred(
        await files.upload_from(a.host_path, a.guest_path, _roots(call), exclude=a.exclude or (), on_bytes=Told(call))
    )


async def _file_download(call: Call, a: DownloadArguments) -> TransferResult:
    files, limits = (await call.workspace(a.workspace_id)).files, call.system.settings.limits
    return _transferred(
        await files.download_to(
            a.guest_path, a.host_path, _roots(call), limits=limits, exclude=a.exclude or (), on_bytes=Told(call)
        )
    )


async def _file_stat(call: Call, a: FileStatArguments) -> Entry:
    return _entry(await (await call.workspace(a.workspace_id)).files.stat(a.path))


def _roots(call: Call) -> Sequence[Path] | None:
    """Return where transfers may go; the user, who runs the supervisor, may do what the supervisor may."""
    return None if call.client.is_user else call.system.settings.transfer_roots


def _transferred(report: TreeReport) -> TransferResult:
    return TransferResult(report.entries, report.size_bytes, list(report.skipped), report.skipped_count)


class Told:
    """Tells the client, now and then, how many bytes have passed."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._told = self._total = 0

    def __call__(self, size: int) -> None:
        """Count a piece."""
        self._total += size
        if self._total - self._told >= TELL_BYTES:
            self._told = self._total
            self._call.report(f"{self._total} bytes transferred")


TOOLS: Final = (
    Tool("file_read", "Read a guest file, or a piece of it.", FileReadArguments, FileReadResult, _file_read,
         read_only=True),
    Tool("file_write", "Replace a guest file, or make it, atomically. To change a part: file_edit.", FileWriteArguments,
         Done, _file_write, destructive=True, idempotent=True),
    Tool("file_list", "List a guest directory.", FileListArguments, FileListResult, _file_list, read_only=True),
    Tool("file_edit", "Replace text in a guest file, atomically. Refused, with the count, when it is ambiguous.",
         FileEditArguments, FileEditResult, _file_edit, destructive=True),
    Tool("file_search", "Lines of text files in the guest that match. Binary files and .git are left out.",
         FileSearchArguments, FileSearchResult, _file_search, read_only=True),
    Tool("file_upload", "Copy a file or directory of any size into the guest. For text at hand: file_write.",
         UploadArguments, TransferResult, _file_upload, destructive=True, idempotent=True),
    Tool("file_download", "Copy a file or directory of any size to the host.", DownloadArguments, TransferResult,
         _file_download, destructive=True, idempotent=True),
    Tool("file_stat", "What is at a path of the guest.", FileStatArguments, Entry, _file_stat, read_only=True,
         hidden=True),
)  # fmt: skip
