"""Searches over HTTP and at the command line: as scikit-learn's, within a budget, cancelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, train_test_split

from tests.faults import on_sqlite
from tests.jobs.test_jobs import LATER, SLOW, queue, wait_for
from tests.ml.calls import CSV, ML, MODEL
from webapp.jobs.runner import Runner
from webapp.ml.core.search import STOPPED
from webapp.ml.core.selection import NOT_TRIED

pytestmark = pytest.mark.processes

__all__ = ["queue"]  # a fixture

X, Y = load_diabetes(return_X_y=True)
ALPHAS = [10.0, 0.1, 1.0]
BODY: dict[str, Any] = {
    **{"X": X[:50].tolist(), "y": Y[:50].tolist(), "estimator": "ridge", "cv": 2},
    "grid": {"alpha": ALPHAS},
}
LENGTHY = {
    **SLOW,
    "params": {"min_samples_leaf": 5},
    "grid": {"n_estimators": [1, 1000, 999]},
    "cv": 2,
}


def test_a_grid_on_a_table_is_that_of_scikit_learn(client: FlaskClient) -> None:
    table = pd.DataFrame(X).add_prefix("x").assign(y=Y).to_csv(index=False)
    query = {"target": "y", "estimator": "ridge", "grid": json.dumps({"alpha": ALPHAS})}

    answer = client.post(f"{MODEL}/search", data=table, content_type=CSV, query_string=query)

    assert answer.status_code == 201, answer.text
    assert client.get(answer.headers["Location"]).json["metrics"] == answer.json["metrics"]
    fitted, _, y, _ = train_test_split(X, Y, test_size=0.2, random_state=42)
    folds = KFold(5, shuffle=True, random_state=42)
    expected = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=folds, scoring="r2").fit(fitted, y)
    made = answer.json["model"]
    assert made["params"]["alpha"] == expected.best_params_["alpha"]
    assert made["n_train"] == len(fitted)
    ranked = {found["params"]["alpha"]: found for found in made["metrics"]["candidates"]}
    results = expected.cv_results_
    for place, alpha in enumerate(ALPHAS):
        assert ranked[alpha]["metric"] == "r2_score"
        assert ranked[alpha]["rank"] == results["rank_test_score"][place]
        assert np.isclose(ranked[alpha]["mean"], results["mean_test_score"][place], rtol=1e-9)
        assert np.isclose(ranked[alpha]["std"], results["std_test_score"][place], rtol=1e-9)


@on_sqlite
def test_a_search_that_is_not_waited_for_has_its_ranking_in_the_job(
    client: FlaskClient, queue: Runner
) -> None:
    drawn = {"alpha": {"low": 0.01, "high": 100, "log": True}}
    body = {**BODY, "grid": None, "distributions": drawn, "iterations": 2, "metric": "rmse"}
    headers = {**LATER, "Idempotency-Key": "once"}

    first, second = (client.post(f"{MODEL}/search", json=body, headers=headers) for _ in range(2))

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.headers["Location"] == second.headers["Location"]
    job = wait_for(client, first.headers["Location"], "succeeded")
    assert job["kind"] == "search"
    assert job["options"]["candidates"] == 2
    assert job["progress"] == {"done": 2, "total": 2, "unit": "candidates"}
    version = client.get(job["result"]["url"]).json
    assert job["result"]["candidates"] == version["metrics"]["candidates"]
    means = [candidate["mean"] for candidate in job["result"]["candidates"]]
    assert means == sorted(means)
    assert {c["metric"] for c in job["result"]["candidates"]} == {"rmse"}
    assert version["params"]["alpha"] == job["result"]["candidates"][0]["params"]["alpha"]


@on_sqlite
def test_a_candidate_that_cannot_be_fitted_comes_last_with_the_reason(client: FlaskClient) -> None:
    body = {**BODY, "estimator": "hist_gradient_boosting", "params": {"max_iter": 2}}
    body |= {"grid": {"loss": ["poisson", "squared_error"]}, "y": (-Y[:50]).tolist()}

    made = client.post(f"{MODEL}/search", json=body).json["model"]

    best, last = made["metrics"]["candidates"]
    assert (best["rank"], best["params"]) == (1, {"loss": "squared_error"})
    assert (last["rank"], last["mean"]) == (None, None)
    assert "cannot be fitted: loss='poisson'" in last["reason"]
    del body["grid"]["loss"][1]
    refused = client.post(f"{MODEL}/search", json=body)
    assert refused.status_code == 422
    assert "none of the candidates has scores: cannot be fitted" in refused.json["detail"]


@on_sqlite
def test_the_best_candidate_must_be_better_than_the_active_version_by_the_same_metric(
    client: FlaskClient,
) -> None:
    body = {**BODY, "activate": "if_better"}
    first = client.post(f"{MODEL}/search", json=body).json
    worse = client.post(f"{MODEL}/search", json={**body, "grid": {"alpha": [1e6]}}).json

    assert first["comparison"]["better"]
    assert (worse["comparison"]["metric"], worse["comparison"]["better"]) == ("r2_score", False)
    assert client.get(MODEL).json["active_version"] == 1
    rows = {"X": BODY["X"][:4], "y": BODY["y"][:4]}
    refused = client.post(f"{MODEL}/search", json={**body, **rows})
    assert "needs rows to judge on" in refused.json["errors"]["json"]["metric"][0]


@on_sqlite
@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"estimator": "auto"}, "estimator"),
        ({"grid": None}, "grid"),
        ({"grid": {"depth": [1]}}, "grid.depth"),
        ({"grid": {"alpha": [1, -1]}}, "grid.alpha.1"),
        ({"params": {"alpha": 1}}, "grid.alpha"),
        ({"distributions": {"alpha": [1]}}, "distributions"),
        ({"cv": 1}, "cv"),
        ({"cv": 20, "X": [[1]] * 30, "y": [1] * 30}, "cv"),
        ({"metric": "f1"}, "metric"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_place_and_stores_nothing(
    client: FlaskClient, changes: dict[str, Any], place: str
) -> None:
    refused = client.post(f"{MODEL}/search", json={**BODY, **changes})

    assert refused.status_code == 422
    found = refused.json["errors"]["json"]
    for step in place.split("."):
        assert list(found) == [step]
        found = found[step]
    assert client.get(f"{ML}/models").json == []


@on_sqlite
def test_a_search_at_the_command_line_shows_the_ranking(
    app: Flask, runner: FlaskCliRunner, tmp_path: Path
) -> None:
    file = tmp_path / "diabetes.csv"
    pd.DataFrame(X[:50]).add_prefix("x").assign(y=Y[:50]).to_csv(file, index=False)
    options = ["--target", "y", "--estimator", "ridge", "--cv", "2"]

    shown = runner.invoke(
        args=["ml", "search", str(file), *options, "--grid", json.dumps({"alpha": ALPHAS})]
    )
    refused = runner.invoke(args=["ml", "search", str(file), *options, "--grid", "alpha=1"])

    assert shown.exit_code == 0, shown.output
    assert "estimator" in shown.output
    *_, header, first, _, _ = shown.output.splitlines()
    assert header.split() == ["rank", "params", "mean", "std", "seconds", "reason"]
    assert first.startswith("1 ")
    assert refused.exit_code == 1
    assert "grid: must be an object" in refused.output


@on_sqlite
@pytest.mark.slow
def test_a_search_ends_with_its_budget(client: FlaskClient) -> None:
    body = {**LENGTHY, "time_budget": 1}

    made = client.post(f"{MODEL}/search", json=body).json["model"]

    best, *others = made["metrics"]["candidates"]
    assert best["params"] == {"n_estimators": 1}
    assert {other["reason"] for other in others} <= {STOPPED, NOT_TRIED}


@on_sqlite
@pytest.mark.slow
def test_a_candidate_that_takes_too_long_comes_last(own_app: Flask) -> None:
    own_app.config["MAX_FIT_SECONDS"] = 1
    body = {**LENGTHY, "grid": {"n_estimators": [1000, 1]}}

    made = own_app.test_client().post(f"{MODEL}/search", json=body).json["model"]

    best, last = made["metrics"]["candidates"]
    assert best["params"] == {"n_estimators": 1}
    assert last["reason"] == "takes longer than the 1 seconds that MAX_FIT_SECONDS allows"


@on_sqlite
@pytest.mark.slow
def test_a_search_that_is_cancelled_leaves_nothing_and_others_are_not_kept_waiting(
    client: FlaskClient, queue: Runner
) -> None:
    grid = {"n_estimators": list(range(20, 1000))}
    search = {**LENGTHY, "X": SLOW["X"][:500], "y": SLOW["y"][:500], "grid": grid}
    urls = [client.post(f"{MODEL}/search", json=search, headers=LATER).location for _ in range(2)]
    wait_for(client, urls[0], "running")

    training = client.post(f"{MODEL}/train", json={"X": [[1], [2]], "y": [1, 2]})

    assert training.status_code == 201  # between the candidates
    job = client.get(urls[0]).json
    assert job["status"] == "running"
    assert (job["progress"] or {"done": 0})["done"] < len(grid["n_estimators"])
    for url in urls:
        assert client.delete(url).status_code == 204
    later = client.post(f"{MODEL}/train", json={"X": [[1], [2]], "y": [1, 2]}, headers=LATER)
    assert wait_for(client, later.location, "succeeded")["result"]["version"] == 2
    assert [client.get(url).json["status"] for url in urls] == ["cancelled"] * 2
    assert len(client.get(f"{MODEL}/versions").json) == 2


@on_sqlite
@pytest.mark.slow
def test_a_worker_that_stops_leaves_its_search_to_others(
    client: FlaskClient, queue: Runner
) -> None:
    url = client.post(f"{MODEL}/search", json=LENGTHY, headers=LATER).location
    wait_for(client, url, "running")

    queue.close()
    job = client.get(url).json
    assert (job["status"], job["attempts"], job["progress"]) == ("queued", 0, None)
