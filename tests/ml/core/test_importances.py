"""Importances: those of the trees themselves, and by permutation of the held-out rows."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
import pytest
import skops.io
import xgboost
from sklearn.ensemble import AdaBoostClassifier, RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from tests.ml.core.test_tables import source_of
from webapp.ml.core import importances
from webapp.ml.core.datasets import Dataset, make_dataset
from webapp.ml.core.estimators import CATALOGUE, load_class
from webapp.ml.core.formats import inspect_file
from webapp.ml.core.importances import FEWEST_ROWS, MOST_COLUMNS, MOST_ROWS, REPEATS
from webapp.ml.core.learning import Choices, read_dataset
from webapp.ml.core.scoring import compile_scorer
from webapp.ml.core.training import TrainedModel, TrainingSpec, train

RANDOM = np.random.RandomState(0)
N_ROWS = 150
X = RANDOM.standard_normal((N_ROWS, 3))
Y = 10 + X[:, 0] + 3 * X[:, 1]  # x2 matters most, x3 not at all; and all are positive
NUMBERS = make_dataset(X, np.maximum(Y, 0.1))
CLASSES = make_dataset(X, np.where(Y > 10, "high", "low").astype(object))
WITH_TREES = [
    row.name for row in CATALOGUE.values() if hasattr(load_class(row), "feature_importances_")
]
WITHOUT = [name for name in CATALOGUE if name not in WITH_TREES]
SMALL = {"n_estimators": 5}


def fit(dataset: Dataset, **spec: Any) -> Any:
    """Return the importances of a training."""
    return fit_model(dataset, **spec).importances


def fit_model(dataset: Dataset, **spec: Any) -> TrainedModel:
    return train(dataset, TrainingSpec(**spec), clock=lambda: 0.0)  # no time runs out


def read(rows: list[dict[str, Any]], target: str = "y", **kinds: str) -> Dataset:
    """Return rows of a CSV file with these values."""
    lines = [rows[0].keys(), *(row.values() for row in rows)]
    text = "\n".join(",".join(map(str, line)) for line in lines)
    return read_dataset(source_of(text.encode(), "csv"), Choices(target, kinds=kinds))


def make_mixed(n_rows: int = N_ROWS) -> Dataset:
    """Return numbers with gaps, categories, dates and texts, of which the texts tell y."""
    random = np.random.RandomState(1)
    words = random.choice(["good", "bad"], n_rows)
    rows = [
        {
            "size": "" if number % 7 == 0 else random.randint(100),
            "town": random.choice(["Chur", "Bern", "Thun"]),
            "day": f"2026-{1 + number % 12:02}-{1 + number % 28:02}",
            "note": f"it was {word} number {number}",
            "y": (word == "good") + random.standard_normal() / 100,
        }
        for number, word in enumerate(words)
    ]
    return read(rows, note="text")


MIXED = make_mixed()


@pytest.mark.parametrize("name", WITH_TREES)
def test_trees_have_the_importances_that_scikit_learn_gives_them(name: str) -> None:
    params = SMALL if "tree" not in name or "trees" in name else {}
    dataset = NUMBERS if CATALOGUE[name].task == "regression" else CLASSES

    trained = fit_model(dataset, estimator=name, params=params)

    found = trained.importances
    assert found is not None
    expected = trained.estimator.feature_importances_.tolist()
    assert found["values"] == dict(zip(["x1", "x2", "x3"], expected, strict=True))
    assert next(iter(found["values"])) == "x2"
    assert found["method"] == "impurity"
    assert {found[key] for key in ("metric", "rows", "repeats", "std")} == {None}


@pytest.mark.parametrize("n_categories", [3, 40])  # one-hot, and by the target
def test_what_a_column_was_encoded_as_is_added_up(n_categories: int) -> None:
    rows = [
        {
            "size": "" if number % 5 == 0 else number % 11,
            "town": f"t{number % n_categories}",
            "day": f"2026-{1 + number % 12:02}-{1 + number % 28:02}",
            "note": f"number {number}",
            "y": f"c{number % 3}",
        }
        for number in range(N_ROWS)
    ]
    dataset = read(rows, note="text", town="category")
    trained = fit_model(dataset, estimator="random_forest_classifier", params=SMALL)

    found = trained.importances

    assert found is not None
    prepare, forest = (step for _, step in trained.estimator.steps)
    values = forest.feature_importances_
    ends = {name: values[place].sum() for name, place in prepare.output_indices_.items()}
    numbers = values[prepare.output_indices_["numbers"]]
    town = ends["categories" if n_categories == 3 else "target"]
    assert len(numbers) == 1 + 5 + 1  # size, the parts of day, and whether size is missing
    assert found["values"] == pytest.approx(
        {
            "size": numbers[0] + numbers[-1],
            "day": numbers[1:-1].sum(),
            "town": town,
            "note": ends["text"],
        }
    )


@pytest.mark.parametrize("name", WITHOUT)
def test_an_estimator_without_importances_gets_them_by_permutation(name: str) -> None:
    regression = CATALOGUE[name].task == "regression"
    params = {"alpha": 0.1} if name in ("lasso", "elastic_net") else {}
    params = {"max_iter": 10} if "hist" in name else params
    spec = {"estimator": name, "scale": True, "params": params, "test_size": 0.3}
    if name == "quantile":
        spec["params"] = {"alpha": 0}

    found = fit(NUMBERS if regression else CLASSES, **spec)

    assert found["method"] == "permutation"
    assert found["metric"] == ("r2_score" if regression else "accuracy")
    assert (found["rows"], found["not_measured"]) == (45, 0)
    values = found["values"]
    assert list(values) == ["x2", "x1", "x3"]
    assert values["x2"] > 2 * abs(values["x3"])
    assert found["std"].keys() == values.keys()


def test_permutations_find_what_those_of_scikit_learn_find() -> None:
    random = np.random.RandomState(2)
    rows = random.standard_normal((10_000, 3))
    dataset = make_dataset(rows, rows @ [1.0, 2.0, 0.0] + random.standard_normal(10_000))
    trained = fit_model(dataset, estimator="ridge")
    assert trained.held_out is not None
    assert trained.importances is not None
    held_out = trained.held_out.take()

    expected = permutation_importance(trained.estimator, held_out.X, held_out.y, random_state=0)

    found = trained.importances
    assert (found["rows"], found["repeats"]) == (MOST_ROWS, REPEATS)
    values = [found["values"][name] for name in ("x1", "x2", "x3")]
    assert values == pytest.approx(expected.importances_mean, abs=0.05)
    assert all(0 < value < 0.05 for value in list(found["std"].values())[:2])


@pytest.mark.parametrize(
    ("estimator", "params"), [("ridge", {}), ("hist_gradient_boosting", {"max_iter": 15})]
)
def test_columns_of_any_kind_are_permuted_as_a_whole(
    estimator: str, params: dict[str, Any]
) -> None:
    found = fit(MIXED, estimator=estimator, params=params)

    assert set(found["values"]) == {"size", "town", "day", "note"}
    assert next(iter(found["values"])) == "note"
    assert found["values"]["note"] > 0.5
    assert all(abs(value) < 0.2 for value in list(found["values"].values())[1:])


def test_trees_of_several_columns_of_text_are_permuted() -> None:
    rows = [{"a": f"x {n % 2}", "b": f"z {n}", "y": float(n % 2)} for n in range(60)]
    dataset = read(rows, a="text", b="text")

    found = fit(dataset, estimator="random_forest", params=SMALL)

    assert found["method"] == "permutation"
    assert found["values"].keys() == {"a", "b"}


def test_rows_that_are_held_out_stay_as_they_are() -> None:
    dataset = make_mixed(40)
    before = dataset.X.copy(), dataset.texts.copy() if dataset.texts is not None else None

    trained = fit_model(dataset, estimator="ridge")

    np.testing.assert_array_equal(dataset.X, before[0])
    np.testing.assert_array_equal(dataset.texts, before[1])
    assert trained.importances is not None


@pytest.mark.parametrize(
    ("dataset", "spec"),
    [
        (make_dataset(X[:9], Y[:9]), {}),
        (NUMBERS, {"test_size": 0}),
        (make_dataset(X, np.full(N_ROWS, 2.0)), {}),  # R² is undefined
        (make_dataset(np.tile(X, (1, MOST_COLUMNS)), Y), {"estimator": "ridge"}),
    ],
    ids=["few rows", "no hold-out", "constant", "many columns"],
)
def test_where_nothing_can_be_permuted_there_are_none(dataset: Dataset, spec: Any) -> None:
    assert fit(dataset, **spec) is None


def test_trees_need_no_hold_out_and_list_their_largest() -> None:
    wide = make_dataset(np.tile(X, (1, MOST_COLUMNS)), Y)

    found = fit(wide, test_size=0, estimator="decision_tree")

    values = list(found["values"].values())
    assert len(values) == MOST_COLUMNS
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)


def test_equal_trainings_have_equal_importances_and_the_seed_draws_the_permutations() -> None:
    first, again, other = (
        fit(CLASSES, estimator="k_neighbors_classifier", stratify=False, random_state=seed)
        for seed in (1, 1, 2)
    )

    assert first == again
    assert json.loads(json.dumps(first)) == first
    assert first["values"] != other["values"]


def test_of_a_slow_model_fewer_rows_are_permuted_fewer_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = np.tile(X, (10, 1))
    dataset = make_dataset(rows, rows[:, 0])
    monkeypatch.setattr(importances, "LEAST_WORK", 0)
    monkeypatch.setattr(importances, "_estimate_row", lambda *_: 3.0)

    some = fit(dataset)
    monkeypatch.setattr(importances, "_estimate_row", lambda *_: 1000.0)
    few = fit(dataset)

    assert (some["rows"], some["repeats"]) == (300, 1)
    assert (few["rows"], few["repeats"]) == (FEWEST_ROWS, 1)
    assert few["std"] is None
    assert next(iter(few["values"])) == "x1"


@pytest.mark.parametrize(
    ("seconds", "n_measured", "repeats"), [(0, 0, 0), (2, 2, 1), (5, 3, 1), (6, 3, 2), (99, 3, 5)]
)
def test_time_that_runs_out_leaves_out_repeats_before_it_leaves_out_columns(
    seconds: float, n_measured: int, repeats: int
) -> None:
    trained = fit_model(NUMBERS, estimator="ridge")
    assert trained.held_out is not None

    found = importances.permute_columns(
        trained.estimator,
        compile_scorer(trained.estimator),
        trained.held_out,
        trained.signature,
        random_state=0,
        clock=itertools.count().__next__,  # a second for each column
        seconds=seconds,
    )

    if not n_measured:
        assert found is None
    else:
        assert found is not None
        assert (len(found["values"]), found["not_measured"]) == (n_measured, 3 - n_measured)
        assert found["repeats"] == repeats
        assert (found["std"] is None) == (repeats == 1)


def test_refitted_models_have_the_importances_of_the_fit_that_was_judged() -> None:
    plain, refitted = (fit(NUMBERS, estimator="ridge", refit=refit) for refit in (False, True))

    assert plain == refitted


def inspect(data: bytes, **options: Any) -> Any:
    """Return the importances of an upload."""
    return inspect_file(None, data, None, {"max_features": 10, **options})["importances"]


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(5),
        make_pipeline(StandardScaler(), RandomForestRegressor(5)),
        GridSearchCV(RandomForestRegressor(5), {"max_depth": [2]}, cv=2),
        AdaBoostClassifier(n_estimators=5),
    ],
    ids=str,
)
def test_an_uploaded_model_brings_its_own_importances(model: Any) -> None:
    model.fit(X, Y > 10 if isinstance(model, AdaBoostClassifier) else Y)
    final = getattr(model, "best_estimator_", model)
    final = final[-1] if hasattr(final, "steps") else final

    found = inspect(skops.io.dumps(model))

    assert found["method"] == "impurity"
    values = [found["values"][name] for name in ("x1", "x2", "x3")]
    assert values == pytest.approx(final.feature_importances_, rel=1e-9)


@pytest.mark.parametrize(
    "model",
    [LinearRegression(), make_pipeline(PolynomialFeatures(), RandomForestRegressor(5))],
    ids=str,
)
def test_other_uploads_have_none(model: Any) -> None:
    assert inspect(skops.io.dumps(model.fit(X, Y))) is None


def test_an_own_pipeline_has_the_same_importances_when_it_is_uploaded() -> None:
    trained = fit_model(MIXED, estimator="extra_trees", params=SMALL)
    data = skops.io.dumps(trained.estimator)

    found = inspect(data, signature=replace(trained.signature).to_json())

    assert found == trained.importances


@pytest.mark.parametrize("booster", ["gbtree", "dart", "gblinear"])
def test_a_model_of_xgboost_has_the_gains_of_its_trees(booster: str) -> None:
    model = xgboost.XGBRegressor(
        n_estimators=5, booster=booster, importance_type="total_gain", n_jobs=1
    ).fit(X, Y)

    found = inspect(bytes(model.get_booster().save_raw("ubj")))

    if booster == "gblinear":
        assert found is None
    else:
        assert found["method"] == "gain"
        values = [found["values"][name] for name in ("x1", "x2", "x3")]
        assert values == pytest.approx(model.feature_importances_, rel=1e-5)


@pytest.mark.parametrize("without", ["nothing", "split_gain"])
def test_a_model_of_lightgbm_has_the_gains_of_its_trees(without: str) -> None:
    model = lightgbm.LGBMRegressor(
        n_estimators=5, importance_type="gain", verbosity=-1, n_jobs=1
    ).fit(X, Y)
    text = model.booster_.model_to_string()
    lines = [line for line in text.split("\n") if not line.startswith(f"{without}=")]

    found = inspect("\n".join(lines).encode())

    if without == "split_gain":
        assert found is None
    else:
        expected = model.feature_importances_ / model.feature_importances_.sum()
        values = [found["values"][f"Column_{number}"] for number in range(3)]
        assert (found["method"], values) == ("gain", pytest.approx(expected, rel=1e-4))


@pytest.mark.parametrize("gain", ["inf", "nan", "-1e300"])
def test_gains_that_are_no_shares_are_left_out(gain: str) -> None:
    model = lightgbm.LGBMRegressor(n_estimators=1, verbosity=-1, n_jobs=1).fit(X, Y)
    text = model.booster_.model_to_string()
    changed = re.sub("split_gain=.*", lambda line: re.sub(r"(?<=[= ])\S+", gain, line[0]), text)

    found = inspect(changed.encode())

    json.dumps(found, allow_nan=False)
