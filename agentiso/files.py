"""The files of a workspace's guest."""

from __future__ import annotations

from collections.abc import AsyncIterable

from actors import messages as m
from actors.model import FileContent, FileEntry


class Files:
    """``workspace.files``."""

    def __init__(self, ref: m.WorkspaceRef) -> None:
        self._ref = ref

    async def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> FileContent:
        """Read a guest file, or ``limit`` bytes of it from ``offset``."""
        return await self._ref.ask(m.ReadFile(path, offset, limit))

    async def write(self, path: str, content: bytes | str | AsyncIterable[bytes], *, mode: int | None = 0o644) -> int:
        """Write a guest file atomically, parents included, and return its size in bytes.

        ``mode`` of ``None`` keeps the mode of a file that exists.
        """
        data = content.encode() if isinstance(content, str) else content
        return await self._ref.ask(m.WriteFile(path, data, mode))

    async def list(self, path: str) -> tuple[FileEntry, ...]:
        """List a guest directory, sorted by name."""
        return await self._ref.ask(m.ListFiles(path))
