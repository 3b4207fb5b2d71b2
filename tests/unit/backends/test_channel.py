"""What every channel does, whichever it is.  A new one is added to `CHANNELS` and has to pass all of this."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio

from actors.machine import descriptors
from actors.machine.channel.choice import channels
from actors.machine.channel.protocol import Channel
from actors.machine.channel.serial import PORT_ID, Serial
from actors.machine.channel.vsock import Vsock
from actors.model import backends
from actors.model.errors import HostUnfit

CHANNELS: list[Callable[[], Channel]] = [
    Serial,
    Vsock,
]
MACHINES = 50


@pytest.fixture(params=CHANNELS, ids=lambda make: make().name)
def make(request: pytest.FixtureRequest) -> Callable[[], Channel]:
    """Return what makes the channel of one supervisor."""
    found: Callable[[], Channel] = request.param
    return found


@pytest.fixture
def channel(make: Callable[[], Channel]) -> Channel:
    return make()


def test_every_channel_is_known_by_its_name_and_passes_these_tests() -> None:
    assert channels().names == backends.CHANNELS == tuple(make().name for make in CHANNELS)


def test_what_check_shows_of_it_says_why(channel: Channel) -> None:
    found = channel.probe()
    assert channel.name in found.name
    assert found.verdict
    assert found.reason


def test_a_machines_channel_is_named_as_its_kind_is(channel: Channel, tmp_path: Path) -> None:
    endpoint = channel.open(tmp_path)
    assert endpoint.name == channel.name
    assert endpoint.tries >= 1


def test_qemu_inherits_a_socket_exactly_where_it_is_told_of_one(channel: Channel, tmp_path: Path) -> None:
    endpoint = channel.open(tmp_path)
    told = f"fd={descriptors.CHANNEL}," in " ".join(endpoint.arguments)
    assert (endpoint.socket is not None) is told
    if endpoint.socket:
        assert endpoint.socket.parent == tmp_path


def test_what_the_guest_sees_of_it_differs_by_nothing_but_its_context_id(channel: Channel, tmp_path: Path) -> None:
    def seen(directory: Path) -> list[str]:
        endpoint = channel.open(directory)
        return [words.replace(f"={endpoint.cid}", "=CID") for words in endpoint.arguments]

    assert seen(tmp_path) == seen(tmp_path / "other")
    assert "-device" in seen(tmp_path)


def test_no_two_machines_are_reached_at_one_place(channel: Channel, tmp_path: Path) -> None:
    endpoints = [channel.open(tmp_path / str(number)) for number in range(MACHINES)]
    assert len({(endpoint.socket, endpoint.cid) for endpoint in endpoints}) == MACHINES


def test_a_later_supervisor_reaches_a_machine_where_it_was_and_gives_its_place_to_no_other(
    make: Callable[[], Channel], tmp_path: Path
) -> None:
    endpoint, later = make().open(tmp_path), make()
    assert later.adopt(tmp_path, endpoint.cid) == endpoint
    others = [later.open(tmp_path / str(number)) for number in range(MACHINES)]
    assert all((other.socket, other.cid) != (endpoint.socket, endpoint.cid) for other in others)


async def test_where_nobody_is_one_learns_of_it_at_once_or_calls_on_until_one_gives_up(
    channel: Channel, tmp_path: Path
) -> None:
    endpoint = channel.open(tmp_path)
    with trio.move_on_after(0.2) as limit:
        with pytest.raises((OSError, HostUnfit)) as caught:
            await endpoint.connect()
        assert endpoint.dialled is isinstance(caught.value, HostUnfit)
    assert endpoint.dialled or not limit.cancelled_caught


async def test_a_machine_whose_place_is_not_known_cannot_be_reached(channel: Channel, tmp_path: Path) -> None:
    with pytest.raises((OSError, HostUnfit)):
        await channel.adopt(tmp_path, None).connect()


@pytest.mark.parametrize("event", ["SHUTDOWN", "VSERPORT_CHANGE"])
def test_events_that_are_not_about_the_agent_say_nothing_of_it(channel: Channel, tmp_path: Path, event: str) -> None:
    assert channel.open(tmp_path).presence(event, {"id": "another", "open": True}) is None


def test_qemu_says_of_a_serial_port_whether_the_agent_is_there(tmp_path: Path) -> None:
    endpoint = Serial().open(tmp_path)
    assert endpoint.presence("VSERPORT_CHANGE", {"id": PORT_ID, "open": True}) is True
    assert endpoint.presence("VSERPORT_CHANGE", {"id": PORT_ID, "open": False}) is False


def test_an_endpoint_cannot_be_changed(channel: Channel, tmp_path: Path) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        channel.open(tmp_path).cid = 7  # type: ignore[misc]
