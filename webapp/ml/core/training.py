"""Fitting and evaluating a model: Dataset + TrainingSpec → TrainedModel."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core import progress
from webapp.ml.core.datasets import Dataset, DataWarning, Labels, Matrix, Subset, Vector
from webapp.ml.core.estimators import (
    CATALOGUE,
    DEFAULT_ESTIMATOR,
    Estimator,
    build_estimator,
    check_range,
    is_classifier,
    resolve_params,
    split_pipeline,
)
from webapp.ml.core.explaining import ModelExplainer
from webapp.ml.core.importances import permute_columns, read_importances
from webapp.ml.core.learning import find_doubts
from webapp.ml.core.least_squares import (
    IntervalBasis,
    Mask,
    fit_least_squares,
    make_interval_basis,
)
from webapp.ml.core.metrics import (
    digest_dataset,
    encode_labels,
    measure_scores,
    profile_columns,
    profile_features,
)
from webapp.ml.core.pipelines import describe_linear, make_typed_scorer
from webapp.ml.core.plots import Judged
from webapp.ml.core.preprocessing import build_pipeline, is_typed, make_frame
from webapp.ml.core.progress import Report, tell_nobody
from webapp.ml.core.scoring import Scorer, Scores, compile_scorer, find_linear_functions
from webapp.ml.core.selection import Ranked, rank_candidates
from webapp.ml.core.signature import Signature, matrix_signature

FEWEST_ROWS_TO_SPLIT = 10
FEWEST_ROWS_TO_JUDGE = 2  # R² of a single row is undefined
MOST_FOLDS = 20
AUTO = "auto"
DEFAULT_ESTIMATORS = {"regression": DEFAULT_ESTIMATOR, "classification": "logistic_regression"}
MOST_CLASSES = 1000  # each is a column of every answer
MOST_COEFFICIENTS = 1000  # with their names up to 1 MB, in every answer that shows a version
MOST_MEANS = 100_000  # columns times classes: 2 MB of JSON
NAMED_CLASSES = 3  # in a warning
# What permutations may take: whichever is longer, seconds, or a share of the training before.
LEAST_SECONDS, SHARE_OF_SECONDS = 1.0, 0.1
LONGEST_REASON = 200  # characters of scikit-learn's own message that are passed on


@dataclass(frozen=True)
class TrainingSpec:
    """How to train: estimator and parameters, the share of rows held out, and the seed.

    Without an ``estimator``, the target's task decides.

    ``refit`` fits the served model on all rows once the hold-out has judged it; ``scale``
    standardises the numbers first, None where the estimator needs it; ``cv`` is the number of
    folds of a cross-validation, or 0; ``stratify`` holds out each class in its share.
    The estimator "auto" is the best of some that are tried within ``time_budget`` seconds; a
    search of parameters (``search``) has it, too.
    """

    estimator: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    test_size: float = 0.2
    random_state: int = 42
    refit: bool = False
    scale: bool | None = None
    cv: int = 0
    stratify: bool = True
    time_budget: float = 60.0


@dataclass(frozen=True)
class TrainedModel:
    """A fitted estimator, its name in the catalogue, and what is known of it.

    ``metrics`` were measured on the rows that ``evaluated_on`` names. ``classes`` is None for a
    regression. ``profile`` describes the rows that were fitted, and ``data_digest`` all that were
    given. ``converged`` is None where no iterative solver with a ``max_iter`` was at work.
    ``warnings`` are of the split and of the folds. ``held_out`` are the rows that it was judged
    on, None where these are those that were fitted. ``mean_contributions`` are what the columns
    of a table with kinds add to a linear model on average: (n_columns, n_functions).
    """

    estimator: Any
    estimator_name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    evaluated_on: str
    n_train: int
    n_test: int
    fit_seconds: float
    classes: tuple[Any, ...] | None
    importances: Mapping[str, Any] | None
    profile: Mapping[str, Any]
    data_digest: str
    judged: Judged
    signature: Signature
    coefficients: Mapping[str, Any] | None = None
    interval_basis: IntervalBasis | None = None
    converged: bool | None = None
    scale: bool = False
    warnings: tuple[DataWarning, ...] = ()
    held_out: Subset | None = None
    mean_contributions: Matrix | None = None


@dataclass(frozen=True)
class Plan:
    """What all fits of a training have in common: see `make_plan`."""

    entry: Estimator
    params: Mapping[str, Any]
    spec: TrainingSpec
    clock: Callable[[], float]
    signature: Signature | None

    def build(self) -> Any:
        """Return the estimator unfitted, with what prepares the rows for it."""
        seed, scale = self.spec.random_state, self.spec.scale
        if self.signature is None:
            return build_estimator(self.entry, self.params, random_state=seed, scale=bool(scale))
        final = build_estimator(self.entry, self.params, random_state=seed, scale=False)
        return build_pipeline(
            self.entry, final, self.signature, scale=bool(scale), random_state=seed
        )


def train(
    dataset: Dataset,
    spec: TrainingSpec,
    *,
    clock: Callable[[], float],
    report: Report = tell_nobody,
) -> TrainedModel:
    """Fit an estimator, and evaluate it on rows that it has not seen.

    With fewer than 10 rows, or a hold-out of one, it is fitted and evaluated on all rows, and
    ``evaluated_on`` says so. The split is that of scikit-learn's ``train_test_split``.
    ``clock`` tells seconds; those of the fit that made the returned estimator are kept.
    ``report`` is told how far it is: candidates of "auto", then trees or iterations, then folds,
    and with ``refit`` trees or iterations again.

    Raises InvalidInput where the rows cannot be fitted as asked.
    """
    started, candidates = clock(), None
    if spec.estimator == AUTO:
        spec, candidates = _choose_best(dataset, spec, clock, report)
    plan = make_plan(dataset, spec, clock)
    entry, spec = plan.entry, plan.spec
    count_classes(dataset, entry)
    fitted_rows, test_rows, doubts = hold_out(dataset, spec)
    doubts = (*find_doubts(dataset), *doubts)
    # Hashed meanwhile, by another core: 42 of the 260 ms of a training on 1,000,000 × 10.
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(digest_dataset, dataset)
        fit = judged_fit = _fit(plan, fitted_rows, report)
        metrics, judged = _measure(fit, test_rows or fitted_rows, fitted_rows)
        if spec.cv:
            metrics["cross_validation"], further = _cross_validate(plan, dataset, report)
            doubts += further
        if candidates is not None:
            metrics["candidates"] = candidates
        if test_rows is not None and spec.refit:
            fit = _fit(plan, Subset(dataset), report)
    signature = dataset.signature or matrix_signature(
        dataset.feature_names, entry.task, dataset.target
    )
    estimator = fit.estimator
    importances = read_importances(estimator, signature)
    if importances is None and test_rows is not None:
        importances = permute_columns(
            judged_fit.estimator,
            judged_fit.scorer,
            test_rows,
            signature,
            random_state=spec.random_state,
            clock=clock,
            seconds=max(LEAST_SECONDS, SHARE_OF_SECONDS * (clock() - started)),
        )
    return TrainedModel(
        estimator=estimator,
        estimator_name=entry.name,
        params=plan.params,
        metrics=metrics,
        evaluated_on="training" if test_rows is None else "hold-out",
        n_train=len(fitted_rows),
        n_test=0 if test_rows is None else len(test_rows),
        fit_seconds=fit.seconds,
        classes=list_classes(estimator),
        coefficients=describe_coefficients(estimator, signature),
        importances=importances,
        profile=fit.profile,
        data_digest=digest.result(),
        interval_basis=fit.basis,
        judged=judged,
        converged=_has_converged(estimator, plan.params),
        signature=signature.with_ranges(fit.profile),
        scale=bool(spec.scale),
        warnings=doubts,
        held_out=test_rows,
        mean_contributions=fit.means,
    )


def make_plan(dataset: Dataset, spec: TrainingSpec, clock: Callable[[], float]) -> Plan:
    """Return how to fit an estimator of the catalogue to a dataset.

    Raises InvalidInput for parameters that it does not take, and rows that it cannot be fitted to.
    """
    entry = CATALOGUE[spec.estimator or DEFAULT_ESTIMATORS[dataset.task]]
    check_range(entry, dataset.X)
    if spec.scale is None:
        # With kinds, numbers stand beside categories of 0 and 1. And who names no estimator wants
        # classes that are told apart: unscaled, the airports' states are 0.23 right, and not 0.52.
        chosen = spec.estimator is None and dataset.task == "classification"
        scaled = entry.scaled or (entry.is_linear and (dataset.signature is not None or chosen))
        spec = replace(spec, scale=scaled)
    return Plan(entry, resolve_params(entry, spec.params), spec, clock, dataset.signature)


def count_classes(dataset: Dataset, entry: Estimator) -> int:
    """Return how many classes a target has, 1 for a regression.

    Raises InvalidInput for more than ``MOST_CLASSES``.
    """
    n_classes = 1 if entry.task == "regression" else len(set(dataset.y.tolist()))
    if n_classes > MOST_CLASSES:
        raise InvalidInput(
            {dataset.target: [f"has {n_classes} classes, at most {MOST_CLASSES} are allowed"]}
        )
    return n_classes


def _choose_best(
    dataset: Dataset, spec: TrainingSpec, clock: Callable[[], float], report: Report
) -> tuple[TrainingSpec, list[Ranked]]:
    """Return how to train the best of some candidates, judged on the rows to fit, and all."""
    fitted, signature = hold_out(dataset, spec)[0].take(), dataset.signature

    def describe(name: str) -> TrainingSpec:
        scaled = CATALOGUE[name].is_linear or CATALOGUE[name].scaled
        return replace(spec, estimator=name, scale=scaled if spec.scale is None else spec.scale)

    def build(name: str) -> Any:
        entry = CATALOGUE[name]
        params = resolve_params(entry, {})
        return Plan(entry, params, describe(name), clock, signature).build()

    candidates = rank_candidates(
        build,
        as_input(fitted),
        fitted.y,
        task=dataset.task,
        seconds=spec.time_budget,
        clock=clock,
        random_state=spec.random_state,
        report=report,
    )
    return describe(candidates[0]["estimator"]), candidates


def list_classes(estimator: Any) -> tuple[Any, ...] | None:
    """Return the labels that a classifier predicts, in its order; None for a regressor."""
    return tuple(estimator.classes_.tolist()) if is_classifier(estimator) else None


def describe_coefficients(estimator: Any, signature: Signature) -> dict[str, Any] | None:
    """Return a linear model's intercept and coefficient by feature name; a classifier's by class.

    They are those of `list_coefficients`. None for another model, and for more than
    ``MOST_COEFFICIENTS``.
    """
    found = list_coefficients(estimator, signature)
    if found is None or found[1].size > MOST_COEFFICIENTS:
        return None
    names, coefficients, intercepts = found
    described = [
        {"intercept": intercept, "coefficients": dict(zip(names, row, strict=True))}
        for row, intercept in zip(coefficients.tolist(), intercepts.tolist(), strict=True)
    ]
    classes = list_classes(estimator)
    if classes is None:
        return described[0]
    labels = map(str, classes[1:] if len(classes) == 2 else classes)
    return {"classes": dict(zip(labels, described, strict=True))}


def list_coefficients(
    estimator: Any, signature: Signature
) -> tuple[Sequence[str], Matrix, Vector] | None:
    """Return names, coefficients and intercepts of a linear model; None for another.

    (n_functions, n_names) and (n_functions,), in units of the unscaled features; the names are
    those of the features, or of their values (``pipelines.describe_linear``).
    """
    if is_typed(estimator):
        return describe_linear(estimator, signature)
    functions = find_linear_functions(estimator)
    return None if functions is None else (signature.names, *functions)


def count_held_out(n_rows: int, test_size: float) -> int:
    """Return how many of the rows are held out."""
    n_test = math.ceil(test_size * n_rows)
    return 0 if n_rows < FEWEST_ROWS_TO_SPLIT or n_test < FEWEST_ROWS_TO_JUDGE else n_test


def hold_out(
    dataset: Dataset, spec: TrainingSpec
) -> tuple[Subset, Subset | None, tuple[DataWarning, ...]]:
    """Return rows to fit and rows to evaluate on, None of these where none are held out.

    A warning comes with them where they should be stratified and cannot be.
    """
    n_rows = len(dataset.y)
    n_test = count_held_out(n_rows, spec.test_size)
    if not n_test:
        return Subset(dataset), None, ()
    if n_test == n_rows:
        raise InvalidInput({"test_size": [f"leaves none of {n_rows} rows to fit"]})
    doubts: tuple[DataWarning, ...] = ()
    if spec.stratify and dataset.task == "classification":
        counts = Counter(dataset.y.tolist())
        doubts = _find_obstacles(dataset, counts, n_rows - n_test, n_test)
        if not doubts:
            from sklearn.model_selection import train_test_split

            fitted, drawn = train_test_split(
                np.arange(n_rows),
                test_size=n_test,
                random_state=spec.random_state,
                # Codes sort faster than strings, in the same order.
                stratify=encode_labels(cast(Labels, dataset.y), sorted(counts)),
            )
            return Subset(dataset, fitted), Subset(dataset, drawn), ()
    # As train_test_split draws them, whose import takes as long as training on many rows.
    drawn = np.random.RandomState(spec.random_state).permutation(n_rows)
    return Subset(dataset, drawn[n_test:]), Subset(dataset, drawn[:n_test]), doubts


def _find_obstacles(
    dataset: Dataset, counts: Mapping[Any, int], n_fitted: int, n_test: int
) -> tuple[DataWarning, ...]:
    """Return a warning if rows with these counts by class cannot be stratified, else none."""
    effect = "the hold-out is not stratified"
    if len(counts) > min(n_fitted, n_test):
        sides = f"{n_fitted} rows to fit and {n_test} held out"
        return (DataWarning(dataset.target, f"has {len(counts)} classes for {sides}: {effect}"),)
    return _warn_of_rare_classes(dataset, counts, 2, effect)


def _warn_of_rare_classes(
    dataset: Dataset, counts: Mapping[Any, int], fewest: int, effect: str
) -> tuple[DataWarning, ...]:
    """Return a warning if a class has fewer rows than ``fewest``, else none."""
    rare = sorted(label for label, count in counts.items() if count < fewest)
    if not rare:
        return ()
    named = ", ".join(map(repr, rare[:NAMED_CLASSES]))
    more = ", …" if len(rare) > NAMED_CLASSES else ""
    message = f"has fewer than {fewest} rows of class {named}{more}: {effect}"
    return (DataWarning(dataset.target, message),)


@dataclass(frozen=True)
class _Fit:
    """A fitted estimator, its scorer, the seconds that it took, and what its rows were like."""

    estimator: Any
    scorer: Scorer
    seconds: float
    profile: dict[str, Any]
    basis: IntervalBasis | None
    means: Matrix | None


def _fit(plan: Plan, rows: Subset, report: Report = tell_nobody) -> _Fit:
    least_squares = (
        plan.signature is None
        and plan.entry.name == DEFAULT_ESTIMATOR
        and not plan.params["positive"]
    )
    # Least squares copies no rows: it takes those of a mask, whose order does not matter.
    masked = least_squares and not plan.spec.scale
    dataset, mask = (rows.dataset, rows.mask()) if masked else (rows.take(), None)
    if plan.entry.task == "classification" and len(set(dataset.y.tolist())) < 2:
        raise InvalidInput({dataset.target: ["has one class only among the rows to fit"]})
    estimator = plan.build()  # imports, which are no part of the fit's time
    basis = None
    started = plan.clock()
    with _faults_as("X", "cannot be fitted: {reason}"):
        if least_squares:
            basis = _fit_least_squares(estimator, dataset, mask)
        else:
            progress.fit(estimator, as_input(dataset), dataset.y, report)
        scorer = _make_scorer(estimator, dataset.signature)
        scores = _score(scorer, dataset.take_first())
    seconds = plan.clock() - started
    if not np.isfinite(scores.numbers).all():
        raise InvalidInput({"X": ["holds values too large or too small to fit"]})
    if dataset.signature is None:
        profile, means = profile_features(dataset.X, mask), None
    else:
        profile, means = profile_columns(dataset.signature, dataset.X), None
        if plan.entry.is_linear:
            means = _find_mean_contributions(estimator, dataset.signature, dataset)
    return _Fit(estimator, scorer, seconds, profile, basis, means)


def _find_mean_contributions(estimator: Any, signature: Signature, rows: Dataset) -> Matrix | None:
    to_rows = partial(make_frame, signature)
    means = ModelExplainer(estimator, signature, to_rows).find_means(rows.X, rows.texts)
    return means if means is not None and means.size <= MOST_MEANS else None


def as_input(rows: Dataset) -> Any:
    """Return what scikit-learn fits: a matrix, or a data frame of columns with kinds."""
    return rows.X if rows.signature is None else make_frame(rows.signature, rows.X, rows.texts)


def _make_scorer(estimator: Any, signature: Signature | None) -> Scorer:
    if signature is None:
        return compile_scorer(estimator)
    return make_typed_scorer(estimator, signature)


def _score(scorer: Scorer, rows: Dataset) -> Scores:
    return scorer(rows.X) if rows.texts is None else scorer(rows.X, rows.texts)


def _fit_least_squares(unfitted: Any, rows: Dataset, mask: Mask | None) -> IntervalBasis | None:
    """Fit a LinearRegression, scaled or not, to what its own ``fit`` finds; return the basis."""
    scaler, linear = split_pipeline(unfitted)
    X, y = rows.X if scaler is None else scaler.fit_transform(rows.X), cast(Vector, rows.y)
    found = fit_least_squares(
        X, y, mask=mask, fit_intercept=linear.fit_intercept, rcond=linear.tol
    )
    linear.n_features_in_ = X.shape[1]
    linear.coef_, linear.intercept_ = found.coefficients, found.intercept
    linear.rank_, linear.singular_ = found.rank, found.singular
    if scaler is not None:  # x − mean is the scaled row times the scale
        found = replace(found, factor=found.factor * scaler.scale_, center=scaler.mean_)
    return make_interval_basis(found, fit_intercept=linear.fit_intercept)


@contextmanager
def _faults_as(place: str, message: str) -> Iterator[None]:
    """Turn what scikit-learn raises for the rows into InvalidInput; ``{reason}`` is its message.

    Finite rows can still overflow on the way (1e308 squared); scikit-learn then raises, or
    returns what is no number. It raises, too, where rows and parameters do not go together, such
    as a Poisson loss and negative y.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except TypeError:  # QuantileRegressor reads a solution that there is not
        reason = "the solver finds no solution"
        raise InvalidInput({place: [message.format(reason=reason)]}) from None
    except (ValueError, np.linalg.LinAlgError) as error:
        reason = next(iter(str(error).splitlines()), "")[:LONGEST_REASON]
        raise InvalidInput({place: [message.format(reason=reason)]}) from None


