"""A client's MCP connection, as far as it must be known to be carried from one supervisor to the next.  No I/O here.

What a supervisor forgets with its end is said to the next one: the handshake, whose second answer the client does not
see, and its subscriptions, after which it is told that each resource may have changed.  A tool's call that was under
way is answered: its outcome is unknown.  What only reads is asked again, once.  What was not sent yet waits.

A supervisor's own questions (elicitation) end with it.  Each supervisor numbers its questions from the beginning, so
those of all but the first get ids that no other has, and an answer that comes too late reaches nobody.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from typing import Any, Final

import attrs

from actors.model.errors import AgentisoError, SupervisorGone
from agentiso.protocol.lines import INTERNAL_ERROR, error_line

Id = int | str
CALL: Final = "tools/call"
LISTEN: Final = "subscriptions/listen"
UPDATED: Final = "notifications/resources/updated"
SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
REMEDY: Final = "Look with workspace_info or exec_list before you repeat it; machines and their commands run on."


@attrs.define(eq=False)
class Outgoing:
    """A message on its way to a supervisor."""

    line: bytes
    body: dict[str, Any] = attrs.field(factory=dict)
    sent: bool = False
    repeated: bool = False
    cancelled: bool = False
    renewal: bool = False
    """Whether it is not the client's: a subscription that the next supervisor is told of."""

    @property
    def method(self) -> str:
        """Its method, empty for an answer."""
        return str(self.body.get("method", ""))

    @property
    def id(self) -> Id | None:
        """Its id, if it is a request."""
        return _id(self.body.get("id")) if self.method else None


