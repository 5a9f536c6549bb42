"""Predict: find the version that serves, put the rows into its order, score them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from webapp.db.base import begin_read
from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import InvalidInput
from webapp.ml.core import datasets
from webapp.ml.core.datasets import DataWarning, Features, Matrix
from webapp.ml.core.least_squares import IntervalBasis, Intervals, compute_intervals
from webapp.ml.core.scoring import Scores, score
from webapp.ml.core.training import list_classes
from webapp.ml.core.validation import make_scorer
from webapp.ml.errors import ArtifactUnusable, ModelNotFound, ModelNotTrained, VersionNotFound
from webapp.ml.inference.serving import Absence, LoadedVersion, ModelServer, VersionRef
from webapp.ml.registry.models import Activation, Model, ModelVersion
from webapp.ml.registry.service import DEFAULT_MODEL, load_estimator

LEASE_DEADLINE = 0.5  # seconds a prediction waits to hear which version serves
VALUE_BYTES = 20  # of a value in an answer: a number of 17 digits, its point and a comma
MOST_EXTRAPOLATED = 1000  # names of features in one answer; a name has up to 1 kB

RowReader: TypeAlias = Callable[[Sequence[str]], Features]
"""Returns rows with their columns in the order of these feature names; raises InvalidInput."""


@dataclass(frozen=True)
class Predictions:
    """Scores (n_rows,), the version that made them, and what goes with them.

    ``stale``: the database could not be asked whether this version still serves.
    ``extrapolated`` maps the number of a row to the features that are outside their range in
    training; where these are too many to name, it is empty, and ``extrapolated_counts`` has the
    number of rows by feature. ``warnings`` say which columns were left out.
    """

    scores: Scores
    version: LoadedVersion
    stale: bool
    extrapolated: Mapping[int, Sequence[str]]
    extrapolated_counts: Mapping[str, int]
    intervals: Intervals | None
    warnings: Sequence[DataWarning]

    def to_columns(self) -> dict[str, Any]:
        """Return a column (n_rows,) each: prediction, probability:CLASS, and bounds."""
        columns: dict[str, Any] = {"prediction": self.scores.values}
        if self.scores.probabilities is not None:
            names = [f"probability:{label}" for label in self.version.classes or ()]
            # The rows of the transposed matrix are views; copies could take 400 MB.
            columns |= zip(names, self.scores.probabilities.T, strict=True)
        if self.intervals is not None:
            columns["confidence:lower"] = self.intervals.confidence_lower
            columns["confidence:upper"] = self.intervals.confidence_upper
            columns["prediction:lower"] = self.intervals.prediction_lower
            columns["prediction:upper"] = self.intervals.prediction_upper
        return columns


def predict_one(server: ModelServer, *, features: Any, **options: Any) -> Predictions:
    """Predict for one row, a JSON array or an object by feature name; see ``predict``."""
    if not isinstance(features, list | dict):
        message = "must be an array of numbers, or an object by feature name"
        raise InvalidInput({"features": [message]})
    try:
        return predict(server, rows=[features], **options)
    except InvalidInput as error:
        if not isinstance(error.faults, Mapping) or "instances" not in error.faults:
            raise  # it is about an option
        faults = error.faults["instances"]
        faults = faults["0"] if isinstance(faults, Mapping) else faults  # of the only row
        raise InvalidInput({"features": faults}) from None


def predict(
    server: ModelServer,
    *,
    name: str,
    rows: RowReader | list[Any],
    number: int | None = None,
    intervals: bool = False,
    level: float = 0.95,
    most_values: int | None = None,
) -> Predictions:
    """Predict with a version of a model, by default the active one.

    ``rows`` are JSON, or come from a reader. ``intervals`` adds bounds, for a model fitted by
    ordinary least squares. ``most_values`` limits the size of the answer: predictions,
    probabilities and bounds together.

    Raises ModelNotTrained, ModelNotFound, VersionNotFound, Unavailable, and InvalidInput (by row,
    of JSON under ``instances``) where rows do not fit the model, or are too many for one answer.
    """
    version, stale = server.get_version(name, number)
    basis, bounds = version.interval_basis, None
    if intervals and basis is None:
        message = "needs a linear regression with more rows than independent features"
        raise InvalidInput({"intervals": [message]})
    names = version.feature_names
    try:
        features = rows(names) if callable(rows) else _read_json(rows, names)
        X = features.X
        if most_values is not None:
            _check_answer(version, len(X), intervals=intervals, most=most_values)
        scores = score(version.scorer, X)
        if intervals and basis is not None:
            bounds = compute_intervals(basis, X, scores.values, level=level)
    except InvalidInput as error:
        raise error if callable(rows) else InvalidInput({"instances": error.faults}) from None
    extrapolated, extrapolated_counts = _find_extrapolated(version, X)
    return Predictions(
        scores=scores,
        version=version,
        stale=stale,
        extrapolated=extrapolated,
        extrapolated_counts=extrapolated_counts,
        intervals=bounds,
        warnings=features.warnings,
    )


def _read_json(rows: Any, names: Sequence[str]) -> Features:
    """Return JSON rows, arrays or objects by feature name, with their columns in order."""
    if isinstance(rows, list) and rows and all(type(row) is dict for row in rows):
        return Features(datasets.matrix_from_records(rows, names))
    X = datasets.matrix_from_rows(rows)
    datasets.check_width(X, len(names))
    return Features(X)


def make_server(engine: sa.Engine, *, lease: float, capacity: int) -> ModelServer:
    """Return the model server of a process; lease in seconds."""

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


def find_version(session: Session, name: str, number: int | None) -> VersionRef | Absence:
    """Return the version that a request means, the active one without a number.

    This is the one query that a lease costs.
    """
    begin_read(session)
    query = sa.select(ModelVersion.id, ModelVersion.number).join(ModelVersion.model)
    if number is None:
        query = query.join(Activation, Activation.version_id == ModelVersion.id)
        query = query.where(Activation.ended_at.is_(None))
    else:
        query = query.where(ModelVersion.number == number)
    row = session.execute(query.where(Model.name == name)).one_or_none()
    if row is not None:
        return VersionRef(row.id, row.number)
    if number is not None:
        return partial(VersionNotFound, name, number)
    exists = name == DEFAULT_MODEL or session.scalar(sa.select(Model.id).where(Model.name == name))
    return partial(ModelNotTrained if exists else ModelNotFound, name)


def load_version(session: Session, version_id: int) -> LoadedVersion:
    """Return a stored version ready to predict; raises ArtifactUnusable."""
    version = session.get(ModelVersion, version_id, options=[undefer("*")])
    if version is None:
        raise ArtifactUnusable("it has been deleted")
    estimator = load_estimator(session, version.artifact_digest)
    basis, profile = version.interval_basis, version.profile
    return LoadedVersion(
        id=version.id,
        model=version.model.name,
        number=version.number,
        feature_names=tuple(version.feature_names),
        scorer=make_scorer(estimator, profile),
        classes=list_classes(estimator),
        minimum=None if profile is None else np.array(profile["min"], dtype=np.float64),
        maximum=None if profile is None else np.array(profile["max"], dtype=np.float64),
        interval_basis=None if basis is None else IntervalBasis.from_json(basis),
    )


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
