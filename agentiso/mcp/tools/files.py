"""Tools for files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from actors.errors import InvalidArgument
from actors.guest_model import TreeReport
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import WORKSPACE, Call, Done, Tool

DEFAULT_READ_BYTES: Final = 16 * 1024
MAX_FILE_BYTES: Final = 256 * 1024
TELL_BYTES: Final = 4 * 1024 * 1024


@attrs.frozen
class FileReadArguments:
    workspace_id: str = describe(WORKSPACE)
    path: str = describe("Absolute path in the guest.")
    offset: int = describe("First byte.", 0, minimum=0)
    limit: int = describe("At most this many bytes.", DEFAULT_READ_BYTES, minimum=1, maximum=MAX_FILE_BYTES)


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
class FileEditArguments:
    workspace_id: str = describe(WORKSPACE)
    path: str = describe("Absolute path in the guest.")
    old_string: str = describe("Text to replace; must occur exactly once unless replace_all.")
    new_string: str = describe("What replaces it.")
    replace_all: bool = describe("Replace every occurrence.", False)


@attrs.frozen
class FileEditResult:
    replacements: int = describe("How many.")
    size_bytes: int = describe("Size of the file now.")


@attrs.frozen
class FileSearchArguments:
    workspace_id: str = describe(WORKSPACE)
    pattern: str = describe("Python regular expression, matched line by line.")
    path: str = describe("Absolute file or directory in the guest.")
    glob: str | None = describe("Only files with such a name or relative path, as *.py.", None)
    fixed: bool = describe("The pattern is plain text.", False)
    ignore_case: bool = describe("Upper and lower case are the same.", False)
    max_results: int = describe("At most so many lines.", 50, minimum=1, maximum=1000)
    timeout_secs: float = describe("Ended after this.", 30.0, minimum=1, maximum=600)


@attrs.frozen
class MatchResult:
    path: str = describe("The file.")
    line: int = describe("Counted from 1.")
    text: str = describe("The line, at most 500 characters.")


@attrs.frozen
class FileSearchResult:
    matches: list[MatchResult] = describe("Sorted by path.")
    files: int = describe("How many files were searched.")
    truncated: bool = describe("Whether there is more, or time ran out.")


@attrs.frozen
class UploadArguments:
    workspace_id: str = describe(WORKSPACE)
    host_path: str = describe("Absolute file or directory of the host, within its transfer roots.")
    guest_path: str = describe("Absolute path it gets in the guest; a directory is merged into one that exists.")
    exclude: list[str] | None = describe("Names or relative paths to leave out of a directory, as *.pyc.", None)


@attrs.frozen
class DownloadArguments:
    workspace_id: str = describe(WORKSPACE)
    host_path: str = describe("Absolute path it gets on the host, within its transfer roots.")
    guest_path: str = describe("Absolute file or directory in the guest.")
    exclude: list[str] | None = describe("Names or relative paths to leave out of a directory.", None)


@attrs.frozen
class TransferResult:
    entries: int = describe("Files, directories and links.")
    size_bytes: int = describe("Bytes of content.")
    skipped: list[str] = describe("What was left out and why, the first few.")
    skipped_count: int = describe("How many were left out.")


@attrs.frozen
class FileStatArguments:
    workspace_id: str = describe(WORKSPACE)
    path: str = describe("Absolute path in the guest.")


async def _file_read(call: Call, a: FileReadArguments) -> FileReadResult:
    found = await (await call.workspace(a.workspace_id)).files.read(a.path, offset=a.offset, limit=a.limit)
    try:
        content, encoding = found.content.decode(), "utf-8"
    except UnicodeDecodeError:
        content, encoding = base64.b64encode(found.content).decode(), "base64"
    return FileReadResult(content, encoding, a.offset, len(found.content), found.size_bytes)


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
    return FileListResult([Entry(e.name, e.kind, e.size_bytes, f"{e.mode:04o}", e.modified_at) for e in entries])


async def _file_edit(call: Call, a: FileEditArguments) -> FileEditResult:
    files = (await call.workspace(a.workspace_id)).files
    edited = await files.edit(a.path, a.old_string, a.new_string, replace_all=a.replace_all)
    return FileEditResult(edited.replacements, edited.size_bytes)


async def _file_search(call: Call, a: FileSearchArguments) -> FileSearchResult:
    found = await (await call.workspace(a.workspace_id)).files.search(
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
    e = await (await call.workspace(a.workspace_id)).files.stat(a.path)
    return Entry(e.name, e.kind, e.size_bytes, f"{e.mode:04o}", e.modified_at)


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
    Tool("file_read", "Read a file", "Read a guest file, or a piece of it.", FileReadArguments, FileReadResult,
         _file_read, read_only=True),
    Tool("file_write", "Write a file", "Replace a guest file atomically.", FileWriteArguments, Done, _file_write,
         destructive=True, idempotent=True),
    Tool("file_list", "List a directory", "List a guest directory.", FileListArguments, FileListResult, _file_list,
         read_only=True),
    Tool("file_edit", "Edit a file", "Replace text in a guest file, atomically. Refused, with the count, when it is "
         "ambiguous.", FileEditArguments, FileEditResult, _file_edit, destructive=True),
    Tool("file_search", "Search files", "Lines of text files in the guest that match. Binary files and .git are left "
         "out.", FileSearchArguments, FileSearchResult, _file_search, read_only=True),
    Tool("file_upload", "Upload", "Copy a file or directory of the host into the guest, of any size. For text that you "
         "have at hand use file_write.", UploadArguments, TransferResult, _file_upload, destructive=True,
         idempotent=True),
    Tool("file_download", "Download", "Copy a file or directory of the guest to the host, of any size.",
         DownloadArguments, TransferResult, _file_download, destructive=True, idempotent=True),
    Tool("file_stat", "Describe a file", "What is at a path of the guest.", FileStatArguments, Entry, _file_stat,
         read_only=True, hidden=True),
)  # fmt: skip
