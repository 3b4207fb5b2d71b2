"""Commands for the network of workspaces."""

from __future__ import annotations

from typing import Any, Final

from agentiso.cli.common import Commands, add_workspace, call_tool, columns, show
from agentiso.cli.parser import Misuse

PORT_EXAMPLES: Final = """\
  agentiso port add demo 8080                    prints the port of this host that leads there
  agentiso port add demo 8080 --host-port 9000
  agentiso port list demo
  agentiso port remove demo 8080
"""
NETWORK_EXAMPLES: Final = """\
  agentiso network demo                          what it lets through
  agentiso network demo --internet off
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("port", _port, "make ports of a workspace reachable at 127.0.0.1 of this host", PORT_EXAMPLES)
    made.add_argument("action", choices=("add", "remove", "list"), help="forward a port, do so no longer, or list all")
    add_workspace(made)
    made.add_argument("guest_port", type=int, nargs="?", help="where the guest's server listens")
    made.add_argument("--host-port", type=int, metavar="PORT", help="add: port of this host; a free one if left out")
    made = commands.add("network", _network, "show or change what a workspace's network lets through", NETWORK_EXAMPLES)
    add_workspace(made)
    made.add_argument("--internet", choices=("on", "off"), help="let it reach the internet, or not; it runs on")


def _port(a: Any) -> int:
    if a.action == "list":
        found = call_tool(a, "workspace_info", workspace_id=a.workspace)["network"]["port_forwards"]
        rows = [("GUEST", "HOST", "STATE")]
        rows += [(str(f["guest_port"]), f"127.0.0.1:{f['host_port']}", f["fault"] or "open") for f in found]
        return show(a, found, columns(rows))
    if a.guest_port is None:
        raise Misuse("The port in the guest is missing.", remedy=f"agentiso port {a.action} WORKSPACE PORT")
    if a.action == "remove":
        done = call_tool(a, "port_forward_remove", workspace_id=a.workspace, guest_port=a.guest_port)
        return show(a, done, done["message"])
    made = call_tool(a, "port_forward", workspace_id=a.workspace, guest_port=a.guest_port, host_port=a.host_port)
    return show(a, made, f"127.0.0.1:{made['host_port']} leads to port {made['guest_port']} of {a.workspace}")


def _network(a: Any) -> int:
    if a.internet is None:
        policy = call_tool(a, "workspace_info", workspace_id=a.workspace)["network"]
        return show(a, policy, f"internet: {_word(policy)}")
    changed = call_tool(a, "network_policy", workspace_id=a.workspace, allow_internet=a.internet == "on")
    return show(a, changed, f"internet: {_word(changed['network_policy'])}. {changed['note']}")


def _word(policy: dict[str, Any]) -> str:
    return "on" if policy["allow_internet"] else "off"
