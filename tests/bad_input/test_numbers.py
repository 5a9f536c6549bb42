"""Numbers at the edge: each training and prediction ends in finite numbers, or in a 422."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.bad_input.catalogue import DIGITS
from tests.bad_input.census import JSON, Census
from tests.faults import on_sqlite
from webapp import API_PREFIX
from webapp.ml.core.estimators import CATALOGUE

pytestmark = on_sqlite

ML = f"{API_PREFIX}/ml"
SMALL = {
    "random_forest": {"n_estimators": 2},
    "random_forest_classifier": {"n_estimators": 2},
    "hist_gradient_boosting": {"max_iter": 2, "min_samples_leaf": 1},
    "hist_gradient_boosting_classifier": {"max_iter": 2, "min_samples_leaf": 1},
}
N = 12
PROBES = [[-0.0, 2**53 + 1, 1e-320], [1e308], [-1e308, 1e308, 5e-324], [0.0]]
SPECS: list[dict[str, Any]] = [
    {},
    {"scale": True, "refit": True, "cv": 2},
    {"test_size": 0.9, "random_state": 2**32 - 1},
]


def matrices() -> dict[str, Any]:
    """Return matrices of N rows that are hard to learn from."""
    good = np.random.default_rng(1).normal(size=(N, 3))
    first = np.arange(3 * N).reshape(N, 3) == 0
    return {
        "good": good,
        "constant": np.ones((N, 3)),
        "collinear": np.column_stack([good[:, 0], good[:, 0], 2 * good[:, 0]]),
        "nearly constant": 1 + np.arange(3 * N).reshape(N, 3) * 1e-16,
        "1e300": good * 1e300,
        "1e-300": good * 1e-300,
        "the largest": np.full((N, 3), np.finfo(float).max),
        "denormal": good * 5e-323,
        "one giant": np.where(first, 1e308, good),
        "one giant, late": np.where(first[::-1, ::-1], -1e308, good),
        "beyond float32": good * 1e39,
        "wide": np.random.default_rng(1).normal(size=(N, 40)),
        "one column": good[:, :1],
        "one row": good[:1],
        "two rows": good[:2],
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


def check_finite(census: Census, note: object, value: Any) -> None:
    """Complain of null where a number belongs: what is not finite is written so."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_finite(census, f"{note} {key}", inner)
    elif isinstance(value, list):
        for inner in value:
            check_finite(census, note, inner)
    elif value is None or (isinstance(value, float) and not math.isfinite(value)):
        census.complaints.append(f"{note}: {value}")


# scikit-learn and scipy warn of such data; the service's log may hold that, its answers not.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_trainings(census: Census, task: str) -> None:
    targets = TARGETS[task]
    path = f"POST {ML}/models/edge/train"
    cases = [(name, X, "good") for name, X in matrices().items()]
    cases += [("good", matrices()["good"], y) for y in targets]
    estimators = [row for row in CATALOGUE.values() if row.task == task]
    for place, estimator in enumerate(estimators):
        # Each estimator gets half of the cases, each case half of the estimators.
        for number, (name, X, y) in list(enumerate(cases))[place % 2 :: 2]:
            spec = SPECS[number % len(SPECS)]
            body = {
                "X": X.tolist(),
                "y": targets[y](len(X)),
                "estimator": estimator.name,
                "params": SMALL.get(estimator.name, {}),
                "activate": False,
                **spec,
            }
            note = f"{estimator.name}, X {name}, y {y}, {spec}"
            made = census.send(path, note, {201, 422}, json=body)
            if made.status_code != 201:
                continue
            check_finite(census, f"{note} coefficients", made.json["model"]["coefficients"] or {})
            options = {"intervals": True} if estimator.name == "linear_regression" else {}
            for probe in PROBES[: None if options else 2]:
                row = [probe[i % len(probe)] for i in range(X.shape[1])]
                call = f"POST {made.headers['Location']}/predict"
                body = {"features": row, **options}
                answer = census.send(call, f"{note} {probe}", {200, 422}, json=body)
                if answer.status_code == 200:
                    check_finite(census, f"{note} {probe}", answer.json)
    for path in ("/models/edge/versions?page_size=1000", "/models/edge/versions/1", "/model-info"):
        census.send(f"GET {ML}{path}", "what was trained", 200)
    census.conclude()


def test_what_looks_odd_and_is_right_is_answered_rightly(census: Census) -> None:
    model = census.client.get(f"{ML}/models/default/versions/1").json["coefficients"]
    weights = np.array(list(model["coefficients"].values()))

    def predicted(row: list[float]) -> float:
        return float(np.array(row, dtype=float) @ weights + model["intercept"])

    for text in (
        *("-0.0", "0", "5e-324", "1e-400", "2.2250738585072011e-308", "1e300", "-1e307"),
        *("9007199254740993", "18446744073709551616", "1" * 300, f"0.{'3' * 5000}", "1E+2"),
        *(f"{'1' * 100}e-99", f"1e-{'0' * 4000}5", "123456789012345678901234567890.5"),
    ):
        row = [float(text), 1.0, 2.0]
        data = f'{{"features": [{text}, 1, 2]}}'.encode()
        answer = census.send(f"POST {ML}/predict", text, 200, data=data, content_type=JSON)
        assert answer.json["prediction"] == pytest.approx(predicted(row), rel=1e-12), text
        data = f'{{"instances": [{{"x3": 2, "x1": {text}, "x2": 1}}]}}'.encode()
        answer = census.send(f"POST {ML}/predict/batch", text, 200, data=data, content_type=JSON)
        assert answer.json["predictions"][0] == pytest.approx(predicted(row), rel=1e-12), text
    for text in ("1e308", "-1.7976931348623157e308", "1e309", DIGITS):
        data = f'{{"features": [{text}, {text}, {text}]}}'.encode()
        answer = census.send(f"POST {ML}/predict", text, {200, 422}, data=data, content_type=JSON)
        if answer.status_code == 200:
            assert math.isfinite(answer.json["prediction"])

    census.conclude()
