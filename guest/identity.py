"""A guest takes on the identity its host gives it, and reports what became of each part.

Everything goes through system calls: a restored guest has to be ready in milliseconds, and the root disk may hold no
tools at all.  Sources: random(4), netdevice(7), mount(2), clock_settime(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from guest.connections import close_all

RUN: Final = "/run/agentiso"
ETC: Final = RUN + "/etc"
FILES: Final = {
    **{name: f"/etc/{name}" for name in ("hostname", "machine-id", "resolv.conf")},
    # The kernel's own value is part of its memory, and so the same in every fork.
    "boot_id": "/proc/sys/kernel/random/boot_id",
}
HOOKS: Final = "/etc/agentiso/after-restore.d"
HOOK_LIMIT_S: Final = 5.0
SSH_KEYS: Final = "/etc/ssh/ssh_host_*"
SSHD_PID: Final = "/run/sshd.pid"

RNDADDENTROPY: Final = 0x40085203
RNDRESEEDCRNG: Final = 0x5207
SIOCSIFFLAGS: Final = 0x8914
SIOCGIFFLAGS: Final = 0x8913
SIOCGIFADDR: Final = 0x8915
SIOCSIFADDR: Final = 0x8916
SIOCSIFNETMASK: Final = 0x891C
SIOCSIFHWADDR: Final = 0x8924
SIOCGIFHWADDR: Final = 0x8927
SIOCADDRT: Final = 0x890B
IFF_UP: Final = 1
RTF_UP_GATEWAY: Final = 3
ARPHRD_ETHER: Final = 1
MS_BIND: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def bind_files() -> None:
    """Put the files of a machine's identity on memory, over those of the root disk and of the kernel."""
    os.makedirs(ETC, exist_ok=True)
    os.makedirs("/etc", exist_ok=True)
    for name, target in FILES.items():
        if os.path.ismount(target):
            continue
        try:
            with open(f"{ETC}/{name}", "a"):
                pass
            if os.path.islink(target):
                os.unlink(target)
            if not os.path.exists(target):
                with open(target, "a"):
                    pass
            if _libc.mount(f"{ETC}/{name}".encode(), target.encode(), None, MS_BIND, None):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)
        except OSError as error:
            print(f"agentiso-agent: {target} stays on the disk: {error}", flush=True)


