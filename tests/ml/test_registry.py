"""Named models and their versions over HTTP: the whole life of a model."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sklearn
import skops.io
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from webapp.ml.registry.models import Activation, Artifact, ModelVersion

ML = "/api/v1/ml"
MODEL = f"{ML}/models/house-prices"


def train(client: FlaskClient, value: float, url: str = MODEL, **options: object) -> TestResponse:
    body = {"X": [[0.0], [1.0]], "y": [value, value], **options}
    response = client.post(f"{url}/train", json=body)
    assert response.status_code == 201, response.text
    return response


def predict(client: FlaskClient, url: str = MODEL) -> tuple[float, int]:
    answer = client.post(f"{url}/predict", json={"features": [0.5]}).json
    return round(answer["prediction"], 9), answer["model"]["version"]


def activate(client: FlaskClient, number: int) -> TestResponse:
    return client.put(f"{MODEL}/active", json={"version": number})


def upload(client: FlaskClient, data: bytes, **fields: str | list[str]) -> TestResponse:
    form = {"artifact": (io.BytesIO(data), "model.skops"), **fields}
    return client.post(f"{MODEL}/versions", data=form)


def test_a_training_creates_its_model(client: FlaskClient) -> None:
    created = train(client, 7)

    model = client.get(MODEL).json
    assert created.headers["Location"] == f"{MODEL}/versions/1"
    assert (model["name"], model["active_version"], model["last_version"]) == (
        *("house-prices", 1, 1),
    )
    assert [m["name"] for m in client.get(f"{ML}/models").json] == ["house-prices"]
    assert predict(client) == (7, 1)


def test_models_do_not_meet(client: FlaskClient) -> None:
    train(client, 7)
    train(client, 11, url=ML)

    assert predict(client) == (7, 1)
    assert predict(client, ML) == (11, 1)
    assert predict(client, f"{ML}/models/default") == (11, 1)


@pytest.mark.parametrize("path", ["", "/versions", "/activations"])
def test_a_model_that_nobody_made_is_not_found(client: FlaskClient, path: str) -> None:
    assert client.get(f"{MODEL}{path}").status_code == 404


def test_predicting_with_a_model_that_nobody_made_is_not_found(client: FlaskClient) -> None:
    assert client.post(f"{MODEL}/predict", json={"features": [1]}).status_code == 404


def test_a_model_without_an_active_version_is_not_trained(client: FlaskClient) -> None:
    train(client, 7, activate=False)

    assert client.post(f"{MODEL}/predict", json={"features": [1]}).status_code == 409
    assert client.get(MODEL).json["active_version"] is None


def test_versions_are_listed_the_newest_first_in_pages(client: FlaskClient) -> None:
    for value in (1, 2, 3):
        train(client, value)

    page = client.get(f"{MODEL}/versions?page_size=2")

    assert [version["version"] for version in page.json] == [3, 2]
    assert 'rel="next"' in page.headers["Link"]


def test_an_activation_serves_as_soon_as_it_is_answered(client: FlaskClient) -> None:
    train(client, 7)
    train(client, 11)

    for number, value in [(1, 7), (2, 11), (1, 7)]:
        assert activate(client, number).json["version"] == number
        assert predict(client) == (value, number)


def test_a_version_predicts_whatever_is_active(client: FlaskClient) -> None:
    train(client, 7)
    train(client, 11)

    assert predict(client, f"{MODEL}/versions/1") == (7, 1)
    assert predict(client, f"{MODEL}/versions/2") == (11, 2)
    batch = client.post(f"{MODEL}/versions/1/predict/batch", json={"instances": [[0.0], [1.0]]})
    assert batch.json["predictions"] == pytest.approx([7, 7])
    missing = client.post(f"{MODEL}/versions/3/predict", json={"features": [1]})
    assert missing.status_code == 404


@pytest.mark.parametrize("version", [0, -1, 2, 2**31, 2**63, "1", 1.5, None, True])
def test_a_version_that_does_not_exist_cannot_be_activated(
    client: FlaskClient, version: object
) -> None:
    train(client, 7)

    refused = client.put(f"{MODEL}/active", json={"version": version})

    assert refused.status_code == (404 if version == 2 else 422)
    assert predict(client) == (7, 1)


def test_rolling_back_goes_further_back_each_time(client: FlaskClient) -> None:
    for value in (1, 2, 3):
        train(client, value)

    for value in (2, 1):
        assert client.post(f"{MODEL}/rollback").json["version"] == value
        assert predict(client) == (value, value)

    assert client.post(f"{MODEL}/rollback").status_code == 409
    assert predict(client) == (1, 1)


def test_after_a_rollback_a_new_version_can_be_rolled_back_too(client: FlaskClient) -> None:
    for value in (1, 2):
        train(client, value)
    client.post(f"{MODEL}/rollback")
    train(client, 3)

    assert client.post(f"{MODEL}/rollback").json["version"] == 1


def test_a_rollback_passes_over_what_was_deleted(client: FlaskClient) -> None:
    for value in (1, 2, 3):
        train(client, value)
    client.delete(f"{MODEL}/versions/2")

    assert client.post(f"{MODEL}/rollback").json["version"] == 1


def test_the_history_tells_what_was_active_when(client: FlaskClient) -> None:
    train(client, 7)
    train(client, 11)
    activate(client, 1)
    client.post(f"{MODEL}/rollback")

    history = client.get(f"{MODEL}/activations").json

    assert [(a["version"], a["previous_version"], a["reason"]) for a in history] == [
        (2, 1, "rollback"),
        (1, 2, "activate"),
        (2, 1, "train"),
        (1, None, "train"),
    ]
    assert [a["ended_at"] is None for a in history] == [True, False, False, False]
    assert history[1]["ended_at"] == history[0]["activated_at"]


def test_the_active_version_cannot_be_deleted(client: FlaskClient) -> None:
    train(client, 7)

    assert client.delete(f"{MODEL}/versions/1").status_code == 409
    assert predict(client) == (7, 1)


def test_a_deleted_version_is_gone_and_its_number_is_not_given_again(
    client: FlaskClient, session: Session
) -> None:
    train(client, 7)
    train(client, 11)
    predict(client, f"{MODEL}/versions/1")

    assert client.delete(f"{MODEL}/versions/1").status_code == 204

    assert client.get(f"{MODEL}/versions/1").status_code == 404
    gone = client.post(f"{MODEL}/versions/1/predict", json={"features": [1]})
    assert gone.status_code == 404
    assert activate(client, 1).status_code == 404
    assert session.scalar(sa.select(sa.func.count()).select_from(Artifact)) == 1
    assert train(client, 13).json["model"]["version"] == 3
    assert [a["version"] for a in client.get(f"{MODEL}/activations").json] == [3, 2, 1]


def test_a_version_that_cannot_be_loaded_is_refused_at_its_activation(
    client: FlaskClient, session: Session
) -> None:
    train(client, 7)
    broken = train(client, 11, activate=False).json["model"]
    session.execute(
        sa.update(Artifact).where(Artifact.digest == broken["digest"]).values(data=b"damaged")
    )
    session.commit()

    refused = activate(client, 2)

    assert refused.status_code == 409
    assert "digest" in refused.json["detail"]
    assert predict(client) == (7, 1)


def test_a_version_of_another_scikit_learn_is_refused_at_its_activation(
    client: FlaskClient, session: Session
) -> None:
    train(client, 7)
    digest = train(client, 11, activate=False).json["model"]["digest"]
    other = write_as_of_another_version(session.get_one(Artifact, digest).data, "0.24.2")
    other_digest = hashlib.sha256(other).hexdigest()
    session.add(Artifact(digest=other_digest, data=other))
    version = session.scalars(sa.select(ModelVersion).where(ModelVersion.number == 2)).one()
    version.artifact_digest = other_digest
    session.commit()

    refused = activate(client, 2)

    assert refused.status_code == 409
    assert "0.24.2" in refused.json["detail"]
    assert predict(client) == (7, 1)


def write_as_of_another_version(data: bytes, version: str) -> bytes:
    """Return a skops file with another version of scikit-learn written into it."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "schema.json":
                content = content.replace(sklearn.__version__.encode(), version.encode())
            new.writestr(name, content)
    return written.getvalue()


