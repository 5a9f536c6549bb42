"""Commands and settings of operators: who runs a command, and secrets that lie in files."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner

from config import SETTINGS, ConfigError, load_settings
from webapp.commands import PersonName


def commands_of(app: Flask) -> dict[str, click.Command]:
    """Return the commands of ours, by the words that run them."""
    found: dict[str, click.Command] = {}
    for name, command in app.cli.commands.items():
        of_group = command.commands if isinstance(command, click.Group) else {"": command}
        found |= {f"{name} {word}".strip(): one for word, one in of_group.items()}
    of_libraries = ("db ", "openapi ")  # Flask-Migrate's and flask-smorest's
    return {name: one for name, one in found.items() if not name.startswith(of_libraries)}


def test_every_command_lets_its_caller_say_who_runs_it(app: Flask) -> None:
    lacking = {
        name
        for name, command in commands_of(app).items()
        if not any(isinstance(parameter.type, PersonName) for parameter in command.params)
    }

    assert lacking == set()


def test_the_audit_names_who_ran_a_command(runner: FlaskCliRunner, client: FlaskClient) -> None:
    keys = ("keys", "create", "--name", "robot", "--scope", "ml:train")
    assert runner.invoke(args=[*keys, "--as", "ann@example.com"]).exit_code == 0
    assert runner.invoke(args=["seed", "--as", "bob"]).exit_code == 0

    entries = client.get("/api/v1/audit").json

    actors = {entry["action"]: entry["actor"] for entry in entries}
    assert actors.pop("key.create") == "cli:ann@example.com"
    assert set(actors.values()) == {"cli:bob"}


@pytest.mark.parametrize("name", ["", "a b", "-x", "n" * 64, "ann\n", "Ä"])
def test_what_is_no_name_is_refused(runner: FlaskCliRunner, name: str) -> None:
    result = runner.invoke(args=["seed", "--as", name])

    assert result.exit_code == 2
    assert "letters, digits and . _ @ -" in result.output


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
