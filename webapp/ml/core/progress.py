"""Fit as ``estimator.fit`` does, and tell how many trees or iterations are done."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

from webapp.ml.core.estimators import split_pipeline

Report: TypeAlias = Callable[[int, int | None, str], object]
"""Is told how much is done, of how much in all (None: unknown), and of what."""

FORESTS, STAGES = "sklearn.ensemble._forest", "sklearn.ensemble._gb"
STEPS = 10  # in which a forest grows
# Values times trees of a forest that grows in one step, in half a second: a step takes 1 ms more.
QUICKLY_GROWN = 10_000_000


def tell_nobody(done: int, total: int | None, unit: str) -> None:
    """Report to nobody."""


def fit(estimator: Any, X: Any, y: Any, report: Report) -> None:
    """Fit an estimator or a pipeline to what its own ``fit`` makes of X and y.

    X: (n_rows, n_features), an array or a data frame; y: (n_rows,). A forest reports ``trees``,
    gradient boosting ``iterations``; others have no public means to tell how far they are.
    Raises what ``fit`` raises.
    """
    final = split_pipeline(estimator)[1]
    module = type(final).__module__  # not by isinstance: importing them takes a second
    if module not in (FORESTS, STAGES):
        estimator.fit(X, y)
        return
    if final is not estimator:
        X = estimator[:-1].fit_transform(X, y)  # the steps of the pipeline itself
    if module == FORESTS:
        _grow(final, X, y, report)
    else:
        final.fit(X, y, monitor=_make_monitor(final.n_estimators, report))


def _make_monitor(total: int, report: Report) -> Callable[[int, Any, Any], bool]:
    """Return what gradient boosting calls after each iteration; True would stop it."""
    report(0, total, "iterations")

    def monitor(iteration: int, _estimator: Any, _variables: Any) -> bool:
        report(iteration + 1, total, "iterations")
        return False

    return monitor


def _grow(forest: Any, X: Any, y: Any, report: Report) -> None:
    """Fit a forest a tenth of its trees at a time: with a seed, the trees of a single ``fit``."""
    total = forest.n_estimators
    is_quick = total * X.shape[0] * X.shape[1] <= QUICKLY_GROWN
    steps = 1 if is_quick else min(STEPS, total)
    report(0, total, "trees")
    with warnings.catch_warnings():
        # That class weights should be those of all rows: each step has all of them.
        warnings.filterwarnings("ignore", "class_weight presets", UserWarning)
        for step in range(1, steps + 1):
            forest.set_params(n_estimators=total * step // steps, warm_start=steps > 1)
            forest.fit(X, y)
            report(forest.n_estimators, total, "trees")
    forest.set_params(warm_start=False)
