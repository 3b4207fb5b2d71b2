"""The library: a `System` of workspaces, and a `Workspace` as the handle that a caller holds.

Both are thin: each method is one message to an actor.  Every method may raise `agentiso.AgentisoError`, whose
message says what happened and why and whose ``remedy`` says what to do next.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import attrs

from actors import messages as m
from actors.model import ExecResult, FileContent, FileEntry, ForkReport, Lifetime, SnapshotInfo, WorkspaceInfo
from actors.settings import Settings
from actors.supervisor import open_supervisor
from agentiso.config import load_settings
from agentiso.images import loader


class Workspace:
    """A disposable Linux machine.

    The handle stays valid while the workspace exists, whatever happens to the machine under it.
    """

    def __init__(self, registry: m.RegistryRef, found: m.Found) -> None:
        self._registry = registry
        self._ref = found.ref
        self.id = found.workspace_id
        self.name = found.name

    def __repr__(self) -> str:
        return f"<Workspace {self.name} {self.id[:8]}>"

    async def info(self) -> WorkspaceInfo:
        """Return all that is known of this workspace."""
        return await self._ref.ask(m.Describe())

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float = 120.0,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
        max_output_bytes: int = 262144,
        on_output: m.OnOutput | None = None,
    ) -> ExecResult:
        """Run a command in the guest and wait for its end.

        A string goes to ``/bin/sh -c``, a sequence is run as it is.  At ``timeout_s``, or when this call is
        cancelled, the command's whole process group is killed.  A non-zero exit status is a result, not an error.
        Of each output stream at most ``max_output_bytes`` are kept, head and tail; ``on_output`` sees all of it.
        """
        argv = command if isinstance(command, str) else tuple(command)
        return await self._ref.ask(m.Exec(argv, timeout_s, workdir, env, max_output_bytes, on_output))

    async def read_file(self, path: str, *, offset: int = 0, limit: int | None = None) -> FileContent:
        """Read a guest file, or ``limit`` bytes of it from ``offset``."""
        return await self._ref.ask(m.ReadFile(path, offset, limit))

    async def write_file(
        self, path: str, content: bytes | str | AsyncIterable[bytes], *, mode: int | None = 0o644
    ) -> int:
        """Write a guest file atomically, parents included, and return its size in bytes.

        ``mode`` of ``None`` keeps the mode of a file that exists.
        """
        data = content.encode() if isinstance(content, str) else content
        return await self._ref.ask(m.WriteFile(path, data, mode))

    async def list_files(self, path: str) -> tuple[FileEntry, ...]:
        """List a guest directory, sorted by name."""
        return await self._ref.ask(m.ListFiles(path))

    async def console(self, max_bytes: int = 4096) -> str:
        """Return the end of the guest's serial console."""
        text: str = await self._ref.ask(m.ReadConsole(max_bytes))
        return text

    async def snapshot(self, name: str, *, include_memory: bool = True) -> SnapshotInfo:
        """Keep the present state under a name; the workspace runs on."""
        return await self._ref.ask(m.CreateSnapshot(name, include_memory))

    async def snapshots(self) -> tuple[SnapshotInfo, ...]:
        """Return the workspace's snapshots, oldest first."""
        return (await self.info()).snapshots

    async def restore(self, snapshot: str, *, disk_only: bool = False) -> WorkspaceInfo:
        """Go back to a snapshot, in place; the other snapshots stay, and `undo` brings the present state back.

        The present machine is ended only when the restored one has proven itself.  With ``disk_only`` the snapshot's
        memory is left out and the machine boots from its disk.
        """
        return await self._ref.ask(m.RestoreSnapshot(snapshot, disk_only))

    async def undo(self) -> WorkspaceInfo:
        """Go back to where the workspace was before its last restore; what came after that restore is lost."""
        return await self._ref.ask(m.Undo())

    async def delete_snapshot(self, name: str, *, cascade: bool = False) -> tuple[str, ...]:
        """Forget a snapshot, with ``cascade`` all that were taken on top of it too; return the names of what went.

        Without ``cascade`` those on top of it stay, and are its parent's then.
        """
        return await self._ref.ask(m.DeleteSnapshot(name, cascade))

    async def fork(
        self,
        count: int = 1,
        *,
        snapshot: str | None = None,
        names: Sequence[str] | None = None,
        name_prefix: str | None = None,
    ) -> Fork:
        """Fork this workspace, memory and disk, into ``count`` new ones that run on from the same instant.

        Without ``snapshot`` the running machine is forked and stands still only for the checkpoint.  Children are
        named by ``names``, or by ``name_prefix`` and a number.
        """
        given = tuple(names) if names is not None else None
        report = await self._registry.ask(m.ForkWorkspace(self.id, count, snapshot, given, name_prefix))
        workspaces = [
            await _find(self._registry, child.workspace_id) for child in report.children if child.workspace_id
        ]
        return Fork(report, tuple(workspaces))

    async def start(self) -> WorkspaceInfo:
        """Boot a workspace whose machine has stopped or failed, from its disk."""
        return await self._ref.ask(m.Start(None))

    async def stop(self) -> WorkspaceInfo:
        """End the machine after its guest has written its disks; a suspended workspace loses its memory."""
        return await self._ref.ask(m.Stop())

    async def pause(self) -> WorkspaceInfo:
        """Have the machine stand still until `resume`; it keeps its memory on the host."""
        return await self._ref.ask(m.Pause())

    async def suspend(self) -> WorkspaceInfo:
        """Put the workspace away, memory and all: it costs only disk until `resume`."""
        return await self._ref.ask(m.Suspend())

    async def resume(self) -> WorkspaceInfo:
        """Have a paused or suspended workspace run on where it was."""
        return await self._ref.ask(m.Resume())

    async def set_lifetime(self, *, idle_suspend_s: float | None = None, ttl_s: float | None = None) -> WorkspaceInfo:
        """Say when it is suspended, or destroyed, without being asked; what is left out is not done.

        A workspace suspended for idleness resumes by itself as soon as it is asked for something.
        """
        return await self._ref.ask(m.SetLifetime(Lifetime(idle_suspend_s, ttl_s)))

    async def destroy(self) -> None:
        """End the machine and remove all that the workspace owns; its forks are not touched."""
        await self._registry.ask(m.DestroyWorkspace(self.id))


