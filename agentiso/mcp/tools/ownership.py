"""Tools that take over the workspaces of sessions that have left."""

from __future__ import annotations

from typing import Final

import attrs

from actors.errors import AgentisoError
from agentiso.mcp.schema import describe
from agentiso.mcp.tools.tool import WORKSPACE, Call, Tool


@attrs.frozen
class AdoptArguments:
    workspace_id: str = describe(WORKSPACE)
    force: bool = describe("Take it even from a session that is still connected.", False)


@attrs.frozen
class AdoptResult:
    workspace_id: str = describe("Its id.")
    name: str = describe("Its name.")
    state: str = describe("Its state.")
    ip: str | None = describe("The guest's address on its own network.")
    adopted: bool = describe("False if it was yours already.")
    adopted_from: str | None = describe("The session whose it was.")


@attrs.frozen
class AdoptAllArguments:
    pass


@attrs.frozen
class AdoptFailure:
    name: str = describe("The workspace.")
    error: str = describe("Why it was not adopted.")


@attrs.frozen
class AdoptAllResult:
    adopted_count: int = describe("How many are yours now.")
    adopted: list[AdoptResult] = describe("They.")
    error_count: int = describe("How many could not be adopted.")
    errors: list[AdoptFailure] = describe("They, and why.")


async def _adopt(call: Call, a: AdoptArguments) -> AdoptResult:
    ws = await call.system.get(a.workspace_id)
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


TOOLS: Final = (
    Tool("workspace_adopt", "Adopt a workspace", "Take over a workspace whose owner, another session, has been gone "
         "for 60 s. It counts against your quota.", AdoptArguments, AdoptResult, _adopt, idempotent=True),
    Tool("workspace_adopt_all", "Adopt orphans", "Take over all workspaces of sessions that were revoked or not seen "
         "for a day; never those of a live session.", AdoptAllArguments, AdoptAllResult, _adopt_all, idempotent=True),
)  # fmt: skip
