"""The ledger of the host's memory: what machines that are starting will take is kept for them.

The kernel says what is available now, which knows nothing of a machine that has been let in and has touched no memory
yet.  So each start reserves what it is counted with, in one step with the look at what there is, and gives it back when
it is over: by then what the machine took is missing from what is available, and what it shares with others is not.
Running machines may still grow to their shapes; that sum is known, and told when there is no room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.model.errors import NoCapacity


def available_memory_mb() -> int:
    """Return the memory that new processes may take without swapping (proc(5), MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


class MemoryLedger:
    """Kept by one supervisor.  No method waits, so none can be overtaken by another."""

    def __init__(self, keep_mb: int, available_mb: Callable[[], int]) -> None:
        self._keep_mb = keep_mb
        self._available_mb = available_mb
        self._promised: dict[str, int] = {}
        self.reserved_mb = 0
        """What the starts that are under way have reserved."""

    @property
    def promised_mb(self) -> int:
        """What the running machines may grow to."""
        return sum(self._promised.values())

    def promise(self, machine: str, memory_mb: int) -> None:
        """Note what a machine that runs may grow to."""
        self._promised[machine] = memory_mb

    def forget(self, machine: str) -> None:
        """Forget a machine that has ended."""
        self._promised.pop(machine, None)

    @contextmanager
    def reserved(self, memory_mb: int) -> Iterator[None]:
        """Keep memory from all other starts for the length of a block, in which machines start.

        Raises:
            NoCapacity: there is not so much left; nothing was reserved.

        """
        available_mb = self._available_mb()
        if memory_mb > available_mb - self.reserved_mb - self._keep_mb:
            raise NoCapacity(
                f"{memory_mb} MB were asked for; the host has {available_mb} MB available, keeps {self._keep_mb} MB, "
                f"and {self.reserved_mb} MB are reserved for machines that are starting. "
                f"Those that run may grow to {self.promised_mb} MB together.",
                remedy="Ask for less memory_mb, or destroy or suspend workspaces that are not needed now.",
            )
        self.reserved_mb += memory_mb
        try:
            yield
        finally:
            self.reserved_mb -= memory_mb
