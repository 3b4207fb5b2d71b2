"""The messages to a workspace about its guest's files, and what is done with each.

All are guest work: they run beside each other and beside everything else.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable
from typing import Any, ClassVar, Final, TypeAlias, TypeVar, assert_never

import attrs

from actors.machine.guest.client import GuestClient
from actors.machine.guest.files import Sink
from actors.model.errors import InvalidArgument
from actors.model.guest import Edited, FileContent, FileEntry, Helper, TreeReport
from actors.model.settings import Limits
from actors.model.states import State
from actors.model.text import shown
from actors.runtime import Message

R = TypeVar("R")
MAX_PATH_BYTES: Final = 4095
"""Linux's own limit (PATH_MAX, with its final zero byte)."""
MAX_OFFSET: Final = 2**63 - 1
"""Linux's own limit of a file's size (off_t)."""
MAX_EDIT_CHARS: Final = 128 * 1024
"""Of each text of an edit: both go in one frame."""


@attrs.frozen
class FileMessage(Message[R]):
    """What all of them have in common."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.RUNNING})
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = float("inf")
    """Guest work is bounded by its own time limit and by the channel's, not by the mailbox."""


@attrs.frozen
class ReadFile(FileMessage[FileContent]):
    """Read a piece of a guest file, into memory or, with a ``sink``, to a consumer as it comes."""

    path: str
    offset: int = 0
    limit: int | None = None
    sink: Sink | None = None


@attrs.frozen
class WriteFile(FileMessage[int]):
    """Write a guest file as a whole; answers with its size in bytes."""

    path: str
    content: bytes | AsyncIterable[bytes]
    mode: int | None = 0o644


@attrs.frozen
class EditFile(FileMessage[Edited]):
    """Replace text in a guest file; more than one hit has to be wanted."""

    path: str
    old: str
    new: str
    replace_all: bool = False


@attrs.frozen
class ListFiles(FileMessage[tuple[FileEntry, ...]]):
    """List a guest directory, sorted by name."""

    path: str


@attrs.frozen
class LookAtFile(FileMessage[FileEntry]):
    """Tell what is at a path."""

    path: str
    follow: bool = True


@attrs.frozen
class ReadTree(FileMessage[TreeReport]):
    """Give a directory tree's records (`guest.tree`) to a consumer as they come."""

    path: str
    sink: Sink
    exclude: tuple[str, ...] = ()


@attrs.frozen
class WriteTree(FileMessage[TreeReport]):
    """Write a directory tree's records (`guest.tree`) into a directory."""

    path: str
    records: AsyncIterable[bytes]


@attrs.frozen
class FindHelper(FileMessage[Helper]):
    """Tell how one of the guest layer's own programs is started."""

    name: str


FileWork: TypeAlias = ReadFile | WriteFile | EditFile | ListFiles | LookAtFile | ReadTree | WriteTree | FindHelper


def check(message: FileWork) -> None:
    """Raise `InvalidArgument` if a path, a number or a text cannot be meant."""
    if not isinstance(message, FindHelper):
        check_path(message.path)
    if isinstance(message, ReadFile) and not all(0 <= n <= MAX_OFFSET for n in (message.offset, message.limit or 0)):
        raise InvalidArgument(
            f"An offset or limit is not within 0 to {MAX_OFFSET}.", remedy="Count bytes from the file's beginning."
        )
    if isinstance(message, WriteFile) and message.mode is not None and not 0 <= message.mode <= 0o7777:
        raise InvalidArgument(f"{message.mode} is not a file mode.", remedy="Use octal permissions such as 0o644.")
    if isinstance(message, EditFile):
        if not message.old or max(len(message.old), len(message.new)) > MAX_EDIT_CHARS:
            raise InvalidArgument(
                f"The text to be replaced has to have 1 to {MAX_EDIT_CHARS} characters, the new one as many at most.",
                remedy="Write the file as a whole instead.",
            )
        for text in (message.old, message.new):
            _encodes(text, "The text")


def check_path(path: str) -> None:
    """Raise `InvalidArgument` unless this is an absolute path of a guest."""
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"{shown(path, 200)} is not an absolute path.", remedy="Begin it with /.")
    _encodes(path, "The path")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InvalidArgument(f"A path of more than {MAX_PATH_BYTES} bytes is not possible.", remedy="Shorten it.")


def _encodes(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} has lone surrogates, which are no characters.", remedy="Use UTF-8.") from None


async def work(client: GuestClient, message: FileWork, limits: Limits) -> Any:
    """Do what a message asks."""
    files, most = client.files, limits.max_transfer_mb * 2**20
    match message:
        case ReadFile(path, offset, limit, sink):
            if sink is None:
                return await files.read(path, offset, limit)
            return await files.stream(path, sink, offset=offset, limit=limit, max_bytes=most)
        case WriteFile(path, content, mode):
            return await files.write(path, content, mode, max_bytes=most)
        case EditFile(path, old, new, replace_all):
            return await files.edit(path, old, new, replace_all=replace_all)
        case ListFiles(path):
            return await files.list(path)
        case LookAtFile(path, follow):
            return await files.look(path, follow=follow)
        case ReadTree(path, sink, exclude):
            return await files.read_tree(path, sink, exclude=exclude, max_bytes=most)
        case WriteTree(path, records):
            return await files.write_tree(path, records, max_bytes=most, max_entries=limits.max_tree_entries)
        case FindHelper(name):
            return await files.helper(name)
        case _:
            assert_never(message)
