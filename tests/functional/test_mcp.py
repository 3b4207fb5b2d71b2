"""The MCP server as a client meets it: `agentiso serve` over stdio, on a real machine."""

from __future__ import annotations

import signal
import subprocess
from contextlib import AsyncExitStack
from typing import Any

import jsonschema
import mcp_types as types
import pytest
import trio
from mcp import Client, StdioServerParameters, stdio_client

from agentiso.mcp.schema import schema_for
from agentiso.mcp.tools import TOOLS
from agentiso.mcp.uris import ROOT
from tests.machines import ARGV

pytestmark = pytest.mark.functional
LIMIT_S = 600
END_S = 30
"""Within which what is told to end has ended on any host, and what waits for its client has not."""


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_creates_runs_forks_and_destroys(environment: dict[str, str], mode: str) -> None:
    parameters = StdioServerParameters(command=ARGV[0], args=[*ARGV[1:], "serve"], env=environment)
    with trio.fail_after(LIMIT_S):
        async with Client(stdio_client(parameters), mode=mode) as client:
            listed = await client.list_tools()
            assert [tool.name for tool in listed.tools] == [tool.name for tool in TOOLS if not tool.hidden]

            async def call(tool: str, **arguments: Any) -> Any:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, result.content
                schema = next(schema_for(known.result) for known in TOOLS if known.name == tool)
                jsonschema.validate(result.structured_content, schema)
                return result.structured_content

            await call("workspace_create", name="agent")
            assert (await call("exec", workspace_id="agent", command="echo hi; exit 4"))["exit_code"] == 4
            await call("file_write", workspace_id="agent", path="/root/a", content="text", mode="0600")
            assert (await call("file_read", workspace_id="agent", path="/root/a"))["content"] == "text"
            assert (await call("file_list", workspace_id="agent", path="/root"))["entries"]
            await call("snapshot_create", workspace_id="agent", name="one")
            assert len((await call("snapshot_list", workspace_id="agent"))["snapshots"]) == 1
            fork = await call("workspace_fork", workspace_id="agent", count=2)
            child = fork["workers"][0]["workspace_id"]
            assert (await call("exec", workspace_id=child, command="cat /root/a"))["stdout"] == "text"
            big = await call("exec", workspace_id=child, command="head -c 100000 /dev/zero | tr '\\0' x")
            assert big["truncated"]
            assert "of 100000 bytes cut; exec_poll job_id=" in big["stdout"]
            await call("snapshot_restore", workspace_id="agent", snapshot_name="one")
            for info in (await call("workspace_list"))["workspaces"]:
                await call("workspace_info", workspace_id=info["workspace_id"])
                await call("workspace_destroy", workspace_id=info["workspace_id"])
            refused = await client.call_tool("exec", {"workspace_id": "agent", "command": "true"})
            assert refused.is_error
            wrong = await client.call_tool("exec", {"workspace_id": 7, "commnd": "true"})
            assert wrong.is_error


@pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_is_told_of_a_jobs_output_and_of_the_tree(environment: dict[str, str], mode: str) -> None:
    parameters = StdioServerParameters(command=ARGV[0], args=[*ARGV[1:], "serve"], env=environment)
    sending, receiving = trio.open_memory_channel[str](100)

    async def take(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            sending.send_nowait(str(message.params.uri))

    with trio.fail_after(LIMIT_S):
        async with Client(stdio_client(parameters), mode=mode, message_handler=take) as client:

            async def call(tool: str, **arguments: Any) -> Any:
                result = await client.call_tool(tool, {"workspace_id": "told", **arguments})
                assert not result.is_error, result.content
                return result.structured_content

            async def told(uri: str, stream: Any) -> str:
                seen = (await anext(stream)).uri if stream else await receiving.receive()
                assert seen == uri
                return str((await client.read_resource(uri)).contents[0].text)  # type: ignore[union-attr]

            assert not (await client.call_tool("workspace_create", {"name": "told"})).is_error
            job = await call("exec_background", command="read a; echo $a; read b; echo $b", stdin=True)
            output, tree = f"{ROOT}/told/jobs/{job['job_id']}", f"{ROOT}/told/tree"
            async with AsyncExitStack() as stack:
                stream = None
                if mode == "legacy":
                    for uri in (output, tree):
                        await client.session.subscribe_resource(uri)
                else:
                    stream = await stack.enter_async_context(client.listen(resource_subscriptions=[output, tree]))
                await call("exec_input", job_id=job["job_id"], input="one\n")
                assert "one" in await told(output, stream)
                await call("snapshot_create", name="point")
                assert "point" in await told(tree, stream)
                await call("exec_input", job_id=job["job_id"], input="two\n")
                text = await told(output, stream)
                if "two" not in text or (await call("exec_poll", job_id=job["job_id"]))["running"]:
                    # Its last words and its end came apart.
                    text = await told(output, stream)
                assert text.endswith("one\ntwo\n")
            await call("workspace_destroy")


async def test_serve_ends_on_sigterm_with_stdin_open(environment: dict[str, str]) -> None:
    with trio.fail_after(LIMIT_S):
        # The first front starts the supervisor; what is looked at is the second one's end.
        await trio.run_process([*ARGV, "list"], env=environment, capture_stdout=True)
        process = await trio.lowlevel.open_process(
            [*ARGV, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert process.stdin is not None
        assert process.stdout is not None
        request = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
        await process.stdin.send_all(request + b'"capabilities":{},"clientInfo":{"name":"t","version":"1"}}}\n')
        assert b'"serverInfo"' in await process.stdout.receive_some()
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(END_S):
            await process.wait()
        await process.stdin.aclose()
        await process.stdout.aclose()
