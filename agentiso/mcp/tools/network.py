"""Tools for the network: forwarded ports, and what gets through."""

from __future__ import annotations

from typing import Final

import attrs

from agentiso.mcp.schema import describe, outline
from agentiso.mcp.tools.results import NetworkResult, network_result
from agentiso.mcp.tools.tool import Call, Done, Tool


@attrs.frozen
class PortForwardArguments:
    workspace_id: str
    guest_port: int = describe("Its server must not listen on 127.0.0.1 only")
    host_port: int | None = describe("1024 or above. Absent: a free one", None)


@attrs.frozen
class PortForwardResult:
    workspace_id: str
    guest_port: int
    host_port: int = describe("Of 127.0.0.1")


@attrs.frozen
class PortRemoveArguments:
    workspace_id: str
    guest_port: int = describe("The one forwarded to")


@attrs.frozen
class PolicyArguments:
    workspace_id: str
    allow_internet: bool | None = None
    allow_inter_vm: bool | None = describe("Others may reach it; tap network only", None)
    allowed_ports: list[int] | None = describe("What others may reach; tap network only", None)


@attrs.frozen
class PolicyResult:
    workspace_id: str
    network_policy: NetworkResult = outline()
    note: str = describe()


async def _port_forward(call: Call, a: PortForwardArguments) -> PortForwardResult:
    ws = await call.workspace(a.workspace_id)
    forward = await ws.ports.forward(a.guest_port, a.host_port)
    return PortForwardResult(ws.id, forward.guest_port, forward.host_port)


async def _port_forward_remove(call: Call, a: PortRemoveArguments) -> Done:
    forward = await (await call.workspace(a.workspace_id)).ports.remove(a.guest_port)
    leads = "may still lead" if forward.fault else "does not lead"
    more = f"for a while: {forward.fault}" if forward.fault else "any more."
    return Done(f"Port {forward.host_port} of the host {leads} to guest port {forward.guest_port} {more}")


async def _network_policy(call: Call, a: PolicyArguments) -> PolicyResult:
    ws = await call.workspace(a.workspace_id)
    call.report("changing the network under it")
    info = await ws.set_network_policy(
        allow_internet=a.allow_internet, allow_inter_vm=a.allow_inter_vm, allowed_ports=a.allowed_ports
    )
    return PolicyResult(info.workspace_id, network_result(info.network), info.note)


TOOLS: Final = (
    Tool("port_forward", "Make a guest's TCP port reachable at the host's 127.0.0.1 until port_forward_remove. Forks "
         "do not inherit it. workspace_info lists all.", PortForwardArguments, PortForwardResult, _port_forward,
         idempotent=True),
    Tool("port_forward_remove", "Forward to a guest port no longer.", PortRemoveArguments, Done, _port_forward_remove,
         destructive=True),
    Tool("network_policy", "Allow or deny a workspace the internet while it runs; open connections are closed. What is "
         "absent stays.", PolicyArguments, PolicyResult, _network_policy, idempotent=True),
)  # fmt: skip
