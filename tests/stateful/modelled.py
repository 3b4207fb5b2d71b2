"""What a workspace has to be like: its state, what its memory and its disk hold, its tree and its ways back."""

from __future__ import annotations

from typing import Final

import attrs

from actors.model.states import State
from tests.stateful.simulated import BLANK

MAX_UNDO: Final = 2
RUNNING, PAUSED, SUSPENDED, STOPPED, FAILED = (
    State.RUNNING, State.PAUSED, State.SUSPENDED, State.STOPPED, State.FAILED,
)  # fmt: skip


@attrs.define
class Instant:
    """What a checkpoint holds."""

    memory: str | None
    """``None`` where it is a disk alone."""
    disk: str


@attrs.define
class Node:
    parent: str | None
    instant: Instant


@attrs.define
class Step:
    head: str | None
    state: State
    instant: Instant


@attrs.define
class Modelled:
    """One workspace as it has to be."""

    name: str
    memory: str
    disk: str
    state: State = RUNNING
    head: str | None = None
    nodes: dict[str, Node] = attrs.field(factory=dict)
    undo: list[Step] = attrs.field(factory=list)
    idle: bool = False
    """Whether it was suspended for idleness."""

    @property
    def instant(self) -> Instant:
        return Instant(self.memory if self.state in (RUNNING, PAUSED, SUSPENDED) else None, self.disk)

    def stand_on(self, instant: Instant, head: str | None) -> None:
        """Run from an instant; without memory that is a boot."""
        self.memory, self.disk, self.head = instant.memory or BLANK, instant.disk, head
        self.state, self.idle = RUNNING, False

    def restore(self, name: str) -> None:
        self.undo = [*self.undo, Step(self.head, self.state, self.instant)][-MAX_UNDO:]
        self.stand_on(self.nodes[name].instant, name)

    def go_back(self) -> None:
        step = self.undo.pop()
        self.stand_on(step.instant, step.head)
        if step.instant.memory is None and step.state is not RUNNING:
            self.state, self.memory = STOPPED, BLANK

    def delete(self, name: str, *, cascade: bool) -> set[str]:
        gone, parent = {name}, self.nodes[name].parent
        while cascade and (more := {n for n, node in self.nodes.items() if node.parent in gone} - gone):
            gone |= more
        self.nodes = {n: node for n, node in self.nodes.items() if n not in gone}
        for node in self.nodes.values():
            node.parent = parent if node.parent in gone else node.parent
        for step in self.undo:
            step.head = parent if step.head in gone else step.head
        self.head = parent if self.head in gone else self.head
        return gone
