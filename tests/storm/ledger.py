"""What was acknowledged, and what may have been done besides: what a storm is held against."""

from __future__ import annotations

from collections import Counter

import attrs


@attrs.define
class Kept:
    """One workspace as its client knows it; numbers are those of the lines in its log, of which line n holds n."""

    name: str
    acked: int = 0
    """Lines that were on the guest's disk, flushed, when the guest said so."""
    snapshots: dict[str, int] = attrs.field(factory=dict)
    """Acknowledged, with the lines that each holds at least."""
    maybe: dict[str, int] = attrs.field(factory=dict)
    """Snapshots whose outcome is not known."""
    undo: list[int] = attrs.field(factory=list)

    def rewind(self, lines: int, *, certain: bool) -> None:
        """Count from a snapshot on, or, where that may not have happened, from whichever has less."""
        self.undo = [*self.undo, self.acked][-3:] if certain else []
        self.acked = lines if certain else min(lines, self.acked)


@attrs.define
class Ledger:
    """All of it."""

    workspaces: dict[str, Kept] = attrs.field(factory=dict)
    maybe: dict[str, Kept] = attrs.field(factory=dict)
    """Workspaces that may have been made, or destroyed."""
    violations: list[str] = attrs.field(factory=list)
    counts: Counter[str] = attrs.field(factory=Counter)
    recoveries_s: list[float] = attrs.field(factory=list)
    """From the end of a supervisor to the next answer of a guest."""

    def settle(self, name: str, *, exists: bool) -> None:
        """Take what is seen of a workspace whose outcome was not known."""
        kept = self.maybe.pop(name, None)
        if kept is not None and exists:
            self.workspaces[name] = kept

    def violation(self, text: str) -> None:
        """Note that something that was acknowledged is not so."""
        self.violations.append(text)
