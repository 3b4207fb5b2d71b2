"""A file that appears whole, in the place of one that is there, or not at all.

Until then it has no name where the file system can do that (open(2), ``O_TMPFILE``): whoever is killed while it is
written leaves nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator

NAMED_ONLY = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
"""What file systems and kernels say that cannot do that."""


class NewFile:
    """A file that is written to ``fd``; its directory is held open by whoever makes it.

    Errors name it by the path that it is to have.
    """

    def __init__(self, directory: int, path: str) -> None:
        self._directory = directory
        self._path = path
        self._name: str | None = None
        flags = os.O_WRONLY | os.O_CLOEXEC
        with self._named():
            try:
                self.fd = os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=directory)
            except OSError as error:
                if error.errno not in NAMED_ONLY:
                    raise
                self._name = temporary_name()
                self.fd = os.open(self._name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)

    def write(self, data: bytes) -> None:
        """Append a piece."""
        view = memoryview(data)
        with self._named():
            while view:
                view = view[os.write(self.fd, view) :]

    def put(self) -> None:
        """Give it its name, and close it; if that fails it is still to be discarded."""
        with self._named():
            if self._name is None:
                linked = temporary_name()
                os.link(f"/proc/self/fd/{self.fd}", linked, dst_dir_fd=self._directory)
                self._name = linked
            # Unlike a link it takes the place of what is there.
            name = os.path.basename(self._path)
            os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.close(self.fd)

    def discard(self) -> None:
        """Have it never have been there."""
        os.close(self.fd)
        if self._name is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = self._path
            raise


def temporary_name() -> str:
    """Return a name that nothing has."""
    return f".agentiso-{secrets.token_hex(8)}"
