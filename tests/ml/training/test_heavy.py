"""A training that takes too much ends within its own process, and the error says what helps."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from webapp import PRELOADED
from webapp.errors import InvalidInput
from webapp.jobs.processes import LocalExecutor, ProcessFailed, ProcessLimits
from webapp.ml.core.datasets import Dataset, default_feature_names
from webapp.ml.core.training import AUTO, TrainingSpec
from webapp.ml.training.service import make_kind, order_training
from webapp.ml.training.work import fit

SETTINGS = {"MAX_FIT_MEMORY": 64, "MAX_FIT_SECONDS": 1}
ENDS = ["memory", "seconds"]  # whichever a machine comes to first
ENDS_OF_LIBSVM = [*ENDS, "died"]  # nor does liblinear check what malloc returns
BOOSTING = "hist_gradient_boosting"
NEWTON = {"solver": "newton-cholesky"}
ENDLESS = {"max_iter": 100_000, "tol": 0}


def tell_server(_report: Any) -> dict[str, Any]:
    return {"server": os.getppid()}


@pytest.fixture(scope="module")
def executor() -> LocalExecutor:
    return LocalExecutor("trainings", 1, PRELOADED)  # the application's: it may run already


def make_rows(n_rows: int, n_columns: int, n_classes: int) -> Dataset:
    """Return rows whose target has much noise: trees grow as large as they can."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_columns))
    y = X[:, 0] + rng.standard_normal(n_rows) if n_classes == 1 else np.arange(n_rows) % n_classes
    return Dataset(X, y, default_feature_names(n_columns))


# Each would take gigabytes, minutes, or an hour in one call into compiled code.
QUICK = [
    ("logistic_regression", 10, 1000, 10, NEWTON, ENDS),
    ("logistic_regression", 300_000, 1, 1000, {}, ENDS),
    ("random_forest_classifier", 3000, 1, 1000, {}, ENDS),
    ("svm_classifier", 300_000, 2, 2, {}, ENDS_OF_LIBSVM),
]
THOROUGH = [
    ("linear_regression", 1500, 3000, 1, {}, ENDS),
    ("ridge", 2000, 2000, 1, {"solver": "svd"}, ENDS),
    ("ridge", 100_000, 50, 1, {"solver": "sag", **ENDLESS}, ENDS),
    ("lasso", 200, 1000, 1, {"alpha": 1e-9, **ENDLESS}, ENDS),
    ("logistic_regression", 100_000, 50, 3, {"solver": "saga", **ENDLESS}, ENDS),
    ("quantile", 10_000, 20, 1, {}, ENDS),
    ("quantile", 100_000, 50, 1, {}, ENDS),
    ("decision_tree_classifier", 50_000, 1, 1000, {}, ENDS),
    ("random_forest", 50_000, 1, 1, {"n_estimators": 1000}, ENDS),
    ("extra_trees", 100_000, 1, 1, {}, ENDS),
    ("gradient_boosting", 100_000, 2, 1, {"max_depth": None}, ENDS),
    (BOOSTING, 100_000, 100, 1, {"max_leaf_nodes": None}, ENDS),
    (f"{BOOSTING}_classifier", 5000, 2, 1000, {"max_iter": 2000}, ENDS),
    ("svm", 20_000, 2, 1, {"max_iter": 10_000_000}, ENDS_OF_LIBSVM),
    ("linear_svm", 100_000, 50, 1, {"max_iter": 100_000}, ENDS_OF_LIBSVM),
    ("linear_svm_classifier", 20_000, 200, 10, {}, ENDS_OF_LIBSVM),
    ("k_neighbors", 100_000, 20, 1, {}, ENDS),
    ("mlp", 100_000, 1, 1, {"hidden_layer_sizes": [1000]}, ENDS),
    ("mlp", 1000, 1000, 1, {"hidden_layer_sizes": [1000] * 4, "solver": "lbfgs"}, ENDS),
    ("naive_bayes", 2000, 1000, 1000, {}, ENDS),
    (AUTO, 100_000, 50, 1, {}, ENDS),
]


@pytest.mark.parametrize(
    ("estimator", "n_rows", "n_columns", "n_classes", "params", "ends"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in THOROUGH)],
)
def test_a_training_that_takes_too_much_ends_and_nothing_else_does(
    executor: LocalExecutor,
    estimator: str,
    n_rows: int,
    n_columns: int,
    n_classes: int,
    params: dict[str, Any],
    ends: list[str],
) -> None:
    server = executor.submit(tell_server, limits=ProcessLimits()).result()
    spec = TrainingSpec(estimator=estimator, params=params, test_size=0)
    dataset = make_rows(n_rows, n_columns, n_classes)
    order = order_training(name="default", dataset=dataset, spec=spec)
    kind = make_kind(Any, SETTINGS)

    with pytest.raises(ProcessFailed) as caught:
        executor.submit(fit, order.payload, None, 1, limits=kind.limit(order)).result()

    assert caught.value.reason in ends
    if caught.value.reason != "died":
        assert isinstance(kind.explain(order, caught.value), InvalidInput)
    assert executor.submit(tell_server, limits=ProcessLimits()).result() == server


@pytest.mark.parametrize(
    ("reason", "excess"),
    [
        ("memory", "needs more memory than the 64 MB that MAX_FIT_MEMORY allows"),
        ("seconds", "takes longer than the 1 seconds that MAX_FIT_SECONDS allows"),
    ],
)
@pytest.mark.parametrize(
    ("estimator", "n_classes", "advice"),
    [
        ("svm", 1, "or a smaller max_iter, or linear_svm"),
        (AUTO, 1, "or one estimator of the catalogue"),
        (None, 2, 'or the solver "lbfgs", or a smaller max_iter'),
        (None, 1, "columns"),
    ],
)
def test_the_error_names_the_setting_and_what_to_change(
    reason: str, excess: str, estimator: str | None, n_classes: int, advice: str
) -> None:
    spec = TrainingSpec(estimator=estimator)
    order = order_training(name="default", dataset=make_rows(10, 1, n_classes), spec=spec)

    error = make_kind(Any, SETTINGS).explain(order, ProcessFailed(reason))

    assert isinstance(error, InvalidInput)
    (message,) = error.faults["estimator"]
    assert f"{excess}: try fewer rows or columns" in message
    assert message.endswith(advice)
