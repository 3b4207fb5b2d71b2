"""Commands for the sessions that clients act as."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

import attrs

from agentiso.access.audit import read_last
from agentiso.cli.common import Commands, columns, show
from agentiso.cli.parser import Misuse
from agentiso.library.config import load_settings
from agentiso.protocol.sessions import SessionStore

EXAMPLES: Final = """\
  agentiso session create ann      prints the token with which an HTTP client is ann
  agentiso session token ann
  agentiso session revoke ann
"""
AUDIT_EXAMPLES: Final = """\
  agentiso audit -n 50
  agentiso audit --json            all that is known of each call
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("session", _session, "the sessions that clients act as, and their tokens", EXAMPLES)
    made.add_argument("action", choices=("create", "list", "token", "revoke"),
                      help="token: print it again; revoke: have it be worth nothing from now on")  # fmt: skip
    made.add_argument("name", nargs="?", help="of the session; not for list")
    made = commands.add("audit", _audit, "who did what: the last calls", AUDIT_EXAMPLES)
    made.add_argument("-n", "--lines", type=int, default=20, metavar="COUNT", help="how many; 20 if left out")


def _audit(a: Any) -> int:
    found = read_last(load_settings(a.config).state_dir, a.lines)
    rows = [("TIME", "SESSION", "TOOL", "WORKSPACE", "OUTCOME", "MS", "ARGUMENTS")]
    rows += [
        (line["time"][:19], line["session"], line["tool"], line["workspace"] or "-", line["outcome"],
         f"{line['duration_ms']:.0f}", json.dumps(line["arguments"])[:60])
        for line in found.lines
    ]  # fmt: skip
    if found.skipped:
        print(f"{found.skipped} lines of the log are not whole, and left out", file=sys.stderr)
    return show(a, found.lines, columns(rows))


def _session(a: Any) -> int:
    sessions = SessionStore(load_settings(a.config).state_dir)
    if a.action == "list":
        return _list(a, sessions)
    if a.name is None:
        raise Misuse("The session's name is missing.", remedy=f"Use: agentiso session {a.action} NAME")
    match a.action:
        case "create":
            token = sessions.create(a.name)
        case "token":
            token = sessions.token(a.name)
        case _:
            sessions.revoke(a.name)
            return show(a, {"name": a.name, "revoked": True}, f"the token of session {a.name} is worth nothing now")
    return show(a, {"name": a.name, "token": token}, token)


def _list(a: Any, sessions: SessionStore) -> int:
    found = sessions.list()
    rows = [("NAME", "CREATED", "LAST SEEN")]
    rows += [(info.name, _ago(info.created_at), _ago(info.last_seen_at)) for info in found]
    return show(a, [attrs.asdict(info) for info in found], columns(rows))


def _ago(moment: float) -> str:
    minutes = max(0, int((time.time() - moment) / 60))
    if minutes < 60:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days ago"
