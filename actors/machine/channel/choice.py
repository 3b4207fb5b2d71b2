"""The channels there are."""

from __future__ import annotations

from actors.machine.channel.protocol import Channel
from actors.machine.channel.serial import Serial
from actors.machine.channel.vsock import Vsock
from actors.machine.choice import Choice


def channels() -> Choice[Channel]:
    """Return the channels of one supervisor; settings and records name one of them."""
    return Choice[Channel]("channel", Serial(), Vsock())
