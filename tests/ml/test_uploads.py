"""Uploaded models predict here what they predicted there, or are refused in words."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import skops.io
from flask import Flask
from flask.testing import FlaskClient
from sklearn.base import clone
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import make_scorer, mean_absolute_error
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from werkzeug.test import TestResponse

from tests.conftest import app_on, migrate
from tests.ml.calls import ML, MODEL

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(60, 3) * [1, 100, 0.1] + [5, -300, 2]
Y = X @ [1.0, 0.1, 3.0] + 60
IS_HIGH = np.median(Y) < Y
BITS = IS_HIGH.astype(int)
WITH_GAPS = np.where(RANDOM.rand(*X.shape) < 0.2, np.nan, X)

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """Return one application for many models: each takes a name of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('shared') / 'webapp.db'}"
    migrate(url)
    with app_on(url) as app:
        yield app


def send(client: FlaskClient, url: str, data: bytes, **fields: str | list[str]) -> TestResponse:
    form = {"artifact": (io.BytesIO(data), "model.skops"), **fields}
    return client.post(f"{url}/versions", data=form)


def upload(app: Flask, model: Any) -> tuple[str, TestResponse]:
    """Upload a fitted model under a name of its own; return its address and the answer."""
    url = f"{ML}/models/upload-{next(NUMBERS)}"
    return url, send(app.test_client(), url, skops.io.dumps(model), activate="true")


def assert_is_served(app: Flask, model: Any) -> dict[str, Any]:
    """Upload a model; hold the service's answers for one row and for many against its own."""
    url, answer = upload(app, model)
    assert answer.status_code == 201, answer.text
    client = app.test_client()
    batch = client.post(f"{url}/predict/batch", json={"instances": X.tolist()})
    single = client.post(f"{url}/predict", json={"features": X[0].tolist()})
    assert (batch.status_code, single.status_code) == (200, 200), (batch.text, single.text)
    expected = np.ravel(model.predict(X))
    version: dict[str, Any] = answer.json["model"]
    if version["classes"] is None:
        np.testing.assert_allclose(batch.json["predictions"], expected, rtol=1e-9)
        np.testing.assert_allclose(single.json["prediction"], expected[0], rtol=1e-9)
        return version
    assert batch.json["predictions"] == expected.tolist()
    assert single.json["prediction"] == expected[0]
    found = [batch.json["probabilities"][str(label)] for label in model.classes_.tolist()]
    np.testing.assert_allclose(np.transpose(found), model.predict_proba(X), atol=1e-9)
    return version


def absolute(model: Any, rows: Any, y: Any) -> float:
    return -float(np.abs(model.predict(rows) - y).mean())


def target_for(estimator: Any) -> Any:
    return BITS if hasattr(estimator, "predict_proba") else Y


BEST = GridSearchCV(Ridge(), {"alpha": np.logspace(-3, 3, 7)}).fit(X, Y).best_estimator_

GOOD = {
    # What searches leave in parameters
    "best of a grid search": BEST,
    "float64": Ridge(alpha=np.float64(0.1)),
    "array": Ridge(alpha=np.array([0.1])),
    "bool_": Ridge(fit_intercept=np.bool_(False)),
    "str_": Ridge(solver=np.str_("svd")),
    "int64": RandomForestRegressor(n_estimators=np.int64(3)),
    "uint16": HistGradientBoostingRegressor(max_iter=np.uint16(3)),
    "float16": HistGradientBoostingRegressor(max_iter=3, learning_rate=np.float16(0.5)),
    "infinite": LogisticRegression(C=np.inf),
    "random state": RandomForestRegressor(3, random_state=np.random.RandomState(0)),
    "jobs": RandomForestRegressor(3, n_jobs=2),
    "other names of steps": Pipeline([("a", StandardScaler()), ("b", Ridge())], verbose=True),
    # What else fits take
    "weights by whole number": LogisticRegression(class_weight={0: 1.0, 1: 5.0}),
    "weights by NumPy number": LogisticRegression(class_weight={np.int64(0): 1, np.int64(1): 5}),
    "weights by decimal number": LogisticRegression(class_weight={0.0: 1, 1.0: 5}),
    "weights by boolean": LogisticRegression(class_weight={False: 1, True: 5}),
    "weights of a forest": RandomForestClassifier(3, class_weight={0: np.float64(1), 1: 5}),
    "precomputed": Lasso(precompute=True),
    "judged out of bag": RandomForestRegressor(20, random_state=0, max_depth=2, oob_score=True),
    "judged by a function": RandomForestRegressor(40, max_depth=2, oob_score=mean_absolute_error),
    "stopped by a scorer": HistGradientBoostingRegressor(
        max_iter=3, early_stopping=True, scoring=make_scorer(mean_absolute_error)
    ),
    "interactions": HistGradientBoostingRegressor(max_iter=3, interaction_cst=[{0, 1}, {2}]),
    "monotonic": HistGradientBoostingRegressor(max_iter=3, monotonic_cst=np.array([1, 0, 1])),
    # Scaling
    "scaled without mean": make_pipeline(StandardScaler(with_mean=False), Ridge()),
    "not scaled": make_pipeline(StandardScaler(with_mean=np.False_, with_std=False), Lasso()),
}


