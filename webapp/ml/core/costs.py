"""What a fit takes, estimated before it begins, with factors measured with scikit-learn 1.9.

Memory is an upper bound of all that a training holds beyond the rows it is given: rows split and
scaled, the solver's own, the evaluation, the model, and its artifact in the making. Seconds are
those of the longest single call into compiled code, which a time limit cannot interrupt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

FLOAT = 8  # bytes
BASE = 40e6  # bytes: workspaces, and the artifact of the smallest model
NODE = 64  # bytes of a node of a forest, and FLOAT more for each class
MODEL_COPIES = 3.5  # of the trees: the model, arrays to score with, and the artifact
FOREST_TREE = 150e3  # bytes of a tree in the description that its artifact is made from
BOOSTED_TREE = 60e3
HISTOGRAM_BIN = 20  # bytes
BOOSTED_NODE = 64
KERNEL_CACHE = 200e6  # bytes at most, scikit-learn's default
EARLY_STOPPING_ROWS = 10_000  # from there on, "auto" holds rows out


@dataclass(frozen=True)
class FitLimits:
    """What a training may take: bytes of memory, and seconds."""

    memory: float = 2048e6
    seconds: float = 600.0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> FitLimits:
        """Return the limits of the settings MAX_FIT_MEMORY (in MB) and MAX_FIT_SECONDS."""
        return cls(settings["MAX_FIT_MEMORY"] * 1e6, settings["MAX_FIT_SECONDS"])


@dataclass(frozen=True)
class Size:
    """The size of a training: rows to fit and to evaluate on, columns, and classes.

    ``classes`` is 1 for a regression. ``leaves`` are those of a tree of a forest, where known.
    """

    rows: int
    judged: int
    columns: int
    classes: int
    scale: bool
    leaves: float | None = None

    @property
    def functions(self) -> int:
        """Return how many functions a classifier fits: of two classes, one does."""
        return 1 if self.classes <= 2 else self.classes


@dataclass(frozen=True)
class Cost:
    """What a fit takes: bytes of memory, and the seconds of its longest single call."""

    memory: float
    seconds: float


def _cost(
    size: Size,
    *,
    copies: float,
    by_row: float = 0,
    further: float = 0,
    model: float = 0,
    seconds: float = 0,
) -> Cost:
    """Add to what every training takes.

    ``copies``: of the rows, beside the split and the scaled ones; ``by_row``: numbers for each
    row; ``further``: bytes; ``model``: bytes of the trees.
    """
    matrix = float(FLOAT * size.rows * size.columns)
    rows = (1 + size.scale + copies) * matrix + FLOAT * by_row * size.rows
    evaluation = FLOAT * size.judged * (size.columns + 7 * size.classes)
    return Cost(BASE + rows + evaluation + further + MODEL_COPIES * model, seconds)


def least_squares_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a LinearRegression."""
    seconds = size.rows * size.columns**2 * 1e-9
    if params["positive"]:  # at most 3 steps for each column, each over all rows
        seconds *= 3
    # QR takes two copies, of rows that are conditioned badly; others are not copied.
    copies = 2 if params["positive"] or size.scale else 1
    return _cost(size, copies=copies, further=6 * FLOAT * size.columns**2, seconds=seconds)


def ridge_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a Ridge; equations that cannot be solved otherwise are left to an SVD."""
    solver = params["solver"]
    if solver in ("sag", "saga"):
        iterations = params["max_iter"] or 1000  # scikit-learn's own
        return _cost(size, copies=1, by_row=4, seconds=_sag_seconds(size, iterations))
    if solver == "lsqr" or params["positive"]:
        return _cost(size, copies=1.5, by_row=4)
    smaller = min(size.rows, size.columns)
    seconds = size.rows * size.columns * smaller * 1e-9
    return _cost(size, copies=3.5, further=4 * FLOAT * smaller**2, seconds=seconds)


def coordinate_descent_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a Lasso or ElasticNet: all iterations are one call."""
    seconds = params["max_iter"] * size.rows * size.columns * 2e-9
    return _cost(size, copies=1, by_row=4, seconds=seconds)


