"""What a client is owed when its supervisor is replaced: nothing is done twice, nothing is left unanswered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.model.errors import HostUnfit
from agentiso.client.conversation import Conversation

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
STATELESS = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}


class Between:
    """A conversation, with the client's and the supervisor's words as objects."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.conversation.begin()

    def client(self, *bodies: dict[str, Any]) -> None:
        for body in bodies:
            self.conversation.hear_client(json.dumps(body).encode() + b"\n")

    def sent(self) -> list[Any]:
        """Send all that can be sent, and return it."""
        found = []
        while (item := self.conversation.next_to_send()) is not None:
            found.append(json.loads(item.line))
        return found

    def supervisor(self, body: dict[str, Any]) -> list[Any]:
        """Have the supervisor speak, and return what the client is told."""
        return [json.loads(line) for line in self.conversation.hear_supervisor(json.dumps(body).encode() + b"\n")]

    def replaced(self) -> list[Any]:
        """Have the supervisor end and the next one be there; return what the client is told of it."""
        told = [json.loads(line) for line in self.conversation.lose()]
        self.conversation.begin()
        return told

    def shaken(self) -> None:
        """Have client and supervisor shake hands."""
        self.client(INITIALIZE)
        assert self.sent() == [INITIALIZE]
        answer = result(0, protocolVersion="2025-11-25")
        assert self.supervisor(answer) == [answer]
        self.client(INITIALIZED)
        assert self.sent() == [INITIALIZED]


