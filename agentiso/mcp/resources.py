"""Resources: what there is to read without calling a tool.

One scheme: ``agentiso://workspaces``, and below it a workspace by its id or name, its tree, its logs, its jobs; and
``agentiso://manual``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final

import attrs
import mcp_types as types
from mcp.shared.exceptions import MCPError

from actors.errors import AgentisoError, NotFound
from agentiso.audit import Entry
from agentiso.forest import grow, pick, to_text
from agentiso.gate import Gate
from agentiso.mcp.calls import client_of
from agentiso.mcp.tools.results import summary_result, workspace_result
from agentiso.mcp.uris import MANUAL, ROOT, workspace_uri
from agentiso.system import System
from agentiso.workspace import Workspace

READ: Final = "resources/read"
LOG_BYTES: Final = 64 * 1024
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
            "console": lambda ws: ws.console(LOG_BYTES),
            "qemu-log": lambda ws: ws.qemu_log(LOG_BYTES),
        }

    async def listed(self, _context: Any, _params: Any) -> types.ListResourcesResult:
        """List the workspaces, the resource that lists them, and the manual."""
        found = [types.Resource(name="workspaces", uri=ROOT, description="All workspaces.", mime_type=JSON)]
        found.append(types.Resource(name="manual", uri=MANUAL, description="What a workspace is.", mime_type=TEXT))
        found += [
            types.Resource(
                name=info.name,
                uri=workspace_uri(info.workspace_id),
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
            with self._gate.audit.call(client_of(context), READ, {"uri": uri}) as entry:
                kind, text = await self._read(context, uri, entry)
        except AgentisoError as error:
            raise MCPError(types.INVALID_PARAMS, str(error), data={"uri": uri}) from error
        return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, mime_type=kind, text=text)])

    async def _read(self, context: Any, uri: str, entry: Entry) -> tuple[str, str]:
        if uri == ROOT:
            infos, client = await self._system.list(), client_of(context)
            owned = [summary_result(info, owned=self._gate.owns(client, info.owner)) for info in infos]
            return JSON, json.dumps([attrs.asdict(summary) for summary in owned])
        if uri == MANUAL:
            return TEXT, files("guest").joinpath("manual.txt").read_text()
        matched = _PART.fullmatch(uri)
        part = (matched.group(2) or "") if matched else ""
        job = part.removeprefix("jobs/") if part.startswith("jobs/") else None
        if matched is None or (job is None and part not in self._parts):
            raise NotFound(f"There is no resource {uri}.")
        workspace = await self._system.get(matched.group(1))
        entry.about(workspace.id, workspace.name)
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
