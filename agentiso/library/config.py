"""The configuration file: TOML, every key optional, an unknown key an error.

Looked for at ``--config``, ``$AGENTISO_CONFIG``, ``~/.config/agentiso/config.toml`` and, for root,
``/etc/agentiso/config.toml``; ``$AGENTISO_STATE_DIR`` overrides ``state_dir``.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin

import attrs
import cattrs

from actors.model.errors import InvalidArgument
from actors.model.settings import Settings

_converter = cattrs.Converter(forbid_extra_keys=True)


def _strict(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


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
_converter.register_structure_hook(Path, lambda value, _kind: Path(_strict(value, str)).expanduser())


def load_settings(path: Path | None = None) -> Settings:
    """Read the configuration in force.

    Raises:
        InvalidArgument: the file is missing although named, is not TOML, or has a wrong or unknown key.

    """
    chosen = path or _find()
    settings = Settings()
    if chosen is not None:
        try:
            settings = _converter.structure(tomllib.loads(chosen.read_text()), Settings)
        except OSError as error:
            raise InvalidArgument(
                f"The configuration {chosen} cannot be read: {error.strerror}.", remedy="Look at its path and rights."
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise InvalidArgument(f"{chosen} is not valid TOML: {error}.", remedy="Mend that line.") from error
        except cattrs.BaseValidationError as error:
            faults = "; ".join(cattrs.transform_error(error))
            raise InvalidArgument(f"{chosen} is wrong: {faults}.", remedy="Mend it and try again.") from error
    override = os.environ.get("AGENTISO_STATE_DIR")
    return attrs.evolve(settings, state_dir=Path(override)) if override else settings


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
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "agentiso" / "config.toml"
    candidates = [home] + ([Path("/etc/agentiso/config.toml")] if os.geteuid() == 0 else [])
    return next((path for path in candidates if path.exists()), None)
