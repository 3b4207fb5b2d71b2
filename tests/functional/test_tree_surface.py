"""The tree and the lifecycle as agents and people meet them: tools over real stdio, and the command line."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import trio
from mcp import Client, StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from agentiso.mcp.schema import schema_for
from agentiso.mcp.tools import TOOLS
from tests.machines import ARGV

pytestmark = pytest.mark.functional
LIMIT_S = 600


async def test_an_agent_puts_away_brings_back_forks_and_undoes(environment: dict[str, str]) -> None:
    parameters = StdioServerParameters(command=ARGV[0], args=[*ARGV[1:], "serve"], env=environment)
    schemas = {tool.name: schema_for(tool.result) for tool in TOOLS}
    with trio.fail_after(LIMIT_S):
        async with Client(stdio_client(parameters)) as client:

            async def call(tool: str, workspace: str = "agent", **arguments: Any) -> Any:
                result = await client.call_tool(tool, {"workspace_id": workspace, **arguments})
                assert not result.is_error, result.content
                jsonschema.validate(result.structured_content, schemas[tool])
                return result.structured_content

            async def refusal(tool: str, **arguments: Any) -> str:
                result = await client.call_tool(tool, {"workspace_id": "agent", **arguments})
                assert result.is_error
                return str(result.content[0])

            made = await client.call_tool("workspace_create", {"name": "agent", "ttl_secs": 3600, "vcpus": 1})
            assert made.structured_content is not None
            assert made.structured_content["resources"]["vcpus"] == 1
            await call("exec", command="echo one > /dev/shm/mark")
            await call("snapshot_create", name="golden")
            await call("exec", command="echo two > /dev/shm/mark")
            assert (await call("workspace_suspend", keep_in_memory=True))["state"] == "paused"
            assert (await call("workspace_resume"))["state"] == "running"
            assert (await call("workspace_suspend"))["state"] == "suspended"
            assert "uspended" in await refusal("workspace_start")
            assert (await call("workspace_resume"))["note"].startswith("restore in ")

            batch = await call("workspace_batch_fork", count=2)
            assert (batch["requested_count"], batch["success_count"], batch["failures"]) == (2, 2, [])
            assert [worker["name"] for worker in batch["workers"]] == ["worker-1", "worker-2"]
            for worker in ("worker-1", "worker-2"):
                assert (await call("exec", worker, command="cat /dev/shm/mark"))["stdout"] == "one\n"
                await call("workspace_destroy", worker)

            await call("snapshot_restore", snapshot_name="golden")
            assert (await call("exec", command="cat /dev/shm/mark"))["stdout"] == "one\n"
            assert "undone" in (await call("undo"))["note"]
            assert (await call("exec", command="cat /dev/shm/mark"))["stdout"] == "two\n"
            assert "undone" in await refusal("undo")

            await call("exec", command="echo text > /root/kept")
            diff = await call("snapshot_diff", base="golden", path="/root", unified=True)
            assert [(c["path"], c["change"], c["size_after"]) for c in diff["changes"]] == [("/root/kept", "added", 5)]
            assert "+text\n" in diff["diff"]
            assert (diff["change_count"], diff["truncated"]) == (1, False)

            async def text(uri: str) -> str:
                (content,) = (await client.read_resource(uri)).contents
                return str(getattr(content, "text", ""))

            assert "agentiso://workspaces/" + made.structured_content["workspace_id"] in [
                str(resource.uri) for resource in (await client.list_resources()).resources
            ]
            assert len((await client.list_resource_templates()).resource_templates) == 5
            assert [w["name"] for w in json.loads(await text("agentiso://workspaces"))] == ["agent"]
            assert json.loads(await text("agentiso://workspaces/agent"))["state"] == "running"
            assert "○ golden" in await text("agentiso://workspaces/agent/tree") or "● golden" in await text(
                "agentiso://workspaces/agent/tree"
            )
            await call("exec", command="echo spoken > /dev/console")
            assert "spoken" in await text("agentiso://workspaces/agent/console")
            said = (await call("workspace_logs", log_type="stderr"))["stderr"]
            assert (await text("agentiso://workspaces/agent/qemu-log")).splitlines()[-100:] == said.splitlines()
            command = "head -c 100000 /dev/zero | tr '\\0' x; echo end"
            big = await client.call_tool("exec", {"workspace_id": "agent", "command": command})
            shown, link = big.content
            assert getattr(shown, "text", "").startswith("exit 0, ")
            assert await text(getattr(link, "uri", "")) == f"--- stdout\n{'x' * 100000}end\n"
            inside = await call("file_read", path="/run/agentiso/layer/manual.txt")
            assert inside["content"] == await text("agentiso://manual")
            for missing in ("agentiso://workspaces/nobody", "agentiso://workspaces/agent/nothing", "agentiso://x"):
                with pytest.raises(MCPError) as refused:
                    await text(missing)
                assert (refused.value.error.code, refused.value.error.data) == (-32602, {"uri": missing})
            assert len((await client.list_prompts()).prompts) == 3

            lifetime = await call("workspace_set_lifetime", idle_suspend_secs=600)
            assert (lifetime["idle_suspend_secs"], lifetime["expires_at"]) == (600, None)
            assert (await call("workspace_ip"))["ip"] == "10.0.2.15"
            await call("exec", command="seq 9 > /dev/console")
            assert (await call("workspace_logs", max_lines=3))["console"].splitlines()[-2:] == ["8", "9"]
            assert (await call("workspace_logs", log_type="stderr"))["console"] is None

            await call("snapshot_create", name="top", include_memory=False)
            info = await call("workspace_info")
            assert [(s["name"], s["has_memory"], s["parent"], s["is_head"]) for s in info["snapshots"]] == [
                ("golden", True, None, False),
                ("top", False, "golden", True),
            ]
            assert info["evidence"]["nonce_matched"]
            assert info["disk_volsize_bytes"] > info["disk_used_bytes"] > 0
            assert info["lifetime"]["idle_suspend_secs"] == 600
            restored = await call("snapshot_restore", snapshot_name="golden", disk_only=True)
            assert restored["note"].startswith("cold_boot in ")
            assert (await call("snapshot_delete", snapshot_name="golden", cascade=True))["deleted"] == ["golden", "top"]
            assert (await call("workspace_stop"))["state"] == "stopped"
            assert "stopped" in await refusal("workspace_stop")
            assert (await call("workspace_start"))["state"] == "running"
            listed = (await client.call_tool("workspace_list", {})).structured_content
            assert listed is not None
            assert [(w["name"], w["snapshot_count"]) for w in listed["workspaces"]] == [("agent", 0)]
            await call("workspace_destroy")


async def test_a_person_sees_the_tree_and_moves_in_it(environment: dict[str, str]) -> None:
    async def run(*arguments: str) -> str:
        done = await trio.run_process([*ARGV, *arguments], env=environment, capture_stdout=True)
        return done.stdout.decode()

    with trio.fail_after(LIMIT_S):
        await run("create", "demo", "--vcpus", "1", "--idle-suspend", "3600")
        await run("exec", "demo", "--", "echo one > /dev/shm/mark")
        await run("snapshot", "create", "demo", "tidy")
        await run("fork", "demo", "--snapshot", "tidy", "--name-prefix", "twig")
        await run("exec", "demo", "--", "echo two > /dev/shm/mark")
        await run("snapshot", "create", "demo", "disk", "--disk-only")
        lines = [re.split(r"(?<=\w)  ", line)[0].strip() for line in (await run("tree")).splitlines()]
        assert lines == ["demo", "└── ○ tidy", "├── ● disk", "└── twig-1"]
        (root,) = json.loads(await run("tree", "demo", "--json"))
        assert [child["name"] for child in root["children"][0]["children"]] == ["disk", "twig-1"]
        assert (await run("tree", "twig-1")).startswith("twig-1  running")

        await run("exec", "demo", "--", "echo text > /root/kept")
        shown = await run("diff", "demo", "tidy", "--path", "/root", "-u")
        assert shown.startswith("+ /root/kept  5 B\n--- a/root/kept\n")
        assert shown.endswith("+text\nfrom tidy to now: 1 changed\n")
        await run("snapshot", "restore", "demo", "tidy")
        assert await run("exec", "demo", "--", "cat /dev/shm/mark") == "one\n"
        assert "was undone" in await run("undo", "demo")
        assert await run("exec", "demo", "--", "cat /dev/shm/mark") == "two\n"
        assert await run("pause", "demo") == "demo is paused\n"
        assert await run("suspend", "demo") == "demo is suspended\n"
        assert (await run("resume", "demo")).startswith("demo is running (restore in ")
        shown = await run("info", "demo")
        for text in ("state      running\n", "512 MB memory", "tidy: memory", "disk (here): disk only", "idle for 1 h"):
            assert text in shown
        assert "never suspended" in await run("lifetime", "demo")
        await run("exec", "demo", "--", "echo spoken > /dev/console")
        assert await run("logs", "demo", "--of", "console", "-n", "1") == "spoken\n"
        assert await run("snapshot", "delete", "demo", "tidy", "--cascade") == "deleted: tidy, disk\n"
        assert await run("stop", "demo") == "demo is stopped\n"
        assert (await run("start", "demo")).startswith("demo is running (cold_boot in ")
        await run("destroy", "demo", "twig-1")
        assert "no workspaces" in await run("tree")
