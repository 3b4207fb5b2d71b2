"""The files of a workspace's guest."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from actors.model.errors import GuestBroken, InvalidArgument
from actors.model.guest import Edited, FileContent, FileEntry, Match, SearchResult, TreeReport
from actors.model.settings import Limits
from actors.runtime import open_plain_nursery
from actors.workspace import file_messages as m
from actors.workspace.messages import WorkspaceRef
from agentiso.library import copying
from agentiso.library.execution import Executes
from agentiso.library.host_paths import Place, opened
from guest import tree
from guest.search import MAX_LINE_CHARS
from guest.untrusted import MALFORMED, parse, whole

MAX_FOUND_BYTES: Final = 8 * 1024 * 1024
MAX_RESULTS: Final = 10_000
OnBytes = Callable[[int], None]
HostPath = str | os.PathLike[str]


def _ignore(_size: int) -> None:
    """Take progress that nobody asked for."""


class Pieces:
    """What comes of a file, piece by piece."""

    def __init__(self, receiving: trio.MemoryReceiveChannel[bytes]) -> None:
        self._receiving = receiving

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        try:
            return await self._receiving.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


class Files:
    """``workspace.files``.  Paths of the guest are absolute; paths of the host are the caller's own."""

    def __init__(self, workspace: Executes, ref: WorkspaceRef) -> None:
        self._workspace = workspace
        self._ref = ref

    async def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> FileContent:
        """Read a guest file, or ``limit`` bytes of it from ``offset``, into memory; `open_read` has no such bound."""
        return await self._ref.ask(m.ReadFile(path, offset, limit))

    @asynccontextmanager
    async def open_read(
        self, path: str, *, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the pieces of a guest file as they come, however large it is; the guest waits for the reader.

        Synopsis::

            async with ws.files.open_read("/var/log/big") as pieces:
                async for piece in pieces:
                    ...
        """
        sending, receiving = trio.open_memory_channel[bytes](0)

        async def pump() -> None:
            async with sending:
                await self._ref.ask(m.ReadFile(path, offset, limit, sending.send))

        async with open_plain_nursery() as nursery:
            nursery.start_soon(pump)
            yield Pieces(receiving)
            nursery.cancel_scope.cancel(reason="the reader has enough")

    async def write(self, path: str, content: bytes | str | AsyncIterable[bytes], *, mode: int | None = 0o644) -> int:
        """Write a guest file atomically, parents included, and return its size in bytes.

        ``content`` may be an asynchronous iterable of pieces, of any length in all.  ``mode`` of ``None`` keeps the
        mode of a file that exists.
        """
        data: bytes | AsyncIterable[bytes]
        if isinstance(content, AsyncIterable):
            data = copying.guarded(content)
        else:
            data = content.encode() if isinstance(content, str) else content
        return await self._ref.ask(m.WriteFile(path, data, mode))

    async def edit(self, path: str, old: str, new: str, *, replace_all: bool = False) -> Edited:
        """Replace ``old`` by ``new`` in a guest file, atomically.

        Raises:
            GuestRefused: ``old`` does not occur, or more than once without ``replace_all``; the message says how often.

        """
        return await self._ref.ask(m.EditFile(path, old, new, replace_all))

    async def list(self, path: str) -> tuple[FileEntry, ...]:
        """List a guest directory, sorted by name."""
        return await self._ref.ask(m.ListFiles(path))

    async def stat(self, path: str, *, follow: bool = True) -> FileEntry:
        """Tell what is at a path of the guest; of a symbolic link, where it leads unless ``follow`` is false."""
        return await self._ref.ask(m.LookAtFile(path, follow))

    async def search(
        self,
        pattern: str,
        path: str = "/",
        *,
        glob: str | None = None,
        fixed: bool = False,
        ignore_case: bool = False,
        max_results: int = 100,
        timeout_s: float = 30.0,
    ) -> SearchResult:
        """Search the lines of text files below a path of the guest, in the guest.

        ``pattern`` is a regular expression of Python's, with ``fixed`` plain text; ``glob`` limits the names, or the
        paths below ``path``.  Binary files, files over 64 MiB, version control's own directories and the kernel's
        file systems are left out.

        Raises:
            InvalidArgument: the pattern is not valid, or there is nothing at ``path``.

        """
        m.check_path(path)
        if not 1 <= max_results <= MAX_RESULTS:
            raise InvalidArgument(f"max_results is {max_results}.", remedy=f"Use 1 to {MAX_RESULTS}.")
        helper = await self._ref.ask(m.FindHelper("search"))
        asked = {"pattern": pattern, "path": path, "glob": glob, "fixed": fixed, "ignore_case": ignore_case}
        found = await self._workspace.exec(
            [*helper.argv, json.dumps({**asked, "max_results": max_results})],
            timeout_s=timeout_s,
            workdir=helper.workdir,
            env=helper.env,
            max_output_bytes=2 * MAX_FOUND_BYTES,
        )
        return _search_result(found.stdout[:MAX_FOUND_BYTES], timed_out=found.timed_out, limit_s=timeout_s)

    async def upload(
        self, host_path: HostPath, guest_path: str, *, exclude: Sequence[str] = (), on_bytes: OnBytes = _ignore
    ) -> TreeReport:
        """Copy a file or a directory of the host to a path of the guest.

        See `upload_tree` for directories.  A file is replaced atomically and keeps its mode.
        """
        return await self.upload_from(host_path, guest_path, None, exclude=exclude, on_bytes=on_bytes)

    async def upload_tree(self, host_dir: HostPath, guest_dir: str, *, exclude: Sequence[str] = ()) -> TreeReport:
        """Copy what a directory of the host holds into one of the guest, which is made if it is missing.

        Modes and times are kept, symbolic links are copied as they are; ``exclude`` has patterns of names, or of
        paths below ``host_dir``.  Devices, sockets, pipes and what cannot be read are left out and reported.
        """
        return await self.upload(Path(host_dir), guest_dir, exclude=exclude)

    async def download(
        self, guest_path: str, host_path: HostPath, *, exclude: Sequence[str] = (), on_bytes: OnBytes = _ignore
    ) -> TreeReport:
        """Copy a file or a directory of the guest to a path of the host.

        See `download_tree` for directories.  A file is replaced atomically.
        """
        return await self.download_to(guest_path, host_path, None, exclude=exclude, on_bytes=on_bytes)

    async def download_tree(self, guest_dir: str, host_dir: HostPath, *, exclude: Sequence[str] = ()) -> TreeReport:
        """Copy what a directory of the guest holds into one of the host, which is made if it is missing.

        The guest is not trusted: nothing is written outside ``host_dir``, whatever links are in it or come; links
        that lead out of it are left out and reported; nothing becomes writable for others, or setuid.
        """
        return await self.download(guest_dir, host_dir, exclude=exclude)

    async def upload_from(
        self,
        host_path: HostPath,
        guest_path: str,
        roots: Sequence[Path] | None,
        *,
        exclude: Sequence[str] = (),
        on_bytes: OnBytes = _ignore,
    ) -> TreeReport:
        """As `upload`, of a path within ``roots`` alone; see `agentiso.library.host_paths`."""
        with opened(host_path, roots, must_exist=True) as place:
            facts = copying.look(place)
            if not stat.S_ISDIR(facts.st_mode):
                content, mode = copying.read_file(place, on_bytes), stat.S_IMODE(facts.st_mode)
                size = await self._ref.ask(m.WriteFile(guest_path, content, mode))
                return TreeReport(1, size)
            notes = tree.Notes()
            report: TreeReport = await self._ref.ask(
                m.WriteTree(guest_path, copying.read_tree(place, exclude, notes, on_bytes))
            )
        named = (*notes.named, *report.skipped)[: tree.MAX_NAMED_SKIPS]
        return TreeReport(report.entries, report.size_bytes, named, report.skipped_count + notes.count)

    async def download_to(
        self,
        guest_path: str,
        host_path: HostPath,
        roots: Sequence[Path] | None,
        *,
        limits: Limits | None = None,
        exclude: Sequence[str] = (),
        on_bytes: OnBytes = _ignore,
    ) -> TreeReport:
        """As `download`, to a path within ``roots`` alone; see `agentiso.library.host_paths`."""
        with opened(host_path, roots, must_exist=False) as place:
            if (await self.stat(guest_path)).kind == "dir":
                return await self._download_tree(guest_path, place, limits or Limits(), exclude, on_bytes)
            async with copying.writing_file(place, on_bytes) as file:
                found = await self._ref.ask(m.ReadFile(guest_path, sink=file.take))
                file.set_mode(found.mode)
            return TreeReport(1, file.size)

    async def _download_tree(
        self, guest_path: str, place: Place, limits: Limits, exclude: Sequence[str], on_bytes: OnBytes
    ) -> TreeReport:
        most = limits.max_transfer_mb * 2**20
        async with copying.writing_tree(
            place, max_entries=limits.max_tree_entries, max_bytes=most, on_bytes=on_bytes
        ) as sink:
            report: TreeReport = await self._ref.ask(m.ReadTree(guest_path, sink.take, tuple(exclude)))
            done = await sink.finish()
        named = (*report.skipped, *done["skipped"])[: tree.MAX_NAMED_SKIPS]
        return TreeReport(done["entries"], done["bytes"], named, report.skipped_count + done["skipped_count"])


def _search_result(output: bytes, *, timed_out: bool, limit_s: float) -> SearchResult:
    """Read what the search in the guest wrote; what a hostile guest wrote instead is an error."""
    matches: list[Match] = []
    files, truncated = 0, True
    try:
        # The last line may be cut short, by the time limit or by the bound on what is kept.
        for line in output.split(b"\n")[:-1]:
            facts = parse(line)
            if "error" in facts:
                raise InvalidArgument(f"The search failed: {str(facts['error'])[:500]}.", remedy="Mend it.")
            if "done" in facts:
                files, truncated = whole(facts["files"]), bool(facts["truncated"])
            else:
                path, text = str(facts["path"])[: m.MAX_PATH_BYTES], str(facts["text"])[:MAX_LINE_CHARS]
                matches.append(Match(path, whole(facts["line"]), text))
    except MALFORMED as error:
        raise GuestBroken(f"The guest's search wrote something else than matches: {error!r}.") from error
    if timed_out and not matches:
        raise InvalidArgument(
            f"Nothing was found within {limit_s:.0f} s.", remedy="Search less, with path and glob, or allow more time."
        )
    return SearchResult(tuple(matches), files, truncated)
