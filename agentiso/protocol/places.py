"""Where, in a state directory, clients and supervisor meet."""

from __future__ import annotations

from typing import Final

SOCKET: Final = "supervisor.sock"
LIBRARY_SOCKET: Final = "library.sock"
"""Where programs attach with the library."""
LOG: Final = "daemon.log"
RUNS_ALREADY: Final = 3
"""Exit status of a supervisor that found another one."""
