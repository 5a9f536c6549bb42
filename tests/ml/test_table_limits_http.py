"""Limits on the size of a table over HTTP: JSON is held to those of files."""

from __future__ import annotations

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from webapp.web import jsonio

ML = "/api/v1/ml"


@pytest.fixture
def small(own_app: Flask) -> FlaskClient:
    """Return a client of an application that takes few values."""
    own_app.config.update(MAX_ROWS=50, MAX_COLUMNS=10, MAX_CELLS=100)
    return own_app.test_client()


def test_json_rows_of_more_cells_than_allowed_are_refused_with_their_size(
    small: FlaskClient,
) -> None:
    good = {"X": [[1, 2, 3]] * 25, "y": [1] * 25}
    trained = small.post(f"{ML}/train", json=good)
    tall = small.post(f"{ML}/train", json={"X": [[1, 2, 3]] * 26, "y": [1] * 26})
    rows = small.post(f"{ML}/predict/batch", json={"instances": [[1, 2, 3]] * 34})
    records = small.post(
        f"{ML}/predict/batch", json={"instances": [{"x1": 1, "x2": 2, "x3": 3}] * 34}
    )

    assert trained.status_code == 201
    for refused, size in ((tall, "26 rows of 4"), (rows, "34 rows of 3"), (records, "34 rows")):
        assert refused.status_code == 422
        assert size in refused.text
        assert "more than 100 values" in refused.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"X": [' + b"[]," * 5000 + b"[]]}",
        b'{"instances": [' + b"1," * 5000 + b"1]}",
        b'{"instances": [' + b"{}," * 5000 + b"{}]}",
        b'{"instances": ' + (b"[" * 100 + b"]" * 100 + b",") * 50,
    ],
    ids=lambda body: body[:24].decode(),
)
@pytest.mark.parametrize("path", ["train", "predict/batch"])
def test_json_of_more_values_than_allowed_is_not_decoded(
    small: FlaskClient, path: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonio, "loads", lambda _: pytest.fail("it was decoded"))

    refused = small.post(f"{ML}/{path}", data=body, content_type="application/json")

    assert refused.status_code == 422
    assert orjson.loads(refused.data)["errors"] == {"json": ["holds more than 100 values"]}


def test_commas_within_labels_are_no_values(small: FlaskClient) -> None:
    body = {
        "X": [[number, 1] for number in range(20)],
        "y": ["a" + "," * 200, "b" + "," * 200] * 10,
        "estimator": "logistic_regression",
    }

    answer = small.post(f"{ML}/train", data=orjson.dumps(body), content_type="application/json")

    assert answer.status_code == 201, answer.text
