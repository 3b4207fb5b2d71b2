"""A call of a tool on its way: who calls and whether they may, the work, the audit log, and failures as results."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import attrs
import mcp_types as types
import trio

from actors.model.errors import AgentisoError
from actors.model.text import plain, printable, shown
from agentiso.access.audit import Entry
from agentiso.access.gate import Gate
from agentiso.library.system import System
from agentiso.mcp.content import content_of
from agentiso.mcp.elicitation import InputNeeded, confirm, question_result
from agentiso.mcp.once import Once
from agentiso.mcp.profiles import is_shown
from agentiso.mcp.progress import open_progress
from agentiso.mcp.schema import structure
from agentiso.mcp.tools import TOOLS, Call
from agentiso.protocol.sessions import CLIENT, Client

log = logging.getLogger("agentiso.mcp")
MAX_ERROR_CHARS: Final = 4000
"""Of a message, whoever wrote it: git, QEMU and a guest have their say in some."""
ERROR_META: Final = "agentiso/error"
"""Key of a failed result's ``_meta`` under which programs find the error's code, message and remedy."""


class UnknownTool(AgentisoError):
    """There is no such tool, or it is not among those that the client asked for."""

    code = "unknown_tool"


class Calls:
    """Carries out the calls of all clients."""

    def __init__(self, system: System, rules: Gate) -> None:
        self._system = system
        self._rules = rules
        self._tools = {tool.name: tool for tool in TOOLS}
        self._once = Once()

    async def __call__(
        self, context: Any, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Do what a call asks; whatever fails is a result that says so."""
        with self._rules.audit.call(client_of(context), params.name, params.arguments or {}) as entry:
            try:
                result = await self._attempt(context, params, entry)
            except InputNeeded as needed:
                entry.outcome = "input_required"
                return question_result(needed)
            except AgentisoError as error:
                entry.outcome = error.code
                return _error(error.code, error.message, error.remedy, error.facts)
            except Exception:
                incident, entry.outcome = uuid.uuid4().hex[:8], "internal_error"
                log.exception("incident %s in tool %s", incident, params.name)
                what = f"Something unexpected failed (incident {incident})."
                return _error(entry.outcome, what, "See the daemon's log.")
            entry.outcome = "ok"
        content = content_of(result, entry.workspace_id, str(context.protocol_version))
        return types.CallToolResult(content=content, structured_content=plain(attrs.asdict(result)))

    async def _attempt(self, context: Any, params: types.CallToolRequestParams, entry: Entry) -> Any:
        """Do what a call asks and return the tool's result."""
        asked = client_of(context)
        tool = self._tools.get(params.name)
        if tool is None or not is_shown(tool, asked):
            raise UnknownTool(
                f"There is no tool {shown(params.name)}.",
                remedy=f"There are: {', '.join(tool.name for tool in TOOLS if is_shown(tool, asked))}.",
            )
        self._rules.admit(asked, tool.name)
        given = params.arguments or {}
        arguments = structure(tool.arguments, given)

        async def work() -> Any:
            ask = partial(confirm, context, params.input_responses)
            taken_back = partial(_cancelled, context.session)
            call = Call(self._system, report, self._rules, entry, ask, asked, taken_back)
            result = await tool.handler(call, arguments)
            if entry.workspace_id is None and hasattr(result, "workspace_id"):
                entry.about(result.workspace_id, result.name)
            return result

        key = getattr(arguments, "idempotency_key", None)
        # Also while it waits for another call of the same key.
        async with open_progress(context.session) as report:
            if key is None:
                return await work()
            once = (asked.session, tool.name, key)
            return await self._once(once, given, work, idempotent=tool.idempotent)


def _cancelled(session: Any) -> bool:
    # The SDK keeps this to itself so far; its handlers' contexts have no other way to it.
    return bool(session._request_outbound.cancel_requested.is_set())


@attrs.frozen
class Served:
    """What the SDK hands to every handler as its lifespan: of one connection, or over HTTP of all."""

    client: Client
    """Who calls, where the transport does not say it."""
    nursery: trio.Nursery
    """For what goes on between requests."""


def client_of(context: Any) -> Client:
    """Return who sent the request of a context."""
    if context.request is not None:
        client: Client = context.request.scope[CLIENT]
        return client
    served: Served = context.lifespan_context
    return served.client


def _error(code: str, message: str, remedy: str, facts: Mapping[str, Any] | None = None) -> types.CallToolResult:
    message, remedy = printable(message)[:MAX_ERROR_CHARS], printable(remedy)
    error: dict[str, Any] = {"code": code, "message": message, "remedy": remedy}
    if numbers := {key: value for key, value in (facts or {}).items() if isinstance(value, bool | int | float)}:
        error["facts"] = numbers
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=f"{code}: {message} {remedy}".strip())],
        # Not structured content: clients hold that against the tool's output schema, errors or not.
        _meta={ERROR_META: error},
        is_error=True,
    )
