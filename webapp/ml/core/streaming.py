"""Least squares and ridge on data larger than memory: one pass, a QR of each part, reduced.

Each part becomes the triangle R of its centred rows, target included (tall-skinny QR: Demmel,
Grigori, Hoemmen and Langou, SIAM Journal on Scientific Computing 34(1), 2012), with their count
and mean. Two of these are one again by the QR of both triangles and a row for the difference of
the means (Chan, Golub and LeVeque, The American Statistician 37(3), 1983). From the last one
follow coefficients, standardisation, profile and intervals. Nothing is squared on the way: the
error grows with the condition of the rows, as that of a QR in memory does.

Rows to judge the model by are drawn on the way, by chance that depends on the name of the file and
the number of the row, and kept: at most about 100,000. They are not fitted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from webapp.errors import InvalidInput, faults_in
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    Matrix,
    Subset,
    Vector,
    check_feature_names,
    warn_of_missing,
)
from webapp.ml.core.estimators import (
    CATALOGUE,
    DEFAULT_ESTIMATOR,
    Estimator,
    build_estimator,
    resolve_params,
    split_pipeline,
)
from webapp.ml.core.importances import permute_columns
from webapp.ml.core.learning import (
    EXCLUDE,
    Choices,
    check_kinds,
    find_doubts,
    make_dataset_from,
)
from webapp.ml.core.least_squares import IntervalBasis, LeastSquares, make_interval_basis
from webapp.ml.core.metrics import measure_scores
from webapp.ml.core.plots import Judged
from webapp.ml.core.scoring import Scorer, compile_scorer, score
from webapp.ml.core.signature import matrix_signature
from webapp.ml.core.sources import DataSource, Head, Part, check_columns, faults_by_part
from webapp.ml.core.tables.numbers import MISSING, to_numbers
from webapp.ml.core.tables.reading import open_table, parse_errors
from webapp.ml.core.tables.shapes import BLANKS, NUMERIC, check_target, kind_of
from webapp.ml.core.training import (
    FEWEST_ROWS_TO_JUDGE,
    FEWEST_ROWS_TO_SPLIT,
    LEAST_SECONDS,
    SHARE_OF_SECONDS,
    TrainedModel,
    TrainingSpec,
    describe_coefficients,
    train,
)

MOST_FEATURES = 2000  # a triangle of so many takes 32 MB
MOST_JUDGED_ROWS, MOST_JUDGED_CELLS = 100_000, 4_000_000  # 32 MB
SLICE_CELLS = 2**20  # 8 MB are converted at once
BLOCK_ROWS = 2**12  # of a QR: 65,536 × 11 took 2 ms in such blocks, which fit the cache, 13 whole
EXACT_SOLVERS = ("auto", "svd", "cholesky")
STREAMED = (DEFAULT_ESTIMATOR, "ridge")

ReportRows: TypeAlias = Callable[[int, int], object]
"""Is told how many rows have been read, and of about how many."""


@dataclass(frozen=True)
class Triangle:
    """Rows of features and target as their count, mean, extremes, and R of the centred rows.

    mean, low, high: (n_columns,); factor: (n_columns, n_columns), the target being last.
    """

    n_rows: int
    mean: Vector
    low: Vector
    high: Vector
    factor: Matrix

    @classmethod
    def of_nothing(cls, n_columns: int) -> Triangle:
        """Return the triangle of no rows."""
        bounds = np.full(n_columns, np.inf), np.full(n_columns, -np.inf)
        return cls(0, np.zeros(n_columns), *bounds, np.zeros((n_columns, n_columns)))

    def add(self, Z: Matrix) -> Triangle:
        """Return the triangle with the rows of Z: (n_columns, n_rows), not a row, too."""
        found, step = self, count_block_rows(len(Z))
        for start in range(0, Z.shape[1], step):
            block = Z[:, start : start + step]
            mean = block.mean(axis=1)
            rows = (block - mean[:, np.newaxis]).T
            bounds = block.min(axis=1), block.max(axis=1)
            found = found.combine(Triangle(block.shape[1], mean, *bounds, rows))
        return found

    def combine(self, other: Triangle) -> Triangle:
        """Return the triangle of the rows of both."""
        if not other.n_rows:
            return self
        n_rows = self.n_rows + other.n_rows
        gap = other.mean - self.mean if self.n_rows else other.mean
        between = gap * math.sqrt(self.n_rows * (other.n_rows / n_rows))
        return Triangle(
            n_rows,
            self.mean + gap * (other.n_rows / n_rows),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            _triangulate(self.factor, other.factor, between),
        )

    def about(self, center: Vector) -> Matrix:
        """Return R of the rows less ``center``, (n_columns,), which is not their mean."""
        return _triangulate(self.factor, math.sqrt(self.n_rows) * (self.mean - center))

    def profile(self) -> dict[str, list[float | None]]:
        """Return mean, std, min and max by feature: see ``metrics.profile_features``."""
        with np.errstate(over="ignore"):
            std = np.linalg.norm(self.factor, axis=0) / math.sqrt(max(self.n_rows - 1, 1))
        return list_profile(self.mean, std, self.low, self.high)


def list_profile(
    mean: Vector, std: Vector, low: Vector, high: Vector
) -> dict[str, list[float | None]]:
    """Return these by name and feature, the target being last; None where one is not finite."""
    found = {"mean": mean, "std": std, "min": low, "max": high}
    return {
        name: [value if math.isfinite(value) else None for value in values[:-1].tolist()]
        for name, values in found.items()
    }


def count_block_rows(n_columns: int) -> int:
    """Return how many rows a QR takes, beside the triangle of those before."""
    return max(BLOCK_ROWS, 2 * n_columns)


def _triangulate(*rows: Any) -> Matrix:
    """Return R of rows, (n_columns, n_columns), also where they are fewer."""
    stacked = np.vstack(rows)
    factor = np.zeros((stacked.shape[1],) * 2)
    found = np.linalg.qr(stacked, mode="r")
    factor[: len(found)] = found
    return factor


@dataclass(frozen=True)
class PartOptions:
    """What to take of each part: features by name, in order, and the target; not ``left_out``.

    A row is held out where the number drawn for it, from 0 to 1, is below ``held_out``, and kept
    to judge the model by where it is below ``kept``.
    """

    names: tuple[str, ...]
    target: str
    left_out: tuple[str, ...]
    random_state: int
    held_out: float
    kept: float


@dataclass(frozen=True)
class Reduced:
    """What a part has been reduced to; ``boosting`` has its Moments for the triangle.

    kept: (n_columns, n_kept), rows to judge by, and draws: (n_kept,), the numbers drawn for them.
    digests: SHA-256 of each column, or of all that boosting has read. n_rows: all that were read;
    n_missing: those without a target, which are left out.
    """

    fitted: Any
    kept: Matrix
    draws: Vector
    digests: bytes
    n_rows: int
    n_missing: int
    warnings: tuple[DataWarning, ...]


def reduce_part(
    options: PartOptions, part: Part, note: Callable[[int], object] | None = None
) -> Reduced:
    """Return a part's triangle and the rows drawn from it, reading some rows at a time.

    ``note`` is told how many, each time. Raises InvalidInput by file, column and row.
    """
    columns = (*options.names, options.target)
    nothing = np.empty((len(columns), 0))
    fitted, pending = Triangle.of_nothing(len(columns)), [nothing]
    hashes = [hashlib.sha256() for _ in columns]
    kept, draws = [nothing], [np.empty(0)]
    random = draw_rows(part, options.random_state)
    n_rows, n_missing = part.first_row, 0
    with (
        part.open() as source,
        parse_errors(source.format),
        np.errstate(over="ignore", invalid="ignore"),  # told by what they make of sums
    ):
        table = open_table(source, set(columns), options.left_out.__contains__)
        given = [name for name in table.schema.names if name not in options.left_out]
        check_columns(given, columns)
        for batch in table.batches:
            for rows in _slice(batch, len(columns)):
                Z, present = _read_numbers(rows, columns, n_rows)
                drawn = random.random(len(rows))[present]
                n_rows += len(rows)
                n_missing += len(rows) - len(drawn)
                if note is not None:
                    note(len(rows))
                for column, digest in zip(Z, hashes, strict=True):
                    digest.update(np.ascontiguousarray(column, dtype="<f8").data)
                wanted = drawn < options.kept
                kept.append(Z[:, wanted])
                draws.append(drawn[wanted])
                if options.held_out:
                    Z = Z[:, drawn >= options.held_out]
                pending.append(Z)
                # Batches may be far shorter than the rows that a QR takes well at once.
                if sum(rows.shape[1] for rows in pending) >= count_block_rows(len(columns)):
                    fitted = fitted.add(np.concatenate(pending, axis=1))
                    pending = [nothing]
        fitted = fitted.add(np.concatenate(pending, axis=1))
    return Reduced(
        fitted=fitted,
        kept=np.concatenate(kept, axis=1),
        draws=np.concatenate(draws),
        digests=b"".join(digest.digest() for digest in hashes),
        n_rows=n_rows - part.first_row,
        n_missing=n_missing,
        warnings=table.warnings,
    )


def draw_rows(part: Part, random_state: int) -> np.random.Generator:
    """Return what draws a number for each row of a part.

    They are the same however the rows are cut; another file has others.
    """
    seed = int.from_bytes(hashlib.sha256(part.name.encode()).digest()[:8], "big")
    bits = np.random.PCG64([random_state, seed])
    bits.advance(part.first_row)
    return np.random.Generator(bits)


def _slice(batch: Any, n_columns: int) -> Iterator[Any]:
    step = max(SLICE_CELLS // n_columns, 2 * n_columns)  # of 2,000 columns, 64 MB
    for start in range(0, len(batch), step):
        yield batch.slice(start, step)


def _read_numbers(
    rows: Any, columns: tuple[str, ...], first_row: int
) -> tuple[Matrix, NDArray[np.bool_]]:
    """Return columns of numbers, (n_columns, n_present), and which rows have a target.

    Raises InvalidInput by column and row.
    """
    Z = read_columns(rows, columns, NUMERIC)
    present = ~np.isnan(Z[-1])
    if not present.all():
        Z = Z[:, present]
    # A sum is not finite where a value is not, and takes half the time of looking at each.
    if not np.isfinite(Z.sum(axis=1)).all() and not (finite := np.isfinite(Z)).all():
        place = int(np.argmin(finite.all(axis=1)))
        row = first_row + int(np.flatnonzero(present)[np.argmin(finite[place])])
        raise InvalidInput({columns[place]: {str(row): [MISSING]}})
    return Z, present


def read_columns(rows: Any, columns: Sequence[str], kinds: Collection[str]) -> Matrix:
    """Return columns of numbers, (n_columns, n_rows), NaN where one is missing.

    Raises InvalidInput for a column of none of the kinds.
    """
    Z = np.empty((len(columns), len(rows)))
    for place, name in enumerate(columns):
        kind = kind_of(rows.schema.field(name).type)
        if kind not in kinds:
            raise InvalidInput({name: [f"holds {kind} values, expected numbers"]})
        Z[place] = to_numbers(rows[name])
    return Z


@dataclass(frozen=True)
class Plan:
    """What a training in parts reads, and from where.

    ``n_rows`` is estimated. ``fits``: the rows could be in memory instead.
    """

    options: PartOptions
    parts: tuple[Part, ...]
    n_rows: int
    fits: bool

    @property
    def digest(self) -> str:
        """Return what tells it from others: the SHA-256 of its options and files."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


