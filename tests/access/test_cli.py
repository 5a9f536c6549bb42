"""`flask keys`: made once, shown once, ended for good."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskCliRunner
from sqlalchemy.orm import Session

from webapp.access import keyring
from webapp.access.keys import digest_key
from webapp.access.service import find_key

CREATE = ("keys", "create", "--name", "ann", "--scope", "items:read")


def run(runner: FlaskCliRunner, *args: str) -> Result:
    """Run a command that must succeed."""
    result = runner.invoke(args=args)
    assert result.exit_code == 0, result.output
    return result


def listed(runner: FlaskCliRunner) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(runner, "keys", "list", "--json").stdout)
    return found


def test_a_new_key_stands_alone_on_standard_output(runner: FlaskCliRunner) -> None:
    result = run(runner, *CREATE, "--scope", "items:write", "--expires", "90d")

    assert re.fullmatch(r"webapp_[0-9a-f]{12}_[0-9A-Za-z_-]{43}\n", result.stdout)
    assert "items:read, items:write" in result.stderr
    assert "not shown again" in result.stderr
    assert result.stdout.strip() not in run(runner, "keys", "list").output


def test_a_list_tells_what_is_known_of_each_key(runner: FlaskCliRunner) -> None:
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
    assert "'ann' has an API key that works" in again.stderr

    run(runner, "keys", "revoke", "ann")
    run(runner, *CREATE)
    assert [row["state"] for row in listed(runner)] == ["revoked", "good"]


def test_rotation_replaces_a_key_by_one_of_the_same_scopes_and_life(
    runner: FlaskCliRunner,
) -> None:
    first = run(runner, *CREATE, "--expires", "10d").stdout

    second = run(runner, "keys", "rotate", "ann").stdout

    before, after = listed(runner)
    assert first != second
    assert (before["state"], after["state"]) == ("expired", "good")
    assert after["scopes"] == before["scopes"]
    assert after["expires_at"] is not None


def test_rotation_may_leave_the_key_before_some_time(runner: FlaskCliRunner) -> None:
    run(runner, *CREATE)

    run(runner, "keys", "rotate", "ann", "--overlap", "1h")
    assert [row["state"] for row in listed(runner)] == ["good", "good"]

    run(runner, "keys", "revoke", "ann")
    assert [row["state"] for row in listed(runner)] == ["revoked", "revoked"]


@pytest.mark.parametrize("command", ["revoke", "rotate"])
def test_a_key_that_is_not_there_is_told_in_a_line(runner: FlaskCliRunner, command: str) -> None:
    result = runner.invoke(args=["keys", command, "nobody"])

    assert result.exit_code == 1
    assert result.stderr == "Error: There is no API key 'nobody' that works.\n"


@pytest.mark.parametrize(
    "wrong",
    [
        ("--name", "two words", "--scope", "items:read"),
        ("--name", "ann", "--scope", "everything"),
        ("--name", "ann"),
        ("--scope", "items:read"),
        ("--name", "ann", "--scope", "items:read", "--expires", "soon"),
    ],
)
def test_what_makes_no_key_is_refused(runner: FlaskCliRunner, wrong: tuple[str, ...]) -> None:
    assert runner.invoke(args=["keys", "create", *wrong]).exit_code == 2
    assert listed(runner) == []


def test_the_last_use_is_stored_beside_the_requests(
    own_app: Flask, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "NOTING_PAUSE", 0.01)
    runner = own_app.test_cli_runner()
    key = run(runner, *CREATE).stdout.strip()
    ring = own_app.extensions["keyring"]

    with own_app.app_context():
        for _ in range(10):
            ring.identify(key)
        ring.wait_for_notes()

    stored = find_key(session, digest_key(key))
    assert stored is not None
    assert stored.last_used_at is not None
