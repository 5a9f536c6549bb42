"""What a fit will take is known beforehand, and a fit that takes too much does not begin."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import psutil
import pytest

from webapp.errors import InvalidInput
from webapp.ml.core import training
from webapp.ml.core.costs import Cost, FitLimits, Size
from webapp.ml.core.datasets import Dataset, default_feature_names
from webapp.ml.core.estimators import CATALOGUE, resolve_params, split_pipeline
from webapp.ml.core.formats import skops
from webapp.ml.core.signature import Column, Signature
from webapp.ml.core.training import TrainingSpec

KB = 1024 if sys.platform == "linux" else 1  # of ru_maxrss
Case: TypeAlias = tuple[str, int, int, int, dict[str, Any], dict[str, Any]]
"""Estimator, rows, columns, classes, parameters, options."""

FURTHER_MODULES = ("sklearn.pipeline", "sklearn.model_selection", "sklearn.metrics", "skops.io")
NEWTON = {"solver": "newton-cholesky"}
QUICK: list[Case] = [
    ("linear_regression", 50_000, 20, 1, {}, {"scale": True}),
    ("ridge", 50_000, 20, 1, {"solver": "svd"}, {}),
    ("lasso", 50_000, 20, 1, {}, {}),
    ("elastic_net", 20_000, 20, 1, {}, {"cv": 2}),
    ("random_forest", 10_000, 2, 1, {"n_estimators": 3}, {}),
    ("hist_gradient_boosting", 2000, 200, 1, {"max_iter": 2, "max_leaf_nodes": 63}, {}),
    ("logistic_regression", 20_000, 10, 50, {}, {}),
    ("logistic_regression", 100, 200, 8, {"solver": "newton-cholesky", "max_iter": 2}, {}),
    ("random_forest_classifier", 1500, 4, 50, {"n_estimators": 5}, {"refit": True}),
    ("hist_gradient_boosting_classifier", 5000, 10, 30, {"max_iter": 2}, {}),
    ("decision_tree", 50_000, 5, 1, {}, {}),
    ("extra_trees", 10_000, 5, 1, {"n_estimators": 3}, {}),
    ("gradient_boosting", 20_000, 10, 1, {"n_estimators": 20}, {}),
    ("svm", 5000, 20, 1, {"max_iter": 2000}, {}),
    ("linear_svm", 50_000, 20, 1, {"max_iter": 10}, {"scale": True}),
    ("k_neighbors", 50_000, 10, 1, {}, {}),
    ("mlp", 5000, 100, 1, {"hidden_layer_sizes": [1000, 500], "max_iter": 2}, {}),
    ("poisson", 50_000, 20, 1, {}, {}),
    ("quantile", 5000, 20, 1, {"alpha": 0.0}, {}),
    ("decision_tree_classifier", 20_000, 5, 20, {}, {}),
    ("extra_trees_classifier", 3000, 5, 20, {"n_estimators": 5}, {}),
    ("gradient_boosting_classifier", 3000, 10, 20, {"n_estimators": 10}, {}),
    ("svm_classifier", 3000, 50, 10, {}, {}),
    ("linear_svm_classifier", 50_000, 20, 3, {"max_iter": 10}, {}),
    ("k_neighbors_classifier", 20_000, 20, 30, {}, {}),
    ("mlp_classifier", 2000, 10, 100, {"solver": "lbfgs", "max_iter": 5}, {}),
    ("naive_bayes", 100_000, 20, 10, {}, {}),
]
THOROUGH: list[Case] = [
    ("linear_regression", 5000, 500, 1, {}, {"refit": True, "cv": 3}),
    ("linear_regression", 200_000, 20, 1, {"positive": True}, {}),
    ("ridge", 200_000, 20, 1, {"alpha": 0}, {"scale": True}),
    ("ridge", 200_000, 20, 1, {"solver": "lsqr"}, {}),
    ("ridge", 200_000, 20, 1, {"solver": "saga", "max_iter": 5}, {}),
    ("ridge", 200_000, 20, 1, {"positive": True}, {}),
    ("lasso", 5000, 1000, 1, {"alpha": 0.001}, {}),
    ("elastic_net", 200_000, 20, 1, {"selection": "random"}, {"refit": True}),
    ("random_forest", 8000, 5, 1, {"n_estimators": 20}, {"refit": True, "cv": 3}),
    ("random_forest", 8000, 5, 1, {"n_estimators": 20, "max_leaf_nodes": 100}, {}),
    ("random_forest", 8000, 5, 1, {"n_estimators": 2, "criterion": "absolute_error"}, {}),
    ("random_forest_classifier", 5000, 10, 100, {"n_estimators": 20}, {"test_size": 0}),
    ("random_forest_classifier", 20_000, 10, 100, {"n_estimators": 10, "min_samples_leaf": 9}, {}),
    ("random_forest_classifier", 500, 10, 2, {"n_estimators": 1000}, {}),
    ("hist_gradient_boosting", 200_000, 20, 1, {"early_stopping": False, "max_iter": 10}, {}),
    ("hist_gradient_boosting", 20_000, 200, 1, {"max_iter": 3, "max_leaf_nodes": None}, {}),
    ("hist_gradient_boosting_classifier", 100_000, 20, 2, {"max_iter": 20}, {}),
    ("hist_gradient_boosting_classifier", 20_000, 5, 300, {"max_iter": 3}, {"test_size": 0}),
    ("logistic_regression", 200_000, 20, 2, {}, {"scale": True}),
    ("logistic_regression", 20_000, 20, 300, {}, {"test_size": 0.9}),
    ("logistic_regression", 5000, 100, 20, NEWTON, {}),
    ("logistic_regression", 100_000, 20, 5, {"solver": "sag", "max_iter": 5}, {}),
    ("logistic_regression", 2000, 20, 500, {"solver": "saga", "max_iter": 5}, {}),
    ("decision_tree", 200_000, 20, 1, {"splitter": "random"}, {}),
    ("extra_trees", 5000, 5, 1, {"n_estimators": 50}, {"refit": True}),
    ("gradient_boosting", 100_000, 5, 1, {"n_estimators": 5, "max_depth": None}, {}),
    ("svm", 10_000, 5, 1, {"max_iter": 10_000}, {}),
    ("linear_svm", 200_000, 20, 1, {"max_iter": 5}, {}),
    ("k_neighbors", 200_000, 20, 1, {"n_neighbors": 50}, {"test_size": 0.01}),
    ("mlp", 50_000, 20, 1, {"solver": "lbfgs", "max_iter": 2}, {}),
    ("poisson", 200_000, 20, 1, {"solver": "newton-cholesky"}, {"scale": True}),
    ("quantile", 10_000, 5, 1, {"quantile": 0.9}, {}),
    ("decision_tree_classifier", 5000, 10, 300, {}, {}),
    ("extra_trees_classifier", 20_000, 10, 2, {"n_estimators": 10}, {}),
    ("gradient_boosting_classifier", 20_000, 10, 2, {"n_iter_no_change": 5}, {}),
    ("svm_classifier", 4000, 10, 100, {}, {"scale": True}),
    ("linear_svm_classifier", 20_000, 50, 100, {"max_iter": 3}, {}),
    ("k_neighbors_classifier", 20_000, 100, 2, {"weights": "distance"}, {}),
    ("mlp_classifier", 20_000, 20, 5, {"early_stopping": True, "max_iter": 5}, {}),
    ("naive_bayes", 20_000, 200, 100, {}, {}),
]


def make_rows(n_rows: int, n_columns: int, n_classes: int) -> Dataset:
    """Return rows whose target has much noise: trees grow as large as they can."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_columns))
    y = X[:, 0] + rng.standard_normal(n_rows) if n_classes == 1 else np.arange(n_rows) % n_classes
    return Dataset(X, y, default_feature_names(n_columns))


