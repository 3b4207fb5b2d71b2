"""The configuration file: what it may say, and that it says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from actors.errors import InvalidArgument
from actors.settings import Rate, Settings
from agentiso.config import load_settings, settings_to_plain


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
        ('[http]\nallowed_hosts = "evil"', "http"),
        ("[http]\nallowed_hosts = [7]", "http"),
        ('[lifetime]\nttl_s = "5"', "lifetime"),
        ("[lifetime]\nttl_s = true", "lifetime"),
        ("[quotas]\nworkspaces = -1", "quotas"),
        ("[quotas]\nworkspace = 1", "workspace"),
        ("[rate_limits.exec]\nburst = 3", "per_minute"),
    ],
)
@pytest.mark.usefixtures("no_override")
def test_a_wrong_value_or_an_unknown_key_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=said):
        load_settings(path)
