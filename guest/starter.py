"""How a command is started: in a session, a control group and a directory of its own, mortal, and without a copy of us.

Under software emulation each step that a restored guest has not done before is dear, so the kernel is asked for as
little as possible: the C library's posix_spawn(3), whose child shares our memory until it runs its program, and
descriptors that are open already.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any, Final

from guest.cgroup import Group, Groups
from guest.environment import DEFAULT

IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
EXEMPT: Final = b"-1000"
"""From the kernel's out-of-memory killer (proc(5), oom_score_adj)."""
MORTAL: Final = b"0"


class Starter:
    """Starts the commands of one agent."""

    def __init__(self, *, wanted: bool) -> None:
        """Unless it is wanted, there are no control groups, and nobody is exempt from anything."""
        self.groups = Groups(wanted=wanted)
        self._home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._exemption: int | None = None
        if wanted:
            self._exemption = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            os.pwrite(self._exemption, EXEMPT, 0)
        # Where a program is looked for that is named without a path.
        os.environ["PATH"] = DEFAULT["PATH"]

    def start(
        self, argv: list[str], *, workdir: str, env: dict[str, str], actions: Sequence[Any], group: Group | None
    ) -> int:
        """Start a program with these actions on its descriptors, as the leader of a session; return its process id.

        Raises:
            OSError: there is no such program or directory, or it may not be run; its name is the error's.

        """
        os.chdir(workdir)
        try:
            with self.groups.birthplace(group):
                # The child inherits its mortality; its own file would have to be looked for.
                self._set_exemption(MORTAL)
                try:
                    return os.posix_spawnp(
                        argv[0], argv, env, file_actions=actions, setsid=True, setsigdef=IGNORED_BY_PYTHON
                    )
                finally:
                    self._set_exemption(EXEMPT)
        finally:
            os.fchdir(self._home)

    def _set_exemption(self, score: bytes) -> None:
        if self._exemption is not None:
            os.pwrite(self._exemption, score, 0)