def _measure(fit: _Fit, rows: Subset, fitted: Subset) -> tuple[dict[str, Any], Judged]:
    """Return the metrics on rows, beside those of a baseline that knows the fitted y alone.

    And of the first of these rows what plots need.
    """
    held_out, all_y = rows.take(), fitted.dataset.y
    y, fitted_y = held_out.y, all_y if fitted.index is None else all_y.take(fitted.index)
    with _faults_as("X", "holds values too large to evaluate the model on"):
        scores = _score(fit.scorer, held_out)
    classes = list_classes(fit.estimator)
    judged = Judged.from_scores(y, scores, classes)
    return measure_scores(scores, y, classes, fitted_y), judged


def _cross_validate(
    plan: Plan, dataset: Dataset, report: Report
) -> tuple[dict[str, Any], tuple[DataWarning, ...]]:
    """Return a score per fold (R², or accuracy), their mean and spread; and warnings.

    The folds are those of scikit-learn's ``cross_val_score`` with ``cv`` as a number.
    """
    from sklearn.metrics import get_scorer
    from sklearn.model_selection import cross_val_score

    folds = plan.spec.cv
    metric = "r2" if plan.entry.task == "regression" else "accuracy"
    if folds * (2 if metric == "r2" else 1) > len(dataset.y):
        raise InvalidInput({"cv": [f"makes folds too small of {len(dataset.y)} rows"]})
    doubts: tuple[DataWarning, ...] = ()
    if metric == "accuracy":
        counts = Counter(dataset.y.tolist())
        effect = f"some of the {folds} folds have no such row"
        doubts = _warn_of_rare_classes(dataset, counts, folds, effect)
    scorer, done = get_scorer(metric), 0

    def score(estimator: Any, X: Any, y: Any) -> float:
        nonlocal done
        found: float = scorer(estimator, X, y)
        done += 1
        report(done, folds, "folds")
        return found

    report(done, folds, "folds")
    with (
        warnings.catch_warnings(),
        _faults_as("cv", "makes folds that cannot be fitted: {reason}"),
    ):
        # Of rare classes, which the warning above names.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        scores = cross_val_score(
            plan.build(),
            as_input(dataset),
            dataset.y,
            cv=folds,
            scoring=score,
            error_score="raise",
        )
    finite = bool(np.isfinite(scores).all())
    found = {
        "folds": folds,
        "metric": "r2_score" if metric == "r2" else metric,
        "scores": [value if math.isfinite(value) else None for value in scores.tolist()],
        "mean": float(scores.mean()) if finite else None,
        "std": float(scores.std()) if finite else None,
    }
    return found, doubts


def _has_converged(estimator: Any, params: Mapping[str, Any]) -> bool | None:
    final = split_pipeline(estimator)[1]
    steps, most_steps = getattr(final, "n_iter_", None), params.get("max_iter")
    # Only a linear model's solver can stop short: boosting has as many trees as were asked for.
    if steps is None or most_steps is None or not hasattr(final, "coef_"):
        return None
    return bool(np.max(steps) < most_steps)
