"""Commands for the host and the supervisor."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from actors.model.settings import Settings
from agentiso.cli.common import Commands, columns, run_interruptibly, show
from agentiso.cli.parser import host_port, seconds
from agentiso.client.status import restart, said, status
from agentiso.client.stopping import FORCE_LIMIT_S, LIMIT_S, Stopped, stop
from agentiso.library.config import load_settings, settings_to_plain
from agentiso.protocol.serving import Serving
from agentiso.protocol.sessions import DEFAULT_SESSION, PROFILES

SERVE_EXAMPLES: Final = """\
  claude mcp add agentiso -- agentiso serve
  agentiso serve --session build --tools core
"""
DAEMON_EXAMPLES: Final = """\
  agentiso daemon                          run it in the foreground; others start it on demand
  agentiso daemon --http 127.0.0.1:8080    serve MCP over HTTP too
  agentiso daemon stop                     machines run on, and the next one adopts them
  agentiso daemon restart                  after an upgrade; agents go on with the new one
  agentiso daemon status                   which version runs, since when, for how many clients
"""
BENCH_EXAMPLES: Final = """\
  agentiso bench --quick
  agentiso bench create_to_exec fork_pause
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    commands.add("check", _check, "look at this host and say what is missing and how to get it")
    made = commands.add("serve", _serve, "be an MCP server on stdio, for an agent's configuration", SERVE_EXAMPLES)
    made.add_argument("--session", default=os.environ.get("AGENTISO_SESSION", DEFAULT_SESSION), metavar="NAME",
                      help="whose workspaces are one's own, across restarts; made on first use")  # fmt: skip
    made.add_argument("--tools", choices=PROFILES, default="full", help="all tools, or a few for small models")
    made = commands.add("daemon", _daemon, "run, end, replace or look at the supervisor", DAEMON_EXAMPLES)
    made.add_argument("action", nargs="?", choices=tuple(ACTIONS), default="run",
                      help="run it here, or do that with the one that runs; machines survive its end")  # fmt: skip
    made.add_argument("--wait", type=seconds, metavar="SECONDS",
                      help=f"how long `stop` and `restart` wait for its end; {LIMIT_S:g} if left out, "
                           f"{FORCE_LIMIT_S:g} with --force")  # fmt: skip
    made.add_argument("--force", action="store_true",
                      help="kill one that has not ended by then; machines survive that")  # fmt: skip
    made.add_argument("--idle-exit", type=seconds, metavar="SECONDS", help="end after being idle for so long")
    made.add_argument(
        "--http", type=host_port, metavar="HOST:PORT", help="serve MCP over HTTP too, to whoever has a session's token"
    )
    made = commands.add(
        "bench", _bench, "measure agentiso against a bare script that drives the same QEMU", BENCH_EXAMPLES
    )
    made.add_argument("rows", nargs="*", metavar="ROW", help="only these rows")
    made.add_argument("--quick", action="store_true", help="fewer samples")
    commands.add("config", _config, "print the configuration in force, as TOML")
    commands.add("demo", _demo, "show what workspaces can do, on a real one")


def _check(a: Any) -> int:
    from agentiso.cli.checks import run_checks

    results = trio.run(run_checks, load_settings(a.config))
    rows = [("CHECK", "", "VERDICT", "REASON", "FIX")]
    mark = {True: "ok", False: "MISSING", None: "note"}
    rows += [(r.name, mark[r.ok], r.verdict, r.reason, r.fix) for r in results]
    plain = [{"name": r.name, "ok": r.ok, "verdict": r.verdict, "reason": r.reason, "fix": r.fix} for r in results]
    show(a, plain, columns(rows))
    return 1 if any(result.ok is False for result in results) else 0


def _serve(a: Any) -> int:
    from agentiso.client.serve import run_serve

    trio.run(lambda: run_serve(load_settings(a.config), a.config, session=a.session, tools=a.tools))
    return 0


def _daemon(a: Any) -> int:
    settings = load_settings(a.config)
    if a.http is not None:
        settings = attrs.evolve(settings, http=attrs.evolve(settings.http, bind=a.http))
    return ACTIONS[a.action](a, settings)


def _run(a: Any, settings: Settings) -> int:
    from agentiso.supervisor.daemon import run_daemon

    trio.run(lambda: run_daemon(settings, idle_exit_s=a.idle_exit))
    return 0


def _stop(a: Any, settings: Settings) -> int:
    stopped = trio.run(lambda: stop(settings, limit_s=_limit_s(a), force=a.force, report=_report))
    return show(a, {"stopped": stopped is not None, **_plain(stopped)}, _told(stopped))


def _restart(a: Any, settings: Settings) -> int:
    stopped, started = trio.run(
        lambda: restart(
            settings, a.config, http=a.http, idle_exit_s=a.idle_exit, limit_s=_limit_s(a), force=a.force, report=_report
        )
    )
    plain = {"stopped": _plain(stopped) or None, "pid": started.pid, "version": started.version}
    serves = said(Serving(started.about.get("http"), started.about.get("idle_exit_s")))
    return show(a, plain, f"{_told(stopped)}; one of agentiso {started.version} runs now (pid {started.pid}; {serves})")


def _status(a: Any, settings: Settings) -> int:
    found = trio.run(status, settings)
    return show(a, attrs.asdict(found), found.text)


ACTIONS: Final[dict[str, Callable[[Any, Settings], int]]] = {
    "run": _run, "stop": _stop, "restart": _restart, "status": _status,
}  # fmt: skip


def _limit_s(a: Any) -> float:
    if a.wait is not None:
        return float(a.wait)
    return FORCE_LIMIT_S if a.force else LIMIT_S


def _report(text: str) -> None:
    print(text, file=sys.stderr)


def _plain(stopped: Stopped | None) -> dict[str, Any]:
    return attrs.asdict(stopped) if stopped else {}


def _told(stopped: Stopped | None) -> str:
    if stopped is None:
        return "no supervisor ran"
    machines = {0: "no machine runs", 1: "1 machine runs on"}.get(
        stopped.machines, f"{stopped.machines} machines run on"
    )
    how = "did not end and was killed" if stopped.killed else "has ended"
    return f"the supervisor (pid {stopped.pid}) {how}; {machines}"


def _bench(a: Any) -> int:
    import shutil

    from rich.console import Console

    from agentiso.bench import run_bench, table, to_json

    settings = load_settings(a.config)
    with Console(stderr=True).status("agentiso bench") as status:
        rows = run_interruptibly(lambda: run_bench(settings, names=a.rows, quick=a.quick, report=status.update))
    if a.json:
        print(json.dumps(to_json(rows, settings)))
    else:
        print(table(rows, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return 0


def _config(a: Any) -> int:
    import tomli_w

    plain = settings_to_plain(load_settings(a.config))
    return show(a, plain, tomli_w.dumps(plain).rstrip())


def _demo(a: Any) -> int:
    from agentiso.cli.demo import run_demo

    run_interruptibly(lambda: run_demo(load_settings(a.config), as_json=a.json))
    return 0
