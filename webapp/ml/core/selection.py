"""Which estimator suits a table: a few candidates, cross-validated within a time budget."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.metrics import SMALLER_IS_BETTER, make_scorer
from webapp.ml.core.signature import Task

CANDIDATES: dict[Task, tuple[str, ...]] = {
    "regression": (
        "ridge",
        "hist_gradient_boosting",
        "extra_trees",
        "random_forest",
        "gradient_boosting",
    ),
    "classification": (
        "logistic_regression",
        "hist_gradient_boosting_classifier",
        "extra_trees_classifier",
        "random_forest_classifier",
        "gradient_boosting_classifier",
    ),
}
"""What is tried for each task, with the default parameters, from the cheapest on."""

LONGEST_REASON = 200  # characters of scikit-learn's own message that are passed on
BUDGET_USED_UP = "the time budget was used up"
NOT_TRIED = f"not tried: {BUDGET_USED_UP}"

Scored: TypeAlias = dict[str, Any]
"""scores by fold (None: there are none), the seconds they took, and the reason for no scores."""

Ranked: TypeAlias = dict[str, Any]
"""A candidate: estimator, metric, mean and std over folds, seconds, and the reason for no mean."""


def rank_candidates(
    build: Callable[[str], Any],
    X: Any,
    y: Any,
    *,
    task: Task,
    seconds: float,
    clock: Callable[[], float],
    folds: int = 3,
    random_state: int = 42,
) -> list[Ranked]:
    """Return all candidates for a task, best first: by R² or accuracy, the mean over folds.

    ``build`` returns the unfitted estimator, or pipeline, of a name in the catalogue; it should
    standardise the features of the linear ones. X: (n_rows, n_features), an array or a data
    frame; y: (n_rows,). Folds are shuffled, and
    stratified where each class has a row for each fold.

    No fit begins after ``seconds``, but for one candidate, which is always fitted on all folds.
    Those that were not, or that failed, come last: their mean is None, and ``reason`` says why.

    Raises InvalidInput where there are too few rows, or no candidate can be fitted.
    """
    n_rows = len(y)
    # R² needs two rows to judge.
    fewest = folds * (2 if task == "regression" else 1)
    if n_rows < fewest:
        message = f"needs at least {fewest} rows to compare estimators, and there are {n_rows}"
        raise InvalidInput({"estimator": [f'"auto" {message}']})
    metric = "r2_score" if task == "regression" else "accuracy"
    splits = split_into_folds(X, y, task, folds, random_state)
    started = clock()
    scored: list[Ranked] = []
    others: list[Ranked] = []
    for name in CANDIDATES[task]:
        deadline = started + seconds if scored else float("inf")
        make = partial(build, name)
        found = score_on_folds(make, X, y, splits, metric=metric, deadline=deadline, clock=clock)
        ranked = _describe(name, metric, found)
        (others if ranked["mean"] is None else scored).append(ranked)
    if not scored:
        reasons = "; ".join(f"{ranked['estimator']}: {ranked['reason']}" for ranked in others)
        raise InvalidInput({"estimator": [f'"auto" finds none that can be fitted: {reasons}']})
    scored.sort(key=lambda ranked: ranked["mean"], reverse=True)  # stable: the cheaper first
    return scored + others


def split_into_folds(X: Any, y: Any, task: Task, folds: int, random_state: int) -> list[Any]:
    """Return pairs of rows to fit and rows to score on, as positions.

    Shuffled, and stratified where each class has a row for each fold.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    stratified = task == "classification" and np.unique(y, return_counts=True)[1].min() >= folds
    kind = StratifiedKFold if stratified else KFold
    return list(kind(folds, shuffle=True, random_state=random_state).split(X, y))


def score_on_folds(
    build: Callable[[], Any],
    X: Any,
    y: Any,
    splits: list[Any],
    *,
    metric: str,
    deadline: float,
    clock: Callable[[], float],
) -> Scored:
    """Return the scores of what ``build`` returns on all folds, or why there are none.

    No fit begins after the ``deadline``, which the ``clock`` tells.
    """
    from sklearn.model_selection import cross_val_score

    scorer, sign = make_scorer(metric), -1 if metric in SMALLER_IS_BETTER else 1
    started, scores = clock(), []
    try:
        for done, split in enumerate(splits):
            if clock() >= deadline:
                stopped = f"stopped after {done} of {len(splits)} folds: {BUDGET_USED_UP}"
                return without_scores(stopped if done else NOT_TRIED)
            with np.errstate(all="ignore"):
                found = cross_val_score(
                    build(), X, y, cv=[split], scoring=scorer, error_score="raise"
                )
            scores += (sign * found).tolist()
    except TypeError:  # QuantileRegressor reads a solution that there is not
        return without_scores("cannot be fitted: the solver finds no solution")
    except (ValueError, np.linalg.LinAlgError) as error:
        reason = next(iter(str(error).splitlines()), "")[:LONGEST_REASON]
        return without_scores(f"cannot be fitted: {reason}")
    except MemoryError:
        return without_scores("needs more memory than there is")
    if not np.isfinite(scores).all():
        return without_scores(f"its {metric} is not finite")
    return {"scores": scores, "seconds": clock() - started, "reason": None}


def without_scores(reason: str) -> Scored:
    """Return why there are no scores."""
    return {"scores": None, "seconds": None, "reason": reason}


def _describe(name: str, metric: str, scored: Scored) -> Ranked:
    scores = scored["scores"]
    return {
        "estimator": name,
        "metric": metric,
        "mean": None if scores is None else float(np.mean(scores)),
        "std": None if scores is None else float(np.std(scores)),
        "seconds": scored["seconds"],
        "reason": scored["reason"],
    }
