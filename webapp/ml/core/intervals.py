"""Confidence and prediction intervals of ordinary least squares.

With residual variance s², n rows, p fitted parameters and the leverage h of a row x,

    confidence:  ŷ ± t · s · √h          where the mean of y at x lies
    prediction:  ŷ ± t · s · √(1 + h)    where a single new y at x lies

t is the quantile of Student's distribution with n − p degrees of freedom (Seber and Lee,
Linear Regression Analysis, 2nd ed., sections 5.2 and 5.3.1). h = xᵀ(XᵀX)⁻¹x is computed from the
triangular factor of X, centred where there is an intercept: XᵀX itself would square X's condition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Vector
from webapp.ml.core.least_squares import LeastSquares

MOST_FEATURES = 200  # the basis grows with their square, and is kept with the version


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
    if degrees_of_freedom < 1 or n_features > MOST_FEATURES or fit.rank < n_features:
        return None
    pivots = np.abs(np.diag(fit.factor))
    if pivots.min() <= pivots.max() * np.finfo(float).eps * fit.n_rows:
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
