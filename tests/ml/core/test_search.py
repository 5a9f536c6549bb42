"""Grid and random search find what scikit-learn's own find on the same folds, within a budget."""

from __future__ import annotations

import io
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, ParameterSampler, StratifiedKFold

from tests.ml.expected_metrics import expect_classification, expect_regression
from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Dataset, make_dataset
from webapp.ml.core.estimators import CATALOGUE
from webapp.ml.core.learning import Choices, read_dataset
from webapp.ml.core.metrics import METRICS, PROBABILITY_METRICS
from webapp.ml.core.search import (
    MOST_CANDIDATES,
    STOPPED,
    Ranking,
    Search,
    SearchSpec,
    list_candidates,
    prepare_search,
    run_search,
    score_candidate,
)
from webapp.ml.core.selection import NOT_TRIED
from webapp.ml.core.tables import FORMATS
from webapp.ml.core.tables.shapes import UNLIMITED, CsvDialect, Source
from webapp.ml.core.training import TrainingSpec, as_input, hold_out, make_plan, train

DATA = Path(__file__).resolve().parents[2] / "data"
X, Y = load_diabetes(return_X_y=True)
DIABETES = make_dataset(X, Y)
ALPHAS = [10.0, 0.1, 1.0]
RIDGE = TrainingSpec(estimator="ridge")
LOGISTIC = TrainingSpec(estimator="logistic_regression")


def read_table(name: str, target: str) -> Dataset:
    file = io.BytesIO((DATA / f"{name}.csv").read_bytes())
    return read_dataset(Source(file, FORMATS["csv"], CsvDialect(), UNLIMITED), Choices(target))


def prepare(dataset: Dataset, spec: SearchSpec, **options: Any) -> Search:
    return prepare_search(dataset, spec, **{"clock": time.perf_counter, **options})


def run(
    dataset: Dataset,
    spec: SearchSpec,
    *,
    executor: Executor | None = None,
    at_once: int = 1,
    **options: Any,
) -> Ranking:
    search = prepare(dataset, spec)
    if executor is not None:
        return run_search(search, executor, at_once=at_once, **options)
    with ThreadPoolExecutor(at_once) as pool:
        return run_search(search, pool, at_once=at_once, **options)


def assert_same_as_scikit_learn(ranking: Ranking, expected: GridSearchCV, *, sign: int) -> None:
    """Compare a ranking with the results of a fitted search; parameters stand in a Pipeline."""
    ranked = {str(candidate["params"]): candidate for candidate in ranking.candidates}
    results = expected.cv_results_
    assert len(ranked) == len(results["params"])
    for place, params in enumerate(results["params"]):
        own = {name.rpartition("__")[2]: value for name, value in params.items()}
        found = ranked[str(own)]
        assert found["mean"] == pytest.approx(sign * results["mean_test_score"][place], rel=1e-9)
        assert found["std"] == pytest.approx(results["std_test_score"][place], rel=1e-9)
        assert found["rank"] == results["rank_test_score"][place]
    best = {name.rpartition("__")[2]: value for name, value in expected.best_params_.items()}
    assert ranking.best_params == best


@pytest.mark.parametrize(
    ("metric", "scoring", "sign"),
    [(None, "r2", 1), ("rmse", "neg_root_mean_squared_error", -1)],
)
def test_a_grid_over_a_matrix_is_that_of_scikit_learn(
    metric: str | None, scoring: str, sign: int
) -> None:
    grid = {"alpha": ALPHAS, "fit_intercept": [True, False]}
    folds = KFold(5, shuffle=True, random_state=42)
    expected = GridSearchCV(Ridge(random_state=42), grid, cv=folds, scoring=scoring).fit(X, Y)

    spec = SearchSpec(replace(RIDGE, test_size=0, scale=False), grid=grid, metric=metric)

    assert_same_as_scikit_learn(run(DIABETES, spec), expected, sign=sign)