FORMS = {
    "column": (X, Y[:, np.newaxis]),
    "float32": (X.astype(np.float32), Y.astype(np.float32)),
    "Fortran order": (np.asfortranarray(X), Y),
    "whole numbers": (X, Y.round().astype(int)),
}
REGRESSORS = [
    *(LinearRegression(), Ridge(), Lasso(), ElasticNet(), RandomForestRegressor(3)),
    *(make_pipeline(StandardScaler(), Ridge()), HistGradientBoostingRegressor(max_iter=3)),
]
LABELS = {
    "strings": np.where(IS_HIGH, "high", "low"),
    "objects": np.where(IS_HIGH, "high", "low").astype(object),
    "integers": BITS,
    "booleans": IS_HIGH,
    "floats": BITS * 1.0,
    "bytes": BITS.astype(np.uint8),
    "negative": BITS - 1,
}
CLASSIFIERS = [
    *(LogisticRegression(), RandomForestClassifier(3), HistGradientBoostingClassifier(max_iter=3)),
    make_pipeline(StandardScaler(), LogisticRegression(solver="liblinear")),
]
TREES = [
    *(RandomForestRegressor(3), HistGradientBoostingRegressor(max_iter=3)),
    HistGradientBoostingClassifier(max_iter=3),
]
CASES = [
    *(pytest.param(kind, X, target_for(kind), id=name) for name, kind in GOOD.items()),
    *(pytest.param(kind, WITH_GAPS, BITS, id=f"{kind}, with gaps") for kind in TREES),
    *(
        pytest.param(kind, rows, y, id=f"{kind}, {name}")
        for kind in REGRESSORS
        for name, (rows, y) in FORMS.items()
    ),
    *(
        pytest.param(kind, X, y, id=f"{kind}, {name}")
        for kind in CLASSIFIERS
        for name, y in LABELS.items()
    ),
]


@pytest.mark.parametrize(("estimator", "rows", "y"), CASES)
@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
def test_an_uploaded_model_predicts_the_same(
    shared_app: Flask, estimator: Any, rows: Any, y: Any
) -> None:
    assert_is_served(shared_app, clone(estimator).fit(rows, y))


def test_parameters_are_told_as_json_has_them(shared_app: Flask) -> None:
    told = {}
    for name in ("best of a grid search", "array", "infinite", "weights by NumPy number", "str_"):
        url, answer = upload(shared_app, clone(GOOD[name]).fit(X, target_for(GOOD[name])))
        told[name] = answer.json["model"]["params"]
        assert shared_app.test_client().get(f"{url}/versions/1").json["params"] == told[name]

    assert told["best of a grid search"]["alpha"] == pytest.approx(BEST.alpha)
    assert told["array"]["alpha"] == [0.1]
    assert told["infinite"]["C"] == "inf"
    assert told["weights by NumPy number"]["class_weight"] == {"0": 1, "1": 5}
    assert told["str_"]["solver"] == "svd"


# What cannot serve is refused when it is uploaded


def altered(model: Any, y: Any = Y, **values: Any) -> Callable[[], Any]:
    """Return a maker of a fitted model with other attributes."""

    def make() -> Any:
        fitted = clone(model).fit(X, y)
        for name, value in values.items():
            setattr(fitted, name, value)
        return fitted

    return make


