"""Context ids of vsock: each machine's own, and never one that a machine may still answer to.

They are given out in order from a random place, so one comes again only after four thousand million others, long after
its machine was reaped, and two supervisors of one host hardly ever choose the same.  The kernel refuses one in use.
"""

from __future__ import annotations

import secrets
from typing import Final

FIRST: Final = 3
"""0 to 2 are the hypervisor's, the local machine's and the host's (vsock(7))."""
LAST: Final = 2**32 - 2
"""One more is VMADDR_CID_ANY."""


class Cids:
    """The context ids of one supervisor's machines."""

    def __init__(self, first: int | None = None) -> None:
        self._next = FIRST + secrets.randbelow(LAST - FIRST + 1) if first is None else first
        self._adopted: set[int] = set()

    def note(self, cid: int) -> None:
        """Leave out the id of a machine that an earlier supervisor started."""
        self._adopted.add(cid)

    def take(self) -> int:
        """Return an id that no machine has."""
        while True:
            cid, self._next = self._next, self._next + 1 if self._next < LAST else FIRST
            if cid not in self._adopted:
                return cid