def cut(sizes: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Return where groups of parts start and end, each of about as many bytes.

    There are at most ``count``, and none is empty.
    """
    ends = np.cumsum([max(size, 1) for size in sizes])
    limits = ends[-1] * np.arange(1, count) / count
    cuts = [0, *np.searchsorted(ends, limits, side="right").tolist(), len(sizes)]
    return [(start, end) for start, end in pairwise(cuts) if start < end]


def train_from_source(
    source: DataSource,
    choices: Choices,
    spec: TrainingSpec,
    *,
    clock: Callable[[], float],
    report: ReportRows | None = None,
    memory: float = 0,
) -> TrainedModel:
    """Train on the files of a source; what a version has is as after ``training.train``.

    Least squares and ridge on complete columns of numbers read them once, part by part, while
    ``report`` is told how far that is. Any other training takes them into memory, where all values
    as float64 take no more than ``memory`` bytes, and goes on as ``training.train``. Several
    processes do the former by ``make_plan``, ``reduce_parts`` and ``fit_reduced``.

    Raises InvalidInput: under ``source`` by file, column and row; and where the data would have to
    be in memory, with how much that is.
    """
    plan = make_plan(source, choices, spec, memory=memory)
    if plan is None:
        return train_in_memory(source, choices, spec, clock=clock)
    started, n_noted = clock(), 0

    def note(count: int) -> None:
        nonlocal n_noted
        n_noted += count
        if report is not None:
            report(n_noted, max(n_noted, plan.n_rows))

    try:
        whole = reduce_parts(plan.options, plan.parts, note)
        if report is not None:
            report(whole.n_rows, whole.n_rows)
        return fit_reduced(plan, spec, [whole], clock=clock, seconds=clock() - started)
    except InvalidInput:  # a gap further on, say, which a training in memory may fill
        if not plan.fits:
            raise
    return train_in_memory(source, choices, spec, clock=clock)


def train_in_memory(
    source: DataSource, choices: Choices, spec: TrainingSpec, *, clock: Callable[[], float]
) -> TrainedModel:
    """Train on all rows of a source at once; raises InvalidInput."""
    choices = _tidy(choices)
    columns, n_rows = source.read_all([choices.target])
    with faults_in("source"), faults_by_part(source.parts, n_rows):
        dataset = make_dataset_from(columns, choices)
    trained = train(dataset, spec, clock=clock)
    return replace(trained, warnings=(*dataset.warnings, *trained.warnings))


def make_plan(
    source: DataSource, choices: Choices, spec: TrainingSpec, *, memory: float
) -> Plan | None:
    """Return how to train in parts; None where all rows have to be in memory, and may be.

    Raises InvalidInput where they have to be, and would take more than ``memory`` bytes.
    """
    head, choices, names = read_head(source, choices)
    fits, obstacle = head.n_bytes <= memory, find_obstacle(head, names, choices, spec)
    if not obstacle:
        check_feature_names(names)
        options = make_options(head, names, choices.target, spec)
        return Plan(options, tuple(source.split()), head.n_rows, fits)
    if fits:
        return None
    size = f"{head.n_bytes / 1e6:,.0f} MB ({head.n_rows:,} rows × {len(head.kinds)} columns)"
    allowed = f"{memory / 1e6:,.0f} MB are allowed"
    message = f"would have to be in memory, about {size}, and {allowed}: {obstacle}"
    raise InvalidInput({"source": [message]})


def read_head(source: DataSource, choices: Choices) -> tuple[Head, Choices, tuple[str, ...]]:
    """Return the head of a source, choices without blanks, and features; raises InvalidInput."""
    choices = _tidy(choices)
    head = source.read_head([choices.target])
    with faults_in("target"):
        check_target(list(head.kinds), choices.target)
    features = [name for name in head.kinds if name != choices.target]
    check_kinds(choices.kinds, features)
    names = tuple(name for name in features if choices.kinds.get(name) != EXCLUDE)
    return head, choices, names


def _tidy(choices: Choices) -> Choices:
    return replace(choices, target=choices.target.strip(BLANKS))


def find_obstacle(head: Head, names: Sequence[str], choices: Choices, spec: TrainingSpec) -> str:
    """Return why a training on these features needs all rows in memory; "" where it does not."""
    others = f"in parts, only {' and '.join(STREAMED)} are trained"
    if head.kinds[choices.target] != "number" or choices.task == "classification":
        return f"{others}, for a target of numbers"
    name = spec.estimator or DEFAULT_ESTIMATOR
    if name not in STREAMED:
        return others
    params = resolve_params(CATALOGUE[name], spec.params)
    if params["positive"]:
        return "in parts, coefficients cannot be kept positive"
    if params.get("solver", "auto") not in EXACT_SOLVERS:
        return f"in parts, the solver is one of {', '.join(EXACT_SOLVERS)}"
    if spec.cv:
        return "in parts, there is no cross-validation (cv)"
    gaps = [name for name in names if name in head.gaps]
    missing = f"in parts, no number may be missing, as some do in {gaps[0]}" if gaps else ""
    return find_other_than_numbers(head, names, choices) or missing


def find_other_than_numbers(head: Head, names: Sequence[str], choices: Choices) -> str:
    """Return why features are not numbers, or too many; "" where all is well."""
    if len(names) > MOST_FEATURES:
        return f"in parts, there are at most {MOST_FEATURES} features"
    for name in names:
        if {choices.kinds.get(name, "number"), head.kinds[name]} != {"number"}:
            return f"in parts, columns are numbers, and {name} is not: exclude it"
    return ""


def fit_reduced(
    plan: Plan,
    spec: TrainingSpec,
    reduced: Iterable[Reduced],
    *,
    clock: Callable[[], float],
    seconds: float,
) -> TrainedModel:
    """Train on what the parts of a plan have been reduced to in so many seconds, in their order.

    Raises InvalidInput.
    """
    options, names, target = plan.options, plan.options.names, plan.options.target
    entry = CATALOGUE[spec.estimator or DEFAULT_ESTIMATOR]
    params = resolve_params(entry, spec.params)
    started = clock()
    whole = combine(reduced)
    kept = split_kept(options, whole)
    fitted, n_test = whole.fitted, kept.n_test
    if not n_test:
        fitted = fitted.add(kept.held_out)
    fit = _fit(entry, params, spec, fitted)
    seconds += clock() - started

    X, y = np.ascontiguousarray(kept.judged[:-1].T), kept.judged[-1]
    judged = Dataset(X, y, names, target=target)
    doubts = [*kept.list_doubts(options, spec, whole), *find_doubts(judged)]
    scores = score(fit.scorer, judged.X)
    metrics = measure_scores(scores, judged.y, None, fitted.mean[-1:])
    signature = matrix_signature(names, "regression", target)
    test_rows = Subset(judged, np.arange(n_test)) if n_test else None
    importances = None
    if test_rows is not None:
        importances = permute_columns(
            fit.estimator,
            fit.scorer,
            test_rows,
            signature,
            random_state=spec.random_state,
            clock=clock,
            seconds=max(LEAST_SECONDS, SHARE_OF_SECONDS * seconds),
        )
    n_train = fitted.n_rows
    if spec.refit and n_test:
        fitted = fitted.add(kept.held_out)
        fit = _fit(entry, params, spec, fitted)
    profile = fitted.profile()
    return TrainedModel(
        estimator=fit.estimator,
        estimator_name=entry.name,
        params=params,
        metrics=metrics,
        evaluated_on="hold-out" if n_test else "training",
        n_train=n_train,
        n_test=n_test,
        fit_seconds=seconds,
        classes=None,
        coefficients=describe_coefficients(fit.estimator, signature),
        profile=profile,
        data_digest=digest_parts(names, whole),
        importances=importances,
        interval_basis=fit.basis,
        judged=Judged.from_scores(judged.y, scores, None),
        signature=signature.with_ranges(profile),
        scale=bool(spec.scale),
        warnings=tuple(doubts),
        held_out=test_rows,
    )


@dataclass(frozen=True)
class KeptRows:
    """The rows that were kept, (n_columns, …): those to judge by, in an order of chance.

    n_rows: all that have a target. n_test: how many of them the model is not fitted to, which are
    then those to judge by; 0 where they are too few. held_out: those that no part has fitted.
    """

    n_rows: int
    n_test: int
    judged: Matrix
    held_out: Matrix

    def list_doubts(
        self, options: PartOptions, spec: TrainingSpec, whole: Reduced
    ) -> Iterator[DataWarning]:
        """Yield what was left out, or is not as asked."""
        yield from whole.warnings
        if n_missing := whole.n_missing:
            yield warn_of_missing(options.target, n_missing, self.n_rows + n_missing)
        n_rows, n_judged = f"{self.n_rows:,}", self.judged.shape[1]
        if self.n_test and spec.test_size > options.kept:
            message = f"{n_judged:,} of {n_rows} rows were held out: no more are kept in memory"
            yield DataWarning("", message)
        if not self.n_test and n_judged < self.n_rows:
            message = f"was judged on {n_judged:,} of the {n_rows} rows that were fitted"
            yield DataWarning("", message)


def split_kept(options: PartOptions, whole: Reduced) -> KeptRows:
    """Return the rows to judge by: those held out, or some of those that are fitted.

    Raises InvalidInput where no row is left to fit.
    """
    held_out = whole.draws < options.held_out
    n_test = int(held_out.sum())
    n_rows = whole.fitted.n_rows + n_test
    if n_rows == 0:
        raise InvalidInput({"source": ["has no rows"]})
    # Drawn by chance, the numbers also put the rows into an order of chance.
    order = np.argsort(whole.draws, kind="stable")
    if n_rows < FEWEST_ROWS_TO_SPLIT or n_test < FEWEST_ROWS_TO_JUDGE:
        n_test = 0
    elif whole.fitted.n_rows == 0:
        raise InvalidInput({"test_size": [f"leaves none of {n_rows} rows to fit"]})
    else:
        order = order[held_out[order]]
    return KeptRows(n_rows, n_test, whole.kept[:, order], whole.kept[:, held_out])


def make_options(
    head: Head, names: tuple[str, ...], target: str, spec: TrainingSpec
) -> PartOptions:
    """Return what to take of each part, so that no more rows are kept than there is room for."""
    most_kept = min(MOST_JUDGED_ROWS, MOST_JUDGED_CELLS // (len(names) + 1))
    kept = min(1.0, most_kept / head.n_rows)
    return PartOptions(
        names=names,
        target=target,
        left_out=tuple(name for name in head.kinds if name not in {*names, target}),
        random_state=spec.random_state,
        held_out=min(spec.test_size, kept),
        kept=kept,
    )


def reduce_parts(
    options: PartOptions, parts: Sequence[Part], note: Callable[[int], object] | None = None
) -> Reduced:
    """Return what the parts are reduced to, as one; raises InvalidInput under ``source``."""
    with faults_in("source"):
        return combine(reduce_part(options, part, note) for part in parts)


def combine(reduced: Iterable[Reduced]) -> Reduced:
    """Return all as one, in their order."""
    fitted: Any = None
    nothing, others = Triangle.of_nothing(0), list[Reduced]()
    for found in reduced:
        with np.errstate(over="ignore", invalid="ignore"):  # found when it is to be fitted
            fitted = found.fitted if fitted is None else fitted.combine(found.fitted)
        others.append(replace(found, fitted=nothing))  # a triangle of 2,000 features takes 32 MB
    assert fitted is not None  # noqa: S101 (a source has a part, at least)
    return Reduced(
        fitted,
        np.concatenate([found.kept for found in others], axis=1),
        np.concatenate([found.draws for found in others]),
        b"".join(found.digests for found in others),
        sum(found.n_rows for found in others),
        sum(found.n_missing for found in others),
        tuple(dict.fromkeys(warning for found in others for warning in found.warnings)),
    )


def digest_parts(names: Sequence[str], whole: Reduced) -> str:
    """Return the SHA-256 of names and parts: the same for the same rows in as many parts."""
    sha = hashlib.sha256()
    for name in names:
        sha.update(name.encode() + b"\0")
    sha.update(whole.digests)
    return sha.hexdigest()


@dataclass(frozen=True)
class _Fit:
    """A fitted estimator, its scorer, and the basis of its intervals."""

    estimator: Any
    scorer: Scorer
    basis: IntervalBasis | None


def _fit(entry: Estimator, params: Mapping[str, Any], spec: TrainingSpec, rows: Triangle) -> _Fit:
    """Fit a LinearRegression or a Ridge, scaled or not, to what its own ``fit`` finds."""
    estimator = build_estimator(
        entry, params, random_state=spec.random_state, scale=bool(spec.scale)
    )
    scaler, linear = split_pipeline(estimator)
    n_features = len(rows.mean) - 1
    scale = np.ones(n_features)
    # What the rows are taken less: the scaler takes the mean from features alone, an intercept
    # from the target, too.
    center = np.zeros(n_features + 1)
    with np.errstate(all="ignore"):
        if scaler is not None:
            scale = _fit_scaler(scaler, rows)
            center[:-1] = rows.mean[:-1]
        if linear.fit_intercept:
            center = rows.mean
        factor = rows.factor if linear.fit_intercept else rows.about(center)
        R, projected = factor[:-1, :-1] / scale, factor[:-1, -1]
        if not (np.isfinite(factor).all() and np.isfinite(R).all()):
            raise InvalidInput({"source": ["holds values too large to fit"]})
        linear.n_features_in_ = n_features
        if entry.name == DEFAULT_ESTIMATOR:
            linear.coef_, _, linear.rank_, linear.singular_ = np.linalg.lstsq(
                R, projected, rcond=linear.tol
            )
        else:
            # The penalty as further rows: √α for each coefficient, whose target is 0.
            penalty = math.sqrt(linear.alpha) * np.eye(n_features)
            target = np.concatenate([projected, np.zeros(n_features)])
            linear.coef_ = np.linalg.lstsq(np.vstack([R, penalty]), target, rcond=None)[0]
            linear.n_iter_, linear.solver_ = None, "svd"
        # Features that are scaled have a mean of 0.
        shift = 0.0 if scaler is not None else float(center[:-1] @ linear.coef_)
        linear.intercept_ = float(center[-1]) - shift
        if not (np.isfinite(linear.coef_).all() and math.isfinite(linear.intercept_)):
            raise InvalidInput({"source": ["holds values too large or too small to fit"]})
        basis = None
        if entry.name == DEFAULT_ESTIMATOR:
            missed = R @ linear.coef_ - projected
            found = LeastSquares(
                coefficients=linear.coef_,
                intercept=linear.intercept_,
                rank=int(linear.rank_),
                singular=linear.singular_,
                n_rows=rows.n_rows,
                factor=factor[:-1, :-1],
                center=center[:-1],
                residual_sum=float(missed @ missed + factor[-1, -1] ** 2),
            )
            basis = make_interval_basis(found, fit_intercept=linear.fit_intercept)
    return _Fit(estimator, compile_scorer(estimator), basis)


def _fit_scaler(scaler: Any, rows: Triangle) -> Vector:
    """Fit a StandardScaler to what its own ``fit`` finds, and return its scale: (n_features,)."""
    n_rows, mean = rows.n_rows, rows.mean[:-1]
    variance = np.linalg.norm(rows.factor[:, :-1], axis=0) ** 2 / n_rows
    # Where it counts a feature as constant: what rounding makes of one (Chan, Golub and LeVeque).
    eps = np.finfo(np.float64).eps
    constant = variance <= n_rows * eps * variance + (n_rows * mean * eps) ** 2
    scaler.n_features_in_ = len(mean)
    scaler.n_samples_seen_ = np.int64(n_rows)
    scaler.mean_, scaler.var_ = mean, variance
    scaler.scale_ = np.where(constant, 1.0, np.sqrt(variance))
    return cast(Vector, scaler.scale_)
