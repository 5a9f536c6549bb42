"""Which parameters suit an estimator: grid and random search, cross-validated by an executor."""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import numpy as np

from webapp.errors import InvalidInput, faults_in
from webapp.ml.core.datasets import Dataset, Labels
from webapp.ml.core.estimators import (
    CATALOGUE,
    Estimator,
    find_faults,
    has_probabilities,
    resolve_params,
    to_json,
)
from webapp.ml.core.evaluation import check_metric
from webapp.ml.core.metrics import PROBABILITY_METRICS, SMALLER_IS_BETTER, encode_labels
from webapp.ml.core.selection import (
    BUDGET_USED_UP,
    NOT_TRIED,
    Scored,
    score_on_folds,
    split_into_folds,
    without_scores,
)
from webapp.ml.core.training import (
    AUTO,
    DEFAULT_ESTIMATORS,
    MOST_FOLDS,
    TrainingSpec,
    as_input,
    count_classes,
    hold_out,
    make_plan,
)

MOST_CANDIDATES = 1000
MOST_VALUES = 1000  # of a parameter
RANGE_KEYS = ("low", "high", "log", "integer")
DEFAULT_METRICS = {"regression": "r2_score", "classification": "accuracy"}
NAMED_REASONS = 3  # where no candidate has scores
STOPPED = f"stopped: {BUDGET_USED_UP}"
LOST = (BrokenExecutor, CancelledError, MemoryError)
"""What the future of a candidate raises whose process has died, as the standard library has it."""

