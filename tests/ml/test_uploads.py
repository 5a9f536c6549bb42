"""Uploaded models predict here what they predicted there, or are refused in words."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from flask import Flask
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

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(60, 3) * [1, 100, 0.1] + [5, -300, 2]
Y = X @ [1.0, 0.1, 3.0] + 60
IS_HIGH = np.median(Y) < Y
LABELS = np.where(IS_HIGH, "high", "low")
BITS = IS_HIGH.astype(int)
WITH_GAPS = np.where(RANDOM.rand(*X.shape) < 0.2, np.nan, X)

NUMBERS = itertools.count()


def upload(app: Flask, model: Any) -> tuple[str, TestResponse]:
    """Upload a fitted model under a name of its own; return its address and the answer."""
    url = f"/api/v1/ml/models/upload-{next(NUMBERS)}"
    form = {"artifact": (io.BytesIO(skops.io.dumps(model)), "model.skops"), "activate": "true"}
    return url, app.test_client().post(f"{url}/versions", data=form)


def assert_predicts(app: Flask, url: str, model: Any) -> None:
    """Hold the service's answers for one row and for many against the model's own."""
    client = app.test_client()
    batch = client.post(f"{url}/predict/batch", json={"instances": X.tolist()})
    single = client.post(f"{url}/predict", json={"features": X[0].tolist()})
    expected = np.ravel(model.predict(X))
    assert (batch.status_code, single.status_code) == (200, 200), (batch.text, single.text)
    if not hasattr(model, "predict_proba"):
        np.testing.assert_allclose(batch.json["predictions"], expected, rtol=1e-9)
        np.testing.assert_allclose(single.json["prediction"], expected[0], rtol=1e-9)
        return
    assert batch.json["predictions"] == expected.tolist()
    assert single.json["prediction"] == expected[0]
    found = [batch.json["probabilities"][str(label)] for label in model.classes_.tolist()]
    np.testing.assert_allclose(np.transpose(found), model.predict_proba(X), atol=1e-9)


def absolute(model: Any, rows: Any, y: Any) -> float:
    return -float(np.abs(model.predict(rows) - y).mean())


BEST = GridSearchCV(Ridge(), {"alpha": np.logspace(-3, 3, 7)}).fit(X, Y).best_estimator_

GOOD = {
    # What searches leave in parameters
    "best of a grid search": BEST,
    "float64": Ridge(alpha=np.float64(0.1)),
    "array": Ridge(alpha=np.array([0.1])),
    "array without a dimension": Ridge(alpha=np.array(0.1)),
    "bool_": Ridge(fit_intercept=np.bool_(False)),
    "str_": Ridge(solver=np.str_("svd")),
    "int64": RandomForestRegressor(n_estimators=np.int64(3)),
    "int8": RandomForestRegressor(3, max_depth=np.int8(3)),
    "float32": Ridge(alpha=np.float32(0.5)),
    "uint16 and float16": HistGradientBoostingRegressor(
        max_iter=np.uint16(3), learning_rate=np.float16(0.5)
    ),
    "infinite": LogisticRegression(C=np.inf),
    "random state": RandomForestRegressor(3, random_state=np.random.RandomState(0)),
    "NumPy seed": RandomForestRegressor(3, random_state=np.uint32(1)),
    "jobs and memory": Pipeline(
        [("a", StandardScaler()), ("b", RandomForestRegressor(3, n_jobs=2))], verbose=True
    ),
    # What else fits take
    "weights by whole number": LogisticRegression(class_weight={0: 1.0, 1: 5.0}),
    "weights by NumPy number": LogisticRegression(class_weight={np.int64(0): 1, np.int64(1): 5}),
    "weights by decimal number": LogisticRegression(class_weight={0.0: 1, 1.0: 5}),
    "weights by boolean": LogisticRegression(class_weight={False: 1, True: 5}),
    "weights of a forest": RandomForestClassifier(3, class_weight={0: np.float64(1), 1: 5}),
    "weights of boosting": HistGradientBoostingClassifier(max_iter=3, class_weight={0: 1, 1: 5}),
    "precomputed": Lasso(precompute=True),
    "warm": ElasticNet(warm_start=True),
    "judged out of bag": RandomForestRegressor(20, random_state=0, max_depth=2, oob_score=True),
    "judged by a function": RandomForestRegressor(40, max_depth=2, oob_score=mean_absolute_error),
    "stopped by a function": HistGradientBoostingRegressor(
        max_iter=3, early_stopping=True, scoring=absolute
    ),
    "stopped by a scorer": HistGradientBoostingRegressor(
        max_iter=3, early_stopping=True, scoring=make_scorer(mean_absolute_error)
    ),
    "interactions": HistGradientBoostingRegressor(max_iter=3, interaction_cst=[{0, 1}, {2}]),
    "monotonic": HistGradientBoostingRegressor(max_iter=3, monotonic_cst=np.array([1, 0, 1])),
    "monotonic forest": RandomForestRegressor(3, monotonic_cst=[1, 0, 1]),
    # Scaling
    "scaled without mean": make_pipeline(StandardScaler(with_mean=False), Ridge()),
    "scaled without spread": make_pipeline(StandardScaler(with_std=False), Ridge()),
    "not scaled": make_pipeline(StandardScaler(with_mean=np.False_, with_std=False), Lasso()),
}


@pytest.mark.parametrize("estimator", GOOD.values(), ids=GOOD)
def test_a_fitted_model_predicts_what_it_predicted_there(
    shared_app: Flask, estimator: Any
) -> None:
    model = estimator.fit(X, BITS if hasattr(estimator, "predict_proba") else Y)

    url, answer = upload(shared_app, model)

    assert answer.status_code == 201, answer.text
    assert_predicts(shared_app, url, model)


@pytest.mark.parametrize(
    ("rows", "y"),
    [
        (X, Y[:, np.newaxis]),
        (X.astype(np.float32), Y.astype(np.float32)),
        (np.asfortranarray(X), Y),
        (X, Y.round().astype(int)),
    ],
    ids=["column", "float32", "Fortran order", "whole numbers"],
)
@pytest.mark.parametrize(
    "estimator",
    [
        *(LinearRegression(), Ridge(), Lasso(), ElasticNet()),
        *(make_pipeline(StandardScaler(), Ridge()), HistGradientBoostingRegressor(max_iter=3)),
        RandomForestRegressor(3),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
def test_rows_and_targets_of_every_form_may_have_been_fitted(
    shared_app: Flask, estimator: Any, rows: Any, y: Any
) -> None:
    model = estimator.fit(rows, y)

    url, answer = upload(shared_app, model)

    assert answer.status_code == 201, answer.text
    assert_predicts(shared_app, url, model)


@pytest.mark.parametrize(
    "labels",
    [LABELS, LABELS.astype(object), BITS, BITS == 1, BITS * 1.0, BITS.astype(np.uint8), BITS - 1],
    ids=["strings", "objects", "integers", "booleans", "floats", "bytes", "negative"],
)
@pytest.mark.parametrize(
    "kind",
    [
        LogisticRegression(),
        RandomForestClassifier(3),
        HistGradientBoostingClassifier(max_iter=3),
        make_pipeline(StandardScaler(), LogisticRegression(solver="liblinear")),
    ],
    ids=str,
)
def test_labels_of_every_kind_are_answered(shared_app: Flask, kind: Any, labels: Any) -> None:
    model = kind.fit(X, labels)

    url, answer = upload(shared_app, model)

    assert answer.status_code == 201, answer.text
    assert_predicts(shared_app, url, model)


def test_parameters_are_told_as_json_has_them(shared_app: Flask) -> None:
    told = {}
    for name in ("best of a grid search", "array", "infinite", "weights by NumPy number", "str_"):
        estimator = GOOD[name]
        model = estimator.fit(X, BITS if hasattr(estimator, "predict_proba") else Y)
        url, answer = upload(shared_app, model)
        told[name] = answer.json["model"]["params"]
        shown = shared_app.test_client().get(f"{url}/versions/1").json["params"]
        assert shown == told[name]

    assert told["best of a grid search"]["alpha"] == pytest.approx(BEST.alpha)
    assert told["array"]["alpha"] == [0.1]
    assert told["infinite"]["C"] == "inf"
    assert told["weights by NumPy number"]["class_weight"] == {"0": 1, "1": 5}
    assert told["str_"]["solver"] == "svd"


def test_the_command_line_takes_the_same_models(shared_app: Flask, tmp_path: Path) -> None:
    for name in ("best of a grid search", "weights by whole number", "infinite"):
        estimator = GOOD[name]
        skops.io.dump(estimator.fit(X, BITS), tmp_path / "model.skops")
        command = ["ml", "import", str(tmp_path / "model.skops"), "--model", f"import-{len(name)}"]

        as_table = shared_app.test_cli_runner().invoke(args=command)
        as_json = shared_app.test_cli_runner().invoke(args=[*command, "--json"])

        assert (as_table.exit_code, as_json.exit_code) == (0, 0), as_table.output + as_json.output
        assert json.loads(as_json.stdout)["origin"] == "uploaded"


@pytest.mark.parametrize(
    "kind", [HistGradientBoostingRegressor, HistGradientBoostingClassifier, RandomForestRegressor]
)
def test_a_model_fitted_on_missing_values_predicts_for_rows_without(
    shared_app: Flask, kind: type
) -> None:
    few = {"n_estimators": 3} if kind is RandomForestRegressor else {"max_iter": 3}
    model = kind(**few).fit(WITH_GAPS, BITS)

    url, answer = upload(shared_app, model)
    refused = shared_app.test_client().post(f"{url}/predict", json={"features": [None, 1, 2]})

    assert answer.status_code == 201, answer.text
    assert_predicts(shared_app, url, model)
    assert refused.status_code == 422
    (message,) = refused.json["errors"]["json"]["features"]["0"]
    assert message == "is null, expected a number"


# What cannot serve is refused when it is uploaded


def set_attributes(model: Any, **values: Any) -> Any:
    final = model[-1] if isinstance(model, Pipeline) else model
    for name, value in values.items():
        setattr(final, name, value)
    return model


def mix_forests() -> Any:
    """Return a forest of three classes with trees of two."""
    forest = RandomForestClassifier(3).fit(X, np.arange(60) % 3)
    forest.estimators_ = RandomForestClassifier(3).fit(X, BITS).estimators_
    return forest


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "two targets": (lambda: Ridge().fit(X, np.stack([Y, Y], axis=1)), "more than one target"),
    "two targets of a forest": (
        lambda: RandomForestRegressor(3).fit(X, np.stack([Y, Y], axis=1)),
        "cannot be loaded",
    ),
    "intercepts": (lambda: set_attributes(Ridge().fit(X, Y), intercept_=np.zeros(3)), "target"),
    "intercepts as many as rows": (
        lambda: set_attributes(Ridge().fit(X, Y), intercept_=np.zeros(100)),
        "more than one target",
    ),
    "coefficients": (
        lambda: set_attributes(Ridge().fit(X, Y), coef_=np.zeros(4)),
        "predict fails",
    ),
    "no numbers": (lambda: set_attributes(Ridge().fit(X, Y), coef_=X[0] * np.nan), "not finite"),
    "text": (lambda: set_attributes(Ridge().fit(X, Y), coef_=np.array(["a"] * 3)), "predict"),
    "trees of other classes": (mix_forests, "predict fails"),
    "other scale": (
        lambda: set_attributes(
            make_pipeline(StandardScaler(), StandardScaler()).fit(X), scale_=np.ones(2)
        ),
        "not a StandardScaler and an estimator",
    ),
    "one class": (
        lambda: set_attributes(LogisticRegression().fit(X, BITS), classes_=np.array([1])),
        "two labels",
    ),
    "too few classes": (
        lambda: set_attributes(
            LogisticRegression().fit(X, np.arange(60) % 3), classes_=np.array([0, 1])
        ),
        "cannot be loaded",
    ),
    "too many classes": (
        lambda: set_attributes(LogisticRegression().fit(X, BITS), classes_=np.arange(3)),
        "cannot be loaded",
    ),
    "labels that cannot be shown": (
        lambda: LogisticRegression().fit(X, np.where(BITS, "a\x00b", "\ud800")),
        "printable",
    ),
    "labels that are long": (
        lambda: LogisticRegression().fit(X, np.where(BITS, "a" * 300, "b")),
        "255 printable",
    ),
    "an estimator as a parameter": (
        lambda: set_attributes(Ridge().fit(X, Y), alpha=Lasso().fit(X, Y)),
        "parameters",
    ),
    "a long parameter": (
        lambda: set_attributes(Ridge().fit(X, Y), solver="a" * 5_000),
        "longer than 1000",
    ),
    "a wide parameter": (
        lambda: set_attributes(Ridge().fit(X, Y), alpha=np.ones((100, 100))),
        "longer than 1000",
    ),
    "a large parameter": (
        lambda: set_attributes(Ridge().fit(X, Y), max_iter=2**70),
        "64 bits",
    ),
    "a parameter that cannot be shown": (
        lambda: set_attributes(Ridge().fit(X, Y), solver="a\x00"),
        "printable",
    ),
    "a function": (lambda: set_attributes(Ridge().fit(X, Y), alpha=absolute), "not allowed"),
    "a set": (lambda: set_attributes(Ridge().fit(X, Y), alpha={1}), "builtins.set"),
    "a complex number": (lambda: set_attributes(Ridge().fit(X, Y), alpha=np.complex64(1)), "type"),
}


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD)
def test_a_model_that_cannot_serve_is_refused_in_words(
    shared_app: Flask, make: Callable[[], Any], reason: str
) -> None:
    url, refused = upload(shared_app, make())

    assert refused.status_code == 422, refused.text
    assert reason in refused.json["errors"]["form"]["artifact"][0]
    assert shared_app.test_client().get(url).status_code == 404


@pytest.mark.parametrize(
    ("make", "y"),
    [
        (lambda: set_attributes(RandomForestRegressor(3).fit(X, Y), classes_=np.arange(3)), Y),
        (lambda: set_attributes(Ridge().fit(X, Y), classes_=np.arange(3)), Y),
        (lambda: set_attributes(HistGradientBoostingRegressor().fit(X, Y), _predictors=[]), Y),
    ],
    ids=["forest with classes", "ridge with classes", "boosting without trees"],
)
def test_what_is_odd_and_predicts_is_served_as_scikit_learn_predicts(
    shared_app: Flask, make: Callable[[], Any], y: Any
) -> None:
    model = make()

    url, answer = upload(shared_app, model)

    assert answer.status_code == 201, answer.text
    assert answer.json["model"]["classes"] is None
    assert_predicts(shared_app, url, model)


def test_an_upload_has_no_more_features_than_a_training(shared_app: Flask) -> None:
    most = shared_app.config["MAX_COLUMNS"]
    rows = np.random.RandomState(0).randn(3, most + 1)

    allowed = upload(shared_app, Ridge().fit(rows[:, :most], [1, 2, 3]))[1]
    refused = upload(shared_app, Ridge().fit(rows, [1, 2, 3]))[1]

    assert allowed.status_code == 201
    assert refused.status_code == 422
    (message,) = refused.json["errors"]["form"]["artifact"]
    assert f"it has {most + 1} features, at most {most} are allowed" in message
