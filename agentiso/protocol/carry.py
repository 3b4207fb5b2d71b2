"""Messages, results and errors as plain data, and back.

Nothing here knows any one message: what there is to carry is read from the unions of `actors.messages` and from the
annotations of their classes.  A message's field that is not data is live, and stays on its side: a callback
(``call``), one that is awaited (``sink``), a stream of contents (``stream``), or how much output may be under way
(``window``).  Only a message's own
fields can be live, not what is inside them.
"""

from __future__ import annotations

import collections.abc
import enum
import functools
import hashlib
import inspect
import io
import types
import typing
from collections.abc import AsyncIterable, Mapping
from pathlib import Path
from typing import Any, Final, Union

import attrs
import cattrs

from actors.machine.guest.jobs import Window
from actors.model.errors import AgentisoError, InvalidArgument, RemoteProtocolError
from actors.model.settings import Settings
from actors.registry import messages as r
from actors.runtime import ActorRef, Message
from actors.workspace import messages as w
from agentiso.protocol.wire import Body

LIVE: Final[dict[str, Any]] = {
    "call": collections.abc.Callable,
    "sink": collections.abc.Callable,
    "stream": collections.abc.AsyncIterable,
    "window": Window,
}
"""The kinds of live values, and how a field that may hold one is annotated."""


def _members(union: Any) -> list[type[Message[Any]]]:
    return list(typing.get_args(union)) or [union]


MESSAGES: Final = {kind.__name__: kind for kind in _members(r.RegistryMessage | w.WorkspaceMessage)}
"""The closed set of what can be asked."""


def answer_of(kind: type[Message[Any]]) -> Any:
    """Return the type that a message is answered with."""
    for base in getattr(kind, "__orig_bases__", ()):
        origin = typing.get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Message):
            (answer,) = typing.get_args(base)
            hold = type("_Hold", (), {"__annotations__": {"answer": answer}, "__module__": kind.__module__})
            return typing.get_type_hints(hold)["answer"]
    raise TypeError(f"{kind.__name__} does not say what it is answered with")


_hints: Final[dict[type, dict[str, Any]]] = {}


def hints_of(kind: type) -> dict[str, Any]:
    """Return the type of each field of a message."""
    if kind not in _hints:
        hints = typing.get_type_hints(kind)
        _hints[kind] = {field.name: hints[field.name] for field in attrs.fields(kind)}
    return _hints[kind]


# -- the converter ------------------------------------------------------------------------------------------------


