"""Resources: what there is to read without calling a tool.

One scheme: ``agentiso://workspaces``, and below it a workspace by its id or name, its tree, its logs, its jobs; and
``agentiso://manual`` and ``agentiso://doctor``.  `agentiso.mcp.subscriptions` tells clients when one has changed.
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

from actors.model.errors import AgentisoError, NotFound
from actors.model.text import printable, shown
from actors.registry import messages as r
from agentiso.access.audit import Entry
from agentiso.access.gate import Gate
from agentiso.display.tree import Node, grow, pick, to_text
from agentiso.library.system import System
from agentiso.library.workspace import Workspace
from agentiso.mcp.calls import client_of
from agentiso.mcp.tools.doctor import doctor_result
from agentiso.mcp.tools.output import last_lines
from agentiso.mcp.tools.results import summary_result, workspace_result
from agentiso.mcp.uris import DOCTOR, MANUAL, ROOT, workspace_uri
from agentiso.protocol.sessions import Client

READ: Final = "resources/read"
LOG_BYTES: Final = 64 * 1024
LOG_LINES: Final = 1000
JSON: Final = "application/json"
TEXT: Final = "text/plain"
PARTS: Final = ("", "tree", "console", "qemu-log")
_PART: Final = re.compile(r"agentiso://workspaces/([^/]+)(?:/(.+))?")
TEMPLATES: Final = (
    ("workspace", "{workspace}", JSON, "All that is known of one workspace; by its name or id."),
    ("tree", "{workspace}/tree", TEXT, "Its snapshots and forks, drawn as a tree."),
    ("console", "{workspace}/console", TEXT, "The end of the guest's console."),
    ("qemu-log", "{workspace}/qemu-log", TEXT, "The end of what QEMU has said."),
    ("job-output", "{workspace}/jobs/{job_id}", TEXT, "All output that is kept of one job."),
)


@attrs.frozen
class Place:
    """What the URI of a resource below the list names."""

    workspace: str
    part: str
    """``tree``, ``console``, ``qemu-log``, ``jobs/ID``, or nothing for the workspace itself."""

    @property
    def job(self) -> str | None:
        """The id of the job, if it is one's output."""
        return self.part.removeprefix("jobs/") if self.part.startswith("jobs/") else None


def place_of(uri: str) -> Place:
    """Return what a URI names.

    Raises:
        NotFound: there is no such resource.

    """
    matched = _PART.fullmatch(uri)
    place = Place(matched.group(1), matched.group(2) or "") if matched else None
    if place is None or (place.job is None and place.part not in PARTS):
        raise NotFound(f"There is no resource {shown(uri)}.", remedy="List the templates of resources.")
    return place


class Resources:
    """The handlers of one server."""

    def __init__(self, system: System, gate: Gate) -> None:
        self._system = system
        self._gate = gate
        self._parts: dict[str, Callable[[Workspace], Awaitable[str]]] = {
            "": self._info,
            "tree": self._drawn,
            "console": lambda ws: _end(ws.console),
            "qemu-log": lambda ws: _end(ws.qemu_log),
        }

    async def listed(self, _context: Any, _params: Any) -> types.ListResourcesResult:
        """List the workspaces, the resource that lists them, the manual, and what needs a look."""
        found = [types.Resource(name="workspaces", uri=ROOT, description="All workspaces.", mime_type=JSON)]
        found.append(types.Resource(name="manual", uri=MANUAL, description="What a workspace is.", mime_type=TEXT))
        found.append(types.Resource(name="doctor", uri=DOCTOR, description="What needs a look.", mime_type=JSON))
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
            client = client_of(context)
            with self._gate.audit.call(client, READ, {"uri": uri}) as entry:
                self._gate.admit(client, READ)
                kind, text = await self._read(context, uri, entry)
        except AgentisoError as error:
            raise wrong(uri, error) from error
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=uri, mime_type=kind, text=printable(text))]
        )

    async def _read(self, context: Any, uri: str, entry: Entry) -> tuple[str, str]:
        if uri == ROOT:
            return JSON, await self.list_text(client_of(context))
        if uri == DOCTOR:
            found = await self._system.registry.ask(r.Diagnose())
            return JSON, json.dumps(attrs.asdict(doctor_result(found)))
        if uri == MANUAL:
            return TEXT, files("guest").joinpath("manual.txt").read_text()
        place = place_of(uri)
        workspace = await self.find(client_of(context), place.workspace, entry)
        if place.job is not None:
            return TEXT, await workspace.jobs.text(place.job)
        return (TEXT if place.part else JSON), await self._parts[place.part](workspace)

    async def find(self, client: Client, workspace: str, entry: Entry | None = None) -> Workspace:
        """Return a workspace of which a client may read; ``entry`` notes which one it is.

        Raises:
            NotFound: there is no such workspace.
            NotOwner: it is another session's.

        """
        found = await self._system.get(workspace)
        if entry is not None:
            entry.about(found.id, found.name)
        self._gate.check_owner(client, found)
        return found

    async def list_text(self, client: Client) -> str:
        """Return the list of all workspaces as a client sees it."""
        infos = await self._system.list()
        owned = [summary_result(info, owned=self._gate.owns(client, info.owner)) for info in infos]
        return json.dumps([attrs.asdict(summary) for summary in owned])

    async def _info(self, workspace: Workspace) -> str:
        return json.dumps(attrs.asdict(workspace_result(await workspace.info())))

    async def tree(self, workspace: Workspace) -> Node | None:
        """Return a workspace with its snapshots and forks; how long each was idle is left out."""
        infos = [attrs.evolve(info, idle_s=0.0) for info in await self._system.list()]
        return pick(grow([attrs.asdict(workspace_result(info)) for info in infos]), workspace.id)

    async def _drawn(self, workspace: Workspace) -> str:
        node = await self.tree(workspace)
        return to_text([node] if node else [], time.time())


def wrong(uri: str, error: AgentisoError) -> MCPError:
    """Return the protocol's error for a resource that a client cannot have."""
    return MCPError(types.INVALID_PARAMS, printable(str(error)), data={"uri": uri})


async def _end(log: Callable[[int], Awaitable[str]]) -> str:
    return last_lines(await log(LOG_BYTES), LOG_LINES, cap_bytes=LOG_BYTES, more="workspace_logs shows more")
