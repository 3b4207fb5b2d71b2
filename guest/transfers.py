"""What is asked of the guest's files: a table of what comes in, and of what goes out in pieces.

What goes out does so while the host takes it, and no further than the credit that the host gave; what comes in is
written as it comes.  Every step is small, so that nothing here keeps the agent from its other work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from guest import filework, tree, walk
from guest.filework import InvalidRequest
from guest.link import Link
from guest.wire import FILE_STREAM, Data

Handler = Callable[[int, "dict[str, Any]"], "dict[str, Any] | None"]
Attempt = Callable[[int, "Callable[[], dict[str, Any] | None]"], None]

MAX_PRODUCERS: Final = 256
"""Each may hold a descriptor."""


class Producer:
    """Something that is sent in pieces."""

    def __init__(self, request_id: int, body: dict[str, Any], facts: dict[str, Any], pieces: Iterator[bytes]) -> None:
        self.request_id = request_id
        self.facts = facts
        self.pieces = pieces
        self.credit: int | None = body.get("credit")
        """Bytes that the host takes until it says so again; ``None`` for no such limit."""

    @property
    def ready(self) -> bool:
        """Whether the host takes more."""
        return self.credit is None or self.credit > 0


class Transfers:
    """All that is under way with files."""

    def __init__(self, link: Link, attempt: Attempt) -> None:
        self._link = link
        self._attempt = attempt
        self._writings: dict[int, filework.Writing | TreeWriting] = {}
        self._producers: list[Producer] = []
        self.handlers: dict[str, Handler] = {
            "file_read": self._read,
            "file_list": self._list,
            "file_write": lambda request_id, body: self._begin(request_id, filework.Writing(body)),
            "file_stat": lambda _id, body: filework.look(body),
            "file_edit": lambda _id, body: filework.edit(body),
            "file_credit": self._credit,
            "walk": lambda request_id, body: self._produce(request_id, body, *walk.walk(body)),
            "digests": lambda request_id, body: self._produce(request_id, body, {}, walk.digests(body)),
            "tree_read": self._read_tree,
            "tree_write": lambda request_id, body: self._begin(request_id, TreeWriting(body)),
        }

    @property
    def ready(self) -> bool:
        """Whether there is something to send that the host takes."""
        return self._link.has_room and any(producer.ready for producer in self._producers)

    def forget_host(self) -> None:
        """Let go of all that is under way."""
        for writing in self._writings.values():
            writing.abandon()
        self._writings.clear()
        for producer in self._producers:
            producer.pieces.close()  # type: ignore[attr-defined]
        self._producers.clear()

    def _produce(self, request_id: int, body: dict[str, Any], facts: dict[str, Any], pieces: Iterator[bytes]) -> None:
        if len(self._producers) >= MAX_PRODUCERS:
            raise InvalidRequest(f"{MAX_PRODUCERS} files are being read already")
        self._producers.append(Producer(request_id, body, facts, pieces))

    def _read(self, request_id: int, body: dict[str, Any]) -> None:
        self._produce(request_id, body, *filework.read(body))

    def _list(self, request_id: int, body: dict[str, Any]) -> None:
        self._produce(request_id, body, {}, filework.entries(body))

    def _read_tree(self, request_id: int, body: dict[str, Any]) -> None:
        root = os.path.realpath(filework.checked_path(body.get("path")))
        if not os.path.isdir(root):
            raise NotADirectoryError(20, "Not a directory", root)
        notes = tree.Notes()
        facts: dict[str, Any] = {"skipped": notes.named}

        def pieces() -> Iterator[bytes]:
            yield from tree.read(root, [str(pattern) for pattern in body.get("exclude") or ()], notes)
            facts["skipped_count"] = notes.count

        self._produce(request_id, body, facts, pieces())

    def _credit(self, _request_id: int, body: dict[str, Any]) -> None:
        """Let a producer send more; or stop it; it may be over already.  This is not answered."""
        for producer in list(self._producers):
            if producer.request_id == body["target"] and producer.credit is not None:
                producer.credit += int(body["bytes"])
                if body.get("stop"):
                    self._producers.remove(producer)
                    producer.pieces.close()  # type: ignore[attr-defined]

    def _begin(self, request_id: int, writing: filework.Writing | TreeWriting) -> None:
        if request_id in self._writings:
            writing.abandon()
            raise InvalidRequest("this request is under way")
        self._writings[request_id] = writing

    def take_data(self, data: Data) -> None:
        """Write a piece; one without bytes is the end."""
        writing = self._writings.get(data.request_id)
        # Pieces of a write that was refused are still on their way when the refusal goes out.
        if writing is None or not self._link.authenticated:
            return

        def write() -> dict[str, Any] | None:
            try:
                if data.stream != FILE_STREAM:
                    raise InvalidRequest("the host gave it up")
                if data.payload:
                    writing.write(data.payload)
                    return None
                return writing.finish()
            except BaseException:
                writing.abandon()
                del self._writings[data.request_id]
                raise

        self._attempt(data.request_id, write)
        if not data.payload:
            self._writings.pop(data.request_id, None)

    def produce(self) -> None:
        """Send one piece of each in turn while the host takes them."""
        while self.ready:
            for producer in [each for each in self._producers if each.ready]:
                self._attempt(producer.request_id, lambda producer=producer: self._next(producer))  # type: ignore[misc]

    def _next(self, producer: Producer) -> dict[str, Any] | None:
        try:
            piece = next(producer.pieces, None)
        except BaseException:
            self._producers.remove(producer)
            raise
        if piece is None:
            self._producers.remove(producer)
            return producer.facts
        self._link.send(Data(producer.request_id, FILE_STREAM, piece))
        if producer.credit is not None:
            producer.credit -= len(piece)
        return None


class TreeWriting(tree.Writing):
    """A tree from the host."""

    def __init__(self, body: dict[str, Any]) -> None:
        path = filework.checked_path(body.get("path"))
        super().__init__(path, trusted=True, max_entries=int(body["max_entries"]), max_bytes=int(body["max_bytes"]))

    def write(self, data: bytes) -> None:
        """Take one record."""
        self.take(data)
