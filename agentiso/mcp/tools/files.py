"""Tools for files."""

from __future__ import annotations

import base64
from typing import Final

import attrs

from actors.errors import InvalidArgument
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import WORKSPACE, Call, Done, Tool

DEFAULT_READ_BYTES: Final = 16 * 1024
MAX_FILE_BYTES: Final = 256 * 1024


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


TOOLS: Final = (
    Tool("file_read", "Read a file", "Read a guest file, or a piece of it.", FileReadArguments, FileReadResult,
         _file_read, read_only=True),
    Tool("file_write", "Write a file", "Replace a guest file atomically.", FileWriteArguments, Done, _file_write,
         destructive=True, idempotent=True),
    Tool("file_list", "List a directory", "List a guest directory.", FileListArguments, FileListResult, _file_list,
         read_only=True),
)  # fmt: skip
