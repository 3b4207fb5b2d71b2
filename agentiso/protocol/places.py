"""Where, in a state directory, clients and supervisor meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from actors.model.errors import HostFailed
from actors.model.files import failures_reported

SOCKET: Final = "supervisor.sock"
LOG: Final = "daemon.log"
DAEMON_LOCK: Final = "daemon.lock"
"""Held by the supervisor that serves, or soon will; a program that runs one in its own process does not take it."""
RUNS_ALREADY: Final = 3
"""Exit status of a supervisor that found another one."""


def make_state_dir(state_dir: Path) -> None:
    """Make a state directory, for its user alone, unless it is there.

    Raises:
        HostFailed, NoCapacity: it cannot be made, or is something else.

    """
    with usable(state_dir):
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except FileNotFoundError as error:
            raise _unusable(state_dir, error) from error


@contextmanager
def usable(state_dir: Path) -> Iterator[None]:
    """Do as `failures_reported` does, and say so as well where the state directory is none."""
    try:
        with failures_reported():
            yield
    except (NotADirectoryError, FileExistsError) as error:
        raise _unusable(state_dir, error) from error


def _unusable(state_dir: Path, error: OSError) -> HostFailed:
    return HostFailed(
        f"{state_dir} cannot be the state directory: {error.strerror}.",
        remedy="Choose another one: $AGENTISO_STATE_DIR, or state_dir of the configuration.",
        path=str(state_dir),
    )
