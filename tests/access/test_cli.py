"""`flask keys`: each key is shown once, listed, rotated and revoked."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskCliRunner

from webapp.access import keyring
from webapp.extensions import db

CREATE = ("keys", "create", "--name", "ann", "--scope", "items:read")


def run(runner: FlaskCliRunner, *args: str) -> Result:
    """Run a command that must succeed."""
    result = runner.invoke(args=args)
    assert result.exit_code == 0, result.output
    return result


def listed(runner: FlaskCliRunner) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(runner, "keys", "list", "--json").stdout)
    return found


def test_a_new_key_is_shown_once_on_standard_output(app: Flask, runner: FlaskCliRunner) -> None:
    result = run(runner, *CREATE, "--scope", "items:write", "--expires", "90d")

    assert re.fullmatch(r"webapp_[0-9a-f]{12}_[0-9A-Za-z_-]{43}\n", result.stdout)
    assert "items:read, items:write" in result.stderr
    assert "not shown again" in result.stderr
    secret = result.stdout.strip().split("_", 2)[2]
    with app.app_context(), db.engine.connect() as connection:
        stored = str(connection.exec_driver_sql("SELECT * FROM api_key").all())
    assert "ann" in stored
    assert secret not in stored + run(runner, "keys", "list").output


def test_a_list_tells_what_is_known_of_each_key(runner: FlaskCliRunner) -> None:
    assert "There are no keys" in run(runner, "keys", "list").stderr
    run(runner, *CREATE, "--expires", "30m")

    (row,) = listed(runner)
    assert (row["name"], row["state"], row["scopes"]) == ("ann", "good", ["items:read"])
    assert row["expires_at"] > row["created_at"]
    assert row["last_used_at"] is None
    assert "ann  good  items:read  used: never" in run(runner, "keys", "list").output


def test_a_holder_has_but_one_key_at_a_time(runner: FlaskCliRunner) -> None:
    run(runner, *CREATE)

    again = runner.invoke(args=CREATE)
    assert again.exit_code == 1
    assert "'ann' already has a valid API key" in again.stderr

    run(runner, "keys", "revoke", "ann")
    run(runner, *CREATE)
    assert [row["state"] for row in listed(runner)] == ["revoked", "good"]


@pytest.mark.parametrize(
    ("overlap", "old_state"), [((), "expired"), (("--overlap", "1h"), "good")]
)
def test_rotation_makes_a_key_of_the_same_scopes_and_life_and_ends_the_old_one(
    runner: FlaskCliRunner, overlap: tuple[str, ...], old_state: str
) -> None:
    first = run(runner, *CREATE, "--expires", "10d").stdout

    second = run(runner, "keys", "rotate", "ann", *overlap).stdout

    old, new = listed(runner)
    assert first != second
    assert (old["state"], new["state"]) == (old_state, "good")
    assert new["scopes"] == old["scopes"]
    assert new["expires_at"] is not None
    run(runner, "keys", "revoke", "ann")
    assert {row["state"] for row in listed(runner)} <= {"revoked", "expired"}


@pytest.mark.parametrize("command", ["revoke", "rotate"])
def test_a_key_that_does_not_exist_is_one_clear_line(runner: FlaskCliRunner, command: str) -> None:
    result = runner.invoke(args=["keys", command, "nobody"])

    assert result.exit_code == 1
    assert result.stderr == "Error: There is no valid API key 'nobody'.\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--name", "two words", "--scope", "items:read"), "letters, digits and . _ @ -"),
        (("--name", "ann", "--scope", "everything"), "items:read"),
        (("--name", "a", "--scope", "items:read", "--expires", "soon"), "90d, 12h, 30m"),
    ],
)
def test_bad_keys_are_refused(runner: FlaskCliRunner, args: tuple[str, ...], message: str) -> None:
    result = runner.invoke(args=["keys", "create", *args])

    assert result.exit_code == 2
    assert message in result.stderr
    assert listed(runner) == []


def test_the_last_use_of_a_key_is_stored(own_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "NOTING_PAUSE", 0.01)
    runner = own_app.test_cli_runner()
    key = run(runner, *CREATE).stdout.strip()

    for _ in range(10):
        own_app.extensions["keyring"].identify(key)
    own_app.extensions["keyring"].close()

    assert listed(runner)[0]["last_used_at"] is not None
    assert "never" not in run(runner, "keys", "list").output
