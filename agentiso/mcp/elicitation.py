"""Asking the person behind a client before something is done that cannot be taken back.

Clients of the handshake era are asked while the call waits.  Those of the stateless era get the question as an answer
and call again with the person's word; nothing is trusted of what they bring back but that word.
"""

from __future__ import annotations

from typing import Any, Final

import mcp_types as types
import trio
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

KEY: Final = "confirm"
ANSWER_LIMIT_S: Final = 600.0
"""A person who has not answered by then has not agreed."""
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {KEY: {"type": "boolean", "title": "Go ahead", "description": "Whether it is to be done."}},
    "required": [KEY],
}


class InputNeeded(Exception):
    """The client has to be asked before the call can go on."""

    def __init__(self, question: str) -> None:
        super().__init__(question)
        self.question = question


async def confirm(context: Any, responses: Any, question: str) -> bool | None:
    """Ask the person behind a client; ``None`` if the client has no way to ask.

    Raises:
        InputNeeded: the client is to be asked and to call again.

    """
    capabilities = context.session.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        return None
    if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
        answer = (responses or {}).get(KEY)
        if answer is None:
            raise InputNeeded(question)
    else:
        answer = None
        with trio.move_on_after(ANSWER_LIMIT_S):
            answer = await context.session.elicit_form(question, SCHEMA, context.request_id)
    if not isinstance(answer, types.ElicitResult) or answer.action != "accept":
        return False
    return (answer.content or {}).get(KEY) is True


def question_result(needed: InputNeeded) -> types.InputRequiredResult:
    """Return the answer to a call that asks the client for the person's word."""
    params = types.ElicitRequestFormParams(message=needed.question, requested_schema=SCHEMA)
    return types.InputRequiredResult(input_requests={KEY: types.ElicitRequest(params=params)})
