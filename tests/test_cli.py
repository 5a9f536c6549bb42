"""`flask seed`, and what all commands have in common."""

from __future__ import annotations

import click
import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner

from tests.conftest import app_on


def seed(runner: FlaskCliRunner, *args: str) -> str:
    result = runner.invoke(args=["seed", *args])
    assert result.exit_code == 0, result.output
    return result.output


def test_seeding_twice_adds_nothing(runner: FlaskCliRunner, client: FlaskClient) -> None:
    for _ in range(2):
        seed(runner)

        predicted = client.post("/api/v1/ml/predict", json={"features": [1, 2, 3]})
        assert predicted.json["prediction"] == pytest.approx(4.960877268071006, abs=1e-9)
        assert predicted.json["model"]["version"] == 1
        assert len(client.get("/api/v1/items").json) == 3


def test_seeding_tops_up_and_never_removes(runner: FlaskCliRunner, client: FlaskClient) -> None:
    client.post("/api/v1/items", json={"name": "my own"})

    assert "Items: 20999 added." in seed(runner, "--items", "21000")  # more than one batch
    seed(runner, "--items", "2")

    assert client.get("/api/v1/items/1").json["name"] == "my own"
    assert client.get("/api/v1/items/21000").json["name"] == "Sample item 20999"
    changed = client.put("/api/v1/items/2", json={"name": "x"}, headers={"If-Match": '"1"'})
    assert changed.status_code == 200


def test_a_database_without_tables_is_one_clear_line(empty_database: str) -> None:
    with app_on(empty_database) as app:
        for command in (["seed"], ["ml", "info"], ["ml", "predict", "--features", "1"]):
            result = app.test_cli_runner().invoke(args=command)

            assert result.exit_code == 1
            assert result.output.count("\n") == 1
            assert "flask db upgrade" in result.output


@pytest.mark.parametrize("name", ["", "a b", "-x", "n" * 64, "a\n", "Ä"])
def test_a_name_of_who_runs_a_command_is_checked(runner: FlaskCliRunner, name: str) -> None:
    result = runner.invoke(args=["seed", "--as", name])

    assert result.exit_code == 2
    assert "letters, digits and . _ @ -" in result.output


def test_every_command_explains_itself_and_lets_its_caller_say_who_runs_it(app: Flask) -> None:
    commands: dict[str, click.Command] = {}
    for name, command in app.cli.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        commands |= {f"{name} {word}".strip(): one for word, one in inner.items()}
    of_libraries = ("db ", "openapi ")  # Flask-Migrate's and flask-smorest's
    ours = {name: one for name, one in commands.items() if not name.startswith(of_libraries)}

    assert {"seed", "backup", "audit", "keys rotate", "ml train"} <= ours.keys()
    for name, command in ours.items():
        assert command.help, name
        assert any("--as" in parameter.opts for parameter in command.params), name
