"""Tools for the network: forwarded ports, and what gets through."""

from __future__ import annotations

from typing import Final

import attrs

from agentiso.mcp.schema import describe
from agentiso.mcp.tools.results import NetworkResult, network_result
from agentiso.mcp.tools.tool import WORKSPACE, Call, Done, Tool


@attrs.frozen
class PortForwardArguments:
    workspace_id: str = describe(WORKSPACE)
    guest_port: int = describe("TCP port in the guest; the server must not listen on 127.0.0.1 only.")
    host_port: int | None = describe("Port of the host's 127.0.0.1, 1024 or above; a free one if absent.", None)


@attrs.frozen
class PortForwardResult:
    workspace_id: str = describe("Id of the workspace.")
    guest_port: int = describe("TCP port in the guest.")
    host_port: int = describe("Port of the host's 127.0.0.1 that leads to it.")


@attrs.frozen
class PortRemoveArguments:
    workspace_id: str = describe(WORKSPACE)
    guest_port: int = describe("The forwarded port in the guest.")


@attrs.frozen
class PolicyArguments:
    workspace_id: str = describe(WORKSPACE)
    allow_internet: bool | None = describe("Whether the guest may reach the internet.", None)
    allow_inter_vm: bool | None = describe("Whether other workspaces may reach it; needs the tap network.", None)
    allowed_ports: list[int] | None = describe("Ports that others may reach; needs the tap network.", None)


@attrs.frozen
class PolicyResult:
    workspace_id: str = describe("Id of the workspace.")
    network_policy: NetworkResult = describe("What is in force now.")
    note: str = describe("How it came about.")


async def _port_forward(call: Call, a: PortForwardArguments) -> PortForwardResult:
    ws = await call.workspace(a.workspace_id)
    forward = await ws.ports.forward(a.guest_port, a.host_port)
    return PortForwardResult(ws.id, forward.guest_port, forward.host_port)


async def _port_forward_remove(call: Call, a: PortRemoveArguments) -> Done:
    forward = await (await call.workspace(a.workspace_id)).ports.remove(a.guest_port)
    return Done(f"Port {forward.host_port} of the host does not lead to guest port {forward.guest_port} any more.")


async def _network_policy(call: Call, a: PolicyArguments) -> PolicyResult:
    ws = await call.workspace(a.workspace_id)
    info = await ws.set_network_policy(
        allow_internet=a.allow_internet, allow_inter_vm=a.allow_inter_vm, allowed_ports=a.allowed_ports
    )
    return PolicyResult(info.workspace_id, network_result(info.network), info.note)


TOOLS: Final = (
    Tool("port_forward", "Forward a port", "Make a TCP port of the guest reachable at 127.0.0.1 of the host. It lasts "
         "through stop, restore and restart until it is removed; forks do not inherit it. workspace_info lists them.",
         PortForwardArguments, PortForwardResult, _port_forward, idempotent=True),
    Tool("port_forward_remove", "Remove a forward", "Forward to a guest port no longer.", PortRemoveArguments, Done,
         _port_forward_remove, destructive=True),
    Tool("network_policy", "Change the network policy", "Allow or deny a workspace the internet, while it runs: "
         "processes run on, open connections are closed. What is absent stays as it is.", PolicyArguments,
         PolicyResult, _network_policy, idempotent=True),
)  # fmt: skip
