"""The configuration file: what it may say, and that it says what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import tomli_w

from actors.model.errors import InvalidArgument
from actors.model.settings import Rate, Settings
from agentiso.library.config import load_settings, settings_to_plain

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
OF_THE_HOST = {"state_dir", "limits.concurrent_starts"}
"""Keys whose defaults depend on where one is."""


@pytest.fixture
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTISO_STATE_DIR", raising=False)


@pytest.mark.usefixtures("no_override")
def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[http]\nallowed_hosts = ["a:*", "b"]\n[rate_limits.exec]\nper_minute = 5\nburst = 3\n')
    settings = load_settings(path)
    assert settings.http.allowed_hosts == ("a:*", "b")
    assert settings.rate_limits.exec == Rate(5, 3)
    assert settings.rate_limits.create == Settings().rate_limits.create
    path.write_text(tomli_w.dumps(settings_to_plain(settings)))
    assert load_settings(path) == settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("boot_timeout_s = -5", r"boot_timeout_s is -5\.0; it has to be from 1 to 86400"),
        ("boot_timeout_s = inf", "boot_timeout_s is inf"),
        ("restore_timeout_s = nan", "restore_timeout_s is nan"),
        ('network = "nosuch"', "network is 'nosuch'; allowed are 'user', 'none'"),
        ('image = ""', "image is ''"),
        ('state_dir = "rel"', "state_dir: 'rel' is not an absolute path"),
        ('state_dir = "~nosuch/x"', "state_dir: '~nosuch/x'"),
        ('state_dir = "/a\\u0000b"', "state_dir is "),
        ('transfer_roots = ["rel"]', "transfer_roots: 'rel' is not"),
        ("shape = 3", "shape is not a table"),
        ("[shape]\nmemory_mb = -1", r"shape\.memory_mb is -1; it has to be at least 128"),
        ("[[pool.shapes]]\nmemory_mb = 0", r"pool\.shapes\.memory_mb is 0"),
        ("[pool]\nsize = -1", r"pool\.size is -1; it has to be at least 0"),
        ("[limits]\nmax_undo = -3", r"limits\.max_undo is -3"),
        ("[audit]\nmax_mb = 0", r"audit\.max_mb is 0"),
        ("[lifetime]\nttl_s = -1", r"lifetime\.ttl_s is -1\.0; it has to be above 0"),
        ('[http]\nbind = "127.0.0.1:99999"', r"http\.bind is '127\.0\.0\.1:99999'; it has to be HOST:PORT"),
        ('[http]\nbind = "nonsense"', r"http\.bind is"),
        ('[http]\nbind = "::1:80"', r"http\.bind is"),
        ('[http]\nallowed_hosts = "evil"', "http"),
        ("[http]\nallowed_hosts = [7]", "http"),
        ('[lifetime]\nttl_s = "5"', "lifetime"),
        ("[lifetime]\nttl_s = true", "lifetime"),
        ("[quotas]\nworkspaces = -1", "quotas"),
        ("[quotas]\nworkspace = 1", "workspace"),
        ("[rate_limits.exec]\nburst = 3", r"rate_limits\.exec\.per_minute is missing"),
    ],
)
@pytest.mark.usefixtures("no_override")
def test_a_wrong_value_or_an_unknown_key_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=said):
        load_settings(path)


@pytest.mark.usefixtures("no_override")
def test_a_configuration_that_is_not_utf8_is_refused_with_the_place_of_its_first_wrong_byte(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b'image = "caf\xe9"\n')
    with pytest.raises(InvalidArgument, match="is not in UTF-8, as TOML is: see its byte 13"):
        load_settings(path)


def keys(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a configuration with its default."""
    for field in attrs.fields(type(settings)):
        value = getattr(settings, field.name)
        if attrs.has(type(value)):
            yield from keys(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def documented() -> dict[str, str]:
    """Return the keys of the page, by table, with what it says of their defaults."""
    found, section = {}, ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            name = re.search(r"\[(\w+)\]", line)
            section = f"{name[1]}." if name else ""
        elif row := re.match(r"\| `([\w.]+)` \| ([^|]+) \|", line):
            found[section + row[1]] = row[2]
    return found


def test_the_documentation_has_every_key_and_its_default_and_no_others() -> None:
    known, said = dict(keys(Settings())), documented()
    assert set(said) == set(known)
    for key in known.keys() - OF_THE_HOST:
        value = known[key]
        assert said[key] == ("unset" if value is None else f"`{json.dumps(value)}`"), key


@pytest.mark.usefixtures("no_override")
def test_the_documented_example_can_be_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path / "config.toml"
    path.write_text(example)
    assert load_settings(path).pool.size == 2


@pytest.mark.usefixtures("no_override")
def test_the_configuration_is_looked_for_where_the_documentation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, named = tmp_path / "agentiso" / "config.toml", tmp_path / "named.toml"
    home.parent.mkdir()
    home.write_text('image = "home"')
    named.write_text('image = "named"')
    monkeypatch.delenv("AGENTISO_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_settings().image == "home"
    monkeypatch.setenv("AGENTISO_CONFIG", str(named))
    assert load_settings().image == "named"
    assert load_settings(home).image == "home"
    monkeypatch.setenv("AGENTISO_STATE_DIR", "/elsewhere")
    assert load_settings().state_dir == Path("/elsewhere")
    monkeypatch.setenv("AGENTISO_CONFIG", str(tmp_path / "none"))
    with pytest.raises(InvalidArgument, match="cannot be read"):
        load_settings()
