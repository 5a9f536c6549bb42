"""Numbers at the edge: each training and prediction ends in finite numbers, or in a 422."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.bad_input.census import Census
from tests.faults import on_sqlite
from webapp import API_PREFIX
from webapp.ml.core.estimators import CATALOGUE

pytestmark = on_sqlite

ML = f"{API_PREFIX}/ml"
SMALL = {
    "random_forest": {"n_estimators": 2},
    "hist_gradient_boosting": {"max_iter": 2, "min_samples_leaf": 1},
}
N = 12
PROBES = [[-0.0, 2**53 + 1, 1e-320], [1e308], [-1e308, 1e308, 5e-324], [0.0]]
SPECS: list[dict[str, Any]] = [
    {},
    {"scale": True, "refit": True, "cv": 2},
    {"test_size": 0.9, "random_state": 2**32 - 1},
]


GOOD = np.random.default_rng(1).normal(size=(N, 3))
FIRST = np.arange(3 * N).reshape(N, 3) == 0
MATRICES = {
    "good": GOOD,
    "constant": np.ones((N, 3)),
    "collinear": np.column_stack([GOOD[:, 0], GOOD[:, 0], 2 * GOOD[:, 0]]),
    "nearly constant": 1 + np.arange(3 * N).reshape(N, 3) * 1e-16,
    "1e300": GOOD * 1e300,
    "1e-300": GOOD * 1e-300,
    "the largest": np.full((N, 3), np.finfo(float).max),
    "denormal": GOOD * 5e-323,
    "one giant": np.where(FIRST, 1e308, GOOD),
    "one giant, late": np.where(FIRST[::-1, ::-1], -1e308, GOOD),
    "beyond float32": GOOD * 1e39,
    "wide": np.random.default_rng(1).normal(size=(N, 40)),
    "one column": GOOD[:, :1],
    "one row": GOOD[:1],
    "two rows": GOOD[:2],
}
TARGETS = {
    "regression": {
        "good": lambda n: [float(i % 5) for i in range(n)],
        "constant": lambda n: [1.0] * n,
        "1e308": lambda n: [(-1) ** i * 1e308 for i in range(n)],
        "denormal": lambda n: [5e-324 * (i % 2) for i in range(n)],
    },
    "classification": {
        "good": lambda n: [i % 2 for i in range(n)],
        "all apart": lambda n: list(range(n)),
        "one alone": lambda n: ["a"] * (n - 1) + ["b"],
        "one": lambda n: ["a"] * n,
        "largest": lambda n: [(-(2**63), 2**63 - 1)[i % 2] for i in range(n)],
        "numbers as text": lambda n: (["1", "1.0", "01"] * n)[:n],
    },
}


def assert_finite(value: Any, note: str) -> None:
    """Check that there is no null where a number belongs: what is not finite is written so."""
    assert "null" not in json.dumps(value), note


# scikit-learn and scipy warn of such data; the service's log may hold that, its answers not.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_trainings(census: Census, task: str) -> None:
    cases = [(name, "good") for name in MATRICES] + [("good", name) for name in TARGETS[task]]
    estimators = [row for row in CATALOGUE.values() if row.task == task]
    for place, estimator in enumerate(estimators):
        params = SMALL.get(estimator.name.removesuffix("_classifier"), {})
        # Each estimator gets a third of the cases, each case a third of the estimators.
        for number, (name, target) in list(enumerate(cases))[place % 3 :: 3]:
            spec, X = SPECS[number % len(SPECS)], MATRICES[name]
            body = {"X": X.tolist(), "y": TARGETS[task][target](len(X)), "activate": False, **spec}
            body |= {"estimator": estimator.name, "params": params}
            note = f"{estimator.name}, X {name}, y {target}, {spec}"
            made = census.send(f"POST {ML}/models/edge/train", note, {201, 422}, json=body)
            if made.status_code != 201:
                continue
            assert_finite(made.json["model"]["coefficients"] or {}, note)
            assert_finite((made.json["model"]["importances"] or {"values": {}})["values"], note)
            options = {"intervals": True} if estimator.name == "linear_regression" else {}
            for probe in PROBES[: None if options else 2]:
                row = [probe[i % len(probe)] for i in range(X.shape[1])]
                call = f"POST {made.headers['Location']}/predict"
                body = {"features": row, **options}
                answer = census.send(call, f"{note} {probe}", {200, 422}, json=body)
                if answer.status_code == 200:
                    assert_finite(answer.json, f"{note} {probe}")
            explained = census.send(
                call, f"{note} explained", {200, 422}, json={**body, "explain": True}
            )
            if explained.status_code == 200:
                assert_finite(explained.json, f"{note} explained")
    for path in ("/models/edge/versions?page_size=1000", "/models/edge/versions/1", "/model-info"):
        census.send(f"GET {ML}{path}", "what was trained", 200)
