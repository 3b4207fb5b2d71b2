"""Paths of the host that files come from and go to: resolved, checked against the allowed roots, held open.

What is checked is what is used: the directory is opened component by component from the root, without following a
link, and everything after that goes through its descriptor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from actors.model.errors import AgentisoError, InvalidArgument, NotFound
from actors.model.text import shown


class PathRefused(AgentisoError):
    """A path of the host lies outside the configured transfer roots."""

    code = "path_refused"


@attrs.frozen
class Place:
    """A name in a directory that is held open."""

    directory: int
    """Its descriptor."""
    name: str
    shown: str
    """The beginning of the path, for messages."""

    @property
    def path(self) -> str:
        """A path that leads there through the descriptor, whatever becomes of the names above."""
        return f"/proc/self/fd/{self.directory}/{self.name}"


@contextmanager
def opened(path: str | os.PathLike[str], roots: Sequence[Path] | None, *, must_exist: bool) -> Iterator[Place]:
    """Hold the place of a path of the host; ``roots`` of ``None`` allow every path, empty ones none.

    Raises:
        PathRefused: it is not within the roots once all links are resolved.
        NotFound: it does not exist, or the directory that it would be in.

    """
    text = os.fspath(path)
    if "\0" in text or not text:
        raise InvalidArgument(f"{shown(text, 200)} is not a path.", remedy="Use an absolute path of the host.")
    if roots is not None and not text.startswith("/"):
        raise InvalidArgument(f"{shown(text, 200)} is not an absolute path.", remedy="Begin it with /.")
    real = _resolve(text, must_exist=must_exist)
    if roots is not None:
        _check(real, text, roots)
    directory, name = os.path.split(real)
    if not name:
        raise InvalidArgument("The root directory cannot be transferred.", remedy="Name what is in it.")
    fd = _open_directory(directory, text)
    try:
        yield Place(fd, name, text[:200])
    finally:
        os.close(fd)


def _resolve(text: str, *, must_exist: bool) -> str:
    # Of what is there already, links are followed to its end; of what is to be made, up to its directory.
    path = Path(text)
    try:
        if must_exist or os.path.lexists(path) or path.name in {"", "."}:
            return str(path.resolve(strict=True))
        if path.name == "..":
            raise InvalidArgument(f"{shown(text, 200)} names no file.", remedy="End the path with a name.")
        return str(path.parent.resolve(strict=True) / path.name)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise NotFound(f"{shown(text, 200)} cannot be found on the host: {why}.", remedy="Look at the path.") from None


def _check(real: str, text: str, roots: Sequence[Path]) -> None:
    if not roots:
        raise PathRefused(
            "No directory of the host is open to transfers.",
            remedy='Set transfer_roots = ["/a/directory"] in the configuration, or use file_read and file_write.',
        )
    allowed = [os.path.realpath(root) for root in roots]
    if not any(real == root or real.startswith(root.rstrip("/") + "/") for root in allowed):
        raise PathRefused(
            f"{shown(text, 200)} is outside the directories that are open to transfers.",
            remedy=f"Use a path within: {', '.join(str(root) for root in roots)}.",
        )


def _open_directory(directory: str, given: str) -> int:
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in Path(directory).parts[1:]:
        try:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except OSError as error:
            raise NotFound(
                f"{shown(given, 200)} cannot be reached: {error.strerror}.", remedy="Look at the path."
            ) from None
        finally:
            os.close(fd)
        fd = inner
    return fd