class Conversation:
    """All that one client has said and is owed."""

    def __init__(self) -> None:
        self._queue: deque[Outgoing] = deque()
        self._open: dict[Id, Outgoing] = {}
        self._handshake: Outgoing | None = None
        self._initialized: Outgoing | None = None
        self._shaken: Id | None = None
        """The id of a handshake that is repeated and not answered yet: until then nothing else is said."""
        self._subscriptions: dict[str, Outgoing] = {}
        self._renewed: dict[Id, str] = {}
        self._questions: set[Id] = set()
        self._supervisors = 0

    @property
    def waits(self) -> bool:
        """Whether the client waits for what was not sent yet."""
        return any(item.id is not None for item in self._queue)

    @property
    def is_owed(self) -> bool:
        """Whether the supervisor has yet to answer something."""
        return self._shaken is not None or any(item.sent for item in self._open.values())

    @property
    def unsent_bytes(self) -> int:
        """How much waits to be sent."""
        return sum(len(item.line) for item in self._queue)

    # -- the client speaks

    def hear_client(self, line: bytes) -> None:
        """Take in what the client says."""
        item = Outgoing(line, _parse(line))
        if item.id is not None:
            self._open[item.id] = item
            if item.method == "initialize":
                self._handshake = item
        elif item.method == "notifications/initialized":
            self._initialized = item
        elif item.method == "notifications/cancelled":
            if not self._cancel(_id(_params(item.body).get("requestId"))):
                return
        elif "method" not in item.body and "id" in item.body:
            answer = self._answer(item)
            if answer is None:
                return
            item = answer
        self._queue.append(item)

    def _cancel(self, request_id: Id | None) -> bool:
        """Note that a request was cancelled; tell whether the supervisor has to know."""
        request = self._open.get(request_id) if request_id is not None else None
        if request is None:
            return False
        if not request.sent:
            self._queue.remove(request)
            del self._open[request_id]  # type: ignore[arg-type]
            return False
        request.cancelled = True
        return True

    def _answer(self, item: Outgoing) -> Outgoing | None:
        """Return the client's answer as the supervisor that asked expects it, ``None`` if that one has gone."""
        known = _id(item.body["id"])
        if known not in self._questions:
            return None
        self._questions.discard(known)
        if self._supervisors == 1:
            return item
        _, _, original = str(known).partition("/")
        body = {**item.body, "id": json.loads(original)}
        return Outgoing(_line(body), body)

    # -- the supervisor is spoken to

    def begin(self) -> None:
        """Prepare what a new supervisor has to be told first."""
        self._supervisors += 1
        again: list[Outgoing] = []
        handshake = self._handshake
        if handshake is not None and handshake.id not in self._open:
            self._shaken = handshake.id
            again.append(handshake)
            if self._initialized is not None and self._initialized.sent:
                again.append(self._initialized)
        for uri, item in self._subscriptions.items():
            # An id that no client chooses.
            renewal = f"agentiso-{secrets.token_hex(8)}"
            body = {**item.body, "id": renewal}
            self._renewed[renewal] = uri
            again.append(Outgoing(_line(body), body, renewal=True))
        self._queue.extendleft(reversed(again))

    def next_to_send(self) -> Outgoing | None:
        """Return what is to be sent next, ``None`` if there is nothing now."""
        if not self._queue or (self._shaken is not None and self._queue[0].id != self._shaken):
            return None
        item = self._queue.popleft()
        item.sent = True
        return item

    def take_back(self, item: Outgoing) -> None:
        """Note that not all of something could be sent: the supervisor knows nothing of it."""
        item.sent = False
        self._queue.appendleft(item)

    # -- the supervisor speaks

    def hear_supervisor(self, line: bytes) -> list[bytes]:
        """Take in what the supervisor says, and return what the client is told."""
        body = _parse(line)
        if not body:
            # Cut off when it ended.
            return []
        known = _id(body.get("id"))
        if "method" in body:
            return self._ask(line, body, known) if known is not None else self._notify(line, body)
        if known is not None and known == self._shaken:
            self._shaken = None
            return []
        if known in self._renewed:
            uri = self._renewed.pop(known)
            if "error" in body:
                self._subscriptions.pop(uri, None)
            return [_updated(uri)]
        if known is not None:
            self._settle(known, body)
        return [line]

    def _settle(self, request_id: Id, body: dict[str, Any]) -> None:
        request = self._open.pop(request_id, None)
        if request is not None and request is self._handshake and "result" not in body:
            self._handshake = None
        if request is None or "result" not in body:
            return
        uri = str(_params(request.body).get("uri"))
        if request.method == "resources/subscribe":
            self._subscriptions[uri] = request
        elif request.method == "resources/unsubscribe":
            self._subscriptions.pop(uri, None)

    def _ask(self, line: bytes, body: dict[str, Any], known: Id) -> list[bytes]:
        if self._supervisors == 1:
            self._questions.add(known)
            return [line]
        renamed = self._renamed(known)
        self._questions.add(renamed)
        return [_line({**body, "id": renamed})]

    def _renamed(self, question: Id) -> str:
        return f"{self._supervisors}/{json.dumps(question)}"

    def _notify(self, line: bytes, body: dict[str, Any]) -> list[bytes]:
        params = _params(body)
        if body["method"] == "notifications/cancelled":
            known = _id(params.get("requestId"))
            renamed = known if self._supervisors == 1 or known is None else self._renamed(known)
            if renamed in self._questions and renamed is not None:
                self._questions.discard(renamed)
                return [_line({**body, "params": {**params, "requestId": renamed}})]
        if body["method"] == "notifications/subscriptions/acknowledged":
            stream = _id(_meta(body).get(SUBSCRIPTION))
            listening = self._open.get(stream) if stream is not None else None
            if listening is not None and listening.repeated:
                listening.repeated = False
                named = (params.get("notifications") or {}).get("resourceSubscriptions") or ()
                # The client has its acknowledgement; of what happened meanwhile nobody has told it.
                return [_updated(uri, stream) for uri in named]
        return [line]

    # -- the supervisor is gone

    def lose(self, lost: str = "ended") -> list[bytes]:
        """Take leave of a supervisor, of which ``lost`` says what became, and return what the client is told."""
        told = [_cancelled(question) for question in sorted(self._questions, key=str)]
        self._questions.clear()
        self._renewed.clear()
        self._shaken = None
        # What is prepared for each supervisor is prepared anew.
        self._queue = deque(item for item in self._queue if not self._is_repetition(item))
        again: list[Outgoing] = []
        for request_id, item in list(self._open.items()):
            if not item.sent:
                continue
            if item.cancelled:
                del self._open[request_id]
            elif item.method == CALL or (item.repeated and item.method != LISTEN):
                told.append(self._fail(item, _unknown(item, lost)))
            else:
                item.sent, item.repeated = False, True
                again.append(item)
        self._queue.extendleft(reversed(again))
        return told

    def _is_repetition(self, item: Outgoing) -> bool:
        answered = item is self._handshake and item.id not in self._open
        return answered or item.renewal or (item is self._initialized and item.sent)

    def refuse(self, error: AgentisoError) -> list[bytes]:
        """Return what those are told whose requests wait, when there is no supervisor to be had."""
        waiting = [item for item in self._queue if item.id is not None]
        # That it is ready the client says once.
        self._queue = deque(item for item in self._queue if item is self._initialized)
        return [self._fail(item, error) for item in waiting]

    def _fail(self, request: Outgoing, error: AgentisoError) -> bytes:
        request_id = request.id
        # Of two requests with one id it is the later.
        self._open.pop(request_id, None)  # type: ignore[arg-type]
        if request is self._handshake:
            self._handshake = None
        if request.method != CALL:
            return error_line(request_id, INTERNAL_ERROR, str(error))
        said = {"code": error.code, "message": error.message, "remedy": error.remedy}
        result = {
            "content": [{"type": "text", "text": f"{error.code}: {error}"}],
            "isError": True,
            "_meta": {"agentiso/error": said},
        }
        if VERSION_KEY in _meta(request.body):
            result["resultType"] = "complete"
        return _line({"jsonrpc": "2.0", "id": request_id, "result": result})


def _unknown(item: Outgoing, lost: str) -> AgentisoError:
    what = str(_params(item.body).get("name") or item.method)
    return SupervisorGone(f"Outcome unknown: the supervisor {lost} while {what} was under way.", remedy=REMEDY)


def _updated(uri: str, stream: Id | None = None) -> bytes:
    params: dict[str, Any] = {"uri": uri}
    if stream is not None:
        params["_meta"] = {SUBSCRIPTION: stream}
    return _line({"jsonrpc": "2.0", "method": UPDATED, "params": params})


def _cancelled(question: Id) -> bytes:
    params = {"requestId": question, "reason": "the supervisor that asked has ended"}
    return _line({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


def _line(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode() + b"\n"


def _id(value: Any) -> Id | None:
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _params(body: dict[str, Any]) -> dict[str, Any]:
    params = body.get("params")
    return params if isinstance(params, dict) else {}


def _meta(body: dict[str, Any]) -> dict[str, Any]:
    meta = _params(body).get("_meta")
    return meta if isinstance(meta, dict) else {}


def _parse(line: bytes) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
