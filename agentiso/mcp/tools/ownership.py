"""Tools that take over the workspaces of sessions that have left."""

from __future__ import annotations

from typing import Final

import attrs

from actors.model.errors import AgentisoError
from agentiso.library.workspace import Workspace
from agentiso.mcp.schema import describe, outline
from agentiso.mcp.tools.results import BriefResult
from agentiso.mcp.tools.tool import Call, Tool


@attrs.frozen
class AdoptArguments:
    workspace_id: str
    force: bool = describe("Even from a connected session", False)


@attrs.frozen
class AdoptResult(BriefResult):
    adopted: bool
    """Not if it was the caller's already."""
    adopted_from: str | None
    """The session whose it was."""


@attrs.frozen
class AdoptAllArguments:
    pass


@attrs.frozen
class AdoptFailure:
    name: str
    error: str


@attrs.frozen
class AdoptAllResult:
    adopted_count: int
    adopted: list[AdoptResult] = outline("As of workspace_adopt", parts=False)
    error_count: int = describe()
    errors: list[AdoptFailure] = outline()


async def _adopt(call: Call, a: AdoptArguments) -> AdoptResult:
    ws = await call.find(a.workspace_id)
    if ws.owner == call.client.session:
        info = await ws.info()
        return AdoptResult(ws.id, ws.name, info.state, info.network.ip, False, info.adopted_from)
    call.gate.check_adoptable(call.client, ws, force=a.force)
    info = await call.system.adopt(ws, call.client.session)
    return AdoptResult(ws.id, ws.name, info.state, info.network.ip, True, ws.owner)


async def _adopt_all(call: Call, _a: AdoptAllArguments) -> AdoptAllResult:
    adopted, errors = [], []
    for info in await call.system.list():
        if info.owner == call.client.session or not call.gate.presence.vanished(info.owner):
            continue
        try:
            adopted.append(await _adopt(call, AdoptArguments(info.workspace_id, force=True)))
        except AgentisoError as error:
            errors.append(AdoptFailure(info.name, str(error)))
    return AdoptAllResult(len(adopted), adopted, len(errors), errors)


async def check_destroyable(call: Call, ws: Workspace, *, force: bool) -> None:
    """Have the person behind the client agree, where there is one, before another session's work is destroyed.

    Raises:
        NotOwner: it is another session's, and nobody could be asked.
        WorkOfAnother: it was another session's until it was adopted, and nobody could be asked.
        Declined: somebody was asked and did not agree.

    """
    if force or call.client.is_user:
        return
    if call.gate.owns(call.client, ws.owner):
        whose = (await ws.info()).adopted_from
        if whose is None or call.gate.presence.vanished(whose):
            return
        what = f"Workspace {ws.name} was session {whose!r}'s until it was adopted; its work will be lost."
    else:
        what = f"Workspace {ws.name} belongs to session {ws.owner!r}; its work will be lost."
    agreed = await call.confirm(f"{what} Destroy it?")
    if agreed is None:
        call.gate.check_owner(call.client, ws)
        raise WorkOfAnother(what, remedy="Use force=true if nobody needs it any more.")
    if not agreed:
        raise Declined(f"The user does not want workspace {ws.name} to be destroyed.", remedy="Leave it.")


class WorkOfAnother(AgentisoError):
    """A workspace holds what another session has worked for."""

    code = "work_of_another"


class Declined(AgentisoError):
    """The person behind the client was asked, and did not agree."""

    code = "declined"


TOOLS: Final = (
    Tool("workspace_adopt", "Take over a workspace whose session has been gone for 60 s. It counts against your quota.",
         AdoptArguments, AdoptResult, _adopt, idempotent=True),
    Tool("workspace_adopt_all", "Take over all workspaces of sessions that were revoked or unseen for a day.",
         AdoptAllArguments, AdoptAllResult, _adopt_all, idempotent=True),
)  # fmt: skip