def assume(identity: dict[str, Any]) -> dict[str, Any]:
    """Take on an identity; each part is tried, and ``failures`` names those that did not succeed."""
    failures: dict[str, str] = {}
    reply: dict[str, Any] = {
        "failures": failures,
        "mac": None,
        "address": None,
        "clock_step_s": 0.0,
        "connections_closed": 0,
    }

    def attempt(part: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            failures[part] = str(error)

    def clock() -> None:
        now = time.time_ns()
        time.clock_settime_ns(time.CLOCK_REALTIME, identity["time_ns"])
        reply["clock_step_s"] = (identity["time_ns"] - now) / 1e9

    def connections() -> None:
        reply["connections_closed"] = close_all()

    def network() -> None:
        reply["mac"], reply["address"] = _configure(identity["network"])

    attempt("clock", clock)
    attempt("rng", lambda: _reseed(bytes.fromhex(identity["entropy"])))
    attempt("hostname", lambda: socket.sethostname(identity["hostname"]))
    another = _read(ETC + "/machine-id") != identity["machine_id"]
    attempt("files", lambda: _write_files(identity, another=another))
    if another:
        attempt("ssh", _renew_ssh_keys)
    if identity.get("network"):
        attempt("connections", connections)
        attempt("network", network)
    reply["rng_reseeded"] = "rng" not in failures
    reply["hostname"] = socket.gethostname()
    reply["hooks"] = _run_hooks(identity)
    return reply


def _renew_ssh_keys() -> None:
    """Give a fork host keys of its own, if its parent had any; a server that runs is told to take them up."""
    old = glob.glob(SSH_KEYS)
    if not old:
        return
    for path in old:
        os.unlink(path)
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key"]
    subprocess.run(keygen, stdin=subprocess.DEVNULL, timeout=HOOK_LIMIT_S, check=True)
    pid = _read(SSHD_PID)
    if pid:
        os.kill(int(pid), signal.SIGHUP)


def _run_hooks(identity: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the programs that are to run after each restore, in order of name, and return what became of each."""
    outcomes: list[dict[str, Any]] = []
    try:
        names = sorted(os.listdir(HOOKS))
    except OSError:
        return outcomes
    for name in names:
        path = f"{HOOKS}/{name}"
        if not os.access(path, os.X_OK):
            continue
        environment = {**os.environ, "AGENTISO_EPOCH": identity["epoch"], "AGENTISO_HOSTNAME": identity["hostname"]}
        try:
            done = subprocess.run([path], stdin=subprocess.DEVNULL, env=environment, timeout=HOOK_LIMIT_S, check=False)
            outcomes.append({"name": name, "exit_code": done.returncode, "error": ""})
        except (OSError, subprocess.SubprocessError) as error:
            outcomes.append({"name": name, "exit_code": None, "error": str(error)})
    return outcomes


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _reseed(entropy: bytes) -> None:
    with open("/dev/urandom", "wb", buffering=0) as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy)
        fcntl.ioctl(device, RNDRESEEDCRNG)


def _write_files(identity: dict[str, Any], *, another: bool) -> None:
    """Write the identity's files; ``another`` tells that this is another workspace than before."""
    network = identity.get("network") or {}
    contents = {
        ETC + "/hostname": identity["hostname"] + "\n",
        ETC + "/machine-id": identity["machine_id"] + "\n",
        ETC + "/resolv.conf": "".join(f"nameserver {server}\n" for server in network.get("dns", ())),
        RUN + "/generation": identity["epoch"] + "\n",
    }
    if another:
        contents[ETC + "/boot_id"] = identity["epoch"] + "\n"
    for path, content in contents.items():
        with open(path, "w") as file:
            file.write(content)


def _configure(network: dict[str, Any]) -> tuple[str, str]:
    """Give the interface its addresses before its link comes up, so that no frame carries the old ones."""
    name = network["interface"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _set_flags(control, "lo", up=True)
        _set_flags(control, name, up=False)
        _leave_out_ipv6(name)
        mac = bytes.fromhex(network["mac"].replace(":", ""))
        fcntl.ioctl(control, SIOCSIFHWADDR, struct.pack("16sH14s", name.encode(), ARPHRD_ETHER, mac))
        mask = (0xFFFFFFFF << (32 - network["prefix"])) & 0xFFFFFFFF
        fcntl.ioctl(control, SIOCSIFADDR, _request(name, _address(socket.inet_aton(network["address"]))))
        fcntl.ioctl(control, SIOCSIFNETMASK, _request(name, _address(struct.pack(">I", mask))))
        _set_flags(control, name, up=True)
        gateway = _address(socket.inet_aton(network["gateway"]))
        nowhere = _address(bytes(4))
        # struct rtentry: pad, destination, gateway, netmask, flags, then fields that stay zero.
        fcntl.ioctl(
            control,
            SIOCADDRT,
            struct.pack("Q16s16s16sH", 0, nowhere, gateway, nowhere, RTF_UP_GATEWAY) + bytes(62),
        )
        got = fcntl.ioctl(control, SIOCGIFHWADDR, _request(name))
        address = fcntl.ioctl(control, SIOCGIFADDR, _request(name))
    return ":".join(f"{byte:02x}" for byte in got[18:24]), socket.inet_ntoa(address[20:24])


def _leave_out_ipv6(name: str) -> None:
    """Keep the kernel from looking for IPv6 neighbours, of which there are none; a fork would, by its old address."""
    with contextlib.suppress(FileNotFoundError), open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:
        file.write("1")


def _request(name: str, data: bytes = b"") -> bytes:
    return struct.pack("16s24s", name.encode(), data)


def _address(packed: bytes) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, packed)


def _set_flags(control: socket.socket, name: str, *, up: bool) -> None:
    flags = struct.unpack_from("H", fcntl.ioctl(control, SIOCGIFFLAGS, _request(name)), 16)[0]
    flags = flags | IFF_UP if up else flags & ~IFF_UP
    fcntl.ioctl(control, SIOCSIFFLAGS, _request(name, struct.pack("H", flags)))