def logistic_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a LogisticRegression or a PoissonRegressor."""
    solver, n_functions = params["solver"], size.functions
    if solver in ("sag", "saga"):
        seconds = _sag_seconds(size, params["max_iter"])
        return _cost(size, copies=0.5, by_row=3 * n_functions + 4, seconds=seconds)
    if solver == "newton-cholesky":
        side = n_functions * (size.columns + 1)  # of the matrix of second derivatives
        hessian = FLOAT * side**2
        step = (size.rows + side) * side**2 * 5e-11
        by_row = 5 * n_functions + 4
        return _cost(size, copies=1, by_row=by_row, further=3.5 * hessian, seconds=step)
    numbers = 3 if solver == "lbfgs" else 5
    return _cost(size, copies=0.5, by_row=numbers * n_functions + 4)


def forest_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a forest, whose trees are grown one by one."""
    drawn = size.rows * (params["max_samples"] or 1.0)
    # Of as many rows drawn with repetition, some are drawn twice: 63 % are distinct.
    distinct = 1.02 * size.rows * -math.expm1(-drawn / size.rows) + 10
    leaves = size.leaves or min(
        (distinct if params["bootstrap"] else size.rows) / params["min_samples_leaf"],
        params["max_leaf_nodes"] or math.inf,
        2.0 ** (params["max_depth"] or 64),
    )
    tree = 2 * leaves * (NODE + FLOAT * size.classes)
    n_trees = params["n_estimators"]
    compared = size.rows * math.log2(size.rows + 1) * size.columns * (1 + size.classes / 15)
    slower = 5 if params["criterion"] == "absolute_error" else 1
    return _cost(
        size,
        copies=1,
        by_row=2 * size.classes + 8,
        further=FOREST_TREE * n_trees,
        model=tree * n_trees,
        seconds=compared * slower * 1e-7,
    )


def tree_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a single decision tree."""
    return forest_cost({**params, "n_estimators": 1, "bootstrap": False, "max_samples": 0}, size)


def stages_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of gradient boosting on exact thresholds: its trees are grown one by one."""
    levels = min(params["max_depth"] or 64, math.log2(size.rows + 1))
    leaves = min(
        size.rows / params["min_samples_leaf"],
        params["max_leaf_nodes"] or math.inf,
        2.0 ** (params["max_depth"] or 64),
    )
    n_trees = params["n_estimators"] * size.functions
    return _cost(
        size,
        copies=1 + bool(params["n_iter_no_change"]),
        by_row=5 * size.classes + 8,
        further=FOREST_TREE * n_trees,
        model=2 * leaves * (NODE + FLOAT) * n_trees,
        seconds=size.rows * levels * size.columns * 1e-7,
    )


def kernel_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of an SVR or SVC, whose iterations are one call.

    With C=1, rows need 1.4 iterations each; with C=1000, 4,000 rows took 1.4 million.
    """
    seconds = params["max_iter"] * size.rows * (6e-9 + 3e-10 * size.columns)
    return _cost(
        size,
        copies=4,
        by_row=2 * size.classes + 8,
        further=min(KERNEL_CACHE, 4.0 * size.rows**2),
        seconds=seconds,
    )


def linear_svm_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a LinearSVR or LinearSVC: all iterations are one call."""
    seconds = params["max_iter"] * size.rows * size.columns * size.functions * 1e-8
    return _cost(size, copies=2.5, by_row=8, seconds=seconds)


def neighbors_cost(_params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of neighbors: the rows are the model, and evaluation compares with all."""
    seconds = size.judged * size.rows * size.columns * 2e-10
    return _cost(size, copies=5, by_row=8, seconds=seconds)


def network_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a network, which looks up between all its steps."""
    layers = [size.columns, *params["hidden_layer_sizes"], size.functions]
    weights = sum(a * b for a, b in pairwise(layers))
    # Of a step, and of the evaluation: activations and their gradients.
    at_once = size.rows if params["solver"] == "lbfgs" else 0
    activations = FLOAT * sum(layers) * (2 * at_once + 2 * size.judged)
    copies = 25 if params["solver"] == "lbfgs" else 8  # it remembers 10 steps, and their slopes
    return _cost(
        size,
        copies=1,
        by_row=2 * size.classes + 4,
        further=activations + copies * FLOAT * weights,
    )


def quantile_cost(_params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a QuantileRegressor: a linear program, solved in one call."""
    seconds = size.rows**2 * size.columns * 3e-9
    return _cost(size, copies=40, by_row=40, seconds=seconds)


def naive_bayes_cost(_params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of a GaussianNB."""
    return _cost(size, copies=1.5, by_row=4)


def boosting_cost(params: Mapping[str, Any], size: Size) -> Cost:
    """Return the cost of histogram boosting, which looks up between all its steps."""
    early = params["early_stopping"]
    held_out = size.rows > EARLY_STOPPING_ROWS if early == "auto" else early
    leaves = min(
        size.rows / params["min_samples_leaf"] + 1,
        params["max_leaf_nodes"] or math.inf,
        2.0 ** (params["max_depth"] or 64),
    )
    histograms = leaves * size.columns * (params["max_bins"] + 1) * HISTOGRAM_BIN
    n_trees = params["max_iter"] * size.functions
    return _cost(
        size,
        copies=0.25 + held_out,
        by_row=4 * size.functions + 4,
        further=histograms + BOOSTED_TREE * n_trees,
        model=2 * leaves * BOOSTED_NODE * n_trees,
    )


def _sag_seconds(size: Size, iterations: int) -> float:
    # A step for each row: 1 µs, and 8 ns for each coefficient.
    return iterations * size.rows * (1e-6 + 8e-9 * size.columns * size.functions)
