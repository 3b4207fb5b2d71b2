"""A guest takes on the identity its host gives it, and reports what became of each part.

Everything goes through system calls: a restored guest has to be ready in milliseconds, and the root disk may hold no
tools at all.  Under software emulation every instruction that runs for the first time after a restore is dear, so what
can be kept open or known from before is.  Sources: random(4), clock_settime(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from guest import interface
from guest.connections import Connections
from guest.identity_files import IdentityFiles

HOOKS: Final = "/etc/agentiso/after-restore.d"
HOOK_LIMIT_S: Final = 5.0
SSH: Final = "/etc/ssh"
SSH_KEY_PREFIX: Final = "ssh_host_"
SSHD_PID: Final = "/run/sshd.pid"

RNDADDENTROPY: Final = 0x40085203
RNDRESEEDCRNG: Final = 0x5207


class Guest:
    """This machine, as far as it can be told from another."""

    def __init__(self) -> None:
        self._files = IdentityFiles()
        self._connections = Connections()
        self._writable = _root_is_writable()
        self._random = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)

    def assume(self, identity: dict[str, Any]) -> dict[str, Any]:
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
            except (OSError, ValueError, KeyError, TypeError, struct.error, subprocess.SubprocessError) as error:
                failures[part] = str(error)

        def clock() -> None:
            now = time.time_ns()
            time.clock_settime_ns(time.CLOCK_REALTIME, identity["time_ns"])
            reply["clock_step_s"] = (identity["time_ns"] - now) / 1e9

        def connections() -> None:
            reply["connections_closed"] = self._connections.close_all()

        def network() -> None:
            reply["mac"], reply["address"] = interface.configure(identity["network"])

        attempt("clock", clock)
        attempt("rng", lambda: self._reseed(bytes.fromhex(identity["entropy"])))
        attempt("hostname", lambda: socket.sethostname(identity["hostname"]))
        another = self._files.machine_id != identity["machine_id"]
        attempt("files", lambda: self._files.write(identity))
        if another:
            attempt("ssh", _renew_ssh_keys)
        if identity.get("network"):
            attempt("connections", connections)
            attempt("network", network)
        attempt("root", self._check_root)
        reply["rng_reseeded"] = "rng" not in failures
        reply["hostname"] = socket.gethostname()
        # They tell others who the machine is, which in a rehearsal it is not.
        reply["hooks"] = [] if identity.get("rehearsal") else _run_hooks(identity)
        return reply

    def note_root(self) -> None:
        """Note, before a checkpoint, whether the root file system takes writes: it has to, after it, as it did."""
        self._writable = _root_is_writable()

    def _check_root(self) -> None:
        if self._writable and not _root_is_writable():
            raise OSError(errno.EROFS, "the root file system takes no writes any more")

    def _reseed(self, entropy: bytes) -> None:
        header = struct.pack("ii", len(entropy) * 8, len(entropy))
        fcntl.ioctl(self._random, RNDADDENTROPY, header + entropy)
        fcntl.ioctl(self._random, RNDRESEEDCRNG)


def _root_is_writable() -> bool:
    return not os.statvfs("/").f_flag & os.ST_RDONLY


def _renew_ssh_keys() -> None:
    """Give a fork host keys of its own, if its parent had any; a server that runs is told to take them up."""
    try:
        old = [name for name in os.listdir(SSH) if name.startswith(SSH_KEY_PREFIX)]
    except FileNotFoundError:
        return
    if not old:
        return
    for name in old:
        os.unlink(f"{SSH}/{name}")
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{SSH}/ssh_host_ed25519_key"]
    subprocess.run(keygen, stdin=subprocess.DEVNULL, timeout=HOOK_LIMIT_S, check=True)
    # What the file says may be old, or anything else.
    with contextlib.suppress(OSError, ValueError), open(SSHD_PID) as file:
        pid = int(file.read())
        if pid > 1:
            os.kill(pid, signal.SIGHUP)


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
