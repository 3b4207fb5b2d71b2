"""Workspaces that end with the program that made them: noted in files, for when its supervisor does not end in order.

A supervisor that runs in a program notes what was made in its life, one that serves programs what each of them made.
Whatever ends in order destroys these itself and takes its file away.  What a file still names while another supervisor
runs was left behind: by a supervisor that is gone, since the next one has its lock, and by a program once it is proven
dead.  It is destroyed like any other workspace, unless somebody has adopted it.  What cannot be read, or proven, is
kept.  A note that power loss takes is a workspace that is kept.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import cattrs
import trio

from actors.machine.qemu.process import start_time_of
from actors.model.errors import AgentisoError, NotFound
from actors.model.files import read_json, replace_json
from actors.model.names import new_id
from actors.model.record import directory_of
from actors.registry import messages as r
from actors.runtime import ActorRef, Message

T = TypeVar("T")
log = logging.getLogger("agentiso.registry")
DIRECTORY: Final = "ephemeral"
END_S: Final = 120.0


@attrs.frozen
class Program:
    """A process, told from all that come after it with the same pid."""

    pid: int
    start_time: int
    boot: str
    namespace: int
    """Within which the pid means something."""

    @classmethod
    def of(cls, pid: int) -> Program:
        """Return who a pid is now.

        Raises:
            OSError: nobody, or somebody beyond this namespace.

        """
        return cls(pid, start_time_of(pid), _boot(), _namespace())

    @property
    def is_dead(self) -> bool:
        """Whether it provably has ended."""
        if self.boot != _boot():
            return True
        if self.namespace != _namespace():
            return False
        try:
            return start_time_of(self.pid) != self.start_time
        except FileNotFoundError:
            return True
        except (OSError, ValueError, IndexError):
            return False


@attrs.frozen
class _Note:
    program: Program | None
    """Who made them; ``None`` for the supervisor's own process."""
    workspaces: dict[str, str]
    """Their ids, and to whom each belonged when it was made."""


class Ephemeral:
    """What one program has made and is to end with it."""

    def __init__(self, state_dir: Path, path: Path | None, note: _Note) -> None:
        self._state_dir = state_dir
        self._path = path
        self._program = note.program
        self._made = dict(note.workspaces)

    @classmethod
    def of_supervisor(cls, state_dir: Path) -> Ephemeral:
        """Return what a program will make that runs the supervisor itself."""
        return cls(state_dir, _new_path(state_dir), _Note(None, {}))

    @classmethod
    def of_client(cls, state_dir: Path, pid: int) -> Ephemeral:
        """Return what a client of this supervisor will make; it is noted in no file if the pid says nothing."""
        try:
            return cls(state_dir, _new_path(state_dir), _Note(Program.of(pid), {}))
        except (OSError, ValueError, IndexError):
            # It is beyond this pid namespace, or gone: nobody could tell later whether it lives.
            return cls(state_dir, None, _Note(None, {}))

    @classmethod
    def left_in(cls, state_dir: Path, path: Path) -> Ephemeral | None:
        """Return what a file of an earlier supervisor names, or ``None`` while it may still be in use."""
        try:
            note = cattrs.structure(read_json(path), _Note)
        except (OSError, ValueError, TypeError, KeyError, cattrs.BaseValidationError) as error:
            log.warning("%s cannot be read, and what it names is kept: %s", path, error)
            return None
        return cls(state_dir, path, note) if note.program is None or note.program.is_dead else None

    def note(self, message: Message[Any], result: Any) -> None:
        """Note what came of a message, if it made or destroyed a workspace."""
        before = dict(self._made)
        match message:
            case r.CreateWorkspace(owner=owner) | r.ImportWorkspace(owner=owner):
                self._made[result.found.workspace_id] = owner
            case r.ForkWorkspace(owner=owner):
                self._made |= {found.workspace_id: owner for found in result.found}
            case r.DestroyWorkspace(workspace):
                self._made.pop(workspace, None)
        if self._made != before:
            self._save()

    async def end_all(self, registry: r.RegistryRef) -> None:
        """Destroy it all, but what somebody has adopted; what could not be destroyed stays noted."""
        async with trio.open_nursery() as nursery:
            for workspace_id, owner in tuple(self._made.items()):
                nursery.start_soon(self._end, registry, workspace_id, owner)
        self._save()

    async def _end(self, registry: r.RegistryRef, workspace_id: str, owner: str) -> None:
        try:
            found = await registry.ask(r.FindWorkspace(workspace_id))
            if found.owner == owner:
                await registry.ask(r.DestroyWorkspace(workspace_id))
        except NotFound:
            if self._may_be_there(workspace_id):
                # Its record is damaged.
                return
        except AgentisoError as error:
            log.warning("workspace %s was not destroyed with the program that made it: %s", workspace_id, error)
            return
        del self._made[workspace_id]

    def close(self) -> None:
        """Note that all was destroyed; what is still there stays noted."""
        self._made = {key: owner for key, owner in self._made.items() if self._may_be_there(key)}
        self._save()

    def _may_be_there(self, workspace_id: str) -> bool:
        """Tell whether something is left of a workspace, or that cannot be told."""
        try:
            directory_of(self._state_dir, workspace_id).lstat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def _save(self) -> None:
        if self._path is None:
            return
        try:
            if self._made:
                self._path.parent.mkdir(exist_ok=True, mode=0o700)
                replace_json(self._path, attrs.asdict(_Note(self._program, self._made)))
            else:
                self._path.unlink(missing_ok=True)
        except (OSError, AgentisoError) as error:
            # The work itself is done.  If this supervisor is killed, what it made is kept.
            log.warning("%s could not be written: %s", self._path, error)


class NotingRef(ActorRef[Any]):
    """The registry for a program that runs it: what is made through it is noted."""

    def __init__(self, registry: ActorRef[Any], notes: Ephemeral) -> None:
        super().__init__(registry.name, registry._mailbox)
        self.stopped = registry.stopped
        self._notes = notes

    async def ask(self, message: Message[T], *, deadline_s: float | None = None) -> T:
        """Have a message handled and return its result."""
        result = await super().ask(message, deadline_s=deadline_s)
        self._notes.note(message, result)
        return result


async def end_left_behind(state_dir: Path, registry: r.RegistryRef) -> None:
    """Destroy what dead programs left behind; for a supervisor that holds the lock and has made nothing itself."""
    with trio.move_on_after(END_S):
        for path in sorted((state_dir / DIRECTORY).glob("*.json")):
            left = Ephemeral.left_in(state_dir, path)
            if left is not None:
                log.info("what a program made that has ended is destroyed: %s", path)
                await left.end_all(registry)


def _new_path(state_dir: Path) -> Path:
    return state_dir / DIRECTORY / f"{new_id()}.json"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