def measure(case: Case) -> int:
    """Return the bytes that a training and its artifact take, at most, beside the rows."""
    estimator, n_rows, n_columns, n_classes, params, options = case
    warnings.simplefilter("ignore")
    dataset = make_rows(n_rows, n_columns, n_classes)
    if estimator == "poisson":
        dataset = replace(dataset, y=np.abs(dataset.y))
    before = psutil.Process().memory_info().rss
    spec = TrainingSpec(estimator=estimator, params=params, **options)
    skops.dumps(training.train(dataset, spec, clock=time.perf_counter).estimator)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KB - before


def estimate(case: Case) -> Cost:
    """Return what the service estimates for a case."""
    estimator, n_rows, n_columns, n_classes, params, options = case
    entry = CATALOGUE[estimator]
    judged = int(n_rows * options.get("test_size", 0.2)) or n_rows
    fits_all = judged == n_rows or options.get("refit") or options.get("cv")
    size = Size(
        rows=n_rows if fits_all else n_rows - judged,
        judged=judged,
        columns=n_columns,
        classes=n_classes,
        scale=options.get("scale", False),
    )
    return entry.estimate_cost(resolve_params(entry, params), size)


@pytest.mark.parametrize(
    "cases", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow)], ids=["quick", "thorough"]
)
def test_the_estimate_bounds_the_memory_and_is_not_far_above_it(cases: list[Case]) -> None:
    assert {case[0] for case in cases} == set(CATALOGUE)
    # Each is fitted by a process of its own, forked from one that has imported everything and
    # has fitted nothing: a fit by OpenMP does not survive a fork.
    context = multiprocessing.get_context("forkserver")
    modules = {row.type_name.rpartition(".")[0] for row in CATALOGUE.values()}
    context.set_forkserver_preload([*modules, *FURTHER_MODULES, __name__])

    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as executor:
        measured = list(executor.map(measure, cases))

    estimated = [estimate(case).memory for case in cases]
    found = [
        f"{case}: measured {taken / 1e6:.0f} MB, estimated {expected / 1e6:.0f}"
        for case, taken, expected in zip(cases, measured, estimated, strict=True)
        if not taken < expected < 8 * taken
    ]
    assert found == []