def test_fifty_concurrent_trainings_are_numbered_without_gap_or_double(
    app: Flask, client: FlaskClient, session: Session
) -> None:
    def train_one(value: int) -> int:
        return train(app.test_client(), value).json["model"]["version"]

    with ThreadPoolExecutor(6) as pool:
        numbers = sorted(pool.map(train_one, range(50)))

    assert numbers == list(range(1, 51))
    active = session.scalars(sa.select(Activation).where(Activation.ended_at.is_(None))).all()
    assert len(active) == 1
    assert predict(client)[1] == active[0].version_number


def test_fifty_concurrent_activations_leave_one_active_and_a_consistent_history(
    app: Flask, client: FlaskClient, session: Session
) -> None:
    for value in (1, 2, 3):
        train(client, value)

    def activate_one(index: int) -> int:
        return activate(app.test_client(), 1 + index % 3).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(activate_one, range(50))) == {200}

    history = session.scalars(sa.select(Activation).order_by(Activation.id)).all()
    assert [a.ended_at is None for a in history] == [False] * (len(history) - 1) + [True]
    for before, after in itertools.pairwise(history):
        assert after.previous_number == before.version_number
        assert after.predecessor_id == before.id
        assert before.ended_at == after.activated_at
    assert predict(client)[1] == history[-1].version_number