@pytest.mark.parametrize(
    ("name", "target", "training", "grid", "metric", "scoring"),
    [
        ("penguins", "species", LOGISTIC, {"C": [0.001, 1.0, 0.1]}, "accuracy", "accuracy"),
        ("penguins", "body_mass_g", RIDGE, {"alpha": ALPHAS}, "r2_score", "r2"),
        (
            *("titanic", "survived"),
            TrainingSpec(estimator="decision_tree_classifier", params={"min_samples_leaf": 5}),
            *({"max_depth": [None, 3], "criterion": ["gini", "entropy"]}, "f1", "f1_macro"),
        ),
    ],
)
def test_a_grid_over_a_table_is_that_of_scikit_learn_with_the_pipeline_of_a_training(
    name: str, target: str, training: TrainingSpec, grid: dict[str, Any], metric: str, scoring: str
) -> None:
    table = read_table(name, target)
    kind = KFold if table.task == "regression" else StratifiedKFold
    pipeline = clone(train(table, training, clock=time.perf_counter).estimator)
    fitted = hold_out(table, training)[0].take()
    expected = GridSearchCV(
        pipeline,
        {f"estimator__{parameter}": values for parameter, values in grid.items()},
        cv=kind(3, shuffle=True, random_state=42),
        scoring=scoring,
    ).fit(as_input(fitted), fitted.y)

    ranking = run(table, SearchSpec(training, grid=grid, cv=3, metric=metric))

    assert_same_as_scikit_learn(ranking, expected, sign=1)
    trained = train(table, ranking.training, clock=time.perf_counter)
    assert trained.params == {**trained.params, **training.params, **ranking.best_params}


@pytest.mark.parametrize("kind", ["numbers", "two labels", "three labels"])
def test_every_metric_is_the_one_that_a_version_is_judged_by(kind: str) -> None:
    iris = load_iris()
    labels = np.array(["a", "c", "b"], object)[iris.target]
    dataset = {
        "numbers": DIABETES,
        "two labels": make_dataset(iris.data[50:, 1:2], labels[50:]),
        "three labels": make_dataset(iris.data[:, 1:2], labels),
    }[kind]
    training = TrainingSpec(test_size=0)
    is_regression = dataset.task == "regression"
    grid = {"fit_intercept": [True]}
    search = prepare(dataset, SearchSpec(training, grid=grid, cv=3))
    splitter = KFold if is_regression else StratifiedKFold
    expected = []
    for rows, held_out in splitter(3, shuffle=True, random_state=42).split(dataset.X, dataset.y):
        model = make_plan(dataset, training, time.perf_counter).build()
        model.fit(dataset.X[rows], dataset.y[rows])
        judged, fitted_y = dataset.X[held_out], dataset.y[rows]
        found = (dataset.y[held_out], model.predict(judged))
        expected.append(
            expect_regression(*found, fitted_y)
            if is_regression
            else expect_classification(
                *found, model.predict_proba(judged), model.classes_, fitted_y
            )
        )

    for metric in METRICS[dataset.task]:
        if metric == "brier_score" and kind == "three labels":
            continue
        scored = score_candidate(replace(search.rows, metric=metric), {}, 60.0)
        assert scored["scores"] == pytest.approx([fold[metric] for fold in expected], rel=1e-9)


def test_a_random_search_tries_what_scikit_learn_draws() -> None:
    given = {
        "learning_rate": {"low": 0.01, "high": 1, "log": True},
        "l2_regularization": {"low": 0, "high": 5},
        "max_leaf_nodes": {"low": 2, "high": 40},
        "max_bins": {"low": 16, "high": 255, "log": True, "integer": True},
        "early_stopping": [True, False, "auto"],
    }
    training = TrainingSpec(estimator="hist_gradient_boosting", random_state=7)
    spec = SearchSpec(training, distributions=given, iterations=30)
    expected = ParameterSampler(
        {
            "learning_rate": stats.loguniform(0.01, 1),
            "l2_regularization": stats.uniform(0, 5),
            "max_leaf_nodes": stats.randint(2, 41),
            "max_bins": stats.loguniform(16, 256),
            "early_stopping": [True, False, "auto"],
        },
        30,
        random_state=7,
    )

    found = list_candidates(CATALOGUE["hist_gradient_boosting"], spec)

    assert list(found) == [{**params, "max_bins": int(params["max_bins"])} for params in expected]
    assert {type(params["max_leaf_nodes"]) for params in found} == {int}


