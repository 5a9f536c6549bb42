"""Ordinary least squares, and its confidence and prediction intervals.

Both come from the triangular factor R of the rows (Z = QR, Z = X − mean). R is that of a Cholesky
factorisation of ZᵀZ, columns brought to length 1 first, where Z is conditioned well enough for a
step of refinement to make up for squaring the condition (the corrected seminormal equations:
Björck, Numerical Methods for Least Squares Problems, 1996, sections 2.2 and 6.6.5). Elsewhere it
comes from a QR factorisation, and columns that depend on each other get the solution of least
norm, as scikit-learn gives it. Without QR, some rows are worked on at a time, and none are copied.

With residual variance s², n rows, p fitted parameters and the leverage h of a row x,

    confidence:  ŷ ± t · s · √h          where the mean of y at x lies
    prediction:  ŷ ± t · s · √(1 + h)    where a single new y at x lies

t is the quantile of Student's distribution with n − p degrees of freedom (Seber and Lee,
Linear Regression Analysis, 2nd ed., sections 5.2 and 5.3.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Vector

Mask: TypeAlias = NDArray[np.bool_]
"""(n_rows,), which rows of a matrix are meant."""

BLOCK_ROWS = 2**14
WORST_CONDITION = 1e4  # of Z, its columns of length 1, for Cholesky
MOST_INTERVAL_FEATURES = 200  # the basis grows with their square, and is kept with the version


@dataclass(frozen=True)
class LeastSquares:
    """A least-squares fit to ``n_rows`` rows of p features.

    coefficients, singular values, center: (p,). factor: (p, p), upper triangular, of X − center;
    ``center`` is the mean, and zero without an intercept. ``residual_sum``: the sum of the
    squared residuals.
    """

    coefficients: Vector
    intercept: float
    rank: int
    singular: Vector
    n_rows: int
    factor: Matrix
    center: Vector
    residual_sum: float


def fit_least_squares(
    X: Matrix, y: Vector, *, mask: Mask | None = None, fit_intercept: bool = True, rcond: float
) -> LeastSquares:
    """Fit the rows of X: (n_rows, p) and y: (n_rows,) that the mask names; all without one.

    Singular values below ``rcond`` times the largest count as 0. Raises numpy.linalg.LinAlgError
    or ValueError where values overflow on the way.
    """
    n_features = X.shape[1]
    n_rows = len(X) if mask is None else int(np.count_nonzero(mask))
    center, y_center = np.zeros(n_features), 0.0

    def blocks() -> Iterator[tuple[Matrix, Vector]]:
        """Yield some rows at a time, centred."""
        for start in range(0, len(X), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            rows, values = X[part], y[part]
            if mask is not None:  # in half the time of indexing with the mask
                rows = rows.compress(mask[part], axis=0)
                values = values.compress(mask[part])
            yield rows - center, values - y_center

    if fit_intercept:
        # A product takes a fifth of the time of a sum down the columns.
        sums = [(np.ones(len(rows)) @ rows, values.sum()) for rows, values in blocks()]
        center, y_center = (sum(column) / n_rows for column in zip(*sums, strict=True))
    products, moments = np.zeros((n_features, n_features)), np.zeros(n_features)
    for Z, target in blocks():
        products += Z.T @ Z
        moments += target @ Z
    factor = _factor_by_cholesky(products)
    refinable = factor is not None
    if factor is not None:
        projected = np.linalg.solve(factor.T, moments)
        coefficients, _, rank, singular = np.linalg.lstsq(factor, projected, rcond=rcond)
        refinable = rank == n_features  # the solution of least norm needs the accuracy of QR
    if factor is None or not refinable:
        factor, projected = _factor_by_qr(
            np.vstack([np.column_stack(block) for block in blocks()])
        )
        coefficients, _, rank, singular = np.linalg.lstsq(factor, projected, rcond=rcond)
    residual_sum, gradient = 0.0, np.zeros(n_features)
    for Z, target in blocks():
        residuals = target - Z @ coefficients
        residual_sum += float(residuals @ residuals)
        gradient += residuals @ Z
    if refinable:
        towards = np.linalg.solve(factor.T, gradient)
        coefficients += np.linalg.solve(factor, towards)
        # The step is orthogonal to the residuals that it leaves.
        residual_sum = max(residual_sum - float(towards @ towards), 0.0)
    return LeastSquares(
        coefficients=coefficients,
        intercept=float(y_center - center @ coefficients),
        rank=int(rank),
        singular=singular,
        n_rows=n_rows,
        factor=factor,
        center=center,
        residual_sum=residual_sum,
    )


@dataclass(frozen=True)
class IntervalBasis:
    """What a fit leaves behind for intervals.

    ``center``: (n_features,), ``root``: (n_features, n_features) with
    h = base_leverage + |(x − center) root|²; ``residual_variance`` is s².
    """

    degrees_of_freedom: int
    residual_variance: float
    base_leverage: float
    center: Vector
    root: Matrix

    def to_json(self) -> dict[str, Any]:
        """Return the basis as JSON values; float64 survives the way there and back."""
        return {**vars(self), "center": self.center.tolist(), "root": self.root.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> IntervalBasis:
        """Return the basis that ``to_json`` wrote."""
        center, root = np.array(values["center"]), np.array(values["root"])
        return cls(**{**values, "center": center, "root": root})


@dataclass(frozen=True)
class Intervals:
    """Bounds per row, each (n_rows,), at a level such as 0.95."""

    level: float
    confidence_lower: Vector
    confidence_upper: Vector
    prediction_lower: Vector
    prediction_upper: Vector


def make_interval_basis(fit: LeastSquares, *, fit_intercept: bool) -> IntervalBasis | None:
    """Return the basis of a fit; None where intervals are undefined.

    They are where no degree of freedom is left, where features depend on each other, and where
    numbers are beyond float64.
    """
    n_features = len(fit.center)
    degrees_of_freedom = fit.n_rows - n_features - int(fit_intercept)
    if degrees_of_freedom < 1 or n_features > MOST_INTERVAL_FEATURES or fit.rank < n_features:
        return None
    variance = fit.residual_sum / degrees_of_freedom
    root: Matrix = np.linalg.inv(fit.factor).astype(np.float64, copy=False)
    if not (math.isfinite(variance) and np.isfinite(root).all()):
        return None
    return IntervalBasis(
        degrees_of_freedom=degrees_of_freedom,
        residual_variance=variance,
        base_leverage=1 / fit.n_rows if fit_intercept else 0.0,
        center=fit.center,
        root=root,
    )


def compute_intervals(
    basis: IntervalBasis, X: Matrix, predictions: Vector, *, level: float
) -> Intervals:
    """Return the intervals of predictions (n_rows,) at rows X: (n_rows, n_features).

    Raises InvalidInput, by row, where a bound is beyond the range of float64.
    """
    from scipy.special import stdtrit  # scipy.stats would take a second to import

    quantile = float(stdtrit(basis.degrees_of_freedom, (1 + level) / 2))
    with np.errstate(over="ignore", invalid="ignore"):
        leverage = basis.base_leverage + (((X - basis.center) @ basis.root) ** 2).sum(axis=1)
        mean_error = quantile * np.sqrt(basis.residual_variance * leverage)
        error = quantile * np.sqrt(basis.residual_variance * (1 + leverage))
        intervals = Intervals(
            level=level,
            confidence_lower=predictions - mean_error,
            confidence_upper=predictions + mean_error,
            prediction_lower=predictions - error,
            prediction_upper=predictions + error,
        )
        # The wider of the two: where its bounds are finite, so are the others.
        finite = np.isfinite(intervals.prediction_lower + 0 * intervals.prediction_upper)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InvalidInput({str(row): ["gives an interval beyond the range of float64"]})
    return intervals


def _factor_by_cholesky(products: Matrix) -> Matrix | None:
    """Return R of ZᵀZ; None where Z is conditioned too badly for that."""
    lengths = np.sqrt(np.diag(products))
    if not np.isfinite(products).all() or not lengths.all():
        return None
    try:
        factor: Matrix = np.linalg.cholesky(products / np.outer(lengths, lengths)).T
    except np.linalg.LinAlgError:
        return None
    return factor * lengths if np.linalg.cond(factor, 1) <= WORST_CONDITION else None


def _factor_by_qr(rows: Matrix) -> tuple[Matrix, Vector]:
    """Return R, a square also where the rows are few, and Qᵀ target; rows: Z beside the target."""
    width = rows.shape[1]
    factor = np.zeros((width, width))
    found = np.linalg.qr(rows, mode="r")
    factor[: len(found)] = found
    return factor[:-1, :-1], factor[:-1, -1]
