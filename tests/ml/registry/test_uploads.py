"""Uploads of models that were fitted elsewhere: what they become, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skops.io
import sqlalchemy as sa
from flask.testing import FlaskClient
from sklearn.linear_model import LinearRegression
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from tests.ml.calls import MODEL, predict, train_constant
from webapp.ml.registry.models import Artifact

FITTED = skops.io.dumps(LinearRegression().fit([[0.0], [1.0]], [0, 1]))


def upload(client: FlaskClient, data: bytes, **fields: str | list[str]) -> TestResponse:
    form = {"artifact": (io.BytesIO(data), "model.skops"), **fields}
    return client.post(f"{MODEL}/versions", data=form)


def test_a_download_can_be_uploaded_as_a_new_version(client: FlaskClient) -> None:
    train_constant(client, 7)
    artifact = client.get(f"{MODEL}/versions/1/artifact").data

    uploaded = upload(client, artifact, activate="true", metrics='{"r2_score": 0.5}')

    assert uploaded.status_code == 201, uploaded.text
    assert uploaded.json["model"]["origin"] == "uploaded"
    assert uploaded.json["metrics"] == {"r2_score": 0.5}
    assert predict(client) == (7, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        skops.io.dumps({"a": 1}),
        skops.io.dumps(LinearRegression()),
        FITTED[:-40],
    ],
)
def test_what_is_no_fitted_model_of_the_catalogue_is_refused_and_leaves_nothing(
    client: FlaskClient, session: Session, data: bytes
) -> None:
    refused = upload(client, data)

    assert refused.status_code == 422
    assert list(refused.json["errors"]["form"]) == ["artifact"]
    assert client.get(MODEL).status_code == 404
    assert session.scalar(sa.select(sa.func.count()).select_from(Artifact)) == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ('["height", "weight"]', ["height", "weight"]),
        (["height", "weight"], ["height", "weight"]),
        *((name, [name]) for name in ("height", "1", "true")),
    ],
)
def test_names_are_uploaded_as_one_json_array_or_as_a_part_each(
    client: FlaskClient, names: str | list[str], expected: list[str]
) -> None:
    data = skops.io.dumps(LinearRegression().fit(np.eye(2, len(expected)), [0, 1]))

    uploaded = upload(client, data, feature_names=names)

    assert uploaded.json["model"]["feature_names"] == expected


@pytest.mark.parametrize(("levels", "status"), [(32, 201), (33, 422), (1000, 422)])
def test_metrics_nested_deeper_than_can_be_answered_are_refused(
    client: FlaskClient, levels: int, status: int
) -> None:
    metrics = '{"a": ' + "[" * (levels - 1) + "1" + "]" * (levels - 1) + "}"

    answer = upload(client, FITTED, metrics=metrics)

    assert answer.status_code == status, answer.text
    assert client.get(f"{MODEL}/versions").status_code == (200 if status == 201 else 404)
