"""What QEMU is told of forwarded ports, and how what it says is read."""

from __future__ import annotations

from typing import Any

import pytest

from actors.machine.network.hostfwd import HostForwards
from actors.machine.network.protocol import Link, NetworkIdentity
from actors.model.errors import PortTaken, QmpError

LINK = Link(identity=NetworkIdentity("eth0", "52:54:00:00:00:09", "10.0.2.15", 24, "10.0.2.2", ()))
FORWARDS = HostForwards()
USERNET = """Hub -1 (net0):\r
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[HOST_FORWARD]  19       127.0.0.1  8080       10.0.2.15    80     0     0\r
  TCP[HOST_FORWARD]  21       127.0.0.1 40001       10.0.2.15  5432     0     0\r
  TCP[ESTABLISHED]   22       127.0.0.1  8080       10.0.2.15    80     0     0\r
  UDP[236 sec]       25       10.0.2.15 45017       127.0.0.1    53     0     0\r
"""


class Monitor:
    """A QMP connection that says what it is told to, and remembers what it was asked."""

    def __init__(self, says: str) -> None:
        self.says = says
        self.lines: list[str] = []

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        assert command == "human-monitor-command"
        assert arguments is not None
        self.lines.append(arguments["command-line"])
        return {"return": self.says}


async def test_only_forwards_are_read_from_qemus_list_of_connections() -> None:
    assert await FORWARDS.present(Monitor(USERNET), LINK) == {8080: 80, 40001: 5432}


async def test_a_forward_is_bound_to_the_loopback_address_and_made_of_integers() -> None:
    monitor = Monitor("")
    await FORWARDS.add(monitor, LINK, guest_port=80, host_port=8080)
    assert monitor.lines == ["hostfwd_add net0 tcp:127.0.0.1:8080-10.0.2.15:80"]
    with pytest.raises(ValueError, match="format code"):
        await FORWARDS.add(monitor, LINK, guest_port="80\nquit", host_port=1)  # type: ignore[arg-type]


async def test_what_qemu_says_against_a_forward_is_an_error() -> None:
    with pytest.raises(PortTaken, match="could not set up"):
        await FORWARDS.add(Monitor("could not set up host forwarding rule"), LINK, guest_port=1, host_port=2000)
    with pytest.raises(QmpError, match="mystery"):
        await FORWARDS.remove(Monitor("mystery"), LINK, 2000)
    await FORWARDS.remove(Monitor("host forwarding rule for tcp:127.0.0.1:2000 not found\r\n"), LINK, 2000)
