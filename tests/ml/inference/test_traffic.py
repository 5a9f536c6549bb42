"""Shared traffic and shadows: who answers which request, and what ends it, on both databases."""

from __future__ import annotations

import io
import time
from collections import Counter
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from sqlalchemy.orm import Session

from tests.conftest import app_on
from tests.faults import on_sqlite
from tests.ml.calls import ARROW, CSV, JSON, MODEL, predict, train_constant
from tests.observability.test_metrics import parse
from webapp.errors import InvalidInput
from webapp.extensions import db
from webapp.ml.core.scoring import Scores
from webapp.ml.inference import shadow
from webapp.ml.inference.serving import Traffic, VersionRef
from webapp.ml.inference.shadow import QUEUED, Outcome, ShadowThread, Size, compare_scores
from webapp.ml.registry.models import Artifact, ModelVersion

TRAFFIC = f"{MODEL}/traffic"
CONSTANTS = {1: 7, 2: 11, 3: 13}
KEYS = [f"user-{number}" for number in range(2000)]
PATIENCE = 10.0


@pytest.fixture
def model(client: FlaskClient) -> None:
    """Train versions of three constants; the first is active."""
    for number, constant in CONSTANTS.items():
        train_constant(client, constant, activate=number == 1)


def share(client: FlaskClient, shares: dict[str, int], **more: Any) -> Any:
    answer = client.put(TRAFFIC, json={"shares": shares, **more})
    assert answer.status_code == 200, answer.text
    return answer.json


def answer_for(client: FlaskClient, key: str) -> int:
    """Return the number of the version that answers a key, which must predict its constant."""
    body, headers = {"features": [0.5]}, {"X-Traffic-Key": key}
    answer = client.post(f"{MODEL}/predict", json=body, headers=headers).json
    number = int(answer["model"]["version"])
    assert answer["prediction"] == pytest.approx(CONSTANTS[number])
    return number


# Shares


def make_traffic(**percents: int) -> Traffic:
    shares = ((VersionRef(int(n[1:]), int(n[1:]), 1), percent) for n, percent in percents.items())
    return Traffic(tuple(shares))


def spread(name: str = "houses", **percents: int) -> dict[str, int]:
    traffic = make_traffic(**percents)
    return {key: traffic.choose(name, key.encode()).number for key in KEYS}


def test_keys_are_spread_by_the_shares_and_no_process_salts_them() -> None:
    # The very counts: with a salt of the process, they would be others in the next one.
    assert Counter(spread(v1=90, v2=10).values()) == {1: 1814, 2: 186}
    assert Counter(spread(v1=34, v2=33, v3=33).values()) == {1: 712, 2: 655, 3: 633}
    assert set(spread(v1=100).values()) == {1}


def test_a_share_that_grows_keeps_its_keys_and_models_do_not_have_the_same() -> None:
    few, half = spread(v1=90, v2=10), spread(v1=50, v2=50)

    assert {key for key in KEYS if few[key] == 2} < {key for key in KEYS if half[key] == 2}
    other = spread("cars", v1=90, v2=10)
    assert sum(few[key] == other[key] == 2 for key in KEYS) < 0.03 * len(KEYS)


