"""The configuration file: TOML, every key optional, an unknown key an error.

Looked for at ``--config``, ``$AGENTISO_CONFIG``, ``~/.config/agentiso/config.toml`` and, for root,
``/etc/agentiso/config.toml``; ``$AGENTISO_STATE_DIR`` overrides ``state_dir``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import attrs
import cattrs

from actors.model.errors import InvalidArgument
from actors.model.settings import Settings, WrongValue

_converter = cattrs.Converter(forbid_extra_keys=True)


def _strict(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _path(value: Any) -> Path:
    try:
        path = Path(_strict(value, str)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{value!r}: whose home directory ~ is cannot be told") from error
    if not path.is_absolute():
        raise ValueError(f"{value!r} is not an absolute path")
    return path


def _is_tuple(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is tuple


def _sequence(value: Any, kind: Any) -> tuple[Any, ...]:
    # A string is a sequence too, of its letters.
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    return tuple(_converter.structure(item, get_args(kind)[0]) for item in value)


for _kind in (int, bool, str):
    _converter.register_structure_hook(_kind, _strict)
_converter.register_structure_hook(float, lambda value, _kind: _number(value))
_converter.register_structure_hook_func(_is_tuple, _sequence)
_converter.register_structure_hook(Path, lambda value, _kind: _path(value))


def load_settings(path: Path | None = None) -> Settings:
    """Read the configuration in force.

    Raises:
        InvalidArgument: the file is missing although named, is not TOML, or has a wrong or unknown key.

    """
    chosen = path or _find()
    settings = Settings()
    if chosen is not None:
        try:
            settings = _converter.structure(tomllib.loads(chosen.read_text(encoding="utf-8")), Settings)
        except OSError as error:
            raise InvalidArgument(
                f"The configuration {chosen} cannot be read: {error.strerror}.", remedy="Look at its path and rights."
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise InvalidArgument(f"{chosen} is not valid TOML: {error}.", remedy="Mend that line.") from error
        except UnicodeDecodeError as error:
            raise InvalidArgument(
                f"{chosen} is not in UTF-8, as TOML is: see its byte {error.start + 1}.", remedy="Save it in UTF-8."
            ) from error
        except cattrs.BaseValidationError as error:
            faults = "; ".join(_faults(error))
            raise InvalidArgument(f"{chosen} is wrong: {faults}.", remedy="Change that and try again.") from error
    override = os.environ.get("AGENTISO_STATE_DIR")
    if override:
        return attrs.evolve(settings, state_dir=Path(override).absolute())
    if not settings.state_dir.is_absolute():
        raise InvalidArgument(
            f"{settings.state_dir}, where the state would be kept, is not an absolute path.",
            remedy="Set $HOME or $XDG_STATE_HOME, or name it: $AGENTISO_STATE_DIR, or state_dir of the configuration.",
        )
    return settings


def _faults(error: Exception, place: str = "") -> Iterator[str]:
    """Yield what is wrong with each key, by its full name."""
    match error:
        case cattrs.ClassValidationError():
            named, others = error.group_exceptions()
            for fault, note in named:
                yield from _faults(fault, f"{place}{note.name}.")
            for other in others:
                yield from _faults(other, place)
        case cattrs.IterableValidationError():
            for fault in error.exceptions:
                yield from _faults(fault, place)
        case cattrs.ForbiddenExtraKeysError():
            names = ", ".join(sorted(f"{place}{name}" for name in error.extra_fields))
            yield f"there is no key {names}"
        case WrongValue():
            yield f"{place}{error}"
        case KeyError():
            yield f"{place.removesuffix('.')} is missing"
        case TypeError() | AttributeError():
            yield f"{place.removesuffix('.')} is not a table"
        case _:
            yield f"{place.removesuffix('.') or 'the file'}: {error}"


def settings_to_plain(settings: Settings) -> dict[str, Any]:
    """Return settings as a configuration file would have them; what is unset is left out."""
    plain = attrs.asdict(settings, filter=lambda _field, value: value is not None)
    return {key: _plain(value) for key, value in plain.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _find() -> Path | None:
    named = os.environ.get("AGENTISO_CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - no home is no error
    home = Path(base) / "agentiso" / "config.toml"
    candidates = [home] + ([Path("/etc/agentiso/config.toml")] if os.geteuid() == 0 else [])
    return next((path for path in candidates if path.exists()), None)
