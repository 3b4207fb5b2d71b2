"""Resources: what there is to read without calling a tool.

One scheme: ``agentiso://workspaces``, and below it a workspace by its id or name, its tree, its logs, its jobs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import mcp_types as types
from mcp.shared.exceptions import MCPError

from actors.errors import AgentisoError
from actors.text import printable, shown
from agentiso.forest import grow, pick, to_text
from agentiso.gate import Gate
from agentiso.mcp.calls import client_of
from agentiso.mcp.tools.output import last_lines
from agentiso.mcp.tools.results import summary_result, workspace_result
from agentiso.system import System
from agentiso.workspace import Workspace

ROOT: Final = "agentiso://workspaces"
LOG_BYTES: Final = 64 * 1024
LOG_LINES: Final = 1000
JSON: Final = "application/json"
TEXT: Final = "text/plain"
_PART: Final = re.compile(r"agentiso://workspaces/([^/]+)(?:/(.+))?")
TEMPLATES: Final = (
    ("workspace", "{workspace}", JSON, "All that is known of one workspace; by its name or id."),
    ("tree", "{workspace}/tree", TEXT, "Its snapshots and forks, drawn as a tree."),
    ("console", "{workspace}/console", TEXT, "The end of the guest's console."),
    ("qemu-log", "{workspace}/qemu-log", TEXT, "The end of what QEMU has said."),
    ("job-output", "{workspace}/jobs/{job_id}", TEXT, "All output that is kept of one job."),
)


class Resources:
    """The handlers of one server."""

    def __init__(self, system: System, gate: Gate) -> None:
        self._system = system
        self._gate = gate
        self._parts: dict[str, Callable[[Workspace], Awaitable[str]]] = {
            "": self._info,
            "tree": self._tree,
            "console": lambda ws: _end(ws.console),
            "qemu-log": lambda ws: _end(ws.qemu_log),
        }

    async def listed(self, _context: Any, _params: Any) -> types.ListResourcesResult:
        """List the workspaces, and the resource that lists them."""
        found = [types.Resource(name="workspaces", uri=ROOT, description="All workspaces.", mime_type=JSON)]
        found += [
            types.Resource(
                name=info.name,
                uri=f"{ROOT}/{info.workspace_id}",
                description=f"It is {info.state}.",
                mime_type=JSON,
            )
            for info in await self._system.list()
        ]
        return types.ListResourcesResult(resources=found)

    async def templates(self, _context: Any, _params: Any) -> types.ListResourceTemplatesResult:
        """List what can be read of each workspace."""
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(name=name, uri_template=f"{ROOT}/{path}", description=text, mime_type=kind)
                for name, path, kind, text in TEMPLATES
            ]
        )

    async def read(self, context: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        """Read one resource; for what does not exist, or belongs to another session, the request is wrong."""
        uri = str(params.uri)
        try:
            kind, text = await self._read(context, uri)
        except AgentisoError as error:
            raise MCPError(types.INVALID_PARAMS, printable(str(error)), data={"uri": uri}) from error
        contents = types.TextResourceContents(uri=uri, mime_type=kind, text=printable(text))
        return types.ReadResourceResult(contents=[contents])

    async def _read(self, context: Any, uri: str) -> tuple[str, str]:
        if uri == ROOT:
            infos, client = await self._system.list(), client_of(context)
            owned = [summary_result(info, owned=self._gate.owns(client, info.owner)) for info in infos]
            return JSON, json.dumps([attrs.asdict(summary) for summary in owned])
        matched = _PART.fullmatch(uri)
        part = (matched.group(2) or "") if matched else ""
        job = part.removeprefix("jobs/") if part.startswith("jobs/") else None
        if matched is None or (job is None and part not in self._parts):
            raise MCPError(types.INVALID_PARAMS, f"There is no resource {shown(uri)}.", data={"uri": uri})
        workspace = await self._system.get(matched.group(1))
        self._gate.check_owner(client_of(context), workspace)
        if job is not None:
            return TEXT, await workspace.jobs.text(job)
        return (TEXT if part else JSON), await self._parts[part](workspace)

    async def _info(self, workspace: Workspace) -> str:
        return json.dumps(attrs.asdict(workspace_result(await workspace.info())))

    async def _tree(self, workspace: Workspace) -> str:
        roots = grow([attrs.asdict(workspace_result(info)) for info in await self._system.list()])
        node = pick(roots, workspace.id)
        return to_text([node] if node else [], time.time())


async def _end(log: Callable[[int], Awaitable[str]]) -> str:
    return last_lines(await log(LOG_BYTES), LOG_LINES, cap_bytes=LOG_BYTES, more="workspace_logs shows more")
