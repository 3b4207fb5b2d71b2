"""A `Workspace`: the handle that a caller holds, and the outcome of forking one.  Each method is one message."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

import attrs
import trio

from actors.model.errors import GuestBroken, GuestRefused, NotFound
from actors.model.guest import CommandSpec, ExecResult
from actors.model.info import LIBRARY, ExportReport, ForkReport, Lifetime, WorkspaceInfo
from actors.registry import messages as r
from actors.runtime import open_plain_nursery
from actors.workspace import job_messages as j
from actors.workspace import messages as w
from agentiso.library.files import Files
from agentiso.library.git import Git
from agentiso.library.jobs import Jobs, Output
from agentiso.library.ports import Ports
from agentiso.library.snapshots import Snapshots

DEFAULT_TIMEOUT_S: Final = 120.0
KILL_LIMIT_S: Final = 10.0
DESTROY_LIMIT_S: Final = 120.0


class Workspace:
    """A disposable Linux machine.

    The handle stays valid while the workspace exists, whatever happens to the machine under it.
    """

    def __init__(self, registry: r.RegistryRef, found: r.Found) -> None:
        self._registry = registry
        self._ref = found.ref
        self.id: str = found.workspace_id
        self.name: str = found.name
        self.owner: str = found.owner
        """The session whose it was when this handle was made."""
        self.files = Files(self, found.ref)
        self.jobs = Jobs(found.ref)
        self.snapshots = Snapshots(found.ref)
        self.ports = Ports(found.ref)
        self.git = Git(self)

    def __repr__(self) -> str:
        return f"<Workspace {self.name} {self.id[:8]}>"

    async def info(self) -> WorkspaceInfo:
        """Return all that is known of this workspace."""
        return await self._ref.ask(w.Describe(measured=True))

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        yield_s: float | None = None,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
        max_output_bytes: int = 262144,
        on_output: j.OnOutput | None = None,
    ) -> ExecResult:
        """Run a command in the guest and wait for its end.

        A string goes to ``/bin/sh -c``, a sequence is run as it is.  At ``timeout_s`` (120 if it is left out), or when
        this call is cancelled, the command's process group and all descendants are killed.  With ``yield_s`` this
        returns after that time in any case: the result's ``running`` tells that the command goes on, without a time
        limit unless one is given, and ``jobs`` has the rest of it.  A non-zero exit status is a result, not an error.
        Of each output stream at most ``max_output_bytes`` are kept, head and tail; ``on_output`` sees all of it.
        """
        limit_s = DEFAULT_TIMEOUT_S if timeout_s is None and yield_s is None else timeout_s
        spec = CommandSpec(command if isinstance(command, str) else tuple(command), workdir, env, limit_s)
        return await self._ref.ask(j.Exec(spec, yield_s, max_output_bytes, on_output))

    @asynccontextmanager
    async def stream(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        workdir: str | None = None,
        env: dict[str, str] | None = None,
    ) -> AsyncIterator[Output]:
        """Run a command and yield its `Output`, an async iterator, as it comes.

        The command waits for a slow reader.  Whoever leaves the block before its end kills it::

            async with ws.stream("make") as output:
                async for event in output:
                    print(event.stream, event.data)
        """
        job = await self.jobs.start(command, timeout_s=timeout_s, workdir=workdir, env=env)
        output: Output | None = None
        try:
            async with self.jobs.follow(job.job_id) as output:
                yield output
        finally:
            if output is None or output.job is None:
                # A guest that cannot be asked any more has nothing that could be killed.
                with (
                    trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_LIMIT_S),
                    contextlib.suppress(GuestBroken, GuestRefused),
                ):
                    await self.jobs.kill(job.job_id)

    async def set_env(self, variables: dict[str, str | None]) -> int:
        """Set, or with ``None`` unset, variables for all later commands; return how many are set then.

        They are kept in the guest's memory only.
        """
        return await self._ref.ask(j.SetEnv(variables))

    async def console(self, max_bytes: int = 4096) -> str:
        """Return the end of the guest's serial console: of its machine, or of the last one that has ended."""
        text: str = await self._ref.ask(w.ReadLog("console", max_bytes))
        return text

    async def qemu_log(self, max_bytes: int = 4096) -> str:
        """Return the end of what QEMU has said: the machine's, or the last one's that has ended."""
        text: str = await self._ref.ask(w.ReadLog("qemu", max_bytes))
        return text

    async def undo(self) -> WorkspaceInfo:
        """Go back to where the workspace was before its last restore; what came after that restore is lost."""
        return await self._ref.ask(w.Undo())

    async def fork(
        self,
        count: int = 1,
        *,
        snapshot: str | None = None,
        names: Sequence[str] | None = None,
        name_prefix: str | None = None,
        owner: str = LIBRARY,
    ) -> Fork:
        """Fork this workspace, memory and disk, into ``count`` new ones that run on from the same instant.

        Without ``snapshot`` the running machine is forked and stands still only for the checkpoint.  Children are
        named by ``names``, or by ``name_prefix`` and a number.  Where there is no machine, or the snapshot has no
        memory, they boot from the disk, and the report's ``note`` says so.
        """
        given = tuple(names) if names is not None else None
        forked = await self._registry.ask(r.ForkWorkspace(self.id, count, snapshot, given, name_prefix, owner))
        return Fork(forked.report, tuple(Workspace(self._registry, found) for found in forked.found))

    @asynccontextmanager
    async def forked(
        self,
        count: int = 1,
        *,
        snapshot: str | None = None,
        names: Sequence[str] | None = None,
        name_prefix: str | None = None,
    ) -> AsyncIterator[Fork]:
        """Fork this workspace as `fork` does, and destroy the children at the end of the block, however it ends."""
        children = await self.fork(count, snapshot=snapshot, names=names, name_prefix=name_prefix)
        try:
            yield children
        finally:
            await destroy_all(*children)

    async def set_network_policy(
        self,
        *,
        allow_internet: bool | None = None,
        allow_inter_vm: bool | None = None,
        allowed_ports: Sequence[int] | None = None,
    ) -> WorkspaceInfo:
        """Change what the network lets through; what is left out stays as it is.

        A running workspace is suspended and resumed for this, in well under a second: its processes run on, its
        connections are closed, and calls under way in it end with an unknown outcome.

        Raises:
            InvalidArgument: the workspace's network backend cannot do it; nothing was changed.

        """
        ports = None if allowed_ports is None else tuple(allowed_ports)
        return await self._ref.ask(w.SetNetworkPolicy(allow_internet, allow_inter_vm, ports))

    async def export(
        self, target: Path | str | BinaryIO, *, snapshot: str | None = None, on_progress: r.OnProgress | None = None
    ) -> ExportReport:
        """Write the workspace as it is now, or a snapshot of it, memory and disk, to a file that can be imported.

        ``target`` is the path of a file that does not exist yet, or a binary stream.  The file holds all that the
        guest's memory and disk hold, secrets included, so its mode is 0600.  The workspace runs on.
        """
        chosen = Path(target) if isinstance(target, str) else target
        return await self._registry.ask(r.ExportWorkspace(self.id, chosen, snapshot, on_progress))

    async def start(self) -> WorkspaceInfo:
        """Boot a workspace whose machine has stopped or failed, from its disk."""
        return await self._ref.ask(w.Start(None))

    async def stop(self) -> WorkspaceInfo:
        """End the machine after its guest has written its disks; a suspended workspace loses its memory."""
        return await self._ref.ask(w.Stop())

    async def pause(self) -> WorkspaceInfo:
        """Have the machine stand still until `resume`; it keeps its memory on the host."""
        return await self._ref.ask(w.Pause())

    async def suspend(self) -> WorkspaceInfo:
        """Put the workspace away, memory and all: it costs only disk until `resume`."""
        return await self._ref.ask(w.Suspend())

    async def resume(self) -> WorkspaceInfo:
        """Have a paused or suspended workspace run on where it was."""
        return await self._ref.ask(w.Resume())

    async def set_lifetime(self, *, idle_suspend_s: float | None = None, ttl_s: float | None = None) -> WorkspaceInfo:
        """Say when it is suspended, or destroyed, without being asked; what is left out is not done.

        A workspace suspended for idleness resumes by itself as soon as it is asked for something.
        """
        return await self._ref.ask(w.SetLifetime(Lifetime(idle_suspend_s, ttl_s)))

    async def destroy(self) -> None:
        """End the machine and remove all that the workspace owns; its forks are not touched."""
        await self._registry.ask(r.DestroyWorkspace(self.id))


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


async def find_workspace(registry: r.RegistryRef, workspace: str) -> Workspace:
    """Return the handle of a workspace found by name, id or prefix of its id."""
    return Workspace(registry, await registry.ask(r.FindWorkspace(workspace)))


async def destroy_all(*workspaces: Workspace) -> None:
    """Destroy workspaces side by side, also when the caller is cancelled; those that are gone already are no error."""

    async def destroy(workspace: Workspace) -> None:
        with contextlib.suppress(NotFound):
            await workspace.destroy()

    with trio.CancelScope(shield=True, deadline=trio.current_time() + DESTROY_LIMIT_S):
        async with open_plain_nursery() as nursery:
            for workspace in workspaces:
                nursery.start_soon(destroy, workspace)
