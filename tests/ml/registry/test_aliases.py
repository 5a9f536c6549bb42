"""Names for versions: what predicts by them, who sees a change, what they keep from deletion."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from sqlalchemy.orm import Session

from tests.conftest import app_on
from tests.faults import on_sqlite
from tests.ml.calls import MODEL, predict, train_constant
from webapp.extensions import db
from webapp.ml.registry.models import MOST_ALIASES, Artifact, ModelAlias, ModelVersion

ALIAS = f"{MODEL}/aliases/champion"
CONSTANTS = {1: 7, 2: 11}


@pytest.fixture
def model(client: FlaskClient) -> None:
    """Train versions of two constants; the second is active."""
    for constant in CONSTANTS.values():
        train_constant(client, constant)


def set_alias(client: FlaskClient, number: int, url: str = ALIAS) -> None:
    answer = client.put(url, json={"version": number})
    assert answer.status_code == 200, answer.text
    assert answer.json["version"] == number


@pytest.mark.usefixtures("model")
def test_every_process_predicts_by_an_alias_as_soon_as_it_is_answered(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
    with app_on(database_url, MODEL_LEASE_MS=app.config["MODEL_LEASE_MS"]) as host:
        clients = [client, host.test_client(), app.test_client()]
        for turn in range(12):
            number = 1 + turn % 2
            set_alias(clients[turn % 3], number)
            for other in clients:
                assert predict(other, ALIAS) == (CONSTANTS[number], number), turn
                assert predict(other) == (11, 2)
            if turn % 4 == 3:
                assert clients[turn % 3].delete(ALIAS).status_code == 204
                for other in clients:
                    answer = other.post(f"{ALIAS}/predict", json={"features": [0.5]})
                    assert (answer.status_code, "no alias" in answer.text) == (404, True), turn


@pytest.mark.usefixtures("model")
def test_a_batch_by_an_alias_says_which_version_it_was(client: FlaskClient) -> None:
    set_alias(client, 1)

    answer = client.post(f"{ALIAS}/predict/batch", json={"instances": [[0.0], [1.0]]}).json

    assert answer["predictions"] == pytest.approx([7, 7])
    assert answer["model"] == {"name": "house-prices", "version": 1}


@pytest.mark.usefixtures("model")
def test_a_model_and_its_versions_show_aliases_and_the_audit_each_change(
    client: FlaskClient,
) -> None:
    for alias, number in (("champion", 1), ("canary", 2), ("best", 1), ("champion", 2)):
        set_alias(client, number, f"{MODEL}/aliases/{alias}")
    client.delete(f"{MODEL}/aliases/best")

    shown = client.get(MODEL).json

    assert shown["aliases"] == {"canary": 2, "champion": 2}
    assert [v["aliases"] for v in client.get(f"{MODEL}/versions").json] == [
        ["canary", "champion"],
        [],
    ]
    assert client.get(f"{MODEL}/versions/2").json["aliases"] == ["canary", "champion"]
    entries = client.get("/api/v1/audit").json[:2]
    assert [(entry["action"], entry["details"]) for entry in entries] == [
        ("alias.delete", {"alias": "best", "version": 1}),
        ("alias.set", {"alias": "champion", "version": 2}),
    ]


@pytest.mark.usefixtures("model")
def test_a_version_with_an_alias_is_not_deleted(client: FlaskClient) -> None:
    set_alias(client, 1)

    refused = client.delete(f"{MODEL}/versions/1")
    set_alias(client, 2)
    deleted = client.delete(f"{MODEL}/versions/1")

    assert refused.status_code == 409
    assert "an alias names (champion)" in refused.json["detail"]
    assert deleted.status_code == 204
    assert predict(client, ALIAS) == (11, 2)


@pytest.mark.usefixtures("model")
def test_aliases_go_with_their_model(client: FlaskClient, session: Session) -> None:
    set_alias(client, 1)

    assert client.delete(f"{MODEL}?versions=all").status_code == 204
    train_constant(client, 13)

    assert session.scalars(sa.select(ModelAlias)).all() == []
    assert client.post(f"{ALIAS}/predict", json={"features": [1]}).status_code == 404
    assert client.get(MODEL).json["aliases"] == {}


@pytest.mark.usefixtures("model")
def test_the_database_itself_keeps_a_version_with_an_alias(
    app: Flask, client: FlaskClient
) -> None:
    set_alias(client, 1)

    with app.app_context(), pytest.raises(sa.exc.IntegrityError), db.engine.begin() as connection:
        connection.execute(sa.delete(ModelVersion).where(ModelVersion.number == 1))


@pytest.mark.usefixtures("model")
def test_a_version_that_cannot_be_loaded_gets_no_alias(
    client: FlaskClient, session: Session
) -> None:
    set_alias(client, 2)
    digest = client.get(f"{MODEL}/versions/1").json["digest"]
    damage = sa.update(Artifact).where(Artifact.digest == digest)
    session.execute(damage.values(data=b"nothing"))
    session.commit()

    refused = client.put(ALIAS, json={"version": 1})

    assert refused.status_code == 409
    assert "Version 1 of 'house-prices' cannot be served" in refused.json["detail"]
    assert client.get(MODEL).json["aliases"] == {"champion": 2}
    assert predict(client, ALIAS) == (11, 2)


@on_sqlite
def test_what_does_not_exist_gets_no_alias_and_has_none(client: FlaskClient) -> None:
    assert client.put(ALIAS, json={"version": 1}).status_code == 404
    train_constant(client, 7)

    assert client.put(ALIAS, json={"version": 2}).status_code == 404
    assert client.delete(ALIAS).status_code == 404
    assert client.post(f"{ALIAS}/predict", json={"features": [1]}).status_code == 404
    assert client.put(f"{MODEL}/aliases/A", json={"version": 1}).status_code == 404


@on_sqlite
def test_no_model_has_more_aliases_than_allowed(client: FlaskClient) -> None:
    train_constant(client, 7)
    for number in range(MOST_ALIASES):
        set_alias(client, 1, f"{MODEL}/aliases/a{number}")

    refused = client.put(ALIAS, json={"version": 1})

    assert (refused.status_code, "has 50 aliases" in refused.json["detail"]) == (409, True)
    set_alias(client, 1, f"{MODEL}/aliases/a7")


@on_sqlite
@pytest.mark.usefixtures("model")
def test_the_command_line_sets_and_deletes_an_alias(
    client: FlaskClient, runner: FlaskCliRunner
) -> None:
    def alias(*arguments: str) -> tuple[int, str]:
        result = runner.invoke(args=["ml", "alias", *arguments, "--model", "house-prices"])
        return result.exit_code, result.output

    message = "Model 'house-prices': the alias 'champion' names version 1.\n"
    assert alias("champion", "1") == (0, message)
    assert predict(client, ALIAS) == (7, 1)
    assert alias("champion", "--delete") == (
        0,
        "Model 'house-prices': the alias 'champion' is deleted.\n",
    )
    for wrong in (["champion"], ["champion", "1", "--delete"], ["champion", "9"], ["A", "1"]):
        assert alias(*wrong)[0] != 0, wrong
    assert client.get(MODEL).json["aliases"] == {}