def test_lists_alone_are_drawn_without_repetition_and_several_grids_are_tried_in_turn() -> None:
    values = {"alpha": [0.5, 1.0, 2.0], "solver": ["svd", "cholesky"]}
    row = CATALOGUE["ridge"]

    drawn = list_candidates(row, SearchSpec(RIDGE, distributions=values, iterations=4))
    everything = list_candidates(row, SearchSpec(RIDGE, distributions=values, iterations=100))
    grids = [{"solver": ["svd"]}, {"positive": [True], "alpha": [0.5, 2.0]}]

    assert list(drawn) == list(ParameterSampler(values, 4, random_state=42))
    assert len({str(params) for params in everything}) == len(everything) == 6
    assert list_candidates(row, SearchSpec(RIDGE, grid=grids)) == (
        {"solver": "svd"},
        {"alpha": 0.5, "positive": True},
        {"alpha": 2.0, "positive": True},
    )


class Reversed(Executor):
    """Does some work at once, but what came last ends first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: list[tuple[Future[Any], Any]] = []

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        """Return a future that ends with the first one."""
        future: Future[Any] = Future()
        self.held.append((future, work(*arguments)))
        if len(self.held) == self.size:
            for held, result in reversed(self.held):
                held.set_result(result)
        return future


def test_the_order_is_that_of_the_candidates_whichever_ends_first() -> None:
    spec = SearchSpec(RIDGE, grid={"alpha": [1.0, 0.5, 1.0, 100.0]})

    ranking, other = run(DIABETES, spec), run(DIABETES, spec, executor=Reversed(4), at_once=4)

    for found in (ranking, other):
        assert [c["params"]["alpha"] for c in found.candidates] == [0.5, 1.0, 1.0, 100.0]
        assert [c["rank"] for c in found.candidates] == [1, 2, 2, 4]
    assert [c["scores"] for c in ranking.candidates] == [c["scores"] for c in other.candidates]
    assert ranking.training == replace(RIDGE, params={"alpha": 0.5})


def test_what_is_held_out_judges_no_candidate_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    spec = SearchSpec(RIDGE, grid={"alpha": ALPHAS})

    run(DIABETES, spec, report=lambda *progress: told.append(progress))

    rows = prepare(DIABETES, spec).rows.dataset
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert np.array_equal(rows.X, hold_out(DIABETES, RIDGE)[0].take().X)


def test_a_candidate_that_cannot_be_fitted_comes_last_with_the_reason() -> None:
    training = TrainingSpec(estimator="hist_gradient_boosting", params={"max_iter": 5})
    spec = SearchSpec(training, grid={"loss": ["poisson", "squared_error"]})

    ranking = run(make_dataset(X, -Y), spec)

    assert ranking.best_params == {"loss": "squared_error"}
    last = ranking.candidates[-1]
    assert (last["rank"], last["mean"], last["scores"]) == (None, None, None)
    assert "cannot be fitted: loss='poisson' requires non-negative y" in last["reason"]


def test_a_spread_beyond_float64_is_none() -> None:
    spec = SearchSpec(RIDGE, grid={"alpha": [1.0, 0.1]}, metric="mse")

    ranking = run(make_dataset(X, Y * 1e90), spec)

    assert [candidate["std"] for candidate in ranking.candidates] == [None, None]
    assert [candidate["params"]["alpha"] for candidate in ranking.candidates] == [0.1, 1.0]


def test_a_budget_that_is_used_up_leaves_the_first_candidate() -> None:
    spec = SearchSpec(replace(RIDGE, time_budget=0), grid={"alpha": ALPHAS})

    ranking = run(DIABETES, spec, at_once=2)

    assert [candidate["params"]["alpha"] for candidate in ranking.candidates] == ALPHAS
    assert [candidate["reason"] for candidate in ranking.candidates] == [None, *2 * [NOT_TRIED]]


def test_a_candidate_is_stopped_between_its_folds() -> None:
    clock = count(0.0, 1.0).__next__
    search = prepare(DIABETES, SearchSpec(RIDGE, grid={"alpha": [1.0]}), clock=clock)

    # The clock is looked at when a candidate begins, when its folds do, and before each of them.
    scored = score_candidate(search.rows, {}, 4)

    assert scored["reason"] == "stopped after 2 of 5 folds: the time budget was used up"


class Killable(Future[Any]):
    """A future whose work can be ended, as that of a process."""

    def cancel(self) -> bool:
        """End the work, even if it is running."""
        return True


def test_what_can_be_ended_is_ended_with_the_budget() -> None:
    class Busy(Executor):
        def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
            future = Killable()
            params = arguments[1]
            if params["alpha"] != 0.1:
                future.set_running_or_notify_cancel()
            if params["alpha"] == 10:
                future.set_result(work(*arguments))
            return future

    spec = SearchSpec(replace(RIDGE, time_budget=0.2), grid={"alpha": [10.0, 0.1, 1.0, 2.0]})

    ranking = run(DIABETES, spec, executor=Busy(), at_once=2)

    reasons = {c["params"]["alpha"]: c["reason"] for c in ranking.candidates}
    assert reasons == {10.0: None, 0.1: NOT_TRIED, 1.0: STOPPED, 2.0: NOT_TRIED}


class Failing(Executor):
    """Loses the process of a candidate, or does not take it."""

    def __init__(self, at_once: bool, error: BaseException) -> None:
        self.at_once, self.error = at_once, error

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        """Return a future that has ended."""
        future: Future[Any] = Future()
        if arguments[1]["alpha"] == 10:
            if self.at_once:
                raise self.error
            future.set_exception(self.error)
        else:
            future.set_result(work(*arguments))
        return future


@pytest.mark.parametrize("at_once", [False, True])
def test_a_candidate_whose_process_is_lost_comes_last(at_once: bool) -> None:
    spec = SearchSpec(RIDGE, grid={"alpha": ALPHAS})

    ranking = run(DIABETES, spec, executor=Failing(at_once, BrokenProcessPool()))

    assert ranking.candidates[-1]["reason"] == "its process was lost: BrokenProcessPool"
    assert [c["reason"] for c in ranking.candidates[:-1]] == [None, None]
    with pytest.raises(ZeroDivisionError):  # it is a fault of ours, and no candidate's
        run(DIABETES, spec, executor=Failing(at_once, ZeroDivisionError()))
    one = replace(spec, grid={"alpha": [10.0]})
    with pytest.raises(InvalidInput, match="none of the candidates has scores: its process"):
        run(DIABETES, one, executor=Failing(at_once, BrokenExecutor()))


def test_something_may_stand_for_the_rows_on_their_way() -> None:
    search = prepare(DIABETES, SearchSpec(RIDGE, grid={"alpha": ALPHAS}))

    class Resolving(Executor):
        def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
            future: Future[Any] = Future()
            name, *others = arguments
            assert name == "rows"
            future.set_result(work(search.rows, *others))
            return future

    ranking = run_search(replace(search, rows="rows"), Resolving(), at_once=1)

    assert [candidate["reason"] for candidate in ranking.candidates] == [None] * 3


@pytest.mark.slow
def test_other_processes_find_the_same() -> None:
    spec = SearchSpec(LOGISTIC, grid={"C": [0.01, 1.0, 0.1]})
    table = read_table("titanic", "survived")
    context = multiprocessing.get_context("forkserver")

    with ProcessPoolExecutor(2, mp_context=context) as executor:
        found = run(table, spec, executor=executor, at_once=2)

    for other, own in zip(found.candidates, run(table, spec).candidates, strict=True):
        assert other["params"] == own["params"]
        assert other["scores"] == pytest.approx(own["scores"], rel=1e-9)


MANY = [float(number) for number in range(1, 34)]


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({}, {"grid": ["must be given, or else distributions"]}),
        (
            {"grid": {"alpha": [1.0]}, "distributions": {"alpha": [1.0]}},
            {"distributions": ["must not be given beside grid"]},
        ),
        ({"grid": {}}, {"grid": ["must be an object of one parameter or more"]}),
        ({"grid": []}, {"grid": ["must be an object, or a list of 1 to 1000 objects"]}),
        ({"grid": [{"tol": [0.1]}, 3]}, {"grid": {"1": ["must be an object of one parameter"]}}),
        ({"grid": {"alpha": []}}, {"grid": {"alpha": ["must be a list of 1 to 1000 values"]}}),
        ({"grid": {"alpha": "ab"}}, {"grid": {"alpha": ["must be a list of 1 to 1000 values"]}}),
        ({"grid": {"alpha": [1, -1]}}, {"grid": {"alpha": {"1": ["must be a number from 0"]}}}),
        ({"grid": {"depth": [1]}}, {"grid": {"depth": ["is no parameter of ridge"]}}),
        ({"grid": {"max_iter": [5]}}, {"grid": {"max_iter": ["is in params, too"]}}),
        (
            {"grid": {"positive": [False, True], "solver": ["svd"]}},
            {"grid": {"solver": ['must be "auto" when positive is true; it is not so in {"pos']}},
        ),
        (
            {"grid": {"alpha": MANY, "tol": [n / 100 for n in MANY]}},
            {"grid": ["makes 1089 candidates, at most 1000 are allowed"]},
        ),
        (
            {"distributions": {"alpha": {"low": -1, "high": 2}}},
            {"distributions": {"alpha": {"low": ["must be a number from 0"]}}},
        ),
        (
            {"distributions": {"alpha": {"low": 1, "high": "x"}}},
            {"distributions": {"alpha": {"high": ["must be a number"]}}},
        ),
        (
            {"distributions": {"alpha": {"low": 1.5, "high": 3, "integer": True}}},
            {"distributions": {"alpha": {"low": ["must be an integer"]}}},
        ),
        (
            {"distributions": {"alpha": {"low": 2, "high": 2}}},
            {"distributions": {"alpha": {"high": ["must be above low"]}}},
        ),
        (
            {"distributions": {"alpha": {"low": 0, "high": 2, "log": True}}},
            {"distributions": {"alpha": {"low": ["must be above 0 where log is true"]}}},
        ),
        (
            {"distributions": {"alpha": {"low": 1, "high": 2, "log": 1}}},
            {"distributions": {"alpha": {"log": ["must be a boolean"]}}},
        ),
        (
            {"distributions": {"alpha": {"low": 1, "high": 2, "step": 1}}},
            {"distributions": {"alpha": {"step": ["is none of low, high, log, integer"]}}},
        ),
        (
            {"distributions": {"positive": {"low": 0, "high": 1}}},
            {"distributions": {"positive": {"low": ["must be a boolean"]}}},
        ),
        (
            {"distributions": {"alpha": [1.0]}, "iterations": MOST_CANDIDATES + 1},
            {"iterations": ["must be 1 to 1000"]},
        ),
        ({"grid": {"alpha": [1.0]}, "cv": 1}, {"cv": ["must be 2 to 20 folds"]}),
        ({"grid": {"alpha": [1.0]}, "cv": 20}, {"cv": ["makes folds too small of 39 rows"]}),
        ({"grid": {"alpha": [1.0]}, "metric": "f1"}, {"metric": ["is none of a regression"]}),
    ],
)
def test_what_cannot_be_searched_is_refused_by_place(options: Any, faults: Any) -> None:
    training = replace(RIDGE, params={"max_iter": 50}, test_size=0)

    with pytest.raises(InvalidInput) as raised:
        prepare(make_dataset(X[:39], Y[:39]), SearchSpec(training, **options))

    found: Any = raised.value.faults
    while isinstance(faults, dict):
        assert list(found) == list(faults)
        found, faults = *found.values(), *faults.values()
    assert found[0].startswith(faults[0])


@pytest.mark.parametrize(
    ("training", "place"),
    [
        (TrainingSpec(estimator="auto"), "estimator"),
        (replace(RIDGE, params={"alpha": -1, "depth": 3}), "params"),
    ],
)
def test_what_cannot_be_trained_cannot_be_searched(training: TrainingSpec, place: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        prepare(DIABETES, SearchSpec(training, grid={"tol": [0.1]}))

    assert list(raised.value.faults) == [place]


def test_more_combinations_than_can_be_drawn_from_are_refused() -> None:
    row = CATALOGUE["hist_gradient_boosting"]
    values = [n / 1000 for n in range(1, 1000)]
    wide = ("learning_rate", "l2_regularization", "max_features", "tol", "quantile")
    wholes = {"max_iter": [*range(1, 1000)], "n_iter_no_change": [*range(1, 1000)]}
    spec = SearchSpec(TrainingSpec(), distributions={**dict.fromkeys(wide, values), **wholes})

    with pytest.raises(InvalidInput, match="more combinations than can be drawn from"):
        list_candidates(row, spec)


@pytest.mark.parametrize(
    ("estimator", "metric", "words"),
    [
        *(
            ("svm_classifier", name, "which svm_classifier does not")
            for name in PROBABILITY_METRICS
        ),
        ("logistic_regression", "brier_score", "is for two classes, and there are 3"),
    ],
)
def test_a_metric_that_no_candidate_could_have_is_refused(
    estimator: str, metric: str, words: str
) -> None:
    iris = load_iris()
    spec = SearchSpec(TrainingSpec(estimator=estimator), grid={"C": [1.0]}, metric=metric)

    with pytest.raises(InvalidInput, match=words):
        prepare(make_dataset(iris.data, iris.target), spec)