def mix_forests() -> Any:
    """Return a forest of three classes with trees of two."""
    forest = RandomForestClassifier(3).fit(X, THREE)
    forest.estimators_ = RandomForestClassifier(3).fit(X, BITS).estimators_
    return forest


THREE = np.arange(60) % 3
MIXED_LABELS = np.array([1, "b", "c"], dtype=object)
RIDGE, LOGISTIC = Ridge(), LogisticRegression()
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "intercepts as many as rows": (altered(RIDGE, intercept_=np.zeros(100)), "each row"),
    "trees of other classes": (mix_forests, "predict fails"),
    "one class": (altered(LOGISTIC, BITS, classes_=np.array([1])), "two labels"),
    "too few classes": (altered(LOGISTIC, THREE, classes_=np.arange(2)), "cannot be loaded"),
    "too many classes": (altered(LOGISTIC, BITS, classes_=THREE[:3]), "cannot be loaded"),
    "labels of two kinds": (altered(LOGISTIC, THREE, classes_=MIXED_LABELS), "printable"),
    "labels that cannot be shown": (altered(LOGISTIC, np.where(BITS, "a\0b", "b")), "printable"),
    "labels that are long": (altered(LOGISTIC, np.where(BITS, "a" * 300, "b")), "255 printable"),
    "an estimator as a parameter": (altered(RIDGE, alpha=Lasso()), "parameters"),
    "a long parameter": (altered(RIDGE, solver="a" * 5_000), "longer than 1000"),
    "a wide parameter": (altered(RIDGE, alpha=np.ones((100, 100))), "longer than 1000"),
    "a large parameter": (altered(RIDGE, max_iter=2**70), "64 bits"),
    "a parameter that cannot be shown": (altered(RIDGE, solver="a\x00"), "printable"),
    "a function": (altered(RIDGE, alpha=absolute), "not allowed"),
    "a set": (altered(RIDGE, alpha={1}), "parameters"),
    "a complex number": (altered(RIDGE, alpha=np.complex64(1)), "unknown format"),
}


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD)
def test_a_model_that_cannot_serve_is_refused(
    shared_app: Flask, make: Callable[[], Any], reason: str
) -> None:
    url, refused = upload(shared_app, make())

    assert refused.status_code == 422, refused.text
    assert reason in refused.json["errors"]["form"]["artifact"][0]
    assert shared_app.test_client().get(url).status_code == 404


@pytest.mark.parametrize(
    "make",
    [
        altered(RandomForestRegressor(3), classes_=np.arange(3), coef_=np.ones(2)),
        altered(RIDGE, classes_=np.arange(3), anything=1),
        altered(HistGradientBoostingRegressor(), _predictors=[]),
    ],
    ids=["forest with classes", "ridge with classes", "boosting without trees"],
)
def test_an_odd_model_that_predicts_is_served(shared_app: Flask, make: Callable[[], Any]) -> None:
    assert assert_is_served(shared_app, make())["classes"] is None


def test_an_upload_has_no_more_features_than_a_training(shared_app: Flask) -> None:
    most = shared_app.config["MAX_COLUMNS"]
    rows = np.random.RandomState(0).randn(3, most + 1)

    allowed = upload(shared_app, Ridge().fit(rows[:, :most], [1, 2, 3]))[1]
    refused = upload(shared_app, Ridge().fit(rows, [1, 2, 3]))[1]

    assert allowed.status_code == 201
    assert refused.status_code == 422
    (message,) = refused.json["errors"]["form"]["artifact"]
    assert f"it has {most + 1} features, at most {most} are allowed" in message


# What comes with a model


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

    uploaded = send(client, MODEL, data, feature_names=names)

    assert uploaded.json["model"]["feature_names"] == expected
    assert uploaded.json["model"]["origin"] == "uploaded"


@pytest.mark.parametrize(("levels", "status"), [(32, 201), (33, 422), (1000, 422)])
def test_metrics_nested_too_deeply_are_refused(
    client: FlaskClient, levels: int, status: int
) -> None:
    metrics = '{"a":' + "[" * (levels - 1) + "1" + "]" * (levels - 1) + "}"

    answer = send(client, MODEL, skops.io.dumps(BEST), metrics=metrics)

    assert answer.status_code == status, answer.text
    if status == 201:
        assert client.get(f"{MODEL}/versions/1").json["metrics"] == json.loads(metrics)
    else:
        assert client.get(MODEL).status_code == 404