def test_an_artifact_is_downloaded_as_it_is_stored(client: FlaskClient) -> None:
    digest = train(client, 7).json["model"]["digest"]

    artifact = client.get(f"{MODEL}/versions/1/artifact")

    assert artifact.status_code == 200
    assert artifact.headers["ETag"] == f'"{digest}"'
    sha = base64.b64encode(hashlib.sha256(artifact.data).digest()).decode()
    assert artifact.headers["Digest"] == f"sha-256={sha}"
    assert artifact.headers["Content-Type"] == "application/octet-stream"
    estimator = skops.io.loads(artifact.data)
    assert estimator.predict([[0.5]]) == pytest.approx([7])


def test_a_download_can_be_uploaded_as_a_new_version(client: FlaskClient) -> None:
    train(client, 7)
    artifact = client.get(f"{MODEL}/versions/1/artifact").data

    uploaded = upload(client, artifact, activate="true", metrics='{"r2_score": 0.5}')

    assert uploaded.status_code == 201, uploaded.text
    assert uploaded.json["model"]["origin"] == "uploaded"
    assert uploaded.json["metrics"] == {"r2_score": 0.5}
    assert predict(client) == (7, 2)


@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        Ridge(alpha=0.3),
        make_pipeline(StandardScaler(), Ridge()),
    ],
)
def test_a_model_from_a_notebook_predicts_what_it_predicted_there(
    client: FlaskClient, estimator: object
) -> None:
    X, y = load_diabetes(return_X_y=True)
    estimator.fit(X, y)

    uploaded = upload(client, skops.io.dumps(estimator), activate="true")
    batch = client.post(f"{MODEL}/predict/batch", json={"instances": X.tolist()})

    assert uploaded.status_code == 201, uploaded.text
    np.testing.assert_allclose(batch.json["predictions"], estimator.predict(X), rtol=1e-12)


