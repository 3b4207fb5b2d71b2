"""The networks there are."""

from __future__ import annotations

from actors.machine.choice import Choice
from actors.machine.network.none import NoNetwork
from actors.machine.network.protocol import Network
from actors.machine.network.user import UserNetwork


def networks() -> Choice[Network]:
    """Return the networks of one supervisor; settings and records name one of them."""
    return Choice[Network]("network", UserNetwork(), NoNetwork())