Params: TypeAlias = Mapping[str, Any]
Space: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Values by parameter, or several such mappings, each with parameters that go together."""


@dataclass(frozen=True)
class SearchSpec:
    """Which candidates to try, and how to judge them.

    ``grid`` has a list of values for each parameter: all their combinations are tried.
    Of ``distributions``, ``iterations`` candidates are drawn; they may have, beside lists, ranges:
    ``{"low": 0.001, "high": 10, "log": true, "integer": false}``, which draw whole numbers, too,
    where ``integer`` is true or the parameter takes no others. Both may be lists of such mappings.

    ``cv`` is the number of folds. Without a ``metric``, it is R² or accuracy. ``training`` says
    all else: estimator, the parameters that are the same for all candidates, what is held out,
    the seed, and the ``time_budget``, after which no candidate begins.
    """

    training: TrainingSpec
    grid: Space | None = None
    distributions: Space | None = None
    iterations: int = 10
    cv: int = 5
    metric: str | None = None


@dataclass(frozen=True)
class Rows:
    """The rows that all candidates of a search are scored on, and how.

    ``dataset`` has the rows to fit; its labels are codes, in the order of the classes.
    """

    dataset: Dataset
    training: TrainingSpec
    cv: int
    metric: str
    clock: Callable[[], float]


@dataclass(frozen=True)
class Search:
    """A search that has been checked: its candidates, in order, and how to judge them.

    ``rows`` are Rows, or what stands for them where candidates are scored.
    """

    candidates: tuple[Params, ...]
    training: TrainingSpec
    cv: int
    metric: str
    clock: Callable[[], float]
    rows: Any


@dataclass(frozen=True)
class Ranking:
    """All candidates of a search, the best first.

    Each has ``rank`` (as GridSearchCV counts: equal means, equal ranks), ``params``, the ``mean``
    and ``std`` of its ``scores`` by fold, ``seconds``, and the ``reason`` why it has no scores.
    ``training`` trains the best.
    """

    metric: str
    cv: int
    candidates: tuple[dict[str, Any], ...]
    training: TrainingSpec

    @property
    def best_params(self) -> Params:
        """Return the parameters of the best candidate, those that the search had chosen."""
        return cast(Params, self.candidates[0]["params"])

    def to_json(self) -> dict[str, Any]:
        """Return the ranking as JSON."""
        return {"metric": self.metric, "cv": self.cv, "candidates": list(self.candidates)}


def prepare_search(dataset: Dataset, spec: SearchSpec, *, clock: Callable[[], float]) -> Search:
    """Return a search with all its candidates, each of which the catalogue allows.

    Raises InvalidInput, by place, for all that can be refused before anything is fitted.
    """
    training = spec.training
    if training.estimator == AUTO:
        raise InvalidInput({"estimator": ['must be one of the catalogue, and not "auto"']})
    entry = CATALOGUE[training.estimator or DEFAULT_ESTIMATORS[dataset.task]]
    candidates = list_candidates(entry, spec)
    plan = make_plan(dataset, _choose(training, candidates[0]), clock)
    n_classes = count_classes(dataset, entry)
    metric = spec.metric or DEFAULT_METRICS[dataset.task]
    check_metric(metric, dataset.task)
    if metric in PROBABILITY_METRICS and not has_probabilities(plan.build()):
        raise InvalidInput({"metric": [f"needs probabilities, which {entry.name} does not give"]})
    if metric == "brier_score" and n_classes > 2:
        raise InvalidInput({"metric": [f"is for two classes, and there are {n_classes}"]})
    fitted = hold_out(dataset, training)[0]
    _check_folds(spec.cv, len(fitted), dataset.task)
    rows = Rows(
        dataset=_encode_target(fitted.take()),
        training=training,
        cv=spec.cv,
        metric=metric,
        clock=clock,
    )
    return Search(candidates, training, spec.cv, metric, clock, rows)


def explain_loss(error: BaseException) -> str | None:
    """Return why a candidate has no scores whose future raises this; None for a fault of ours."""
    return f"its process was lost: {type(error).__name__}" if isinstance(error, LOST) else None


def run_search(
    search: Search,
    executor: Executor,
    *,
    at_once: int,
    report: Callable[[int, int], object] | None = None,
    explain: Callable[[BaseException], str | None] = explain_loss,
) -> Ranking:
    """Return all candidates of a search, ranked by their scores on the same folds.

    ``at_once`` of them are with the ``executor``: as many as it has workers. Each is sent the rows
    of the search: of 1,000,000 × 10, that takes 0.7 seconds, and five folds of a ridge take 2.2.
    ``report`` is told how many candidates are done, and how many there are.

    A candidate that fails, or for whose error ``explain`` has a reason, comes last with that. No
    candidate begins after the time budget, and no fold: those without scores come last, too. The
    first candidate is always tried.
    The order does not depend on which ends first: of equal means, the earlier candidate is first.

    Raises InvalidInput where no candidate has scores.
    """
    candidates, clock = search.candidates, search.clock
    deadline = clock() + search.training.time_budget

    def submit(number: int) -> Future[Scored]:
        seconds = deadline - clock() if number else math.inf
        return executor.submit(score_candidate, search.rows, candidates[number], seconds)

    scoring = _Scoring(submit, deque(range(len(candidates))), explain)
    try:
        while scoring.waiting or scoring.pending:
            scoring.begin(at_once)
            left = deadline - clock()
            scoring.take(seconds=left if left > 0 else None)
            if clock() >= deadline:
                scoring.stop()
            if report is not None:
                report(len(scoring.found), len(candidates))
    finally:
        for future in scoring.pending:
            future.cancel()
    return _rank(search, [scoring.found[number] for number in range(len(candidates))])


@dataclass
class _Scoring:
    """Candidates, by number: those that wait, those with the executor, and those that are done."""

    submit: Callable[[int], Future[Scored]]
    waiting: deque[int]
    explain: Callable[[BaseException], str | None]
    pending: dict[Future[Scored], int] = field(default_factory=dict)
    found: dict[int, Scored] = field(default_factory=dict)

    def begin(self, at_once: int) -> None:
        """Submit candidates until as many are pending."""
        while self.waiting and len(self.pending) < at_once:
            number = self.waiting.popleft()
            try:
                self.pending[self.submit(number)] = number
            except BaseException as error:
                self.found[number] = self.describe(error)

    def take(self, seconds: float | None) -> None:
        """Wait for a candidate to end, at most so long, and take what has ended."""
        for future in wait(self.pending, seconds, FIRST_COMPLETED).done:
            number = self.pending.pop(future)
            try:
                self.found[number] = future.result()
            except BaseException as error:
                self.found[number] = self.describe(error)

    def describe(self, error: BaseException) -> Scored:
        """Return why a candidate has no scores; raises what is a fault of ours, and not its."""
        reason = self.explain(error)
        if reason is None:
            raise error
        return without_scores(reason)

    def stop(self) -> None:
        """Begin no further candidate, and end those that can be ended, but for the first.

        A future of Dask never says that it is running.
        """
        while self.waiting:
            self.found[self.waiting.popleft()] = without_scores(NOT_TRIED)
        for future, number in list(self.pending.items()):
            running = future.running()
            if number and future.cancel():
                del self.pending[future]
                self.found[number] = without_scores(STOPPED if running else NOT_TRIED)


def score_candidate(rows: Rows, params: Params, seconds: float) -> Scored:
    """Return the scores of a candidate, or the reason why there are none, as JSON values.

    The work of an executor: it builds what ``training.train`` would fit. No fold begins after
    ``seconds``.
    """
    deadline = rows.clock() + seconds
    dataset = rows.dataset
    plan = make_plan(dataset, _choose(rows.training, params), rows.clock)
    X, y = as_input(dataset), dataset.y
    return score_on_folds(
        plan.build,
        *(X, y, split_into_folds(X, y, dataset.task, rows.cv, rows.training.random_state)),
        metric=rows.metric,
        deadline=deadline,
        clock=rows.clock,
    )


def _rank(search: Search, found: Sequence[Scored]) -> Ranking:
    from scipy.stats import rankdata

    candidates = search.candidates
    numbers = [number for number, scored in enumerate(found) if scored["scores"] is not None]
    if not numbers:
        reasons = "; ".join(list(dict.fromkeys(s["reason"] for s in found))[:NAMED_REASONS])
        raise InvalidInput({"estimator": [f"none of the candidates has scores: {reasons}"]})
    scores = np.array([found[number]["scores"] for number in numbers])
    with np.errstate(over="ignore", invalid="ignore"):
        means, spreads = scores.mean(axis=1), scores.std(axis=1)
    ranks = rankdata(means if search.metric in SMALLER_IS_BETTER else -means, method="min")
    ranked = [
        {
            "rank": int(ranks[place]),
            "params": candidates[numbers[place]],
            "mean": _finite_or_none(means[place]),
            "std": _finite_or_none(spreads[place]),
            **found[numbers[place]],
        }
        for place in np.argsort(ranks, kind="stable")
    ]
    others = [
        {"rank": None, "params": params, "mean": None, "std": None, **scored}
        for params, scored in zip(candidates, found, strict=True)
        if scored["scores"] is None
    ]
    best = _choose(search.training, ranked[0]["params"])
    return Ranking(search.metric, search.cv, (*ranked, *others), best)


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _choose(training: TrainingSpec, params: Params) -> TrainingSpec:
    """Return how to train with the parameters of a candidate."""
    return replace(training, params={**training.params, **params})


def _encode_target(rows: Dataset) -> Dataset:
    """Return rows with whole numbers for labels, in the same order, which are faster to score."""
    if rows.task == "regression":
        return rows
    labels = cast(Labels, rows.y)
    return replace(rows, y=encode_labels(labels, sorted(set(labels.tolist()))))


def _check_folds(cv: int, n_rows: int, task: str) -> None:
    if not 2 <= cv <= MOST_FOLDS:
        raise InvalidInput({"cv": [f"must be 2 to {MOST_FOLDS} folds"]})
    if cv * (2 if task == "regression" else 1) > n_rows:  # R² of a single row is undefined
        raise InvalidInput({"cv": [f"makes folds too small of {n_rows} rows"]})


def list_candidates(entry: Estimator, spec: SearchSpec) -> tuple[Params, ...]:
    """Return what ParameterGrid or ParameterSampler make of a search: parameters by candidate.

    Raises InvalidInput, by place, for what the catalogue does not allow, and for too many.
    """
    if spec.grid is None and spec.distributions is None:
        raise InvalidInput({"grid": ["must be given, or else distributions"]})
    if spec.grid is not None and spec.distributions is not None:
        raise InvalidInput({"distributions": ["must not be given beside grid"]})
    fixed = {name: find_faults(entry, name, value) for name, value in spec.training.params.items()}
    if any(fixed.values()):
        raise InvalidInput({"params": {name: found for name, found in fixed.items() if found}})
    if spec.grid is not None:
        with faults_in("grid"):
            found = _list_grid(_read_spaces(entry, spec.grid, fixed, read=_read_values))
    else:
        with faults_in("distributions"):
            spaces = _read_spaces(entry, spec.distributions, fixed, read=_read_choices)
        found = _draw(spaces, spec.iterations, spec.training.random_state)
    place = "distributions" if spec.grid is None else "grid"
    return tuple(_check_candidate(entry, spec.training.params, params, place) for params in found)


def _list_grid(spaces: Sequence[Mapping[str, Sequence[Any]]]) -> list[dict[str, Any]]:
    from sklearn.model_selection import ParameterGrid

    count = _count_combinations(spaces)
    if count > MOST_CANDIDATES:
        raise InvalidInput([f"makes {count} candidates, at most {MOST_CANDIDATES} are allowed"])
    return list(ParameterGrid(spaces))


def _draw(
    spaces: Sequence[Mapping[str, Any]], iterations: int, random_state: int
) -> list[dict[str, Any]]:
    from sklearn.model_selection import ParameterSampler

    if not 1 <= iterations <= MOST_CANDIDATES:
        raise InvalidInput({"iterations": [f"must be 1 to {MOST_CANDIDATES}"]})
    if all(isinstance(values, list) for space in spaces for values in space.values()):
        count = _count_combinations(spaces)
        if count > sys.maxsize:
            raise InvalidInput({"distributions": ["has more combinations than can be drawn from"]})
        iterations = min(iterations, count)  # each is drawn once
    drawn = ParameterSampler(spaces, iterations, random_state=random_state)
    return [{name: to_json(value) for name, value in params.items()} for params in drawn]


def _count_combinations(spaces: Sequence[Mapping[str, Sequence[Any]]]) -> int:
    return sum(math.prod(map(len, space.values())) for space in spaces)


def _check_candidate(entry: Estimator, fixed: Params, params: Params, place: str) -> Params:
    """Return the parameters of a candidate; raises InvalidInput where they do not go together."""
    try:
        resolve_params(entry, {**fixed, **params})
    except InvalidInput as error:
        faults = cast(Mapping[str, Mapping[str, Sequence[str]]], error.faults)["params"]
        shown = json.dumps(params)
        where = {name: [f"{found[0]}; it is not so in {shown}"] for name, found in faults.items()}
        raise InvalidInput({place: where}) from None
    return params


Read: TypeAlias = Callable[[Estimator, str, Any], Any]


def _read_spaces(
    entry: Estimator, given: Any, fixed: Mapping[str, Any], *, read: Read
) -> list[dict[str, Any]]:
    if isinstance(given, Mapping):
        return [_read_space(entry, given, fixed, read)]
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= MOST_VALUES:
        raise InvalidInput([f"must be an object, or a list of 1 to {MOST_VALUES} objects"])
    spaces = []
    for number, space in enumerate(given):
        with faults_in(str(number)):
            spaces.append(_read_space(entry, space, fixed, read))
    return spaces


def _read_space(
    entry: Estimator, given: Any, fixed: Mapping[str, Any], read: Read
) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not given:
        raise InvalidInput(["must be an object of one parameter or more"])
    names = {parameter.name for parameter in entry.parameters}
    space = {}
    for name, values in given.items():
        with faults_in(name):
            if name not in names:
                raise InvalidInput(find_faults(entry, name, None))
            if name in fixed:
                raise InvalidInput(["is in params, too"])
            space[name] = read(entry, name, values)
    return space


def _read_values(entry: Estimator, name: str, given: Any) -> list[Any]:
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= MOST_VALUES:
        raise InvalidInput([f"must be a list of 1 to {MOST_VALUES} values"])
    found = {str(place): find_faults(entry, name, value) for place, value in enumerate(given)}
    if any(found.values()):
        raise InvalidInput({place: faults for place, faults in found.items() if faults})
    return list(given)


def _read_choices(entry: Estimator, name: str, given: Any) -> Any:
    """Return a list of values, or the distribution of a range."""
    if not isinstance(given, Mapping):
        return _read_values(entry, name, given)
    for key in given:
        if key not in RANGE_KEYS:
            raise InvalidInput({str(key): [f"is none of {', '.join(RANGE_KEYS)}"]})
    flags = {key: given.get(key, False) for key in ("log", "integer")}
    for key, value in flags.items():
        if type(value) is not bool:
            raise InvalidInput({key: ["must be a boolean"]})
    kinds = {parameter.name: parameter.type for parameter in entry.parameters}
    whole = flags["integer"] or kinds[name] == "integer"
    for key in ("low", "high"):
        value = given.get(key)
        if type(value) not in (int, float) or (whole and type(value) is not int):
            raise InvalidInput({key: [f"must be {'an integer' if whole else 'a number'}"]})
        if faults := find_faults(entry, name, value):
            raise InvalidInput({key: faults})
    low, high = given["low"], given["high"]
    if low >= high:
        raise InvalidInput({"high": ["must be above low"]})
    if flags["log"] and low <= 0:
        raise InvalidInput({"low": ["must be above 0 where log is true"]})
    return _make_distribution(low, high, log=flags["log"], whole=whole)


def _make_distribution(low: float, high: float, *, log: bool, whole: bool) -> Any:
    from scipy import stats

    if whole:
        return (
            _WholeNumbers(stats.loguniform(low, high + 1)) if log else stats.randint(low, high + 1)
        )
    return stats.loguniform(low, high) if log else stats.uniform(low, high - low)


@dataclass(frozen=True)
class _WholeNumbers:
    """The distribution of what another one draws, rounded down."""

    numbers: Any

    def rvs(self, random_state: Any) -> int:
        """Return one number."""
        return int(self.numbers.rvs(random_state=random_state))
