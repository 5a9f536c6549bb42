"""What people say of models and versions, and how it finds them again."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from flask.testing import FlaskClient, FlaskCliRunner
from sqlalchemy.orm import Session

from tests.ml.calls import ML, MODEL, train, train_constant
from webapp.db.base import utc_now
from webapp.ml.registry.models import MOST_TAGS, ModelVersion, VersionNotes, VersionTag

VERSIONS = f"{MODEL}/versions"


def change(client: FlaskClient, url: str, **changes: Any) -> dict[str, Any]:
    """Change a model or a version; return it as it is read afterwards."""
    answer = client.patch(url, json=changes)
    assert answer.status_code == 200, answer.text
    assert client.get(url).json == answer.json
    return dict(answer.json)


def numbers(client: FlaskClient, **query: str) -> list[int]:
    """Return the versions that a list has, in its order."""
    answer = client.get(VERSIONS, query_string=query)
    assert answer.status_code == 200, answer.text
    return [version["version"] for version in answer.json]


def names(client: FlaskClient, **query: str) -> list[str]:
    answer = client.get(f"{ML}/models", query_string=query)
    assert answer.status_code == 200, answer.text
    return [model["name"] for model in answer.json]


def set_metrics(session: Session, metrics: dict[int, dict[str, Any]]) -> None:
    """Give versions other metrics, as uploads could bring them."""
    for number, found in metrics.items():
        which = ModelVersion.number == number
        session.execute(sa.update(ModelVersion).where(which).values(metrics=found))
    session.commit()


def test_a_new_model_and_its_version_are_described_by_nobody(client: FlaskClient) -> None:
    created = train_constant(client, 7).json["model"]

    model = client.get(MODEL).json
    assert (created["notes"], created["tags"]) == ("", {})
    assert (model["description"], model["tags"]) == ("", {})


def test_a_model_keeps_what_is_not_changed(client: FlaskClient) -> None:
    train_constant(client, 7)
    before = client.get(MODEL).json

    change(client, MODEL, description="Prices\nof houses", tags={"team": "a", "stage": "try"})
    change(client, MODEL, tags={"team": "b", "stage": None, "nobody": None, "empty": ""})
    after = change(client, MODEL)

    told = {"description": "Prices\nof houses", "tags": {"team": "b", "empty": ""}}
    assert after == {**before, **told}
    assert client.get(f"{ML}/models").json == [after]
    assert change(client, MODEL, description="")["description"] == ""


def test_a_version_changes_in_notes_and_tags_alone(client: FlaskClient, session: Session) -> None:
    for value in (7, 11):
        train_constant(client, value)
    before = [client.get(f"{VERSIONS}/{number}").json for number in (1, 2)]
    row = session.execute(sa.select(ModelVersion.__table__).order_by("number")).first()
    session.rollback()

    change(client, f"{VERSIONS}/1", notes="first", tags={"stage": "x", "team": "a"})
    after = change(client, f"{VERSIONS}/1", notes="second", tags={"stage": None})

    assert after == {**before[0], "notes": "second", "tags": {"team": "a"}}
    assert client.get(f"{VERSIONS}/2").json == before[1]
    listed = client.get(VERSIONS).json
    assert [(v["notes"], v["tags"]) for v in listed] == [("", {}), ("second", {"team": "a"})]
    assert session.execute(sa.select(ModelVersion.__table__).order_by("number")).first() == row


def test_no_more_tags_are_kept_than_allowed(client: FlaskClient) -> None:
    train_constant(client, 7)
    most = {f"key-{number}": "x" for number in range(MOST_TAGS)}

    for url in (MODEL, f"{VERSIONS}/1"):
        change(client, url, tags=most)
        refused = client.patch(url, json={"tags": {"one": "more"}})

        assert refused.status_code == 422
        assert "would be 51 tags" in refused.json["errors"]["json"]["tags"][0]
        assert change(client, url, tags={"one": "more", "key-0": None})["tags"]["one"] == "more"


def test_what_does_not_exist_cannot_be_described(client: FlaskClient) -> None:
    assert client.patch(MODEL, json={"description": "x"}).status_code == 404
    train_constant(client, 7)
    assert client.patch(f"{VERSIONS}/2", json={"notes": "x"}).status_code == 404


def test_changes_are_audited_without_what_was_sent(client: FlaskClient) -> None:
    train_constant(client, 7)
    change(client, MODEL, description="secret plan", tags={"secret": "plan"})
    change(client, f"{VERSIONS}/1", tags={"secret": "plan"})

    version, model, _ = client.get("/api/v1/audit").json

    assert (model["action"], model["subject"]) == ("model.change", "model house-prices")
    assert model["details"] == {"fields": ["description", "tags"]}
    assert (version["action"], version["subject"]) == ("version.change", "model house-prices")
    assert version["details"] == {"version": 1, "fields": ["tags"]}
    assert "plan" not in json.dumps([model, version])


def test_what_is_said_of_a_version_is_deleted_with_it(
    client: FlaskClient, session: Session
) -> None:
    for value in (7, 11):
        train_constant(client, value)
        change(client, f"{VERSIONS}/1", notes="x", tags={"a": "b"})

    assert client.delete(f"{VERSIONS}/1").status_code == 204

    for table in (VersionNotes, VersionTag):
        assert session.scalars(sa.select(table)).all() == []


# Finding


def test_models_are_found_by_name_description_and_tag(client: FlaskClient) -> None:
    for name in ("houses", "flats", "boats"):
        train_constant(client, 7, url=f"{ML}/models/{name}")
    change(client, f"{ML}/models/houses", description="100% of the Prices", tags={"team": "a:b"})
    change(client, f"{ML}/models/flats", tags={"team": "a", "other": "a:b"})

    assert names(client) == ["boats", "flats", "houses"]
    assert names(client, q="at") == ["boats", "flats"]
    assert names(client, q="Prices") == names(client, q="100%") == ["houses"]
    assert names(client, q="prices") == names(client, q="o%s") == names(client, q="_") == []
    assert names(client, tag="team:a:b") == ["houses"]
    assert names(client, tag="team:a", q="flat") == ["flats"]
    assert names(client, tag="team:a", q="house") == names(client, tag="team:") == []


def test_a_page_of_what_was_found_tells_the_total_of_that(client: FlaskClient) -> None:
    for value in range(5):
        train_constant(client, value)
    for number in (1, 3, 4):
        change(client, f"{VERSIONS}/{number}", tags={"stage": "x"})

    page = client.get(f"{VERSIONS}?tag=stage:x&page_size=2")

    assert [version["version"] for version in page.json] == [4, 3]
    assert json.loads(page.headers["X-Pagination"])["total"] == 3
    assert "tag=stage%3Ax" in page.headers["Link"]


def test_versions_are_found_by_tag_and_estimator(client: FlaskClient) -> None:
    for estimator in ("ridge", "lasso", "ridge"):
        train(client, [[0.0], [1.0]], [1, 2], url=MODEL, estimator=estimator)
    for number in (1, 2):
        change(client, f"{VERSIONS}/{number}", tags={"stage": "x"})

    assert numbers(client, estimator="ridge") == [3, 1]
    assert numbers(client, tag="stage:x") == [2, 1]
    assert numbers(client, tag="stage:x", estimator="ridge") == [1]
    assert numbers(client, tag="stage:y") == numbers(client, estimator="svm") == []


def test_versions_are_sorted_with_those_that_lack_the_metric_last(
    client: FlaskClient, session: Session
) -> None:
    for value in range(6):
        train_constant(client, value)
    set_metrics(
        session,
        {
            1: {"r2_score": 10, "by": {"class": 1}},
            2: {"r2_score": -9.5e-300, "by.class": 1.5},
            3: {"r2_score": 9.75, "f1 (macro) 100%": 0},
            4: {"r2_score": True},
            5: {"r2_score": None},
            6: {"r2_score": "11"},  # no number, nor is True
        },
    )

    expected = {
        "version": [1, 2, 3, 4, 5, 6],
        "-version": [6, 5, 4, 3, 2, 1],
        "created_at": [1, 2, 3, 4, 5, 6],
        "-created_at": [6, 5, 4, 3, 2, 1],
        "metrics.r2_score": [2, 3, 1, 6, 5, 4],
        "-metrics.r2_score": [1, 3, 2, 6, 5, 4],
        "metrics.nobody": [6, 5, 4, 3, 2, 1],
        "-metrics.f1 (macro) 100%": [3, 6, 5, 4, 2, 1],
        "-metrics.by.class": [2, 6, 5, 4, 3, 1],
    }

    assert {sort: numbers(client, sort=sort) for sort in expected} == expected


def test_a_thousand_versions_are_listed_and_sorted(client: FlaskClient, session: Session) -> None:
    train_constant(client, 7)
    table = ModelVersion.__table__
    row = dict(session.execute(sa.select(table)).mappings().one())
    del row["id"]
    copies = [
        {**row, "number": n, "metrics": {"mse": n % 7}, "created_at": utc_now()}
        for n in range(2, 1001)
    ]
    session.execute(sa.insert(table), copies)
    session.execute(sa.insert(VersionTag), [{"version_id": 1, "key": "a", "value": "b"}])
    session.commit()

    found = numbers(client, sort="-metrics.mse", page_size="3", page="2")

    assert found == [979, 972, 965]
    assert len(numbers(client, page_size="1000")) == 1000
    assert client.delete(f"{MODEL}?versions=all").status_code == 204


# At the command line


def test_commands_show_find_and_sort(client: FlaskClient, runner: FlaskCliRunner) -> None:
    for value in (7, 11):
        train_constant(client, value)
    change(client, MODEL, description="Prices\nof houses", tags={"team": "a"})
    change(client, f"{VERSIONS}/1", notes="first of all", tags={"stage": "x"})

    def ml(*arguments: str) -> str:
        result = runner.invoke(args=["ml", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    of_model = ["versions", "--model", "house-prices"]
    assert '{"team": "a"}  Prices of houses' in ml("models")
    assert '{"stage": "x"}  first of all' in ml(*of_model)
    assert "first of all" in ml("show", "1", "--model", "house-prices")
    assert json.loads(ml("models", "--json", "--q", "flat")) == []
    assert json.loads(ml("models", "--json", "--tag", "team:b")) == []
    assert [v["version"] for v in json.loads(ml(*of_model, "--json", "--tag", "stage:x"))] == [1]
    assert json.loads(ml(*of_model, "--json", "--estimator", "ridge")) == []
    sorted_ = json.loads(ml(*of_model, "--json", "--sort", "version"))
    assert [version["version"] for version in sorted_] == [1, 2]


def test_a_command_changes_what_is_said(client: FlaskClient, runner: FlaskCliRunner) -> None:
    train_constant(client, 7)

    def describe(*arguments: str) -> None:
        result = runner.invoke(args=["ml", "describe", "house-prices", *arguments])
        assert result.exit_code == 0, result.output

    describe("--text", "Prices", "--tag", "team:a:b", "--tag", "old:1")
    describe("--remove-tag", "old", "--tag", "flag:")
    describe("--version", "1", "--text", "first", "--tag", "stage:1")

    model, version = client.get(MODEL).json, client.get(f"{VERSIONS}/1").json
    assert (model["description"], model["tags"]) == ("Prices", {"team": "a:b", "flag": ""})
    assert (version["notes"], version["tags"]) == ("first", {"stage": "1"})
    entry = client.get("/api/v1/audit").json[1]
    assert entry["details"] == {"fields": ["tags"]}
    assert entry["actor"].startswith("cli:")


def test_a_wrong_option_at_the_command_line_is_one_clear_line(runner: FlaskCliRunner) -> None:
    for arguments in (
        ["models", "--tag", "a"],
        ["versions", "--sort", "x"],
        ["describe", "houses", "--tag", "A:b"],
        ["describe", "houses", "--text", "x"],
    ):
        result = runner.invoke(args=["ml", *arguments])

        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
