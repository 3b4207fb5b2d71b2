"""What a model reads of results: short, and what matters whole."""

from __future__ import annotations

import json
import types
import typing
from typing import Any

import attrs
import pytest

from agentiso.mcp.content import content_of, text_of
from agentiso.mcp.tools import TOOLS, Tool
from agentiso.mcp.tools.commands import ExecToolResult
from agentiso.mcp.tools.files import FileReadResult
from agentiso.mcp.tools.jobs import PollResult
from agentiso.mcp.tools.results import WorkspaceResult
from agentiso.mcp.tools.snapshots import SnapshotListResult
from agentiso.mcp.tools.tool import Done
from agentiso.mcp.tools.workspaces import ForkChild, ForkToolResult, ListResult

NOW, BEFORE = "2025-11-25", "2025-03-26"
SCALARS: dict[Any, Any] = {str: "word", int: 7, float: 1.5, bool: True, types.NoneType: None}
FORKED = ForkChild("a", "id", 1.0, None, {"j1": "j2"}, 0)
UNBORN = ForkChild("b", None, None, "No.", {}, None)
BULKY = (ListResult, WorkspaceResult, SnapshotListResult)


def sample(kind: Any) -> Any:
    """Return a value of a type: three of whatever is a list, and nothing absent."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in SCALARS:
        return SCALARS[kind]
    if origin is types.UnionType:
        return sample(arguments[0])
    if origin is list:
        return [sample(arguments[0]) for _ in range(3)]
    if origin is dict:
        return {"key": sample(arguments[1])}
    hints = typing.get_type_hints(kind)
    return kind(**{field.name: sample(hints[field.name]) for field in attrs.fields(kind)})


def ended(**changes: Any) -> ExecToolResult:
    made = ExecToolResult("j1", False, 0, None, "out\n", "", False, 1.25, "", False)
    return attrs.evolve(made, **changes)


def polled(**changes: Any) -> PollResult:
    made = PollResult("j1", True, None, None, "out\n", "", False, 1.25, "", 4, 0, 0, 0, False)
    return attrs.evolve(made, **changes)


@pytest.mark.parametrize("tool", TOOLS, ids=[tool.name for tool in TOOLS])
def test_every_result_has_a_text(tool: Tool) -> None:
    (block,) = content_of(sample(tool.result), None, NOW)
    assert getattr(block, "text", "")


@pytest.mark.parametrize("kind", BULKY)
def test_the_text_of_what_is_bulky_is_a_fraction_of_its_json(kind: type) -> None:
    result = sample(kind)
    assert len(text_of(result)) < len(json.dumps(attrs.asdict(result))) / 2.5


@pytest.mark.parametrize("tool", TOOLS, ids=[tool.name for tool in TOOLS])
def test_a_client_from_before_structured_content_gets_all_of_it_as_text(tool: Tool) -> None:
    result = sample(tool.result)
    (block,) = content_of(result, "0123", BEFORE)
    assert json.loads(getattr(block, "text", "")) == attrs.asdict(result)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ended(), "exit 0, 1.2 s, job j1\nout"),
        (ended(stdout=""), "exit 0, 1.2 s, job j1"),
        (ended(exit_code=3, stderr=" no\n"), "exit 3, 1.2 s, job j1\nout\n--- stderr\n no"),
        (ended(exit_code=None, signal=9, note="It was killed."), "signal 9, 1.2 s, job j1. It was killed.\nout"),
        (polled(), "running, 1.2 s, job j1\nout\nRead on: stdout_cursor=4 stderr_cursor=0"),
        (polled(running=False, exit_code=0), "exit 0, 1.2 s, job j1\nout"),
        (FileReadResult("text\n", "utf-8", 5, 5), "text\n"),
        (FileReadResult("text\n", "utf-8", 5, 50), "text\n\n[5 of 50 bytes]"),
        (FileReadResult("AA==", "base64", 1, 1), "[base64] AA=="),
        (FileReadResult("", "utf-8", 0, 0), "(an empty file)"),
        (Done("5 bytes were written."), "5 bytes were written."),
        (ListResult([], ""), "no workspaces"),
        (
            ForkToolResult("p", 9.5, 0, [8080, 9090], [FORKED, UNBORN], "They were booted."),
            'a  id  jobs {"j1": "j2"}\nb  No.\nnot forwarded to them: port 8080, 9090\nThey were booted.',
        ),
    ],
)  # fmt: skip
def test_output_is_shown_as_output_and_a_file_as_its_text(result: Any, text: str) -> None:
    assert text_of(result) == text


@pytest.mark.parametrize("result", [ended(truncated=True), polled(left_bytes=9, running=False, exit_code=0)])
def test_where_output_was_cut_a_link_leads_to_all_of_it(result: Any) -> None:
    _, link = content_of(result, "0123", NOW)
    assert link.model_dump(mode="json", by_alias=True, exclude_none=True) == {
        "type": "resource_link",
        "uri": "agentiso://workspaces/0123/jobs/j1",
        "name": "output of job j1",
        "description": "All that is kept.",
        "mimeType": "text/plain",
    }
    assert len(content_of(result, "0123", BEFORE)) == 1


@pytest.mark.parametrize("result", [ended(), polled(), Done("done")])
def test_where_nothing_was_cut_there_is_no_link(result: Any) -> None:
    assert len(content_of(result, "0123", NOW)) == 1