@pytest.mark.usefixtures("model")
def test_every_process_shares_alike_as_soon_as_it_is_answered(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
    with app_on(database_url, MODEL_LEASE_MS=app.config["MODEL_LEASE_MS"]) as host:
        clients = [client, host.test_client(), app.test_client()]
        for turn, percent in enumerate([50, 10, 90]):
            share(clients[turn], {"1": percent, "2": 100 - percent}, shadow=3)
            expected = make_traffic(v1=percent, v2=100 - percent)
            for key in KEYS[:5]:
                number = expected.choose("house-prices", key.encode()).number
                assert [answer_for(each, key) for each in clients] == [number] * 3
            share(clients[turn], {"3": 100})
            assert [predict(each) for each in clients] == [(13, 3)] * 3
        assert clients[1].delete(TRAFFIC).status_code == 204
        assert [predict(each) for each in clients] == [(7, 1)] * 3


@on_sqlite
@pytest.mark.usefixtures("model")
def test_only_requests_that_name_no_version_are_shared(client: FlaskClient) -> None:
    client.put(f"{MODEL}/aliases/champion", json={"version": 3})
    share(client, {"2": 100})

    assert predict(client) == (11, 2)
    assert predict(client, f"{MODEL}/versions/1") == (7, 1)
    assert predict(client, f"{MODEL}/aliases/champion") == (13, 3)


@on_sqlite
@pytest.mark.usefixtures("model")
def test_without_a_key_equal_rows_get_the_same_version_in_whichever_format(
    client: FlaskClient,
) -> None:
    share(client, {"1": 50, "2": 50})
    answered = set()

    for row in range(12):
        one = client.post(f"{MODEL}/predict", json={"features": [row]}).json["model"]
        batch = client.post(f"{MODEL}/predict/batch", json={"instances": [[row]]}).json["model"]
        assert one == batch
        tables = [
            client.post(
                f"{MODEL}/predict/batch",
                data=f"x1\n{row}\n",
                headers={"Content-Type": CSV, "Accept": accept},
            )
            for accept in (JSON, CSV, ARROW)
        ]
        number = tables[0].json["model"]["version"]
        headers = [table.headers["X-Model"] for table in tables[1:]]
        assert headers == [f"house-prices; version={number}"] * 2
        table = pa.ipc.open_stream(io.BytesIO(tables[2].data)).read_all()
        assert table["prediction"].to_pylist() == pytest.approx([CONSTANTS[number]])
        answered |= {one["version"], number}

    assert answered == {1, 2}


# What may have a share, and what ends it


@on_sqlite
@pytest.mark.usefixtures("model")
def test_traffic_is_shown_and_ends_when_a_version_becomes_active(client: FlaskClient) -> None:
    shown = {"shares": {"1": 90, "2": 10}, "shadow": 3}
    alone = {"shares": {"1": 100}, "shadow": None}
    assert client.get(TRAFFIC).json == client.get(MODEL).json["traffic"] == alone

    assert share(client, {"1": 90, "2": 10}, shadow=3) == shown
    assert client.get(TRAFFIC).json == client.get(MODEL).json["traffic"] == shown
    train_constant(client, 7, activate=False)
    assert client.get(TRAFFIC).json == shown

    for change, number in (("activate", 1), ("activate", 2), ("roll back", 1), ("train", 5)):
        share(client, {"1": 10, "2": 90})
        if change == "activate":
            client.put(f"{MODEL}/active", json={"version": number})
        elif change == "roll back":
            client.post(f"{MODEL}/rollback")
        else:
            train_constant(client, 7)
        ended, *_ = (e for e in client.get("/api/v1/audit").json if "traffic" in e["action"])
        assert client.get(TRAFFIC).json == {**alone, "shares": {str(number): 100}}, change
        assert predict(client)[1] == number
        assert ended["action"] == "traffic.end", change
        assert ended["details"] == {"shares": {"1": 10, "2": 90}, "shadow": None}
    assert client.delete(TRAFFIC).status_code == 204


@pytest.mark.usefixtures("model")
def test_versions_with_a_share_and_shadows_are_not_deleted(
    app: Flask, client: FlaskClient
) -> None:
    share(client, {"2": 100}, shadow=3)

    for number in (2, 3):
        refused = client.delete(f"{MODEL}/versions/{number}")
        assert refused.status_code == 409
        assert "has a share of the traffic" in refused.json["detail"]
        with app.app_context(), pytest.raises(sa.exc.IntegrityError), db.engine.begin() as begun:
            begun.execute(sa.delete(ModelVersion).where(ModelVersion.number == number))
    client.delete(TRAFFIC)
    assert client.delete(f"{MODEL}/versions/2").status_code == 204


@on_sqlite
@pytest.mark.usefixtures("model")
def test_versions_that_cannot_answer_get_no_share(client: FlaskClient, session: Session) -> None:
    rows = {"X": [[0, 1], [1, 1]], "y": [1, 2], "feature_names": ["x1", "size"]}
    client.post(f"{MODEL}/train", json={**rows, "activate": False})
    labels = {"X": [[0], [1]], "y": ["a", "b"], "estimator": "naive_bayes", "activate": False}
    client.post(f"{MODEL}/train", json=labels)
    digest = client.get(f"{MODEL}/versions/3").json["digest"]
    damage = sa.update(Artifact).where(Artifact.digest == digest)
    session.execute(damage.values(data=b"nothing"))
    session.commit()

    unlike = client.put(TRAFFIC, json={"shares": {"2": 50, "4": 50}, "shadow": 5})
    damaged = client.put(TRAFFIC, json={"shares": {"1": 90, "3": 10}})
    absent = client.put(TRAFFIC, json={"shares": {"9": 100}})

    assert [unlike.status_code, damaged.status_code, absent.status_code] == [422, 409, 404]
    message = "is unlike the active version, 1: it "
    assert unlike.json["errors"]["json"] == {
        "shares": {"4": [f"{message}also has size"]},
        "shadow": [f"{message}is for classification, and not for regression"],
    }
    assert "Version 3 of 'house-prices' cannot be served" in damaged.json["detail"]
    assert client.get(TRAFFIC).json["shares"] == {"1": 100}
    assert predict(client) == (7, 1)


@on_sqlite
def test_a_model_without_an_active_version_has_no_traffic(client: FlaskClient) -> None:
    assert client.get(TRAFFIC).status_code == client.delete(TRAFFIC).status_code == 404
    train_constant(client, 7, activate=False)

    assert client.get(TRAFFIC).json == {"shares": {}, "shadow": None}
    assert client.put(TRAFFIC, json={"shares": {"1": 100}}).status_code == 409


@on_sqlite
@pytest.mark.usefixtures("model")
def test_the_command_line_shares_shows_and_ends_traffic(
    client: FlaskClient, runner: FlaskCliRunner
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = runner.invoke(args=["ml", "traffic", "house-prices", *arguments])
        return result.exit_code, result.output

    shown = 'shares  {"1": 90, "2": 10}\nshadow  3\n'
    assert run("1=90", "2=10", "--shadow", "3") == run() == (0, shown)
    for wrong in (["1=90"], ["1"], ["--shadow", "3"], ["1=100", "--clear"], ["a=100"]):
        assert run(*wrong)[0] != 0, wrong
    assert client.get(TRAFFIC).json["shadow"] == 3
    assert run("--clear") == (0, 'shares  {"1": 100}\nshadow  -\n')


# Shadows


def wait_for(client: FlaskClient, name: str, version: int, count: float) -> None:
    """Wait until a metric of a shadow has a value."""
    ends = time.monotonic() + PATIENCE
    key = f"webapp_shadow_{name}_total", "house-prices", str(version)
    while (found := parse(client.get("/metrics").text).get(key)) != pytest.approx(count):
        assert time.monotonic() < ends, f"{key} is {found}"
        time.sleep(0.01)


@on_sqlite
def test_a_shadow_answers_nothing_and_its_disagreements_are_counted(own_app: Flask) -> None:
    client = own_app.test_client()
    for number, constant in CONSTANTS.items():
        train_constant(client, constant, activate=number == 1)
    share(client, {"1": 100}, shadow=2)

    assert predict(client) == (7, 1)
    rows = client.post(f"{MODEL}/predict/batch", json={"instances": [[1], [2], [3]]})
    table = client.post(f"{MODEL}/predict/batch", data=b"x1\n1\n2\n", content_type=CSV)

    assert rows.json["model"]["version"] == table.json["model"]["version"] == 1
    for name, count in {"rows": 6, "disagreements": 6, "absolute_difference": 24}.items():
        wait_for(client, name, 2, count)
    wait_for(client, "failures", 2, 0)
    share(client, {"2": 100}, shadow=1)
    assert predict(client) == (11, 2)
    wait_for(client, "rows", 1, 1)


@on_sqlite
def test_a_shadow_that_fails_or_is_asked_too_much_changes_no_answer(
    own_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = own_app.test_client()
    for constant in (7, 11):
        train_constant(client, constant, activate=constant == 7)
    share(client, {"1": 100}, shadow=2)
    digest = client.get(f"{MODEL}/versions/2").json["digest"]
    with own_app.app_context(), db.engine.begin() as connection:
        damage = sa.update(Artifact).where(Artifact.digest == digest)
        connection.execute(damage.values(data=b"nothing"))

    assert predict(client) == (7, 1)
    wait_for(client, "failures", 2, 1)
    monkeypatch.setattr(shadow, "MOST_VALUES", 1)
    many = client.post(f"{MODEL}/predict/batch", json={"instances": [[1], [2]]})
    monkeypatch.setattr(shadow, "MOST_BYTES", 9)
    rows = {"instances": [{"x1": 1, "long": 2}], "extra": "ignore"}
    long = client.post(f"{MODEL}/predict/batch", json=rows)
    assert [many.status_code, long.status_code] == [200, 200]
    wait_for(client, "dropped", 2, 2)


@on_sqlite
def test_a_shadow_with_other_categories_reads_rows_in_its_own_way(own_app: Flask) -> None:
    client = own_app.test_client()
    for values in ("abc", "cba"):
        data = [{"c": c, "price": ord(c)} for c in values * 5]
        body = {"data": data if values == "abc" else data[1:] + data, "target": "price"}
        options = {"estimator": "decision_tree", "test_size": 0, "activate": values == "abc"}
        answer = client.post(f"{MODEL}/train", json={**body, **options})
        assert answer.status_code == 201, answer.text
    share(client, {"1": 100}, shadow=2)

    table = client.post(f"{MODEL}/predict/batch", data=b"c\na\nb\nc\n", content_type=CSV)
    rows = client.post(f"{MODEL}/predict/batch", json={"instances": [{"c": "a"}, {"c": "c"}]})

    assert [table.status_code, rows.status_code] == [200, 200]
    wait_for(client, "rows", 2, 5)
    wait_for(client, "disagreements", 2, 0)


SMALL = Size(1, 1)
LABELS = {"are_labels": True}


@pytest.mark.parametrize(
    ("answered", "other", "expected"),
    [
        (Scores(np.array([1.0, 2.0, 0.0])), Scores(np.array([1.0, 4.0, 0.0])), (3, 1, 2.0)),
        (Scores(np.array([1e9])), Scores(np.array([1e9 + 1])), (1, 0, 1.0)),
        (Scores(np.array([[1.0, 2.0]])), Scores(np.array([[1.0, 4.0]])), (1, 1, 1.0)),
        (
            Scores(np.array(["a", "b"], dtype=object), **LABELS),
            Scores(np.array(["a", "c"], dtype=object), **LABELS),
            (2, 1, 0.0),
        ),
        (Scores(np.array([1, 2]), **LABELS), Scores(np.array([1, 2]), **LABELS), (2, 0, 0.0)),
    ],
    ids=["numbers", "nearly the same", "several outputs", "text labels", "whole labels"],
)
def test_predictions_are_compared_by_row(
    answered: Scores, other: Scores, expected: tuple[int, int, float]
) -> None:
    assert compare_scores(answered, other) == pytest.approx((*expected, 0, 0))


def test_predictions_that_have_no_difference_are_not_compared() -> None:
    with pytest.raises(ValueError, match="of shape"):
        compare_scores(Scores(np.zeros(2)), Scores(np.zeros((2, 2))))
    with pytest.raises(InvalidInput):
        compare_scores(Scores(np.array([1e308])), Scores(np.array([-1e308])))


def test_a_shadow_that_is_busy_drops_requests_and_no_error_ends_it() -> None:
    outcomes: list[Outcome] = []
    thread = ShadowThread(lambda _model, _number, outcome: outcomes.append(outcome))
    begins, goes_on = Event(), Event()

    def fail_later() -> Outcome:
        begins.set()
        assert goes_on.wait(PATIENCE)
        raise RuntimeError

    thread.submit("m", 1, SMALL, fail_later)
    assert begins.wait(PATIENCE)
    for _ in range(QUEUED + 2):
        thread.submit("m", 1, SMALL, lambda: Outcome(rows=1))
    assert outcomes == [Outcome(dropped=1)] * 3

    goes_on.set()
    ends = time.monotonic() + PATIENCE
    while len(outcomes) < 3 + QUEUED and time.monotonic() < ends:
        time.sleep(0.001)
    thread.close()
    assert outcomes[3:] == [Outcome(failed=1)] + [Outcome(rows=1)] * (QUEUED - 1)
    thread.submit("m", 1, SMALL, fail_later)
    assert outcomes[-1] == Outcome(dropped=1)
