"""Predict: find the version that serves, put the rows into its order, score them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer, undefer_group

from webapp.db.base import begin_read
from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import InvalidInput
from webapp.ml.core.datasets import DataWarning, Features, Matrix, Vector
from webapp.ml.core.explaining import EXPLAINED, Explanation, refuse
from webapp.ml.core.features import BatchOptions, read_rows, warn_of_extra
from webapp.ml.core.least_squares import IntervalBasis, Intervals, compute_intervals
from webapp.ml.core.scoring import Scores, name_columns, score
from webapp.ml.core.signature import Signature
from webapp.ml.errors import (
    AliasNotFound,
    ModelNotFound,
    ModelNotTrained,
    VersionDeleted,
    VersionNotFound,
)
from webapp.ml.inference.serving import (
    Absence,
    KeyOf,
    LoadedVersion,
    ModelServer,
    Traffic,
    VersionRef,
    Which,
)
from webapp.ml.inference.shadow import Note, Outcome, ShadowThread, Size, compare_scores
from webapp.ml.registry.models import Activation, Model, ModelAlias, ModelVersion, TrafficShare
from webapp.ml.registry.service import DEFAULT_MODEL, load_model

LEASE_DEADLINE = 0.5  # seconds a prediction waits to hear which version serves
VALUE_BYTES = 20  # of a value in an answer: a number of 17 digits, its point and a comma
AS_THEY_ARE = BatchOptions()
LOADED = (
    undefer_group("wide"),
    undefer(ModelVersion.interval_basis),
    undefer(ModelVersion.mean_contributions),
)
MOST_NAMED = 1000  # names of features in one answer; a name has up to 1 kB
NOTES = {  # of single values, and how a warning puts it
    "extrapolated": "has a value outside the range of training",
    "missing": "has no value",
    "unseen": "has a value not seen in training",
}

RowReader: TypeAlias = Callable[[Signature], Features]
"""Returns rows with the columns of a signature, in its order; raises InvalidInput."""


class Noted(NamedTuple):
    """What is to be known of single values: ``rows`` maps the number of a row to it.

    Where it is too much to name, ``rows`` is empty, and ``counts`` has the number of rows by
    feature.
    """

    rows: Mapping[int, Any] = MappingProxyType({})
    counts: Mapping[str, int] = MappingProxyType({})

    def count_rows(self) -> Mapping[str, int]:
        """Return the number of rows by feature."""
        return self.counts or Counter(chain.from_iterable(self.rows.values()))


NOTHING = Noted()


class Predictions(NamedTuple):  # made 1.4 us sooner than a frozen dataclass, of 105 us
    """Scores (n_rows,), the version that made them, and what goes with them.

    ``stale``: the database could not be asked whether this version still serves.
    ``extrapolated`` are features outside their range in training, ``missing`` those without a
    value, and ``unseen`` are values that training did not have. ``warnings`` say which columns
    were left out, and ``passed`` are columns that the client wants back, by name.
    """

    scores: Scores
    version: LoadedVersion
    stale: bool
    extrapolated: Noted
    missing: Noted
    unseen: Noted
    intervals: Intervals | None
    warnings: Sequence[DataWarning]
    passed: Mapping[str, Any]
    explanation: Explanation | None = None

    def to_columns(self) -> dict[str, Any]:
        """Return columns, (n_rows,) each: those passed on, prediction, probabilities, bounds."""
        columns = name_columns(self.scores, self.version.classes, self.intervals)
        return {**self.passed, **columns}

    def count_notes(self) -> Counter[tuple[str, str]]:
        """Return the number of rows by feature and note, a key of ``NOTES``."""
        counts: Counter[tuple[str, str]] = Counter()
        for note in NOTES:
            counted = getattr(self, note).count_rows().items()
            counts.update({(name, note): rows for name, rows in counted})
        return counts


def warn_of_notes(
    counts: Counter[tuple[str, str]], names: Sequence[str], n_rows: int
) -> list[DataWarning]:
    """Return a warning for each of the counts of ``n_rows`` rows, in the order of the names."""
    if not counts:
        return []
    return [
        DataWarning(name, f"{text} in {counts[name, note]} of {n_rows} rows")
        for name in names
        for note, text in NOTES.items()
        if counts[name, note]
    ]


def predict_one(server: ModelServer, *, features: Any, **options: Any) -> Predictions:
    """Predict for one row, a JSON array or an object by feature name; see ``predict``."""
    if not isinstance(features, list | dict):
        message = "must be an array of values, or an object by feature name"
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
    which: Which = None,
    key_of: KeyOf | None = None,
    intervals: bool = False,
    level: float = 0.95,
    explain: bool = False,
    most_values: int | None = None,
    batch: BatchOptions = AS_THEY_ARE,
) -> Predictions:
    """Predict with a version of a model, by default the active one; ``which``: see serving.

    Where the model's traffic is shared, ``key_of`` decides which version answers; the shadow then
    predicts too, later: a reader must be able to read again once ``key_of`` has had it.

    ``rows`` are JSON, read with the options ``batch``, or come from a reader. ``intervals`` adds
    bounds, for a model fitted by ordinary least squares. ``explain`` adds what each feature
    added. ``most_values`` limits the size of the answer, with all that it has.

    Raises ModelNotTrained, ModelNotFound, VersionNotFound, AliasNotFound, Unavailable, and
    InvalidInput (by row, of JSON under ``instances``) where rows do not fit the model, or are too
    many for one answer.
    """
    version, stale, shadow = server.choose_version(name, which, key_of, rows)
    basis, bounds = version.interval_basis, None
    if intervals and basis is None:
        message = (
            "needs a linear regression of numbers without missing values, with more rows than "
            "independent features"
        )
        raise InvalidInput({"intervals": [message]})
    if explain and version.explain is None:
        raise refuse(f"is not possible for this model: {EXPLAINED}")
    signature = version.signature
    if batch.passthrough and not callable(rows):
        _check_passthrough(rows, batch.passthrough)
    try:
        features = rows(signature) if callable(rows) else _read_json(rows, signature, batch)
        X = features.X
        if most_values is not None:
            further = 4 * intervals + explain * _count_contributions(version)
            _check_answer(version, len(X), further=further, most=most_values)
        scores = score(version.scorer, X, features.texts)
        if most_values is not None and scores.values.size > most_values:
            message = f"has {scores.values.size} values in all; at most {most_values} are allowed"
            raise InvalidInput([message])
        if intervals and basis is not None:
            bounds = compute_intervals(basis, X, scores.values, level=level)
    except InvalidInput as error:
        raise error if callable(rows) else InvalidInput({"instances": error.faults}) from None
    explanation = _explain(version, features) if explain else None
    if shadow is not None:
        size = Size(len(X) * len(signature.columns), shadow.n_bytes)
        compare = partial(_compare, server, shadow.ref, rows, batch, scores)
        server.shadows.submit(name, shadow.ref.number, size, compare)
    typed = not signature.is_matrix
    return Predictions(
        scores=scores,
        version=version,
        stale=stale,
        extrapolated=_find_extrapolated(version, X),
        missing=_find_missing(signature, features) if typed else NOTHING,
        unseen=_find_unseen(features) if features.unseen else NOTHING,
        intervals=bounds,
        warnings=features.warnings,
        passed=features.passed,
        explanation=explanation,
    )


def _explain(version: LoadedVersion, features: Features) -> Explanation:
    assert version.explain is not None  # noqa: S101 (as checked before)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        explanation = version.explain(features.X, features.texts)
    n_classes = 1 if version.classes is None else len(version.classes)
    if len(explanation.base) not in (n_classes, 1 if n_classes == 2 else n_classes):
        raise refuse("is not possible for models of several outputs")
    return explanation


def _count_contributions(version: LoadedVersion) -> int:
    """Return how many contributions there are for a row, at most; long names count, too."""
    names = version.signature.names
    by_function = len(names) + sum(len(name.encode()) for name in names) // VALUE_BYTES
    return by_function * max(1, len(version.classes or ()))


def _compare(
    server: ModelServer,
    ref: VersionRef,
    rows: RowReader | list[Any],
    batch: BatchOptions,
    answered: Scores,
) -> Outcome:
    """Return how the predictions of a shadow differ from those that were answered."""
    version = server.cache.get(ref)
    signature = version.signature  # has the columns of the other, but may encode them otherwise
    features = rows(signature) if callable(rows) else _read_json(rows, signature, batch)
    return compare_scores(answered, score(version.scorer, features.X, features.texts))


def _read_json(rows: Any, signature: Signature, options: BatchOptions) -> Features:
    """Return JSON rows, arrays or objects by feature name, with their columns in order."""
    records = isinstance(rows, list) and rows and all(type(row) is dict for row in rows)
    if records and (options.ignore_extra or options.passthrough):
        kept, further = _split_records(rows, signature, options)
        found = _read_json(kept, signature, AS_THEY_ARE)
        return replace(found, warnings=further.warnings, passed=further.passed)
    return read_rows(rows, signature)


def _check_passthrough(rows: Any, names: Sequence[str]) -> None:
    """Raise InvalidInput unless rows are objects with single values by these names."""
    if not isinstance(rows, list) or not all(type(row) is dict for row in rows):
        raise InvalidInput({"passthrough": ["needs rows that are objects by feature name"]})
    for name in names:
        values = [row.get(name) for row in rows]
        if not any(name in row for row in rows):
            raise InvalidInput({"passthrough": [f"names {name}, which is in no row"]})
        if any(isinstance(value, list | dict) for value in values):
            raise InvalidInput({"passthrough": [f"names {name}, which is no single value"]})


def _split_records(
    rows: list[dict[str, Any]], signature: Signature, options: BatchOptions
) -> tuple[list[dict[str, Any]], Features]:
    """Return records with the features alone, and what is passed on or left out."""
    given = dict.fromkeys(name for row in rows for name in row)
    passed = {
        name: np.array([row.get(name) for row in rows], dtype=np.object_)
        for name in options.passthrough
    }
    dropped = {*passed} - signature.name_set
    warnings: tuple[DataWarning, ...] = ()
    if options.ignore_extra:
        extra = [name for name in given if name not in signature.name_set and name not in passed]
        warnings = warn_of_extra(extra)
        dropped |= set(extra)
    kept = [{name: row[name] for name in row if name not in dropped} for row in rows]
    return kept, Features(np.empty((0, 0)), warnings=warnings, passed=passed)


def make_server(
    engine: sa.Engine, *, lease: float, capacity: int, note_shadow: Note
) -> ModelServer:
    """Return the model server of a process; lease in seconds.

    ``note_shadow`` is told what came of each request that a shadow predicted too.
    """

    def find(name: str, which: Which) -> VersionRef | Absence:
        with outages_translated(), time_limit(LEASE_DEADLINE), Session(engine) as session:
            return find_version(session, name, which)

    def load(ref: VersionRef) -> LoadedVersion:
        with outages_translated(), Session(engine) as session:
            return load_version(session, ref.id)

    return ModelServer(
        find_version=find,
        load_version=load,
        lease=lease,
        deadline=LEASE_DEADLINE,
        capacity=capacity,
        shadows=ShadowThread(note_shadow),
    )


def find_version(session: Session, name: str, which: Which) -> VersionRef | Absence:
    """Return the version that a request means, and what it shares its traffic with.

    This is the one query that a lease costs.
    """
    begin_read(session)
    query = sa.select(Model.id, ModelVersion.id.label("version_id"), ModelVersion.number)
    if which is None:
        of_model = TrafficShare.model_id == Model.id
        query = query.add_columns(TrafficShare).outerjoin(TrafficShare, of_model)
        query = query.order_by(TrafficShare.version_number)
        is_active = sa.and_(Activation.model_id == Model.id, Activation.ended_at.is_(None))
        query = query.outerjoin(Activation, is_active)
        is_meant = ModelVersion.id == Activation.version_id
    elif isinstance(which, str):
        is_named = sa.and_(ModelAlias.model_id == Model.id, ModelAlias.name == which)
        query = query.outerjoin(ModelAlias, is_named)
        is_meant = ModelVersion.id == ModelAlias.version_id
    else:
        is_meant = sa.and_(ModelVersion.model_id == Model.id, ModelVersion.number == which)
    query = query.outerjoin(ModelVersion, is_meant).where(Model.name == name)
    rows = session.execute(query).all()
    row = rows[0] if rows else None
    if row is not None and row.version_id is not None:
        traffic = None if which is not None else _read_traffic([r.TrafficShare for r in rows])
        return VersionRef(row.version_id, row.number, row.id, traffic)
    if isinstance(which, str):
        return partial(AliasNotFound, name, which)
    if which is not None:
        return partial(VersionNotFound, name, which)
    exists = name == DEFAULT_MODEL or row is not None
    return partial(ModelNotTrained if exists else ModelNotFound, name)


def _read_traffic(rows: Sequence[TrafficShare | None]) -> Traffic | None:
    """Return how traffic is shared; None where a model has no shares."""
    refs = [
        (VersionRef(row.version_id, row.version_number, row.model_id), row.percent)
        for row in rows
        if row is not None
    ]
    if not refs:
        return None
    shares = tuple((ref, percent) for ref, percent in refs if percent is not None)
    shadows = [ref for ref, percent in refs if percent is None]
    return Traffic(shares, shadows[0] if shadows else None)


def load_version(session: Session, version_id: int) -> LoadedVersion:
    """Return a stored version ready to predict; raises VersionDeleted, and ArtifactUnusable."""
    version = session.get(ModelVersion, version_id, options=LOADED)
    if version is None:
        raise VersionDeleted
    basis, profile = version.interval_basis, version.profile
    means = version.mean_contributions
    name, number = version.model.name, version.number
    loaded = load_model(session, version)
    minimum, maximum = _spread_ranges(loaded.signature, profile)
    explain = loaded.explain
    if explain is not None and means is not None:
        explain = partial(explain, means=np.array(means))
    return LoadedVersion(
        id=version_id,
        model=name,
        number=number,
        signature=loaded.signature,
        scorer=loaded.scorer,
        classes=loaded.classes,
        minimum=minimum,
        maximum=maximum,
        interval_basis=None if basis is None else IntervalBasis.from_json(basis),
        explain=explain,
    )


def _check_answer(version: LoadedVersion, n_rows: int, *, further: int, most: int) -> None:
    """Raise InvalidInput where the answer for so many rows has more values than are allowed.

    A label counts as a value for every 20 bytes of it. ``further`` are those of a row beside its
    prediction and probabilities.
    """
    labels = version.classes or ()
    longest = max((len(str(label).encode()) for label in labels), default=0)
    by_row = 1 + longest // VALUE_BYTES + len(labels) + further
    if n_rows * by_row > most:
        message = (
            f"would be answered by {n_rows * by_row} values, {by_row} for each of {n_rows} rows; "
            f"at most {most} are allowed: send at most {most // by_row} rows a request"
        )
        raise InvalidInput([message])


def _spread_ranges(
    signature: Signature, profile: Mapping[str, Any] | None
) -> tuple[Vector | None, Vector | None]:
    """Return the ranges of columns in training as those of all inputs: (n_inputs,)."""
    if profile is None:
        return None, None
    low, high = (np.array(profile[name], dtype=np.float64) for name in ("min", "max"))
    if signature.is_matrix:
        return low, high
    found = np.full((2, len(signature.inputs)), np.nan)  # no comparison with NaN is true
    for number, place in enumerate(signature.places):
        if place.start < place.stop:
            found[:, place.start] = low[number], high[number]
    return found[0], found[1]


def _find_extrapolated(version: LoadedVersion, X: Matrix) -> Noted:
    """Return the features outside their range in training."""
    if version.minimum is None or version.maximum is None:
        return NOTHING
    outside = (version.minimum > X) | (version.maximum < X)
    if not np.count_nonzero(outside):  # quicker than any() for a row
        return NOTHING
    signature = version.signature
    if not signature.is_matrix:
        outside = _by_column(signature, outside)
    return _note(signature.names, outside)


def _find_missing(signature: Signature, features: Features) -> Noted:
    missing = np.isnan(features.X)
    if features.texts is not None:
        # By element: 0.8 ms for 100,000 texts, where a loop takes 127.
        absent = features.texts == None  # noqa: E711 # `is` would compare the array itself
    elif not np.count_nonzero(missing):
        return NOTHING
    by_column = _by_column(signature, missing)
    if features.texts is not None:
        places = [n for n, column in enumerate(signature.columns) if column.kind == "text"]
        by_column[:, places] = absent
    return _note(signature.names, by_column)


def _by_column(signature: Signature, found: Any) -> Any:
    """Return what holds of inputs, (n_rows, n_inputs), as what holds of columns."""
    by_column = np.zeros((len(found), len(signature.columns)), dtype=np.bool_)
    for number, place in enumerate(signature.places):
        if place.start < place.stop:
            by_column[:, number] = found[:, place.start]
    return by_column


def _note(names: Sequence[str], found: Any) -> Noted:
    """Return names by row, or else counts by name. found: (n_rows, n_names) booleans."""
    count = np.count_nonzero(found)
    if count > MOST_NAMED and len(found) > 1:
        by_feature = zip(names, np.count_nonzero(found, axis=0).tolist(), strict=True)
        return Noted(counts={name: rows for name, rows in by_feature if rows})
    rows: dict[int, list[str]] = {}
    for row, column in zip(*(indices.tolist() for indices in found.nonzero()), strict=True):
        rows.setdefault(row, []).append(names[column])
    return Noted(rows)


def _find_unseen(features: Features) -> Noted:
    counts = {name: len(found.values) for name, found in features.unseen.items()}
    if sum(counts.values()) > MOST_NAMED:
        return Noted(counts=counts)
    rows: dict[int, dict[str, Any]] = {}
    for name, found in features.unseen.items():
        for row, value in zip(found.rows.tolist(), found.values, strict=True):
            rows.setdefault(row, {})[name] = value
    return Noted(dict(sorted(rows.items())))
