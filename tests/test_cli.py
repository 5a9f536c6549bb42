"""`flask seed` and the help that a person meets on the way."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import FlaskGroup
from flask.testing import FlaskClient, FlaskCliRunner

from tests.conftest import dispose_app, make_app


def items(client: FlaskClient) -> int:
    return len(client.get("/api/v1/items?page_size=1000").json)


def test_seeding_makes_the_first_prediction_work(
    runner: FlaskCliRunner, client: FlaskClient
) -> None:
    result = runner.invoke(args=["seed"])

    predicted = client.post("/api/v1/ml/predict", json={"features": [1, 2, 3]})
    assert result.exit_code == 0
    assert items(client) == 3
    assert predicted.json["prediction"] == pytest.approx(4.960877268071006, abs=1e-9)


def test_seeding_again_adds_nothing(runner: FlaskCliRunner, client: FlaskClient) -> None:
    runner.invoke(args=["seed"])

    again = runner.invoke(args=["seed"])

    assert again.exit_code == 0
    assert items(client) == 3
    assert client.get("/api/v1/ml/model-info").json["model"]["version"] == 1


def test_seeding_tops_up_and_never_removes(runner: FlaskCliRunner, client: FlaskClient) -> None:
    client.post("/api/v1/items", json={"name": "my own"})

    runner.invoke(args=["seed", "--items", "5"])
    runner.invoke(args=["seed", "--items", "2"])

    assert items(client) == 5
    assert client.get("/api/v1/items/1").json["name"] == "my own"


def test_seeding_many_items_shows_progress(runner: FlaskCliRunner, client: FlaskClient) -> None:
    result = runner.invoke(args=["seed", "--items", "12000"])

    assert result.exit_code == 0
    assert "Items" in result.output
    assert client.get("/api/v1/items/12000").json["name"]


def test_seeded_items_can_be_changed(runner: FlaskCliRunner, client: FlaskClient) -> None:
    runner.invoke(args=["seed"])

    changed = client.put("/api/v1/items/2", json={"name": "mine"}, headers={"If-Match": '"1"'})

    assert changed.status_code == 200


def test_a_database_without_tables_is_one_clear_line(empty_database: str) -> None:
    app = make_app(empty_database)

    results = [
        app.test_cli_runner().invoke(args=command)
        for command in (["seed"], ["ml", "info"], ["ml", "predict", "--features", "1"])
    ]

    dispose_app(app)
    for result in results:
        assert result.exit_code == 1
        assert result.output.count("\n") == 1
        assert "flask db upgrade" in result.output


def test_bad_options_are_refused(runner: FlaskCliRunner) -> None:
    result = runner.invoke(args=["seed", "--items", "-1"])

    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "command",
    [["seed"], ["backup"], ["ml"], ["ml", "train"], ["ml", "predict"], ["ml", "info"], ["db"]],
)
def test_every_command_explains_itself(app: Flask, command: list[str]) -> None:
    result = app.test_cli_runner().invoke(args=[*command, "--help"])

    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_routes_lists_the_endpoints(app: Flask) -> None:
    result = CliRunner().invoke(FlaskGroup(create_app=lambda: app), ["routes"])

    assert result.exit_code == 0
    assert "/api/v1/ml/predict" in result.output