def request(number: int | str, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def call(number: int | str, tool: str = "exec", **params: Any) -> dict[str, Any]:
    return request(number, "tools/call", name=tool, arguments={}, **params)


def result(number: int | str, **values: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": values}


def updated(uri: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri, **params}}


def cancelled(number: int | str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}


def test_messages_pass_in_both_directions_byte_for_byte_and_in_order() -> None:
    conversation = Conversation()
    conversation.begin()
    lines = [b'{ "id":1,\t"method" : "ping","jsonrpc":"2.0" }\n', b"nonsense\n", b'{"jsonrpc":"2.0","method":"x"}\n']
    for line in lines:
        conversation.hear_client(line)
    sent = []
    while (item := conversation.next_to_send()) is not None:
        sent.append(item.line)
    assert sent == lines
    answer = b'{"result" : { },  "id": 1, "jsonrpc":"2.0"}\n'
    assert conversation.hear_supervisor(answer) == [answer]
    assert conversation.lose() == []


@pytest.mark.parametrize("params", [{}, STATELESS], ids=["handshake", "stateless"])
def test_a_call_under_way_is_answered_that_its_outcome_is_unknown_and_is_not_repeated(params: dict[str, Any]) -> None:
    between = Between()
    between.client(call(7, "workspace_fork", **params), call(8, **params))
    between.sent()
    assert between.supervisor(result(8))
    (answer,) = between.replaced()
    assert answer["id"] == 7
    assert answer["result"]["isError"]
    assert answer["result"].get("resultType") == ("complete" if params else None)
    text = answer["result"]["content"][0]["text"]
    assert "Outcome unknown: the supervisor ended while workspace_fork was under way." in text
    assert "workspace_info or exec_list" in text
    assert answer["result"]["_meta"]["agentiso/error"]["code"] == "supervisor_gone"
    assert between.sent() == []
    assert between.replaced() == []


def test_what_only_reads_is_asked_again_once() -> None:
    between = Between()
    reading = request("a", "resources/read", uri="agentiso://workspaces")
    between.client(reading)
    assert between.sent() == [reading]
    assert between.replaced() == []
    assert between.sent() == [reading]
    (answer,) = between.replaced()
    assert (answer["id"], answer["error"]["code"]) == ("a", -32603)
    assert "resources/read was under way" in answer["error"]["message"]
    assert between.sent() == []


def test_the_handshake_is_repeated_before_anything_else_and_its_answer_is_kept_from_the_client() -> None:
    between = Between()
    between.shaken()
    between.client(call(1))
    assert between.sent() == [call(1)]
    assert [answer["id"] for answer in between.replaced()] == [1]
    between.client(call(2))
    assert between.sent() == [INITIALIZE]
    assert between.sent() == []
    assert between.supervisor(result(0, protocolVersion="2025-11-25")) == []
    assert between.sent() == [INITIALIZED, call(2)]
    assert between.supervisor(result(2)) == [result(2)]
    # Also by the third, when the second one did not live to answer.
    between.replaced()
    assert between.sent() == [INITIALIZE]
    between.replaced()
    assert between.sent() == [INITIALIZE]
    assert between.supervisor(result(0)) == []
    assert between.sent() == [INITIALIZED]


def test_a_handshake_that_was_not_answered_is_the_clients_own() -> None:
    between = Between()
    between.client(INITIALIZE)
    assert between.sent() == [INITIALIZE]
    assert between.replaced() == []
    assert between.sent() == [INITIALIZE]
    assert between.supervisor(result(0)) == [result(0)]


def test_what_waits_for_a_supervisor_is_sent_to_the_next_one() -> None:
    between = Between()
    between.client(call(1), call(2))
    first = between.conversation.next_to_send()
    assert first is not None
    # Only a part of it could be written.
    between.conversation.take_back(first)
    assert between.replaced() == []
    assert between.conversation.waits
    assert between.sent() == [call(1), call(2)]


def test_if_there_is_no_supervisor_to_be_had_those_who_wait_are_told() -> None:
    between = Between()
    between.client(call(1), request(2, "tools/list"))
    assert not between.conversation.lose()
    told = [json.loads(line) for line in between.conversation.refuse(HostUnfit("It does not start.", remedy="Look."))]
    assert told[0]["result"]["content"][0]["text"] == "host_unfit: It does not start. Look."
    assert told[1]["error"]["message"] == "It does not start. Look."
    between.conversation.begin()
    assert between.sent() == []
    assert not between.conversation.waits


def test_that_a_client_is_ready_is_said_to_the_next_supervisor_even_if_one_was_not_to_be_had() -> None:
    between = Between()
    between.client(INITIALIZE)
    between.sent()
    between.supervisor(result(0))
    assert not between.conversation.lose()
    between.client(INITIALIZED, request(1, "tools/list"))
    assert len(between.conversation.refuse(HostUnfit("No."))) == 1
    between.client(request(2, "tools/list"))
    between.conversation.begin()
    assert between.sent() == [INITIALIZE]
    between.supervisor(result(0))
    assert between.sent() == [INITIALIZED, request(2, "tools/list")]


def test_a_handshake_that_was_refused_is_the_clients_to_repeat() -> None:
    between = Between()
    between.client(INITIALIZE)
    assert len(between.conversation.refuse(HostUnfit("No."))) == 1
    between.conversation.begin()
    assert between.sent() == []


def test_an_id_is_the_clients_to_choose() -> None:
    between = Between()
    between.client(call("agentiso-2-0"), call(7), call(7))
    between.conversation.take_back(between.conversation.next_to_send() or pytest.fail("there is one"))
    between.replaced()
    assert between.sent()[0] == call("agentiso-2-0")
    assert {answer["id"] for answer in between.replaced()} == {"agentiso-2-0", 7}
    between.client(request(8, "ping"), request(8, "ping"))
    assert [json.loads(line)["id"] for line in between.conversation.refuse(HostUnfit("No."))] == [8, 8]


def test_a_supervisor_owes_what_it_was_sent() -> None:
    between = Between()
    between.client(call(1))
    assert not between.conversation.is_owed
    between.sent()
    assert between.conversation.is_owed
    between.supervisor(result(1))
    assert not between.conversation.is_owed


def test_a_cancelled_request_is_neither_answered_nor_repeated() -> None:
    between = Between()
    between.client(call(1), request(2, "tools/list"))
    between.sent()
    between.client(cancelled(1), cancelled(2))
    assert between.sent() == [cancelled(1), cancelled(2)]
    between.client(call(3), cancelled(3))
    assert between.sent() == []
    assert between.replaced() == []
    between.client(cancelled(1))
    assert between.sent() == []


def test_subscriptions_are_renewed_and_each_resource_may_have_changed() -> None:
    between = Between()
    between.shaken()
    for number, uri in enumerate(("agentiso://a", "agentiso://b", "agentiso://c"), 10):
        between.client(request(number, "resources/subscribe", uri=uri))
        between.sent()
        between.supervisor(result(number))
    between.client(request(20, "resources/unsubscribe", uri="agentiso://a"))
    between.sent()
    between.supervisor(result(20))
    between.replaced()
    between.sent()
    between.supervisor(result(0))
    _, *renewals = between.sent()
    assert [renewal["params"]["uri"] for renewal in renewals] == ["agentiso://b", "agentiso://c"]
    assert between.supervisor(result(renewals[0]["id"])) == [updated("agentiso://b")]
    gone = {"jsonrpc": "2.0", "id": renewals[1]["id"], "error": {"code": -32602, "message": "gone"}}
    assert between.supervisor(gone) == [updated("agentiso://c")]
    between.replaced()
    between.sent()
    between.supervisor(result(0))
    assert [each["params"]["uri"] for each in between.sent()[1:]] == ["agentiso://b"]


def test_a_stream_of_changes_goes_on_under_its_id_and_is_acknowledged_once() -> None:
    def acknowledged(*uris: str) -> dict[str, Any]:
        params = {"notifications": {"resourceSubscriptions": list(uris)}, **meta}
        return {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params}

    between = Between()
    meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": 5}}
    listen = request(5, "subscriptions/listen", notifications={"resourceSubscriptions": ["agentiso://a"]})
    between.client(listen)
    between.sent()
    assert between.supervisor(acknowledged("agentiso://a")) == [acknowledged("agentiso://a")]
    for _ in range(3):
        assert between.replaced() == []
        assert between.sent() == [listen]
        assert between.supervisor(acknowledged("agentiso://a")) == [updated("agentiso://a", **meta)]
    change = updated("agentiso://a", **meta)
    assert between.supervisor(change) == [change]


def test_an_answer_to_a_question_reaches_only_the_supervisor_that_asked() -> None:
    between = Between()
    question = request(0, "elicitation/create", message="Sure?")
    assert between.supervisor(question) == [question]
    (withdrawn,) = between.replaced()
    assert (withdrawn["method"], withdrawn["params"]["requestId"]) == ("notifications/cancelled", 0)
    (asked,) = between.supervisor(question)
    assert asked["id"] != 0
    between.client(result(0, action="accept"))
    assert between.sent() == []
    between.client(result(asked["id"], action="decline"))
    assert between.sent() == [result(0, action="decline")]
    between.client(result(asked["id"], action="accept"))
    assert between.sent() == []
    (asked,) = between.supervisor(question)
    (withdrawn,) = between.supervisor(cancelled(0))
    assert withdrawn["params"]["requestId"] == asked["id"]


def test_a_line_that_was_cut_off_is_not_passed_on() -> None:
    assert Conversation().hear_supervisor(b'{"jsonrpc":"2.0","id":3,"resu\n') == []


@pytest.mark.parametrize("line", [b"[]\n", b'{"id":1,"method":"tools/call","params":[]}\n', b'{"method":7,"id":{}}\n'])
def test_nonsense_is_the_supervisors_to_refuse(line: bytes) -> None:
    conversation = Conversation()
    conversation.begin()
    conversation.hear_client(line)
    item = conversation.next_to_send()
    assert item is not None
    assert item.line == line
    conversation.lose()
