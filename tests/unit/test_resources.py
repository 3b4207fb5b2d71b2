"""Prompts and instructions, as far as they need no machine."""

from __future__ import annotations

import re
from importlib.resources import files

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from agentiso.mcp import prompts
from agentiso.mcp.server import INSTRUCTIONS
from agentiso.mcp.tools import TOOLS

NAMES = {tool.name for tool in TOOLS}


def named(text: str) -> set[str]:
    """Return what reads like a tool's name."""
    return set(re.findall(r"\b(?:[a-z]+_[a-z_]+|undo)\b", text)) - {"workspace_id", "allow_internet", "file_"}


def test_the_instructions_are_short_and_name_only_tools_that_exist() -> None:
    assert len(INSTRUCTIONS.encode()) < 2048
    assert named(INSTRUCTIONS)
    assert named(INSTRUCTIONS) <= NAMES


def test_the_manual_names_only_tools_that_exist_and_fits_a_terminal() -> None:
    manual = (files("guest") / "manual.txt").read_text()
    assert named(manual) - {"file_", "after_restore"} <= NAMES
    assert max(map(len, manual.splitlines())) <= 120
    assert len(manual) < 4096


async def test_every_workflow_takes_its_arguments_and_names_only_tools_that_exist() -> None:
    listed = (await prompts.listed(None, None)).prompts
    assert len(listed) == 3
    for prompt in listed:
        assert prompt.description
        arguments = {argument.name: f"<{argument.name}>" for argument in prompt.arguments or []}
        got = await prompts.get(None, types.GetPromptRequestParams(name=prompt.name, arguments=arguments))
        content = got.messages[0].content
        assert isinstance(content, types.TextContent)
        assert all(value in content.text for value in arguments.values())
        assert named(content.text)
        assert named(content.text) <= NAMES


async def test_a_prompt_that_does_not_exist_or_lacks_an_argument_is_refused() -> None:
    for name, arguments in (("nothing", {}), ("long-job", {"command": "make"})):
        with pytest.raises(MCPError, match=r"nothing|workspace"):
            await prompts.get(None, types.GetPromptRequestParams(name=name, arguments=arguments))