def test_an_ordinary_training_is_within_the_limits() -> None:
    costs = {str(case): estimate(case) for case in (*QUICK, *THOROUGH)}

    assert [case for case, cost in costs.items() if cost.memory > FitLimits().memory] == []
    assert [case for case, cost in costs.items() if cost.seconds > FitLimits().seconds] == []


def refusal(dataset: Dataset, limits: FitLimits, **spec: Any) -> str:
    """Return why a training is refused; it must not begin."""
    with pytest.raises(InvalidInput) as caught:
        training.train(dataset, TrainingSpec(**spec), clock=time.perf_counter, limits=limits)
    return str(caught.value)


BOOSTING = "hist_gradient_boosting"
SAG = {"max_iter": 100_000, "tol": 0}
GAPS = Signature((Column("x1", missing=True),), "classification")
MEMORY, SECONDS = "MB of memory, MAX_FIT_MEMORY allows 2048", "seconds, MAX_FIT_SECONDS allows 600"


# Each would take gigabytes, or an hour in a call that nothing can interrupt.
@pytest.mark.parametrize(
    ("case", "excess", "advice"),
    [
        (("logistic_regression", 10, 1000, 10, NEWTON), MEMORY, "lbfgs"),
        (("random_forest_classifier", 3000, 1, 1000, {}), MEMORY, "min_samples_leaf"),
        (("random_forest", 50_000, 1, 1, {"n_estimators": 1000}), MEMORY, "n_estimators"),
        ((f"{BOOSTING}_classifier", 5000, 2, 1000, {"max_iter": 2000}), MEMORY, "max_iter"),
        ((BOOSTING, 10**5, 100, 1, {"max_leaf_nodes": None}), MEMORY, "max_leaf_nodes"),
        (("logistic_regression", 300_000, 1, 1000, {}), MEMORY, "fewer rows"),
        (("ridge", 100_000, 50, 1, {"solver": "sag", **SAG}), SECONDS, "max_iter"),
        (("logistic_regression", 100_000, 50, 3, {"solver": "saga", **SAG}), SECONDS, "max_iter"),
        (("lasso", 100_000, 50, 1, SAG), SECONDS, "max_iter"),
        (("decision_tree_classifier", 50_000, 1, 1000, {}), MEMORY, "min_samples_leaf"),
        (("extra_trees", 100_000, 1, 1, {}), MEMORY, "n_estimators"),
        (("gradient_boosting", 100_000, 2, 1, {"max_depth": None}), MEMORY, "max_depth"),
        (("svm", 20_000, 2, 1, {"max_iter": 10_000_000}), SECONDS, "smaller max_iter"),
        (("svm_classifier", 300_000, 2, 2, {}), SECONDS, "linear_svm"),
        (("linear_svm", 100_000, 50, 1, {"max_iter": 100_000}), SECONDS, "max_iter"),
        (("k_neighbors", 10**6, 20, 1, {}), SECONDS, "fewer rows"),
        (("mlp", 10**6, 1, 1, {"hidden_layer_sizes": [1000]}), MEMORY, "hidden_layer_sizes"),
        (("quantile", 100_000, 50, 1, {}), SECONDS, "fewer rows"),
    ],
)
def test_a_training_that_takes_too_much_is_refused(
    case: tuple[Any, ...], excess: str, advice: str
) -> None:
    estimator, n_rows, n_columns, n_classes, params = case
    dataset = make_rows(n_rows, n_columns, n_classes)

    reason = refusal(dataset, FitLimits(), estimator=estimator, params=params, test_size=0)

    assert f"{excess}: try fewer rows or columns" in reason
    assert advice in reason


@pytest.mark.parametrize("estimator", ["random_forest_classifier", "extra_trees_classifier"])
@pytest.mark.parametrize(
    "signature", [None, Signature((Column("x1", missing=True),), "classification")]
)
def test_a_forest_of_rows_that_are_easily_told_apart_is_judged_by_its_first_tree(
    estimator: str, signature: Signature | None
) -> None:
    X = np.arange(20_000, dtype=np.float64)[:, np.newaxis]
    names = default_feature_names(1)
    easy, hard = (
        Dataset(X, labels, names, signature=signature)
        for labels in (
            (X[:, 0] > 9000).astype(np.int64),
            np.random.RandomState(0).randint(2, size=20_000),
        )
    )
    spec = {"estimator": estimator, "params": {"n_estimators": 30}}
    limits = FitLimits(memory=100e6)

    reason = refusal(hard, limits, **spec)
    trained = training.train(easy, TrainingSpec(**spec), clock=time.perf_counter, limits=limits)

    assert "MAX_FIT_MEMORY allows 100" in reason
    assert len(split_pipeline(trained.estimator)[1].estimators_) == 30
