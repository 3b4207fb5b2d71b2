"""What is known of a state directory's supervisor, and replacing it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from actors.model.errors import AgentisoError, SupervisorGone, SupervisorRunning
from actors.model.settings import Settings
from agentiso.client.dialling import ON_DEMAND_S, connect, connect_running
from agentiso.client.stopping import Stopped, daemon_of, stop
from agentiso.protocol.greeting import VERSION, Greeting, OtherVersion, Welcome
from agentiso.protocol.places import make_state_dir, usable
from agentiso.protocol.serving import Serving, withdraw


class OtherSupervisor(AgentisoError):
    """Another program started the next supervisor, which does not serve as it was to."""

    code = "other_supervisor"
    usual_remedy = "End what starts supervisors of another version or configuration, then try again."


@attrs.frozen
class Status:
    """A supervisor as it describes itself, or as far as it can be known from outside."""

    running: bool
    text: str
    """All of it, for people."""
    pid: int | None = None
    version: str | None = None
    protocol: int | None = None
    started_at: float | None = None
    """Seconds since the Unix epoch."""
    clients: int | None = None
    http: str | None = None
    """Where it serves HTTP, as it was told."""
    idle_exit_s: float | None = None
    """After being idle for so long it ends by itself, if it ever does."""


async def status(settings: Settings) -> Status:
    """Look at the supervisor of a state directory; none is started.

    Raises:
        HostFailed: the state directory cannot be read.

    """
    try:
        with usable(settings.state_dir):
            daemon = daemon_of(settings)
    except SupervisorRunning as error:
        return Status(False, str(error))
    if daemon is None:
        return Status(False, f"no supervisor runs for {settings.state_dir}; the next command starts one")
    try:
        found = await connect_running(settings, Greeting("status"))
    except (OtherVersion, SupervisorGone) as error:
        return Status(True, f"{error} ({daemon})", daemon.pid)
    if found is None:
        return Status(True, f"a supervisor is starting or ending ({daemon})", daemon.pid)
    stream, welcome = found
    await trio.aclose_forcefully(stream)
    return _described(settings, welcome)


async def restart(
    settings: Settings,
    config: Path | None,
    *,
    http: str | None,
    idle_exit_s: float | None,
    limit_s: float,
    force: bool = False,
    report: Callable[[str], None],
) -> tuple[Stopped | None, Welcome]:
    """End the supervisor, if one runs, and have one of this version serve as the former did, unless told otherwise.

    Raises:
        SupervisorRunning, StillRunning: it was not ended, and none was started.
        OtherSupervisor: somebody else has started one that serves otherwise.

    """
    found_before = await status(settings)
    if found_before.running and found_before.version is None:
        report(found_before.text)
    before = _served(settings, found_before)
    wanted = Serving(http or before.http, before.idle_exit_s if idle_exit_s is None else idle_exit_s)
    with usable(settings.state_dir):
        make_state_dir(settings.state_dir)
        # Clients that need a supervisor do not wait for this one to start it.
        wanted.leave(settings.state_dir)
        try:
            stopped = await stop(settings, limit_s=limit_s, force=force, report=report)
            stream, welcome = await connect(settings, Greeting("status"), config=config)
        finally:
            withdraw(settings.state_dir)
    await trio.aclose_forcefully(stream)
    found = Serving(welcome.about.get("http") or None, welcome.about.get("idle_exit_s"))
    expected = attrs.evolve(wanted, http=wanted.http or settings.http.bind or None)
    if (welcome.version, found) != (VERSION, expected):
        raise OtherSupervisor(
            f"The supervisor that runs now (agentiso {welcome.version}, pid {welcome.pid}; {said(found)}) was started "
            f"by somebody else, and is not as it was to be (agentiso {VERSION}; {said(expected)})."
        )
    return stopped, welcome


def _served(settings: Settings, before: Status) -> Serving:
    """Return how a supervisor serves beyond its configuration: as it says itself, or else as it was started."""
    if before.pid is None:
        return Serving(None, ON_DEMAND_S)
    if before.version is not None:
        return Serving(before.http if before.http != settings.http.bind else None, before.idle_exit_s)
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--http")
    parser.add_argument("--idle-exit", type=float)
    try:
        words = Path(f"/proc/{before.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        given, _ = parser.parse_known_args(words)
    except (OSError, argparse.ArgumentError):
        return Serving(None, ON_DEMAND_S)
    return Serving(given.http, given.idle_exit)


def said(serving: Serving) -> str:
    """Return how a supervisor serves in words."""
    # One that serves HTTP stays: who comes that way cannot start it again.
    stays = serving.idle_exit_s is None or serving.http
    ends = "never" if stays else f"after {serving.idle_exit_s:g} s with neither client, workspace nor pool"
    return f"HTTP: {serving.http or 'not served'}; ends by itself: {ends}"


def _described(settings: Settings, welcome: Welcome) -> Status:
    told = {name: welcome.about.get(name) for name in ("started_at", "clients", "http", "idle_exit_s")}
    facts = Status(True, "", welcome.pid, welcome.version, welcome.protocol, **told)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts.started_at))
    lines = [
        f"the supervisor of {settings.state_dir} runs (pid {facts.pid}) since {since}",
        f"agentiso {facts.version}, protocol {facts.protocol}"
        + ("" if facts.version == VERSION else f"; this is {VERSION}"),
        f"clients: {facts.clients}",
        *said(Serving(facts.http, facts.idle_exit_s)).split("; "),
    ]
    return attrs.evolve(facts, text="\n".join(lines))
