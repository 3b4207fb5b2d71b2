"""Parts without machines: codec, names, lifecycle, overlays, RAM images, sources, archives, configuration."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.machine.qemu.qmp import QmpCodec
from actors.machine.storage import qcow2, ram_image
from actors.model.errors import IllegalState, InvalidArgument, InvalidName, LocalProtocolError, RemoteProtocolError
from actors.model.names import check_name
from actors.model.states import TABLE, Event, Lifecycle, State
from agentiso.library.config import load_settings
from guest.handshake import EchoScanner, SyncScanner, echo, token
from guest.wire import MAX_FRAME_BYTES, Codec, Data, Message, encode
from guest.wire import Event as WireEvent
from imagebuild.cpio import Entry, write_archive
from imagebuild.sources import parse_deb822, parse_one_line

EVENTS = st.one_of(
    st.builds(Message, st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=5)),
    st.builds(Data, st.integers(0, 2**32 - 1), st.integers(0, 255), st.binary(max_size=300)),
)


@given(st.lists(EVENTS, max_size=8), st.integers(1, 50))
def test_events_survive_the_wire_in_pieces_of_any_size(events: list[WireEvent], size: int) -> None:
    codec, wire, seen = Codec(), b"".join(encode(event) for event in events), []
    for start in range(0, len(wire), size):
        codec.receive_data(wire[start : start + size])
        while (event := codec.next_event()) is not None:
            seen.append(event)
    assert seen == events


@given(st.binary(max_size=200))
def test_garbage_gives_events_or_a_protocol_error_and_nothing_else(data: bytes) -> None:
    codec = Codec()
    codec.receive_data(data)
    try:
        while codec.next_event() is not None:
            pass
    except RemoteProtocolError:
        pass


def test_a_frame_too_large_is_refused_before_it_is_there() -> None:
    codec = Codec()
    codec.receive_data((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError):
        codec.next_event()


def test_a_frame_too_large_is_not_sent_and_the_largest_is_received() -> None:
    header = len(encode(Data(1, 0, b""))) - 4
    largest = Data(1, 0, bytes(MAX_FRAME_BYTES - header))
    codec = Codec()
    codec.receive_data(encode(largest))
    assert codec.next_event() == largest
    for event in (Data(1, 0, largest.payload + b"x"), Message({"text": "x" * MAX_FRAME_BYTES})):
        with pytest.raises(LocalProtocolError):
            encode(event)


@given(st.binary(max_size=100), st.binary(max_size=50), st.integers(1, 40))
def test_a_resynchronisation_is_found_wherever_it_is_split(before: bytes, after: bytes, size: int) -> None:
    scanner, nonce = SyncScanner(b"k"), bytes(range(16))
    wire, found = before + token(b"k") + nonce + after, None
    rest = b""
    for start in range(0, len(wire), size):
        piece = wire[start : start + size]
        if found is None:
            found = scanner.feed(piece)
            rest = found[1] if found else b""
        else:
            rest += piece
    assert found is not None
    assert (found[0], rest) == (nonce, after)
    host = EchoScanner(nonce)
    seen = None
    for byte in before + echo(nonce, nonce):
        seen = seen or host.feed(bytes([byte]))
    assert seen == (nonce, b"")


@pytest.mark.parametrize("name", ["a", "ab-1", "a" * 63])
def test_a_good_name_is_taken_as_it_is(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "a_b", "a.b", "-a", "a-", "a" * 64, "../x", "a\n", "a\0", "é", "0" * 8 + "-0000-4000-8000-" + "0" * 12],
)
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_the_lifecycle_moves_only_along_its_table(state: State, event: Event) -> None:
    lifecycle = Lifecycle(state)
    if event in TABLE[state]:
        assert lifecycle.move(event) is TABLE[state][event]
    else:
        with pytest.raises(IllegalState):
            lifecycle.move(event)
        assert lifecycle.state is state


def test_an_overlay_names_its_backing_and_its_size(tmp_path: Path) -> None:
    base, first, second = tmp_path / "base", tmp_path / "1.qcow2", tmp_path / "2.qcow2"
    base.write_bytes(b"x" * 4096)
    qcow2.create_overlay(first, backing=base, backing_format="raw", virtual_size_bytes=10 * 2**30)
    qcow2.create_overlay(second, backing=first, backing_format="qcow2", virtual_size_bytes=10 * 2**30)
    assert qcow2.read_header(second) == qcow2.Qcow2Header(10 * 2**30, first)
    assert qcow2.backing_chain(second) == [second, first]
    with pytest.raises(FileExistsError):
        qcow2.create_overlay(first, backing=base, backing_format="raw", virtual_size_bytes=1)


CHILD = """
import mmap, sys
size, pages = int(sys.argv[2]), [int(text) for text in sys.argv[3:]]
file = open(sys.argv[1], "rb")
memory = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
memory[5 * 4096]
for page in pages:
    memory[page * 4096 : page * 4096 + 8] = b"changed!" if page % 2 else bytes(8)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("old_kernel", [False, True])
