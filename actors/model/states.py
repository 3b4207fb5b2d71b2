"""The lifecycle of a workspace, whole, in one table.

A workspace is CREATING until its first machine has proven itself.  RUNNING has a machine that executes; PAUSED has
one whose virtual CPUs stand still until it is resumed.  UNREACHABLE has one that runs, as far as is known, and cannot
be talked to: it is left alone and tried again.  SUSPENDED has a checkpoint with memory instead of a machine, STOPPED
has only a disk.  FAILED means that the machine ended without being asked to; the disk and the snapshots are intact.
DESTROYING leads to DESTROYED, which is final, and nowhere else, however often it is interrupted.

`State` is assigned by `Lifecycle.move` and nowhere else.
"""

from __future__ import annotations

import enum
from typing import Final

from actors.model.errors import IllegalState


class State(enum.StrEnum):
    """Where a workspace is in its life."""

    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


UNOWNED: Final = frozenset({State.CREATING, State.DESTROYING, State.DESTROYED})
"""States in which nobody has a workspace: not yet, or not any more."""


class Event(enum.StrEnum):
    """What happens to a workspace."""

    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    MACHINE_DIED = "machine_died"
    LOST = "lost"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


TABLE: dict[State, dict[Event, State]] = {
    State.CREATING: {
        Event.STARTED: State.RUNNING,
        Event.MACHINE_DIED: State.FAILED,
        Event.LOST: State.UNREACHABLE,
        Event.DESTROYING: State.DESTROYING,
    },
    State.RUNNING: {
        Event.STARTED: State.RUNNING,
        Event.PAUSED: State.PAUSED,
        Event.SUSPENDED: State.SUSPENDED,
        Event.STOPPED: State.STOPPED,
        Event.MACHINE_DIED: State.FAILED,
        Event.LOST: State.UNREACHABLE,
        Event.DESTROYING: State.DESTROYING,
    },
    State.PAUSED: {
        Event.RESUMED: State.RUNNING,
        Event.STARTED: State.RUNNING,
        Event.SUSPENDED: State.SUSPENDED,
        Event.STOPPED: State.STOPPED,
        Event.MACHINE_DIED: State.FAILED,
        Event.LOST: State.UNREACHABLE,
        Event.DESTROYING: State.DESTROYING,
    },
    State.SUSPENDED: {
        Event.STARTED: State.RUNNING,
        Event.STOPPED: State.STOPPED,
        Event.LOST: State.UNREACHABLE,
        Event.DESTROYING: State.DESTROYING,
    },
    State.STOPPED: {
        Event.STARTED: State.RUNNING,
        Event.STOPPED: State.STOPPED,
        Event.LOST: State.UNREACHABLE,
        Event.DESTROYING: State.DESTROYING,
    },
    State.FAILED: {
        Event.STARTED: State.RUNNING,
        Event.STOPPED: State.STOPPED,
        Event.LOST: State.UNREACHABLE,
        Event.DESTROYING: State.DESTROYING,
    },
    State.UNREACHABLE: {
        Event.RESUMED: State.RUNNING,
        Event.PAUSED: State.PAUSED,
        Event.STARTED: State.RUNNING,
        Event.STOPPED: State.STOPPED,
        Event.MACHINE_DIED: State.FAILED,
        Event.LOST: State.UNREACHABLE,
        Event.DESTROYING: State.DESTROYING,
    },
    State.DESTROYING: {
        Event.DESTROYING: State.DESTROYING,
        Event.DESTROYED: State.DESTROYED,
    },
    State.DESTROYED: {},
}


class Lifecycle:
    """The state of one workspace, moved only along the table."""

    def __init__(self, state: State = State.CREATING) -> None:
        self._state = state

    @property
    def state(self) -> State:
        """The present state."""
        return self._state

    def move(self, event: Event) -> State:
        """Follow ``event`` and return the new state.

        Raises:
            IllegalState: the table has no such move from here.

        """
        self._state = self.after(event)
        return self._state

    def after(self, event: Event) -> State:
        """Return the state to which ``event`` would lead; errors as of `move`."""
        try:
            return TABLE[self._state][event]
        except KeyError:
            raise IllegalState(
                f"A workspace that is {self._state} cannot be {event}.", remedy="workspace_info tells more."
            ) from None
