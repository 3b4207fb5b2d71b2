"""What every call of a tool passes on its way in: who may use which workspace, and who may take one over."""

from __future__ import annotations

from actors.model.errors import AgentisoError
from actors.model.settings import Settings
from agentiso.access.audit import AuditLog
from agentiso.access.presence import IDLE_S, Presence
from agentiso.access.ratelimits import Limiter
from agentiso.library.workspace import Workspace
from agentiso.protocol.sessions import Client, SessionStore, Unauthorized


class NotOwner(AgentisoError):
    """The workspace belongs to another session; ``facts`` has ``owner``."""

    code = "not_owner"


class OwnerBusy(AgentisoError):
    """A workspace cannot be adopted, since its owner is connected or was until a moment ago."""

    code = "owner_busy"


class Gate:
    """The rules between sessions, for all calls that one supervisor serves."""

    def __init__(self, settings: Settings) -> None:
        self.sessions = SessionStore(settings.state_dir)
        self.presence = Presence(self.sessions)
        self.audit = AuditLog(settings.state_dir, settings.audit)
        self._limiter = Limiter(settings.rate_limits)

    def admit(self, client: Client, tool: str) -> None:
        """Let a call of a client pass.

        Raises:
            Unauthorized: its session was revoked since it connected.
            RateLimited: it calls too often.

        """
        if client.transport == "unix" and not client.is_user and not self.sessions.exists(client.session):
            raise Unauthorized(f"Session {client.session!r} was revoked.", remedy="Connect anew.")
        if not client.is_user:
            self.presence.note(client.session)
            self._limiter.count(client.session, tool)

    def owns(self, client: Client, owner: str) -> bool:
        """Tell whether a client may do as it likes with an owner's workspaces."""
        return client.is_user or client.session == owner

    def check_owner(self, client: Client, workspace: Workspace) -> None:
        """Let the owner, or the user, at a workspace.

        Raises:
            NotOwner: it is another session's.

        """
        if not self.owns(client, workspace.owner):
            raise NotOwner(
                f"Workspace {workspace.name} belongs to session {workspace.owner!r}, you are {client.session!r}.",
                remedy=f"Take it with workspace_adopt {how_to_adopt()}.",
                owner=workspace.owner,
            )

    def check_adoptable(self, client: Client, workspace: Workspace, *, force: bool) -> None:
        """Let a client take a workspace whose owner has left, or with ``force`` any.

        Raises:
            OwnerBusy: its owner has not.

        """
        idle_s = self.presence.idle_s(workspace.owner)
        if force or client.is_user or idle_s >= IDLE_S:
            return
        when = f"left {idle_s:.0f} s ago" if idle_s else "is connected"
        raise OwnerBusy(
            f"Session {workspace.owner!r}, whose workspace {workspace.name} is, {when}.",
            remedy=f"Adopt it {how_to_adopt()}; make one of your own; or ask its owner to fork it.",
        )


def how_to_adopt() -> str:
    """Say when a workspace can be adopted."""
    return f"once its owner has been gone for {IDLE_S:.0f} s, or with force=true if you know that it is meant for you"
