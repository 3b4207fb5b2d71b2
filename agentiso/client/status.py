"""What is known of a state directory's supervisor, and replacing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from actors.model.errors import SupervisorGone, SupervisorRunning
from actors.model.settings import Settings
from agentiso.client.dialling import ON_DEMAND, connect, connect_running
from agentiso.client.stopping import Stopped, daemon_of, stop
from agentiso.protocol.greeting import VERSION, Greeting, OtherVersion, Welcome


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
    """Look at the supervisor of a state directory; none is started."""
    try:
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
    report: Callable[[str], None],
) -> tuple[Stopped | None, Welcome]:
    """End the supervisor, if one runs, and start one of this version, which serves what the former did.

    Raises:
        SupervisorRunning, StillRunning: it was not ended, and none was started.

    """
    before = await status(settings)
    stopped = await stop(settings, limit_s=limit_s, report=report)
    wanted = http or (before.http if before.http != settings.http.bind else None)
    # One that somebody runs for good, rather than on demand, is replaced by another for good.
    on_demand = idle_exit_s is None and (before.pid is None or before.idle_exit_s is not None or not before.version)
    arguments = [
        *(ON_DEMAND if on_demand else ()),
        *(("--idle-exit", str(idle_exit_s)) if idle_exit_s is not None else ()),
        *(("--http", wanted) if wanted else ()),
    ]
    stream, welcome = await connect(settings, Greeting("status"), config=config, arguments=arguments)
    await trio.aclose_forcefully(stream)
    return stopped, welcome


def _described(settings: Settings, welcome: Welcome) -> Status:
    told = {name: welcome.about.get(name) for name in ("started_at", "clients", "http", "idle_exit_s")}
    facts = Status(True, "", welcome.pid, welcome.version, welcome.protocol, **told)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts.started_at))
    lines = [
        f"the supervisor of {settings.state_dir} runs (pid {facts.pid}) since {since}",
        f"agentiso {facts.version}, protocol {facts.protocol}"
        + ("" if facts.version == VERSION else f"; this is {VERSION}"),
        f"clients: {facts.clients}",
        f"HTTP: {facts.http or 'not served'}",
        f"ends by itself: {'never' if facts.idle_exit_s is None else f'after {facts.idle_exit_s:g} s without use'}",
    ]
    return attrs.evolve(facts, text="\n".join(lines))
