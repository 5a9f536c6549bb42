"""Prediction: from rows and a version to scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import InvalidInput, faults_in
from webapp.ml.core import datasets
from webapp.ml.core.datasets import (
    DataWarning,
    Features,
    Matrix,
)
from webapp.ml.core.intervals import Intervals, compute_intervals
from webapp.ml.core.scoring import Scores, score
from webapp.ml.inference.serving import Absence, LoadedVersion, ModelServer, VersionRef
from webapp.ml.registry.service import find_version, load_version

LEASE_DEADLINE = 0.5  # seconds a prediction waits to hear which version serves

VALUE_BYTES = 20  # of an answer: a number of 17 digits, its point and a comma

MOST_EXTRAPOLATED = 1000  # names of features in one answer; a name has up to 1 kB

Rows: TypeAlias = Matrix | Sequence[Mapping[str, Any]] | Callable[[Sequence[str]], Features]
"""Rows to predict for: a matrix in training order, records by feature name, or a function that
returns the named features, in that order."""


@dataclass(frozen=True)
class Predictions:
    """Scores (n_rows,), the version that made them, and what goes with them.

    ``stale`` says that the database could not be asked whether the version still serves.
    ``extrapolated`` maps the number of a row to the features that are outside the range they
    had in training; where these are too many to name, it is empty, and ``extrapolated_counts``
    has the number of rows by feature. ``intervals`` is None unless they were asked for.
    ``warnings`` say which columns were left out.
    """

    scores: Scores
    version: LoadedVersion
    stale: bool
    extrapolated: Mapping[int, Sequence[str]]
    extrapolated_counts: Mapping[str, int]
    intervals: Intervals | None
    warnings: Sequence[DataWarning] = ()


def predict_one(server: ModelServer, *, features: Rows, **arguments: Any) -> Predictions:
    """Predict for the single row in ``features``; see ``predict``."""
    try:
        return predict(server, rows=features, **arguments)
    except InvalidInput as error:
        # There is but one row: its number would only be in the way.
        faults = error.faults
        if not isinstance(faults, Mapping):
            faults = {"features": faults}
        elif "0" in faults:
            faults = {"features": faults["0"]}
        raise InvalidInput(faults) from None


def predict_batch(server: ModelServer, *, instances: Rows, **arguments: Any) -> Predictions:
    """Predict for the rows in ``instances``; see ``predict``."""
    place = None if callable(instances) else "instances"
    return predict(server, rows=instances, place=place, **arguments)


def predict(
    server: ModelServer,
    *,
    name: str,
    rows: Rows,
    place: str | None = None,
    number: int | None = None,
    intervals: bool = False,
    level: float = 0.95,
    most_values: int | None = None,
) -> Predictions:
    """Predict with a version of a model, by default the active one.

    With ``intervals``, bounds come along for a model fitted by ordinary least squares.
    ``most_values`` bounds what an answer says: predictions, probabilities and bounds together.

    Raises ModelNotTrained, ModelNotFound, VersionNotFound, Unavailable, and InvalidInput (by
    row, under ``place``) where rows do not fit the model, or are too many for one answer. Every
    prediction of the service passes here.
    """
    served = server.get_version(name, number)
    version = served.version
    basis = version.interval_basis
    if intervals and basis is None:
        message = "needs a linear regression with more rows than independent features"
        raise InvalidInput({"intervals": [message]})
    bounds = None
    with faults_in(place) if place else nullcontext():
        found = _arrange_rows(version, rows)
        X = found.X
        if most_values is not None:
            _check_answer(version, len(X), intervals=intervals, most=most_values)
        scores = score(version.scorer, X)
        if intervals and basis is not None:
            bounds = compute_intervals(basis, X, scores.values, level=level)
    extrapolated, extrapolated_counts = _find_extrapolated(version, X)
    return Predictions(
        scores=scores,
        version=version,
        stale=served.stale,
        extrapolated=extrapolated,
        extrapolated_counts=extrapolated_counts,
        intervals=bounds,
        warnings=found.warnings,
    )


def make_server(engine: sa.Engine, *, lease: float, capacity: int) -> ModelServer:
    """Return the model server of a process, reading from a database; lease in seconds."""

    def find(name: str, number: int | None) -> VersionRef | Absence:
        with outages_translated(), time_limit(LEASE_DEADLINE), Session(engine) as session:
            return find_version(session, name, number)

    def load(ref: VersionRef) -> LoadedVersion:
        with outages_translated(), Session(engine) as session:
            return load_version(session, ref.id)

    return ModelServer(
        find_version=find,
        load_version=load,
        lease=lease,
        deadline=LEASE_DEADLINE,
        capacity=capacity,
    )


def _arrange_rows(version: LoadedVersion, rows: Rows) -> Features:
    if isinstance(rows, np.ndarray):
        datasets.check_width(rows, len(version.feature_names))
        return Features(rows)
    if callable(rows):
        return rows(version.feature_names)
    return Features(datasets.matrix_from_records(rows, version.feature_names))


def _check_answer(version: LoadedVersion, n_rows: int, *, intervals: bool, most: int) -> None:
    """Raise InvalidInput where the answer for so many rows has more values than are allowed.

    A label counts as a value for every 20 bytes of it.
    """
    labels = version.classes or ()
    longest = max((len(str(label).encode()) for label in labels), default=0)
    by_row = 1 + longest // VALUE_BYTES + len(labels) + 4 * intervals
    if n_rows * by_row > most:
        message = (
            f"would be answered by {n_rows * by_row} values, {by_row} for each of {n_rows} rows; "
            f"at most {most} are allowed: send at most {most // by_row} rows a request"
        )
        raise InvalidInput([message])


def _find_extrapolated(
    version: LoadedVersion, X: Matrix
) -> tuple[dict[int, list[str]], dict[str, int]]:
    """Return the features outside their range in training: names by row, or else counts."""
    if version.minimum is None or version.maximum is None:
        return {}, {}
    outside = (version.minimum > X) | (version.maximum < X)
    count = np.count_nonzero(outside)  # quicker than any() for a row
    if not count:
        return {}, {}
    names = version.feature_names
    if count > MOST_EXTRAPOLATED and len(X) > 1:
        by_feature = zip(names, np.count_nonzero(outside, axis=0).tolist(), strict=True)
        return {}, {name: rows for name, rows in by_feature if rows}
    found: dict[int, list[str]] = {}
    for row, column in zip(*(indices.tolist() for indices in outside.nonzero()), strict=True):
        found.setdefault(row, []).append(names[column])
    return found, {}
