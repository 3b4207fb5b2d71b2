"""JSON Schema of attrs classes, and strict values from JSON."""

from __future__ import annotations

import types
import typing
from typing import Any

import attrs

from actors.errors import InvalidArgument

_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def describe(text: str, default: Any = attrs.NOTHING, **limits: Any) -> Any:
    """Return an attrs field with a description and JSON Schema limits (``minimum``, ``maximum``, ``enum``)."""
    return attrs.field(default=default, metadata={"schema": {"description": text, **limits}})


def schema_for(cls: type, *, closed: bool = True) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of an attrs class.

    Arguments are ``closed``: what they do not name is refused.  Results are not: it would say nothing for its tokens.
    """
    hints = typing.get_type_hints(cls)
    properties, required = {}, []
    for field in attrs.fields(cls):
        properties[field.name] = {**_type_schema(hints[field.name], closed), **field.metadata.get("schema", {})}
        if field.default is attrs.NOTHING:
            required.append(field.name)
    schema = {"type": "object", "properties": properties, "required": required}
    return {**schema, "additionalProperties": False} if closed else schema


def _type_schema(hint: Any, closed: bool) -> dict[str, Any]:
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [_type_schema(argument, closed) for argument in arguments if argument is not type(None)]
        if len(inner) == 1:
            return {**inner[0], "type": [inner[0]["type"], "null"]}
        return {"anyOf": [*inner, {"type": "null"}] if type(None) in arguments else inner}
    if origin in (list, tuple):
        return {"type": "array", "items": _type_schema(arguments[0], closed)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(arguments[1], closed)}
    return schema_for(hint, closed=closed)


def structure(cls: type[Any], arguments: dict[str, Any]) -> Any:
    """Make an attrs object of a tool's arguments, without any coercion.

    Raises:
        InvalidArgument: one is missing, unknown, of the wrong type or out of range; all faults are named.

    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema_for(cls))
    faults = [
        f"{'.'.join(str(part) for part in error.absolute_path) or 'arguments'}: {error.message[:300]}"
        for error in validator.iter_errors(arguments)
    ]
    if faults:
        raise InvalidArgument(f"The arguments are wrong: {'; '.join(faults)}.", remedy="See the tool's schema.")
    return cls(**arguments)