def test_a_classifier_from_a_notebook_keeps_its_labels(client: FlaskClient) -> None:
    data = load_iris(as_frame=True)
    labels = data.target_names[data.target]
    forest = RandomForestClassifier(10, random_state=0).fit(data.data, labels)

    upload(client, skops.io.dumps(forest), activate="true")
    rows = data.data.to_dict("records")
    batch = client.post(f"{MODEL}/predict/batch", json={"instances": rows}).json

    assert batch["predictions"] == forest.predict(data.data).tolist()
    probabilities = np.column_stack([batch["probabilities"][name] for name in forest.classes_])
    np.testing.assert_allclose(probabilities, forest.predict_proba(data.data), rtol=1e-12)
    model = client.get(f"{MODEL}/versions/1").json
    assert model["feature_names"] == list(data.data.columns)
    assert model["classes"] == ["setosa", "versicolor", "virginica"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x95not a model",
        b"PK\x03\x04 not a zip",
        skops.io.dumps({"a": 1}),
        skops.io.dumps(LinearRegression()),
        skops.io.dumps(LinearRegression().fit([[0.0], [1.0]], [0, 1]))[:-40],
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


def test_an_upload_without_its_file_is_refused(client: FlaskClient) -> None:
    without = client.post(
        f"{MODEL}/versions", data={"activate": "true"}, content_type="multipart/form-data"
    )
    as_text = client.post(
        f"{MODEL}/versions", data={"artifact": "text"}, content_type="multipart/form-data"
    )
    as_json = client.post(f"{MODEL}/versions", json={})

    assert (without.status_code, as_text.status_code, as_json.status_code) == (422, 422, 415)


@pytest.mark.parametrize("names", ['["a", "b"]', "[]", '[""]'])
def test_an_upload_with_names_that_do_not_fit_is_refused(client: FlaskClient, names: str) -> None:
    data = skops.io.dumps(LinearRegression().fit([[0.0], [1.0]], [0, 1]))

    refused = upload(client, data, feature_names=names)

    assert refused.status_code == 422
    assert "feature_names" in refused.json["errors"]["form"]


@pytest.mark.parametrize("names", ['["height", "weight"]', ["height", "weight"]])
def test_names_are_uploaded_as_one_json_array_or_as_a_part_each(
    client: FlaskClient, names: str | list[str]
) -> None:
    data = skops.io.dumps(LinearRegression().fit([[0.0, 1.0], [1.0, 0.0]], [0, 1]))

    uploaded = upload(client, data, feature_names=names)

    assert uploaded.json["model"]["feature_names"] == ["height", "weight"]


@pytest.mark.parametrize("name", ["height", "1", "true"])
def test_a_single_name_is_uploaded_as_it_is(client: FlaskClient, name: str) -> None:
    data = skops.io.dumps(LinearRegression().fit([[0.0], [1.0]], [0, 1]))

    uploaded = upload(client, data, feature_names=name)

    assert uploaded.json["model"]["feature_names"] == [name]


@pytest.mark.parametrize(("levels", "status"), [(32, 201), (33, 422), (1000, 422)])
def test_metrics_nested_deeper_than_can_be_answered_are_refused(
    client: FlaskClient, levels: int, status: int
) -> None:
    data = skops.io.dumps(LinearRegression().fit([[0.0], [1.0]], [0, 1]))
    metrics = '{"a": ' + "[" * (levels - 1) + "1" + "]" * (levels - 1) + "}"

    answer = upload(client, data, metrics=metrics)

    assert answer.status_code == status, answer.text
    assert client.get(f"{MODEL}/versions").status_code == (200 if status == 201 else 404)


def test_the_catalogue_lists_every_estimator_with_its_parameters(client: FlaskClient) -> None:
    catalogue = {row["name"]: row for row in client.get(f"{ML}/estimators").json}

    assert list(catalogue) == [
        *("linear_regression", "ridge", "lasso", "elastic_net", "random_forest"),
        *("hist_gradient_boosting", "logistic_regression", "random_forest_classifier"),
        "hist_gradient_boosting_classifier",
    ]
    alpha = catalogue["ridge"]["parameters"]["alpha"]
    assert (alpha["type"], alpha["default"], alpha["minimum"]) == ("number", 1.0, 0)
    assert catalogue["logistic_regression"]["task"] == "classification"
