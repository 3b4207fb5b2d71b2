"""The guest's network interface takes on its addresses.  Source: netdevice(7).

An interface that is up with the right addresses, as in every restore of a machine, only gets another MAC address: that
takes a restored guest a tenth of the instructions.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from typing import Any, Final

SIOCADDRT: Final = 0x890B
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
SIOCGIFADDR: Final = 0x8915
SIOCSIFADDR: Final = 0x8916
SIOCGIFNETMASK: Final = 0x891B
SIOCSIFNETMASK: Final = 0x891C
SIOCSIFHWADDR: Final = 0x8924
SIOCGIFHWADDR: Final = 0x8927
IFF_UP: Final = 1
RTF_UP_GATEWAY: Final = 3
ARPHRD_ETHER: Final = 1


def configure(network: dict[str, Any]) -> tuple[str, str]:
    """Give the interface its addresses and return the MAC and IPv4 address that the kernel then says it has."""
    name, mac = network["interface"], bytes.fromhex(network["mac"].replace(":", ""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if not _has_addresses(control, network) or not _change_mac(control, name, mac):
            _set_up(control, network, mac)
        got = fcntl.ioctl(control, SIOCGIFHWADDR, _request(name))
        address = fcntl.ioctl(control, SIOCGIFADDR, _request(name))
    return ":".join(f"{byte:02x}" for byte in got[18:24]), socket.inet_ntoa(address[20:24])


def _has_addresses(control: socket.socket, network: dict[str, Any]) -> bool:
    name = network["interface"]
    try:
        address = fcntl.ioctl(control, SIOCGIFADDR, _request(name))[20:24]
        mask = fcntl.ioctl(control, SIOCGIFNETMASK, _request(name))[20:24]
    except OSError:
        return False
    wanted = socket.inet_aton(network["address"]), _mask(network["prefix"])
    return (address, mask) == wanted and bool(_flags(control, name) & IFF_UP)


def _change_mac(control: socket.socket, name: str, mac: bytes) -> bool:
    """Change the MAC address of an interface that is up; tell whether its driver can."""
    try:
        fcntl.ioctl(control, SIOCSIFHWADDR, struct.pack("16sH14s", name.encode(), ARPHRD_ETHER, mac))
    except OSError:
        return False
    return True


def _set_up(control: socket.socket, network: dict[str, Any], mac: bytes) -> None:
    """Give the interface its addresses before its link comes up, so that no frame carries the old ones."""
    name = network["interface"]
    _set_flags(control, "lo", up=True)
    _set_flags(control, name, up=False)
    _leave_out_ipv6(name)
    fcntl.ioctl(control, SIOCSIFHWADDR, struct.pack("16sH14s", name.encode(), ARPHRD_ETHER, mac))
    fcntl.ioctl(control, SIOCSIFADDR, _request(name, _address(socket.inet_aton(network["address"]))))
    fcntl.ioctl(control, SIOCSIFNETMASK, _request(name, _address(_mask(network["prefix"]))))
    _set_flags(control, name, up=True)
    gateway, nowhere = _address(socket.inet_aton(network["gateway"])), _address(bytes(4))
    # struct rtentry: pad, destination, gateway, netmask, flags, then fields that stay zero.
    route = struct.pack("Q16s16s16sH", 0, nowhere, gateway, nowhere, RTF_UP_GATEWAY) + bytes(62)
    fcntl.ioctl(control, SIOCADDRT, route)


def _leave_out_ipv6(name: str) -> None:
    """Keep the kernel from looking for IPv6 neighbours, of which there are none; a fork would, by its old address."""
    with contextlib.suppress(FileNotFoundError), open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:
        file.write("1")


def _request(name: str, data: bytes = b"") -> bytes:
    return struct.pack("16s24s", name.encode(), data)


def _address(packed: bytes) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, packed)


def _mask(prefix: int) -> bytes:
    return struct.pack(">I", (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF)


def _flags(control: socket.socket, name: str) -> int:
    flags: int = struct.unpack_from("H", fcntl.ioctl(control, SIOCGIFFLAGS, _request(name)), 16)[0]
    return flags


def _set_flags(control: socket.socket, name: str, *, up: bool) -> None:
    flags = _flags(control, name)
    flags = flags | IFF_UP if up else flags & ~IFF_UP
    fcntl.ioctl(control, SIOCSIFFLAGS, _request(name, struct.pack("H", flags)))
