"""Where, in a state directory, clients and supervisor meet."""

from __future__ import annotations

from typing import Final

SOCKET: Final = "supervisor.sock"
LOG: Final = "daemon.log"
DAEMON_LOCK: Final = "daemon.lock"
"""Held by the supervisor that serves, or soon will; a program that runs one in its own process does not take it."""
RUNS_ALREADY: Final = 3
"""Exit status of a supervisor that found another one."""
