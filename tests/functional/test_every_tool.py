"""Every tool once with success and with each of its errors, over real stdio, on a real machine.

`SUCCESSES` is one story, in order; in its arguments ``{name}`` stands for what an earlier call gave.  `ERRORS` has what
a model does wrong, and what it must read then.  A tool that is not in the story is missed by the first test.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import jsonschema
import pytest
import trio
from mcp import Client, StdioServerParameters, stdio_client

from agentiso.mcp.calls import ERROR_META
from agentiso.mcp.schema import schema_for
from agentiso.mcp.tools import TOOLS
from tests.machines import ARGV

pytestmark = pytest.mark.functional
LIMIT_S = 900
HERE: Final = {"workspace_id": "all"}
ORIGIN: Final = """\
git config --global user.name t; git config --global user.email t@example.com
git init -q -b main /srv/seed; cd /srv/seed; echo one > f; git add f; git commit -qm one
git clone -q --bare /srv/seed /srv/origin; git config -f /srv/origin/config daemon.receivepack true"""
SERVE: Final = "git daemon --reuseaddr --base-path=/srv --export-all --listen=127.0.0.1"


@attrs.frozen
class Success:
    tool: str
    arguments: dict[str, Any]
    gives: dict[str, str] = attrs.field(factory=dict)
    """Names of what later calls need, and where it is in the result."""


SUCCESSES: Final = (
    Success("workspace_create", {"name": "all"}),
    Success("workspace_list", {}),
    Success("workspace_info", HERE),
    Success("workspace_ip", HERE),
    Success("workspace_logs", HERE),
    Success("workspace_set_lifetime", {**HERE, "ttl_secs": 3600}),
    Success("exec", {**HERE, "command": ORIGIN}),
    Success("exec_parallel", {"workspace_ids": ["all"], "commands": ["true"]}),
    Success("set_env", {**HERE, "vars": {"GREETING": "hello"}}),
    Success("exec_background", {**HERE, "command": "cat", "stdin": True}, {"job": "job_id"}),
    Success("exec_list", HERE),
    Success("exec_input", {**HERE, "job_id": "{job}", "input": "hello"}),
    Success("exec_poll", {**HERE, "job_id": "{job}"}),
    Success("exec_kill", {**HERE, "job_id": "{job}"}),
    Success("file_write", {**HERE, "path": "/root/f", "content": "text"}),
    Success("file_read", {**HERE, "path": "/root/f"}),
    Success("file_list", {**HERE, "path": "/root"}),
    Success("file_edit", {**HERE, "path": "/root/f", "old_string": "text", "new_string": "more text"}),
    Success("file_search", {**HERE, "pattern": "m.re", "path": "/root"}),
    Success("file_download", {**HERE, "host_path": "{roots}/f", "guest_path": "/root/f"}),
    Success("file_upload", {**HERE, "host_path": "{roots}/f", "guest_path": "/root/again"}),
    Success("exec_background", {**HERE, "command": SERVE}, {"daemon": "job_id"}),
    Success("exec", {**HERE, "command": "until git ls-remote -q git://127.0.0.1/origin; do sleep 0.1; done"}),
    Success("git_clone", {**HERE, "url": "git://127.0.0.1/origin", "path": "/root/clone"}),
    Success("file_write", {**HERE, "path": "/root/clone/f", "content": "two\n"}),
    Success("git_status", {**HERE, "path": "/root/clone"}),
    Success("git_diff", {**HERE, "path": "/root/clone"}),
    Success("git_commit", {**HERE, "path": "/root/clone", "message": "two"}),
    Success("git_push", {**HERE, "path": "/root/clone"}),
    Success("snapshot_create", {**HERE, "name": "point"}),
    Success("snapshot_list", HERE),
    Success("snapshot_diff", {**HERE, "base": "point"}),
    Success("snapshot_restore", {**HERE, "snapshot_name": "point"}),
    Success("undo", HERE),
    Success("workspace_fork", {**HERE, "new_name": "all-kid"}),
    Success("workspace_batch_fork", {**HERE, "count": 1, "snapshot_name": "point", "name_prefix": "all-many"}),
    Success("snapshot_delete", {**HERE, "snapshot_name": "point"}),
    Success("port_forward", {**HERE, "guest_port": 8080}),
    Success("port_forward_remove", {**HERE, "guest_port": 8080}),
    Success("network_policy", {**HERE, "allow_internet": True}),
    Success("workspace_suspend", HERE),
    Success("workspace_resume", HERE),
    Success("workspace_stop", HERE),
    Success("workspace_start", HERE),
    Success("workspace_adopt", HERE),
    Success("workspace_adopt_all", {}),
    Success("workspace_destroy", {"workspace_id": "all-kid"}),
    Success("workspace_destroy", {"workspace_id": "all-many-1"}),
    # What the errors below stand on.
    Success("snapshot_create", {**HERE, "name": "kept", "include_memory": False}),
    Success("port_forward", {**HERE, "guest_port": 8081}, {"taken": "host_port"}),
)
QUOTA: Final = 4
"""Workspaces of a session: one more than the story has at once."""
NOBODY: Final = "There is no workspace 'nobody'"
ERRORS: Final[tuple[tuple[str, dict[str, Any], str], ...]] = (
    ("workspace_create", {"name": "all"}, "There is a workspace 'all' already"),
    ("workspace_create", {"name": "No Name"}, "is not a valid workspace name"),
    ("workspace_create", {"name": "huge", "memory_mb": 10**6}, "memory_mb"),
    ("workspace_create", {"name": "else", "base_image": "no-such-image"}, "no-such-image"),
    ("workspace_create", {"name": "else", "ttl_secs": 0}, "ttl"),
    ("workspace_fork", {**HERE, "count": 1000}, "1000"),
    ("workspace_fork", {**HERE, "count": QUOTA}, f"may have {QUOTA} workspaces"),
    ("workspace_fork", {**HERE, "count": 2, "new_name": "one"}, "count is not 1"),
    ("workspace_fork", {**HERE, "new_name": "all"}, "There is a workspace 'all' already"),
    ("workspace_batch_fork", {**HERE, "count": 1}, "has no snapshot 'golden'"),
    ("workspace_batch_fork", {**HERE, "count": 21, "snapshot_name": "kept"}, "maximum of 20"),
    ("workspace_set_lifetime", {**HERE, "idle_suspend_secs": 0}, "idle_suspend_s is 0"),
    ("workspace_set_lifetime", {**HERE, "ttl_secs": -1}, "ttl_s is -1"),
    ("workspace_fork", {**HERE, "snapshot_name": "none"}, "has no snapshot 'none'"),
    ("workspace_start", HERE, "is running"),
    ("workspace_resume", HERE, "is running"),
    ("exec", {**HERE, "command": "true", "timeout_secs": -1}, "timeout_secs"),
    ("exec", {**HERE, "command": "x" * 200_000}, "file_write"),
    ("exec", {**HERE, "command": "true", "workdir": "/none"}, "/none"),
    ("exec_parallel", {"workspace_ids": ["all"], "commands": ["true", "false"]}, "2 commands were given for 1"),
    ("exec_poll", {**HERE, "job_id": "none"}, "exec_list names the jobs"),
    ("exec_kill", {**HERE, "job_id": "none"}, "none"),
    ("exec_input", {**HERE, "job_id": "none", "input": ""}, "none"),
    ("set_env", {**HERE, "vars": {"A=B": "1"}}, "A=B"),
    ("file_read", {**HERE, "path": "/none"}, "/none"),
    ("file_read", {**HERE, "path": "/root"}, "directory"),
    ("file_read", {**HERE, "path": "relative"}, "relative"),
    ("file_list", {**HERE, "path": "/none"}, "/none"),
    ("file_write", {**HERE, "path": "/proc/none", "content": ""}, "/proc/"),
    ("file_write", {**HERE, "path": "/root/f", "content": "", "mode": "rw"}, "invalid literal"),
    ("file_write", {**HERE, "path": "/root/f", "content": "", "mode": "77777"}, "is not a file mode"),
    ("file_write", {**HERE, "path": "/root/f", "content": "!", "encoding": "base64"}, "cannot be decoded"),
    ("file_edit", {**HERE, "path": "/root/f", "old_string": "e", "new_string": ""}, "set replace_all"),
    ("file_edit", {**HERE, "path": "/root/f", "old_string": "absent", "new_string": ""}, "does not occur"),
    ("file_search", {**HERE, "pattern": "(", "path": "/root"}, "unterminated subpattern"),
    ("file_download", {**HERE, "host_path": "/etc/f", "guest_path": "/root/f"}, "/etc/f"),
    ("file_upload", {**HERE, "host_path": "/etc/passwd", "guest_path": "/root/f"}, "/etc/passwd"),
    ("snapshot_create", {**HERE, "name": "Not A Name"}, "is not a valid snapshot name"),
    ("snapshot_restore", {**HERE, "snapshot_name": "none"}, "has no snapshot 'none'"),
    ("snapshot_delete", {**HERE, "snapshot_name": "none"}, "has no snapshot 'none'"),
    ("snapshot_create", {**HERE, "name": "kept"}, "has a snapshot 'kept' already"),
    ("snapshot_diff", {**HERE, "base": "none"}, "has no snapshot 'none'"),
    ("snapshot_diff", {**HERE, "base": "kept", "other": "none"}, "has no snapshot 'none'"),
    ("undo", HERE, "can be undone"),
    ("port_forward", {**HERE, "guest_port": 0}, "0 is not a port"),
    ("port_forward", {**HERE, "guest_port": 8082, "host_port": 80}, "those below 1024"),
    ("port_forward", {**HERE, "guest_port": 8082, "host_port": "{taken}"}, "forwarded to another guest port"),
    ("port_forward", {**HERE, "guest_port": 8081, "host_port": 20000}, "Remove that forward first"),
    ("network_policy", {**HERE, "allow_inter_vm": True}, "needs the tap network"),
    ("port_forward_remove", {**HERE, "guest_port": 9}, "9"),
    ("git_clone", {**HERE, "url": "file:///etc"}, "file:///etc"),
    ("git_clone", {**HERE, "url": "git://127.0.0.1:1/x", "path": "/root/other"}, "git_failed"),
    ("git_clone", {**HERE, "url": "git://127.0.0.1/origin", "branch": "--x"}, "is not the name of a"),
    ("git_diff", {**HERE, "path": "/root"}, "Give the path of a repository"),
    ("git_commit", {**HERE, "path": "/root", "message": "two"}, "Give the path of a repository"),
    ("git_commit", {**HERE, "path": "/root/clone", "message": " "}, "not all of them blank"),
    ("git_push", {**HERE, "path": "/root/clone", "remote": "nowhere"}, "git remote -v"),
)
OF_OTHERS: Final[tuple[tuple[str, dict[str, Any], str], ...]] = (
    ("exec", {**HERE, "command": "true"}, "belongs to session 'default', you are 'other'"),
    ("workspace_destroy", HERE, "not_owner"),
    ("workspace_adopt", HERE, "is connected"),
)


@asynccontextmanager
async def client_of(environment: dict[str, str], *options: str) -> AsyncIterator[Client]:
    parameters = StdioServerParameters(command=ARGV[0], args=[*ARGV[1:], "serve", *options], env=environment)
    async with Client(stdio_client(parameters)) as client:
        yield client


def test_no_tool_is_forgotten_here() -> None:
    assert {success.tool for success in SUCCESSES} == {tool.name for tool in TOOLS if not tool.hidden}


async def test_every_tool_succeeds_and_fails_as_it_says(environment: dict[str, str], tmp_path: Path) -> None:
    failures: list[str] = []
    known: dict[str, Any] = {"{roots}": str(tmp_path)}
    config = tmp_path / "config.toml"
    config.write_text(f'transfer_roots = ["{tmp_path}"]\n[quotas]\nworkspaces = {QUOTA}\n')
    environment = {**environment, "AGENTISO_CONFIG": str(config)}
    with trio.fail_after(LIMIT_S):
        async with client_of(environment) as client:
            for success in SUCCESSES:
                given = filled(success.arguments, known)
                result = await client.call_tool(success.tool, given)
                if result.is_error:
                    failures.append(f"{success.tool} {given}: {result.content}")
                    continue
                assert result.structured_content is not None
                schema = next(schema_for(tool.result) for tool in TOOLS if tool.name == success.tool)
                jsonschema.validate(result.structured_content, schema)
                known |= {f"{{{name}}}": result.structured_content[field] for name, field in success.gives.items()}
            assert not failures, "\n".join(failures)
            failures += await unlike(client, (*ERRORS, *errors_of_all()), known)
            async with client_of(environment, "--session", "other") as other:
                failures += await unlike(other, OF_OTHERS, known)
            assert not failures, "\n".join(failures)
            await client.call_tool("workspace_destroy", HERE)


async def unlike(client: Client, errors: Iterable[tuple[str, dict[str, Any], str]], known: dict[str, Any]) -> list[str]:
    """Make calls that are to fail and return what does not, or says something else, or not what to do."""
    found: list[str] = []
    for tool, arguments, text in errors:
        result = await client.call_tool(tool, filled(arguments, known))
        said = json.dumps([block.model_dump() for block in result.content])
        if not result.is_error or text not in said or not (result.meta or {})[ERROR_META]["remedy"]:
            found.append(f"{tool} {str(arguments)[:300]}: {said}, not {text!r}")
    return found


def filled(arguments: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    def fill(value: Any) -> Any:
        if isinstance(value, str) and value in known:
            return known[value]
        for name, found in known.items():
            value = value.replace(name, str(found)) if isinstance(value, str) else value
        return value

    return {key: fill(value) for key, value in arguments.items()}


def errors_of_all() -> list[tuple[str, dict[str, Any], str]]:
    """What every tool must refuse: an argument that it does not have, a workspace that nobody has."""
    found: list[tuple[str, dict[str, Any], str]] = []
    for success in {success.tool: success for success in SUCCESSES}.values():
        found.append((success.tool, {**success.arguments, "no_such_argument": 1}, "no_such_argument"))
        if "workspace_id" in success.arguments:
            found.append((success.tool, {**success.arguments, "workspace_id": "nobody"}, NOBODY))
    return found


async def test_ten_clients_hammer_one_workspace_and_none_gets_what_is_anothers(environment: dict[str, str]) -> None:
    clients, rounds = 10, 5

    async def hammer(number: int) -> None:
        async with client_of(environment) as client:
            for turn in range(rounds):
                text, path = f"{number}-{turn}", f"/root/of-{number}"
                write = {"workspace_id": "anvil", "path": path, "content": text}
                assert not (await client.call_tool("file_write", write)).is_error
                command = {"workspace_id": "anvil", "command": f"cat {path}; echo {text} >> /root/all"}
                done = await client.call_tool("exec", command)
                assert done.structured_content is not None, done.content
                assert done.structured_content["stdout"] == text

    with trio.fail_after(LIMIT_S):
        async with client_of(environment) as client:
            made = await client.call_tool("workspace_create", {"name": "anvil"})
            assert not made.is_error, made.content
            async with trio.open_nursery() as nursery:
                for number in range(clients):
                    nursery.start_soon(hammer, number)
            counted = await client.call_tool("exec", {"workspace_id": "anvil", "command": "sort -u /root/all | wc -l"})
            assert counted.structured_content is not None
            assert int(counted.structured_content["stdout"]) == clients * rounds
            await client.call_tool("workspace_destroy", {"workspace_id": "anvil"})
