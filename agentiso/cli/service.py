"""Commands for the host and the supervisor."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

import attrs
import trio

from agentiso.cli.common import Commands, columns, run_interruptibly, show
from agentiso.library.config import load_settings, settings_to_plain
from agentiso.protocol.sessions import DEFAULT_SESSION, PROFILES

SERVE_EXAMPLES: Final = """\
  claude mcp add agentiso -- agentiso serve
  agentiso serve --session build --tools core
"""
DAEMON_EXAMPLES: Final = """\
  agentiso daemon                          run it in the foreground; others start it on demand
  agentiso daemon --http 127.0.0.1:8080    serve MCP over HTTP too
  agentiso daemon stop                     machines run on, and the next one adopts them
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
    made = commands.add("daemon", _daemon, "run, or stop, the supervisor of the state directory", DAEMON_EXAMPLES)
    made.add_argument("action", nargs="?", choices=("run", "stop"), default="run",
                      help="run it here, or end the one that runs; machines survive it")  # fmt: skip
    made.add_argument("--idle-exit", type=float, metavar="SECONDS", help="end after being idle for so long")
    made.add_argument("--http", metavar="HOST:PORT", help="serve MCP over HTTP too, to whoever has a session's token")
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
    from agentiso.client.dialling import stop_daemon
    from agentiso.supervisor.daemon import run_daemon

    settings = load_settings(a.config)
    if a.action == "stop":
        stopped = stop_daemon(settings)
        return show(a, {"stopped": stopped}, "the supervisor was asked to end" if stopped else "no supervisor runs")
    if a.http is not None:
        settings = attrs.evolve(settings, http=attrs.evolve(settings.http, bind=a.http))
    trio.run(lambda: run_daemon(settings, idle_exit_s=a.idle_exit))
    return 0


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