@attrs.frozen
class Fork:
    """The outcome of one fork; iterating yields the children that run."""

    report: ForkReport
    workspaces: tuple[Workspace, ...]

    def __iter__(self) -> Iterator[Workspace]:
        return iter(self.workspaces)

    def __len__(self) -> int:
        return len(self.workspaces)

    def __getitem__(self, index: int) -> Workspace:
        return self.workspaces[index]


class System:
    """All workspaces of one state directory."""

    def __init__(self, registry: m.RegistryRef, settings: Settings) -> None:
        self._registry = registry
        self.settings = settings

    async def create(
        self,
        name: str | None = None,
        *,
        image: str | None = None,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_gb: int | None = None,
        network: str | None = None,
        allow_internet: bool | None = None,
        lifetime: Lifetime | None = None,
        on_progress: m.OnProgress | None = None,
    ) -> Workspace:
        """Make a workspace and wait until it has proven itself; unset values come from the settings.

        The first one of an (image, vcpus, memory_mb) boots a template, which takes seconds; later ones are restored
        from it.  ``on_progress`` is told in a few words what is being done.
        """
        asked = {"vcpus": vcpus, "memory_mb": memory_mb, "disk_gb": disk_gb}
        shape = attrs.evolve(self.settings.shape, **{key: value for key, value in asked.items() if value is not None})
        info = await self._registry.ask(
            m.CreateWorkspace(name, image, shape, network, allow_internet, lifetime, on_progress)
        )
        return await self.get(info.workspace_id)

    async def get(self, workspace: str) -> Workspace:
        """Find a workspace by name, by id, or by a prefix of its id of at least 8 digits."""
        return await _find(self._registry, workspace)

    async def list(self) -> tuple[WorkspaceInfo, ...]:
        """Describe all workspaces, oldest first."""
        return await self._registry.ask(m.ListWorkspaces())


async def _find(registry: m.RegistryRef, workspace: str) -> Workspace:
    return Workspace(registry, await registry.ask(m.FindWorkspace(workspace)))


@asynccontextmanager
async def open_system(settings: Settings | None = None, *, keep: bool = False) -> AsyncIterator[System]:
    """Run a supervisor in this process and yield its `System`.

    Without ``settings`` the configuration in force is used; see `agentiso.config`.  At the end the workspaces made here
    are destroyed, unless ``keep``: then their machines run on, and the next supervisor of the state directory adopts
    them.

    Raises:
        SupervisorRunning: another supervisor holds the state directory.

    """
    chosen = settings or load_settings()
    async with open_supervisor(chosen, loader(chosen.images), keep=keep) as registry:
        yield System(registry, chosen)