@pytest.mark.parametrize("buffer_pages", [2, 1000])
def test_a_ram_image_is_rebuilt_from_the_pages_a_process_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, old_kernel: bool, buffer_pages: int
) -> None:
    if old_kernel:
        # Kernels before 6.7 refuse the request just so.
        monkeypatch.setattr(ram_image, "PAGEMAP_SCAN", 0xC060667F)
    monkeypatch.setattr(ram_image, "MAX_BUFFER_BYTES", buffer_pages * mmap.PAGESIZE)
    size, pages = 64 * mmap.PAGESIZE, [0, 1, 2, 9, 40, 63]
    base, copy = tmp_path / "base", tmp_path / "copy"
    ram_image.create_zero(base, size)
    with base.open("r+b") as file:
        file.seek(mmap.PAGESIZE)
        file.write(os.urandom(20 * mmap.PAGESIZE))
    argv = [sys.executable, "-c", CHILD, str(base), str(size), *map(str, pages)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        ram_image.copy_sparse(base, copy)
        target = os.open(copy, os.O_RDWR)
        with ram_image.ChangedMemory(child.pid, base, target) as memory:
            copied = memory.read()
            memory.write()
        os.close(target)
    expected = bytearray(base.read_bytes())
    for page in pages:
        expected[page * 4096 : page * 4096 + 8] = b"changed!" if page % 2 else bytes(8)
    assert copied == len(pages) * mmap.PAGESIZE
    assert copy.read_bytes() == bytes(expected)


def test_memory_that_cannot_be_read_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, base = 4 * mmap.PAGESIZE, tmp_path / "base"
    ram_image.create_zero(base, size)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with base.open("r+b") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE):
        monkeypatch.setattr(mmap, "mmap", refuse)
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(OSError, match="Cannot allocate memory"):
            ram_image.ChangedMemory(os.getpid(), base, -1)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_qmp_lines_are_split_and_nonsense_is_refused() -> None:
    codec = QmpCodec()
    assert codec.receive_data(b'{"a": 1}\r\n{"b"') == [{"a": 1}]
    assert codec.receive_data(b": 2}\n") == [{"b": 2}]
    for line in (b"nonsense\n", b"[1]\n"):
        with pytest.raises(RemoteProtocolError):
            codec.receive_data(line)


def test_only_deb_entries_of_both_styles_are_read() -> None:
    modern = (
        "Types: deb deb-src\nURIs: http://mirror/debian\nSuites: a a-updates\nComponents: main contrib\nSigned-By: /k\n"
    )
    assert [(s.suite, s.components, s.signed_by) for s in parse_deb822(modern + "\n\nTypes: deb-src\nURIs: x\n")] == [
        ("a", ("main", "contrib"), "/k"),
        ("a-updates", ("main", "contrib"), "/k"),
    ]
    old = "# deb http://no a main\ndeb [signed-by=/k] http://mirror b main # comment\ndeb-src http://x b main\n"
    assert [source.line for source in parse_one_line(old)] == ["deb [signed-by=/k] http://mirror b main"]


def test_an_archive_has_what_was_put_in(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    write_archive(path, [Entry("dir"), Entry("dir/file", b"content", 0o644)])
    data = path.read_bytes()
    assert data.count(b"070701") == 3
    assert b"content" in data
    assert len(data) % 4 == 0


def test_an_unknown_or_mistyped_key_of_the_configuration_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('image = "base"\n[shape]\nvcpus = 3\n')
    assert load_settings(path).shape.vcpus == 3
    for text in ('imagge = "x"', '[shape]\nvcpus = "3"', "not toml"):
        path.write_text(text)
        with pytest.raises(InvalidArgument):
            load_settings(path)
