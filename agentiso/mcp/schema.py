"""JSON Schema (2020-12) of attrs classes, and strict values from JSON.

A class has two schemas: the whole truth, and what the list of tools says of it.  The list is read by every client each
time it connects, often by a model that pays for each word, so that it leaves out what goes without saying.
"""

from __future__ import annotations

import types
import typing
from itertools import islice
from typing import Any, Final

import attrs

from actors.model.errors import InvalidArgument
from actors.model.text import MAX_SHOWN_CHARS, plain, shown

_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
LIMITS: Final = frozenset({"minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"})
"""They hold, and a refusal names them; the list does not."""
MAX_TEXT_CHARS: Final = 4096
"""Of an argument that says nothing else, as names, ids and paths: Linux's own limit of a path."""
OF_64_BITS: Final = {"minimum": -(2**63), "maximum": 2**63 - 1}
"""Of a number that says nothing else: what disks, clocks and the kernel can count."""
MAX_FAULTS: Final = 10
MAX_FAULT_CHARS: Final = 300


def describe(text: str = "", default: Any = attrs.NOTHING, **keywords: Any) -> Any:
    """Return an attrs field with a description, unless its name says all, and JSON Schema keywords (``maximum``)."""
    said = {"description": text} if text else {}
    return attrs.field(default=default, metadata={"schema": {**said, **keywords}})


def outline(text: str = "", *, parts: bool = True) -> Any:
    """Return a field of an object, or of a list of objects, whose parts the list names at most.

    ``parts`` tells whether it does.
    """
    return attrs.field(metadata={"schema": {"description": text}, "parts": parts})


def schema_for(cls: type) -> dict[str, Any]:
    """Return the whole schema of a class."""
    return _Schemas(listed=False).of(cls)


def listed_schema(cls: type, *, closed: bool = True) -> dict[str, Any]:
    """Return what the list of tools says of a class.

    Arguments are ``closed``: what must be there, and that nothing else may.  A result has all of its fields anyway.
    """
    schema = _Schemas(listed=True).of(cls)
    if not closed:
        return schema
    required = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING]
    return {**schema, **({"required": required} if required else {}), "additionalProperties": False}


def structure(cls: type[Any], arguments: dict[str, Any]) -> Any:
    """Make an attrs object of a tool's arguments.

    Nothing is coerced but what JSON Schema says is the same: 2.0 is an integer, and becomes 2.

    Raises:
        InvalidArgument: one is missing, unknown, of the wrong type or out of range, no finite number or no text; the
            faults are named.

    """
    import jsonschema

    schema = _Schemas(listed=False, bounded=True).of(cls)
    validator = jsonschema.Draft202012Validator(schema)
    faults = [_fault(error) for error in islice(validator.iter_errors(arguments), MAX_FAULTS)]
    if not faults and plain(arguments) != arguments:
        faults = ["a number is not finite, or a text has lone surrogates, which are no characters"]
    if faults:
        raise InvalidArgument(f"The arguments are wrong: {'; '.join(faults)}.", remedy="See the tool's schema.")
    return cls(**{name: _exact(value, schema["properties"][name]) for name, value in arguments.items()})


def _fault(error: Any) -> str:
    where = ".".join(str(part) for part in error.absolute_path)[:MAX_SHOWN_CHARS] or "arguments"
    what = error.message.replace(repr(error.instance), shown(error.instance), 1)
    limit = f", {error.validator_value} at most" if error.validator in ("maxLength", "maxItems") else ""
    return f"{where}: {what[:MAX_FAULT_CHARS]}{limit}"


def _exact(value: Any, schema: dict[str, Any]) -> Any:
    """Return a value that fits a schema with its whole numbers as such, which JSON may spell 2.0."""
    if isinstance(value, list):
        return [_exact(item, schema.get("items", {})) for item in value]
    return int(value) if isinstance(value, float) and "integer" in schema.get("type", ()) else value


@attrs.frozen
class _Schemas:
    """Makes the schemas of classes, all of one kind."""

    listed: bool
    bounded: bool = False
    """Whether text and whole numbers have bounds even where a field does not say so, as arguments do."""

    def of(self, cls: type) -> dict[str, Any]:
        hints, fields = typing.get_type_hints(cls), attrs.fields(cls)
        schema = {
            "type": "object",
            "properties": {field.name: self._field(field, hints[field.name]) for field in fields},
        }
        if self.listed:
            return schema
        required = [field.name for field in fields if field.default is attrs.NOTHING]
        return {**schema, "required": required, "additionalProperties": False}

    def _field(self, field: attrs.Attribute[Any], hint: Any) -> dict[str, Any]:
        said = field.metadata.get("schema", {})
        if not self.listed:
            kind = self._type(hint)
            return {**(_bounded(kind) if self.bounded else kind), **said}
        schema = {**self._type(hint), **{key: value for key, value in said.items() if key not in LIMITS}}
        if field.default is None:
            _without_null(schema)
        return _outlined(schema, parts=field.metadata["parts"]) if "parts" in field.metadata else schema

    def _type(self, hint: Any) -> dict[str, Any]:
        if hint in _SCALARS:
            return {"type": _SCALARS[hint]}
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            inner = [self._type(argument) for argument in arguments if argument is not types.NoneType]
            null = types.NoneType in arguments
            if len(inner) == 1:
                return {**inner[0], "type": [inner[0]["type"], "null"]}
            return {"anyOf": [*inner, {"type": "null"}] if null else inner}
        if origin in (list, tuple):
            return {"type": "array", "items": self._type(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self._type(arguments[1])}
        return self.of(hint)


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an argument, or of a list's items, with the bounds of its type."""
    if "items" in schema:
        return {**schema, "items": _bounded(schema["items"])}
    kind = schema.get("type", ())
    if "integer" in kind or "number" in kind:
        return {**schema, **OF_64_BITS}
    return {**schema, "maxLength": MAX_TEXT_CHARS} if "string" in kind else schema


def _without_null(schema: dict[str, Any]) -> None:
    """Leave out that an argument may be null where it may be absent, which goes without saying."""
    schema["type"] = schema["type"][0]
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]


def _outlined(schema: dict[str, Any], *, parts: bool) -> dict[str, Any]:
    """Return the schema of objects without their properties, of which the description may tell the names."""
    text = schema["description"]
    if parts:
        told = {name: part.get("description") for name, part in schema.get("items", schema)["properties"].items()}
        names = ", ".join(f"{name} ({what})" if what else name for name, what in told.items())
        text = f"{text}: {names}" if text else names
    items = {"items": {"type": "object"}} if "items" in schema else {}
    return {"type": schema["type"], **items, "description": text}
