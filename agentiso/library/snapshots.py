"""The snapshots of a workspace: nodes of a tree, each of which can be restored and forked from."""

from __future__ import annotations

from actors.model.guest import Diff
from actors.model.info import SnapshotInfo, WorkspaceInfo
from actors.workspace import messages as w


class Snapshots:
    """``workspace.snapshots``."""

    def __init__(self, ref: w.WorkspaceRef) -> None:
        self._ref = ref

    async def create(self, name: str, *, include_memory: bool = True) -> SnapshotInfo:
        """Keep the present state under a name; the workspace runs on."""
        return await self._ref.ask(w.CreateSnapshot(name, include_memory))

    async def list(self) -> tuple[SnapshotInfo, ...]:
        """Return the workspace's snapshots, oldest first."""
        found: tuple[SnapshotInfo, ...] = (await self._ref.ask(w.Describe())).snapshots
        return found

    async def restore(self, snapshot: str, *, disk_only: bool = False) -> WorkspaceInfo:
        """Go back to a snapshot, in place; the other snapshots stay, and `Workspace.undo` takes this back.

        The present machine is ended only when the restored one has proven itself.  With ``disk_only`` the snapshot's
        memory is left out and the machine boots from its disk.
        """
        return await self._ref.ask(w.RestoreSnapshot(snapshot, disk_only))

    async def diff(self, base: str, other: str | None = None, *, path: str = "/", unified: bool = False) -> Diff:
        """Tell which files differ between a snapshot and another one, or between it and now.

        Only the root file system is looked at, below ``path``.  The workspace is not disturbed: a snapshot is looked
        at in a short-lived machine of its own, in which none of its processes runs.  With ``unified`` the changes of
        text files are shown too.
        """
        return await self._ref.ask(w.CompareNodes(base, other, path, unified))

    async def delete(self, name: str, *, cascade: bool = False) -> tuple[str, ...]:
        """Forget a snapshot, with ``cascade`` all that were taken on top of it too; return the names of what went.

        Without ``cascade`` those on top of it stay, and are its parent's then.
        """
        return await self._ref.ask(w.DeleteSnapshot(name, cascade))
