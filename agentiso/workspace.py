"""A `Workspace`: the handle that a caller holds, and the outcome of forking one.  Each method is one message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from actors import messages as m
from actors.model import ExecResult, ForkReport, Lifetime, WorkspaceInfo
from agentiso.files import Files
from agentiso.git import Git
from agentiso.ports import Ports
from agentiso.snapshots import Snapshots


class Workspace:
    """A disposable Linux machine.

    The handle stays valid while the workspace exists, whatever happens to the machine under it.
    """

    def __init__(self, registry: m.RegistryRef, found: m.Found) -> None:
        self._registry = registry
        self._ref = found.ref
        self.id = found.workspace_id
        self.name = found.name
        self.files = Files(found.ref)
        self.snapshots = Snapshots(found.ref)
        self.ports = Ports(found.ref)
        self.git = Git(self)

    def __repr__(self) -> str:
        return f"<Workspace {self.name} {self.id[:8]}>"

    async def info(self) -> WorkspaceInfo:
        """Return all that is known of this workspace."""
        return await self._ref.ask(m.Describe(measured=True))

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

    async def console(self, max_bytes: int = 4096) -> str:
        """Return the end of the guest's serial console, empty while there is no machine."""
        text: str = await self._ref.ask(m.ReadLog("console", max_bytes))
        return text

    async def qemu_log(self, max_bytes: int = 4096) -> str:
        """Return the end of what QEMU has said, empty while there is no machine."""
        text: str = await self._ref.ask(m.ReadLog("qemu", max_bytes))
        return text

    async def undo(self) -> WorkspaceInfo:
        """Go back to where the workspace was before its last restore; what came after that restore is lost."""
        return await self._ref.ask(m.Undo())

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
            await find_workspace(self._registry, child.workspace_id) for child in report.children if child.workspace_id
        ]
        return Fork(report, tuple(workspaces))

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
        return await self._ref.ask(m.SetNetworkPolicy(allow_internet, allow_inter_vm, ports))

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


async def find_workspace(registry: m.RegistryRef, workspace: str) -> Workspace:
    """Return the handle of a workspace found by name, id or prefix of its id."""
    return Workspace(registry, await registry.ask(m.FindWorkspace(workspace)))
