"""Ordinary least squares, some rows at a time: sound, and without a copy of the rows.

Of Z = X − mean and its triangular factor R (Z = QR) everything follows: coefficients, rank and
singular values, the spread of the features, and the leverages that intervals need. Without an
intercept, the means are one row more to R.

R comes from the Cholesky factorisation of ZᵀZ, columns brought to length 1 first, where Z is
conditioned well enough for a step of refinement to make up for squaring the condition (the
corrected seminormal equations: Björck, Numerical Methods for Least Squares Problems, 1996,
sections 2.2 and 6.6.5). Elsewhere it comes from Householder reflections, and columns that depend
on each other get the solution of least norm, as scikit-learn gives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from webapp.ml.core.datasets import Matrix, Vector

Mask: TypeAlias = NDArray[np.bool_]
"""(n_rows,), which rows of a matrix are meant."""

BLOCK_CELLS = 2**18  # values that are worked on at a time: they stay in the processor's cache
WORST_CONDITION = 1e4  # of Z, its columns of length 1, for Cholesky


@dataclass(frozen=True)
class LeastSquares:
    """A least-squares fit to ``n_rows`` rows of p features, and what it has told of them.

    coefficients, singular values, and the features' mean, std (of the sample), minimum and
    maximum: (p,). factor: (p, p), upper triangular, of X − center; ``center`` is the mean, and
    zero without an intercept. ``residual_sum``: the sum of the squared residuals.
    """

    coefficients: Vector
    intercept: float
    rank: int
    singular: Vector
    n_rows: int
    factor: Matrix
    center: Vector
    residual_sum: float
    mean: Vector
    std: Vector
    minimum: Vector
    maximum: Vector


@dataclass(frozen=True)
class _Rows:
    """The rows to fit: X (all_rows, p), y (all_rows,), and which of them; None for all."""

    X: Matrix
    y: Vector
    mask: Mask | None

    @property
    def block_rows(self) -> int:
        width = self.X.shape[1] + 1
        return int(max(BLOCK_CELLS // width, 4 * width))

    def blocks(self) -> Iterator[tuple[Matrix, Vector]]:
        for start in range(0, len(self.X), self.block_rows):
            part = slice(start, start + self.block_rows)
            X, y = self.X[part], self.y[part]
            if self.mask is not None:
                X, y = X[self.mask[part]], y[self.mask[part]]
            if len(X):
                yield X, y

    def centred(self, center: Vector, y_center: float) -> Iterator[Matrix]:
        """X − center beside y − y_center, a block at a time, each in the place of the last."""
        place = np.empty((self.block_rows, len(center) + 1))
        for X, y in self.blocks():
            block = place[: len(X)]
            np.subtract(X, center, out=block[:, :-1])
            np.subtract(y, y_center, out=block[:, -1])
            yield block


def fit_least_squares(
    X: Matrix, y: Vector, *, mask: Mask | None = None, fit_intercept: bool = True, rcond: float
) -> LeastSquares:
    """Fit the rows of X: (n_rows, p) and y: (n_rows,) that the mask names; all without one.

    Singular values below ``rcond`` times the largest count as 0. Raises numpy.linalg.LinAlgError
    or ValueError where values overflow on the way.
    """
    rows = _Rows(X, y, mask)
    n_rows, mean, y_mean, minimum, maximum = _find_moments(rows)
    center, y_center = (mean, y_mean) if fit_intercept else (np.zeros_like(mean), 0.0)
    for find_factor in (_factor_by_cholesky, _factor_by_reflections):
        found = find_factor(rows, mean, y_mean)
        if found is None:
            continue
        factor, projected = found
        std = np.sqrt((factor**2).sum(axis=0) / max(n_rows - 1, 1))
        if not fit_intercept:
            means = np.sqrt(n_rows) * np.append(mean, y_mean)
            factor, projected = _add_means(factor, projected, means)
        coefficients, _, rank, singular = np.linalg.lstsq(factor, projected, rcond=rcond)
        if rank == len(mean):
            break  # columns that depend on each other are left to the reflections
    refinable = find_factor is _factor_by_cholesky
    coefficients, residual_sum = _refine(
        rows.centred(center, y_center),
        np.asarray(coefficients, dtype=np.float64),
        factor if refinable else None,
    )
    return LeastSquares(
        coefficients=coefficients,
        intercept=float(y_center - center @ coefficients),
        rank=int(rank),
        singular=np.asarray(singular, dtype=np.float64),
        n_rows=n_rows,
        factor=factor,
        center=center,
        residual_sum=residual_sum,
        mean=mean,
        std=std,
        minimum=minimum,
        maximum=maximum,
    )


def _find_moments(rows: _Rows) -> tuple[int, Vector, float, Vector, Vector]:
    n_features = rows.X.shape[1]
    count, total, y_total = 0, np.zeros(n_features), 0.0
    minimum, maximum = np.full(n_features, np.inf), np.full(n_features, -np.inf)
    for X, y in rows.blocks():
        count += len(X)
        total += _fold(np.add, X)
        y_total += float(y.sum())
        np.minimum(minimum, _fold(np.minimum, X), out=minimum)
        np.maximum(maximum, _fold(np.maximum, X), out=maximum)
    return count, total / count, y_total / count, minimum, maximum


def _fold(operation: np.ufunc, X: Matrix) -> Vector:
    """Return what X: (n_rows, p) comes to, column by column.

    Halves are laid over each other: for few columns far faster than going down each of them.
    """
    while len(X) > 1:
        half = len(X) // 2
        odd = X[2 * half :]
        X = operation(X[:half], X[half : 2 * half])
        if len(odd):
            X[:1] = operation(X[:1], odd)
    folded: Vector = X[0]
    return folded


def _factor_by_cholesky(rows: _Rows, mean: Vector, y_mean: float) -> tuple[Matrix, Vector] | None:
    """Return R and Qᵀ(y − mean); None where Z is conditioned too badly for that."""
    width = len(mean) + 1
    products = np.zeros((width, width))
    for block in rows.centred(mean, y_mean):
        products += block.T @ block
    lengths = np.sqrt(np.diag(products)[:-1])
    if not np.isfinite(products).all() or not lengths.all():
        return None
    scaled = products[:-1, :-1] / np.outer(lengths, lengths)
    try:
        factor: Matrix = np.linalg.cholesky(scaled).T.astype(np.float64)
    except np.linalg.LinAlgError:
        return None
    if not np.linalg.cond(factor, 1) <= WORST_CONDITION:
        return None
    projected: Vector = np.linalg.solve(factor.T, products[:-1, -1] / lengths).astype(np.float64)
    return factor * lengths, projected


def _factor_by_reflections(rows: _Rows, mean: Vector, y_mean: float) -> tuple[Matrix, Vector]:
    """Return R and Qᵀ(y − mean), from blocks of rows below the factor of those before."""
    width = len(mean) + 1
    factor = np.zeros((width, width))
    for block in rows.centred(mean, y_mean):
        factor = _find_triangle(np.vstack([factor, block]))
    return factor[:-1, :-1], factor[:-1, -1]


def _add_means(factor: Matrix, projected: Vector, means: Vector) -> tuple[Matrix, Vector]:
    """Return R and Qᵀy of rows whose means, times the root of their number, were taken off."""
    stacked = np.vstack([np.column_stack([factor, projected]), means])
    whole = _find_triangle(stacked)
    return whole[:-1, :-1], whole[:-1, -1]


def _find_triangle(rows: Matrix) -> Matrix:
    """Return R of rows = QR, as a square also where the rows are few."""
    factor: Matrix = np.asarray(np.linalg.qr(rows, mode="r"), dtype=np.float64)
    missing = factor.shape[1] - len(factor)
    return np.vstack([factor, np.zeros((missing, factor.shape[1]))]) if missing else factor


def _refine(
    blocks: Iterator[Matrix], coefficients: Vector, factor: Matrix | None
) -> tuple[Vector, float]:
    """Return the coefficients and their sum of squared residuals.

    With a factor, after one step towards the residuals' being orthogonal to Z.
    """
    residual_sum, gradient = 0.0, np.zeros_like(coefficients)
    for block in blocks:
        Z = block[:, :-1]
        residuals = block[:, -1] - Z @ coefficients
        residual_sum += float(residuals @ residuals)
        if factor is not None:
            gradient += residuals @ Z
    if factor is None:
        return coefficients, residual_sum
    towards = np.linalg.solve(factor.T, gradient)
    step = np.linalg.solve(factor, towards)
    # The step is orthogonal to the residuals that it leaves.
    return coefficients + step, max(residual_sum - float(towards @ towards), 0.0)