def _strict(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{value!r:.60} is not of type {kind.__name__}")
    return value


def _is_ref(kind: Any) -> bool:
    return (typing.get_origin(kind) or kind) is ActorRef


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (Union, types.UnionType)


def _fits(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if origin is Any:
        return True
    if origin in LIVE.values():
        return False
    if isinstance(value, dict):
        return attrs.has(origin) or (isinstance(origin, type) and issubclass(origin, collections.abc.Mapping))
    if isinstance(value, list):
        return isinstance(origin, type) and issubclass(origin, tuple | list | set | frozenset)
    if issubclass(origin, Path | enum.Enum):
        return isinstance(value, str | int)
    return isinstance(value, origin) or (origin is float and isinstance(value, int))


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    # By predicate: a hook by class would also take the enumerations that are strings.
    converter.register_structure_hook_func(lambda kind: kind in (str, bytes, bool, int), _strict)
    converter.register_structure_hook(float, lambda value, _kind: float(_strict(value, int | float)))
    converter.register_structure_hook(Path, lambda value, _kind: Path(_strict(value, str)))
    converter.register_unstructure_hook(Path, str)
    # References and bytes are spelt by the wire.
    converter.register_structure_hook_func(_is_ref, lambda value, _kind: _strict(value, ActorRef))
    converter.register_unstructure_hook_func(_is_ref, lambda ref: ref)

    def structure_union(value: Any, kind: Any) -> Any:
        fitting = [member for member in typing.get_args(kind) if _fits(value, member)]
        if not fitting:
            raise ValueError(f"{value!r:.60} is not of type {kind}")
        return value if fitting[0] is type(None) else converter.structure(value, fitting[0])

    converter.register_structure_hook_func(_is_union, structure_union)
    converter.register_unstructure_hook_func(_is_union, lambda value: converter.unstructure(value))
    return converter


_converter = _make_converter()


# -- messages and results -----------------------------------------------------------------------------------------


_MISFITS: Final = (
    cattrs.BaseValidationError,
    cattrs.StructureHandlerNotFoundError,
    KeyError,
    TypeError,
    ValueError,
)


def live_kind(value: Any) -> list[Any] | None:
    """Return the kind and the size of a live value, ``None`` for data."""
    if isinstance(value, Window):
        return ["window", value.size]
    if isinstance(value, AsyncIterable):
        return ["stream", 0]
    if inspect.iscoroutinefunction(value):
        return ["sink", 0]
    return ["call", 0] if callable(value) else None


def dismantle(message: Message[Any]) -> tuple[Body, dict[str, Any]]:
    """Return a message's data and its live values, both by field.

    Raises:
        InvalidArgument: it holds an open file, which stays with the process that has it.

    """
    fields: Body = {}
    live: dict[str, Any] = {}
    for name, hint in hints_of(type(message)).items():
        value = getattr(message, name)
        if live_kind(value):
            live[name] = value
        elif isinstance(value, io.IOBase):
            raise InvalidArgument(
                f"The {name} of {type(message).__name__} is an open file, which another process cannot use.",
                remedy="Give a path instead.",
            )
        else:
            fields[name] = _converter.unstructure(value, unstructure_as=hint)
    return fields, live


def assemble(kind: str, fields: Mapping[str, Any], live: Mapping[str, Any]) -> Message[Any]:
    """Return the message of that kind with those data and live values.

    Raises:
        RemoteProtocolError: there is no such message.

    """
    if kind not in MESSAGES:
        raise RemoteProtocolError(f"There is no message {kind!r:.60}.")
    hints = hints_of(MESSAGES[kind])
    try:
        values = {name: _converter.structure(value, hints[name]) for name, value in fields.items()}
        return MESSAGES[kind](**values, **live)
    except _MISFITS as error:
        raise RemoteProtocolError(f"{kind} has the wrong form: {_said(error)}.") from error


def plain_result(kind: type[Message[Any]], result: Any) -> Any:
    """Return what a message was answered with as data."""
    return _converter.unstructure(result, unstructure_as=answer_of(kind))


def typed_result(kind: type[Message[Any]], plain: Any) -> Any:
    """Return the answer to a message from its data.

    Raises:
        RemoteProtocolError: it is of another type.

    """
    try:
        return _converter.structure(plain, answer_of(kind)) if answer_of(kind) is not type(None) else None
    except _MISFITS as error:
        raise RemoteProtocolError(f"The answer to {kind.__name__} has the wrong form: {_said(error)}.") from error


def plain_settings(settings: Settings) -> Body:
    """Return settings as data."""
    body: Body = _converter.unstructure(settings)
    return body


def typed_settings(plain: Body) -> Settings:
    """Return settings from their data.

    Raises:
        RemoteProtocolError: they are none.

    """
    try:
        return _converter.structure(plain, Settings)
    except _MISFITS as error:
        raise RemoteProtocolError(f"The supervisor's settings have the wrong form: {_said(error)}.") from error


def _said(error: Exception) -> str:
    return "; ".join(cattrs.transform_error(error)) if isinstance(error, cattrs.BaseValidationError) else repr(error)


# -- errors -------------------------------------------------------------------------------------------------------


def plain_error(error: AgentisoError) -> Body:
    """Return an error as data; facts that are not data become text."""
    facts = {str(name): _plain_fact(value) for name, value in error.facts.items()}
    return {"class": type(error).__name__, "message": error.message, "remedy": error.remedy, "facts": facts}


def _plain_fact(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case list() | tuple():
            return [_plain_fact(item) for item in value]
        case dict():
            return {str(key): _plain_fact(item) for key, item in value.items()}
    return str(value)


def typed_error(plain: Mapping[str, Any]) -> AgentisoError:
    """Return the error of the same class; one whose class is not known here is an `AgentisoError`."""
    name, facts = str(plain.get("class")), plain.get("facts")
    kind = next((kind for kind in _error_kinds(AgentisoError) if kind.__name__ == name), AgentisoError)
    error = kind.__new__(kind)
    AgentisoError.__init__(error, str(plain.get("message")), remedy=str(plain.get("remedy", "")))
    error.facts = dict(facts) if isinstance(facts, dict) else {}
    return error


def _error_kinds(kind: type[AgentisoError]) -> list[type[AgentisoError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _error_kinds(child))]


# -- do both sides speak of the same things? ----------------------------------------------------------------------


@functools.cache
def vocabulary() -> str:
    """Return a digest of all messages, results and settings, to tell whether two programs understand each other."""
    seen: dict[str, str] = {}
    _describe(Settings, seen)
    for kind in MESSAGES.values():
        for hint in (*hints_of(kind).values(), answer_of(kind)):
            _describe(hint, seen)
        seen[kind.__name__] = f"{hints_of(kind)} -> {answer_of(kind)}"
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:16]


def _describe(kind: Any, seen: dict[str, str]) -> None:
    for inner in typing.get_args(kind):
        if not isinstance(inner, list):
            _describe(inner, seen)
    if isinstance(kind, type) and attrs.has(kind) and kind.__qualname__ not in seen:
        seen[kind.__qualname__] = ""
        hints = typing.get_type_hints(kind)
        seen[kind.__qualname__] = repr({field.name: hints[field.name] for field in attrs.fields(kind)})
        for field in attrs.fields(kind):
            _describe(hints[field.name], seen)
