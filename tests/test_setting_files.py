"""Settings that lie in files, as the secrets of containers do: `NAME_FILE` in place of `NAME`."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import SETTINGS, ConfigError, load_settings


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS])
def test_a_setting_may_lie_in_a_file(tmp_path: Path, name: str) -> None:
    usual = load_settings(environ={"APP_ENV": "testing"})
    (setting,) = (setting for setting in SETTINGS if setting.name == name)
    file = tmp_path / "secret"
    text = usual[name] if name == "APP_ENV" else setting.defaults.get("testing", setting.default)
    file.write_text(f"{text}\n")

    others = {} if name == "APP_ENV" else {"APP_ENV": "testing"}
    found = load_settings({**others, f"{name}_FILE": file}, environ={})

    assert found == usual


def test_a_file_wins_over_a_value_where_its_name_would_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / "threads"
    file.write_text("7")

    found = load_settings(
        {"APP_ENV": "testing", "WEB_THREADS_FILE": file}, environ={"WEB_THREADS": "9"}
    )

    assert found["WEB_THREADS"] == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DATABASE_URL_FILE": "/nowhere/url"}, r"DATABASE_URL_FILE .*cannot be read.*/nowhere"),
        ({"DATABASE_URL_FILE": "/"}, r"DATABASE_URL_FILE .*cannot be read"),
        (
            {"DATABASE_URL_FILE": "/nowhere/url", "DATABASE_URL": "sqlite:///webapp.db"},
            r"DATABASE_URL and DATABASE_URL_FILE are both set",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_setting(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings({"APP_ENV": "testing"}, environ=settings)


def test_the_password_of_a_database_in_a_file_is_checked_as_any_other(tmp_path: Path) -> None:
    file = tmp_path / "database_url"
    file.write_text("postgresql://webapp:change-me@db/webapp\n")

    with pytest.raises(ConfigError, match="placeholder"):
        load_settings({"APP_ENV": "production", "DATABASE_URL_FILE": file}, environ={})
