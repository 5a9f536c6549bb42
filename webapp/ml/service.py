"""The use cases of machine learning: session + core + serving."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from webapp.audit.service import current_actor, record
from webapp.db.base import (
    Page,
    begin_read,
    begin_write,
    fetch_page,
    insert_if_absent,
    insert_or_correct,
    keep_nothing,
    utc_now,
)
from webapp.db.outages import outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import InvalidInput, faults_in
from webapp.ml.core import artifacts, datasets, training
from webapp.ml.core.costs import FitLimits
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    Features,
    Matrix,
    Vector,
    default_feature_names,
)
from webapp.ml.core.estimators import CATALOGUE, find_by_type, read_params, split_pipeline
from webapp.ml.core.intervals import IntervalBasis, Intervals, compute_intervals
from webapp.ml.core.probe import make_scorer
from webapp.ml.core.sample_data import make_sample_data
from webapp.ml.core.scoring import Scores, find_linear_model, score
from webapp.ml.core.training import TrainedModel, TrainingSpec
from webapp.ml.errors import (
    ArtifactUnusable,
    CoefficientsNotFound,
    ModelNotFound,
    ModelNotTrained,
    NothingToRollBack,
    VersionActive,
    VersionNotFound,
    VersionUnusable,
)
from webapp.ml.fit_limit import fit_time_limit
from webapp.ml.models import Activation, Artifact, Model, ModelVersion
from webapp.ml.serving import Absence, LoadedVersion, ModelServer, VersionRef

DEFAULT_MODEL = "default"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
LEASE_DEADLINE = 0.5  # seconds a prediction waits to hear which version serves
NORMAL_LIMITS = FitLimits()  # where the caller names none
VALUE_BYTES = 20  # of an answer: a number of 17 digits, its point and a comma
MOST_LISTED = 1000  # models, for those who list them all
MOST_EXTRAPOLATED = 1000  # names of features in one answer; a name has up to 1 kB
_RECORDED_LIBRARIES = ("scikit-learn", "numpy", "scipy", "skops")

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


@dataclass(frozen=True)
class Coefficients:
    """A linear model's coefficients, in units of the features as they came.

    coefficients: (n_functions, n_features), intercepts: (n_functions,). A regression is one
    function; a classification has one for each of ``classes``: of two classes for the second.
    """

    feature_names: Sequence[str]
    classes: Sequence[Any] | None
    intercepts: Vector
    coefficients: Matrix


# Training and registering


def train_model(
    session: Session,
    server: ModelServer,
    *,
    name: str,
    dataset: Dataset,
    spec: TrainingSpec,
    activate: bool = True,
    limits: FitLimits = NORMAL_LIMITS,
    before_commit: Callable[[ModelVersion], object] = keep_nothing,
) -> ModelVersion:
    """Train a model and store it as the model's next version; return that.

    Version, artifact and activation are one transaction, and ``before_commit`` is given the
    version within it. When the function returns, and ``activate`` was asked for, every worker on
    every host serves the new version.

    Raises InvalidInput where the data cannot be fitted, or not within ``limits``.
    """
    try:
        with fit_time_limit(limits.seconds):
            trained = training.train(dataset, spec, clock=time.perf_counter, limits=limits)
        version = _describe_training(trained, dataset, spec)
        data = artifacts.dumps(trained.estimator)
    except (MemoryError, ArtifactUnusable):  # the latter: a model too large to be stored
        lighter = CATALOGUE[spec.estimator].lighter
        message = "makes a model that is too large: try fewer rows or columns"
        faults = {"estimator": [f"{message}, or {lighter}" if lighter else message]}
        raise InvalidInput(faults) from None
    return _store_version(
        session, server, name, version, data, activate=activate, before_commit=before_commit
    )


def register_version(
    session: Session,
    server: ModelServer,
    *,
    name: str,
    data: bytes,
    max_features: int,
    feature_names: Sequence[str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    activate: bool = False,
    before_commit: Callable[[ModelVersion], object] = keep_nothing,
) -> ModelVersion:
    """Store a model that was fitted elsewhere, a skops file, as the model's next version.

    Feature names are those that the estimator has learnt, unless they are given. Raises
    InvalidInput when the file or the names cannot be used, and when it has more than
    ``max_features``.
    """
    try:
        estimator, learnt_names = artifacts.read_upload(data, max_features=max_features)
        make_scorer(estimator)  # what fails now would fail a client later
        names = learnt_names if feature_names is None else feature_names
        version = _describe_upload(estimator, names)
    except ArtifactUnusable as error:
        raise InvalidInput({"artifact": [str(error)]}, source="form") from None
    version.metrics = dict(metrics or {})
    return _store_version(
        session, server, name, version, data, activate=activate, before_commit=before_commit
    )


def seed_default_model(session: Session, server: ModelServer) -> ModelVersion | None:
    """Train the default model on the sample data, unless it has a version; return the new one."""
    trained = session.scalar(sa.select(Model.last_version).where(Model.name == DEFAULT_MODEL))
    if trained:
        return None
    return train_model(
        session,
        server,
        name=DEFAULT_MODEL,
        dataset=make_sample_data(),
        spec=TrainingSpec(),
    )


# Activating, rolling back, deleting


def activate_version(
    session: Session, server: ModelServer, *, name: str, number: int
) -> ModelVersion:
    """Make a version the one that serves; when this returns, every worker serves it.

    Raises VersionNotFound, and VersionUnusable when it cannot be loaded: then the one before
    keeps serving.
    """

    def choose(model: Model) -> tuple[ModelVersion, Activation | None]:
        return get_version(session, name, number), _get_active_activation(session, model)

    version, active = _lock_with_loadable(session, name, choose)
    if active is None or active.version_id != version.id:
        _activate(session, version, reason="activate", predecessor=active)
    record(session, "version.activate", f"model {name}", {"version": number})
    session.commit()
    server.wait_out_leases()
    return version


def roll_back(session: Session, server: ModelServer, *, name: str) -> ModelVersion:
    """Make the version serve that was active before, and return it.

    Rolling back again goes further back. Versions that were deleted since are passed over.
    Raises ModelNotFound, NothingToRollBack, and VersionUnusable.
    """

    def choose(model: Model) -> tuple[ModelVersion, Activation | None]:
        active = _get_active_activation(session, model)
        target = None if active is None else _find_rollback_target(session, active)
        if target is None or target.version_id is None:
            raise NothingToRollBack(name)
        before = target.predecessor_id
        predecessor = None if before is None else session.get(Activation, before)
        return session.get_one(ModelVersion, target.version_id), predecessor

    version, predecessor = _lock_with_loadable(session, name, choose)
    _activate(session, version, reason="rollback", predecessor=predecessor)
    record(session, "model.rollback", f"model {name}", {"version": version.number})
    session.commit()
    server.wait_out_leases()
    return version


def delete_version(session: Session, server: ModelServer, *, name: str, number: int) -> None:
    """Delete a version and its artifact; its number is not given again.

    When this returns, no worker serves it. Raises VersionNotFound, and VersionActive.
    """
    begin_write(session)
    model = _lock_existing_model(session, name)
    version = get_version(session, name, number)
    active = _get_active_activation(session, model)
    if active is not None and active.version_id == version.id:
        raise VersionActive(name, number)
    digest = version.artifact_digest
    # Whoever stores a version of the same bytes holds them: wait, and then see that version.
    session.execute(sa.select(Artifact.digest).where(Artifact.digest == digest).with_for_update())
    session.delete(version)
    session.flush()
    used = sa.select(ModelVersion.id).where(ModelVersion.artifact_digest == digest)
    session.execute(sa.delete(Artifact).where(Artifact.digest == digest, ~used.exists()))
    record(session, "version.delete", f"model {name}", {"version": number})
    session.commit()
    server.wait_out_leases()


# Reading


def get_model(session: Session, name: str) -> Model:
    """Return a model; raises ModelNotFound."""
    model = session.scalar(sa.select(Model).where(Model.name == name))
    if model is None:
        raise ModelNotFound(name)
    return model


def list_models(session: Session, *, page: int, page_size: int) -> Page[Model]:
    """Return one page of the models, by name."""
    return fetch_page(session, sa.select(Model).order_by(Model.name), number=page, size=page_size)


def list_versions(session: Session, *, name: str, page: int, page_size: int) -> Page[ModelVersion]:
    """Return one page of a model's versions, the newest first; raises ModelNotFound."""
    model = get_model(session, name)
    newest_first = (
        sa.select(ModelVersion)
        .where(ModelVersion.model_id == model.id)
        .order_by(ModelVersion.number.desc())
    )
    return fetch_page(session, newest_first, number=page, size=page_size)


def list_activations(
    session: Session, *, name: str, page: int, page_size: int
) -> Page[Activation]:
    """Return one page of what was active when, the latest first; raises ModelNotFound."""
    model = get_model(session, name)
    latest_first = (
        sa.select(Activation).where(Activation.model_id == model.id).order_by(Activation.id.desc())
    )
    return fetch_page(session, latest_first, number=page, size=page_size)


def get_active_version(session: Session, name: str) -> ModelVersion | None:
    """Return the metadata of a model's active version, None where there is none."""
    return session.scalar(
        sa.select(ModelVersion)
        .join(Activation, Activation.version_id == ModelVersion.id)
        .where(Activation.model_id == _model_id(name), Activation.ended_at.is_(None))
    )


def list_active_versions(
    session: Session, *, most: int = MOST_LISTED
) -> Sequence[tuple[str, int]]:
    """Return name and active version's number of the first ``most`` models by name."""
    begin_read(session)
    query = (
        sa.select(Model.name, Activation.version_number)
        .join(Activation, Activation.model_id == Model.id)
        .where(Activation.ended_at.is_(None))
        .order_by(Model.name)
        .limit(most)
    )
    return [(name, number) for name, number in session.execute(query)]


def get_version(session: Session, name: str, number: int) -> ModelVersion:
    """Return the metadata of a version; raises VersionNotFound."""
    version = session.scalar(
        sa.select(ModelVersion).where(
            ModelVersion.model_id == _model_id(name), ModelVersion.number == number
        )
    )
    if version is None:
        raise VersionNotFound(name, number)
    return version


def get_artifact(session: Session, name: str, number: int) -> Artifact:
    """Return the bytes of a version; raises VersionNotFound, and ArtifactUnusable."""
    version = get_version(session, name, number)
    artifact = session.get(Artifact, version.artifact_digest)
    if artifact is None:
        raise ArtifactUnusable("its bytes are missing")
    artifacts.check_digest(artifact.data, artifact.digest)
    return artifact


def get_coefficients(session: Session, name: str, number: int) -> Coefficients:
    """Return all coefficients of a version, however many.

    Raises VersionNotFound, CoefficientsNotFound, and ArtifactUnusable.
    """
    version = get_version(session, name, number)
    if not CATALOGUE[version.estimator].is_linear:
        raise CoefficientsNotFound(name, number, version.model_type)
    estimator = artifacts.loads(get_artifact(session, name, number).data, version.artifact_digest)
    linear = find_linear_model(estimator)
    assert linear is not None  # noqa: S101 (the catalogue says that it is one)
    classes = training.list_classes(estimator)
    return Coefficients(
        feature_names=version.feature_names,
        classes=classes[1:] if classes is not None and len(classes) == 2 else classes,
        intercepts=np.atleast_1d(linear.intercept),
        coefficients=np.atleast_2d(linear.coefficients),
    )


# Predicting


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


def find_version(session: Session, name: str, number: int | None) -> VersionRef | Absence:
    """Return which version a request for it means: the one query that a lease costs.

    A number of None means the active version.
    """
    begin_read(session)
    wanted = Activation.ended_at.is_(None) if number is None else ModelVersion.number == number
    query = sa.select(ModelVersion.id, ModelVersion.number).where(
        ModelVersion.model_id == _model_id(name), wanted
    )
    if number is None:
        query = query.join(Activation, Activation.version_id == ModelVersion.id)
    row = session.execute(query).one_or_none()
    if row is not None:
        return VersionRef(row.id, row.number)
    if number is not None:
        return Absence(VersionNotFound, (name, number))
    known = name == DEFAULT_MODEL or session.scalar(sa.select(_model_id(name)))
    return Absence(ModelNotTrained if known else ModelNotFound, (name,))


def load_version(session: Session, version_id: int) -> LoadedVersion:
    """Return a stored version ready to predict; raises ArtifactUnusable."""
    version = session.get(ModelVersion, version_id, options=[undefer(ModelVersion.interval_basis)])
    if version is None:
        raise ArtifactUnusable("it has been deleted")
    data = session.scalar(
        sa.select(Artifact.data).where(Artifact.digest == version.artifact_digest)
    )
    estimator = artifacts.loads(data or b"", version.artifact_digest)
    basis = version.interval_basis
    profile = version.profile or {}
    return LoadedVersion(
        id=version.id,
        model=version.model.name,
        number=version.number,
        feature_names=tuple(version.feature_names),
        scorer=make_scorer(estimator, version.profile),
        classes=training.list_classes(estimator),
        minimum=np.array(profile["min"], dtype=np.float64) if profile else None,
        maximum=np.array(profile["max"], dtype=np.float64) if profile else None,
        interval_basis=None if basis is None else IntervalBasis.from_json(basis),
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


def _store_version(
    session: Session,
    server: ModelServer,
    name: str,
    version: ModelVersion,
    data: bytes,
    *,
    activate: bool,
    before_commit: Callable[[ModelVersion], object],
) -> ModelVersion:
    """Store version, artifact and activation in one transaction; wait until it serves."""
    version.artifact_digest = artifacts.digest(data)
    version.created_by = current_actor().name
    reason = "train" if version.origin == "trained" else "upload"
    begin_write(session)
    model = _lock_model(session, name)
    model.last_version += 1
    version.model, version.number = model, model.last_version
    # Bytes that are there already are compared: a new version must not rest on damaged ones.
    insert_or_correct(session, Artifact, {"digest": version.artifact_digest, "data": data})
    session.add(version)
    session.flush()
    if activate:
        active = _get_active_activation(session, model)
        _activate(session, version, reason=reason, predecessor=active)
    details = {"version": version.number, "activated": activate}
    record(session, f"version.{reason}", f"model {name}", details)
    before_commit(version)
    session.commit()
    if activate:
        server.wait_out_leases()
    return version


def _lock_model(session: Session, name: str) -> Model:
    # The row lock makes trainings of one model number their versions one after the other, so
    # that numbers have neither gaps nor doubles; a rollback gives the number back.
    insert_if_absent(session, Model, {"name": name, "last_version": 0, "created_at": utc_now()})
    return _lock_existing_model(session, name)


def _lock_existing_model(session: Session, name: str) -> Model:
    model = session.scalar(sa.select(Model).where(Model.name == name).with_for_update())
    if model is None:
        raise ModelNotFound(name)
    return model


def _describe_training(
    trained: TrainedModel, dataset: Dataset, spec: TrainingSpec
) -> ModelVersion:
    basis = trained.interval_basis
    return ModelVersion(
        origin="trained",
        task=CATALOGUE[spec.estimator].task,
        estimator=spec.estimator,
        model_type=type(split_pipeline(trained.estimator)[1]).__name__,
        params=dict(trained.params),
        scale=spec.scale,
        feature_names=list(dataset.feature_names),
        classes=None if trained.classes is None else list(trained.classes),
        metrics=dict(trained.metrics),
        coefficients=trained.coefficients,
        libraries=_library_versions(),
        evaluated_on=trained.evaluated_on,
        n_train=trained.n_train,
        n_test=trained.n_test,
        test_size=spec.test_size,
        random_state=spec.random_state,
        refit=spec.refit,
        fit_seconds=trained.fit_seconds,
        converged=trained.converged,
        data_digest=trained.data_digest,
        warnings=[asdict(warning) for warning in dataset.warnings],
        profile=dict(trained.profile),
        interval_basis=None if basis is None else basis.to_json(),
    )


def _describe_upload(estimator: Any, feature_names: Sequence[str] | None) -> ModelVersion:
    scaler, final = split_pipeline(estimator)
    entry = find_by_type(f"{type(final).__module__}.{type(final).__qualname__}")
    if entry is None:
        raise InvalidInput({"artifact": ["is not an estimator of the catalogue"]}, source="form")
    n_features = estimator.n_features_in_
    names = default_feature_names(n_features) if feature_names is None else feature_names
    if len(names) != n_features:
        message = f"has {len(names)} names for {n_features} features"
        raise InvalidInput({"feature_names": [message]}, source="form")
    datasets.check_feature_names(names)
    classes = training.list_classes(estimator)
    return ModelVersion(
        origin="uploaded",
        task=entry.task,
        estimator=entry.name,
        model_type=type(final).__name__,
        params=read_params(entry, final),
        scale=scaler is not None,
        feature_names=list(names),
        classes=None if classes is None else list(classes),
        coefficients=training.describe_coefficients(estimator, tuple(names)),
        warnings=[],
        libraries=_library_versions(),
    )


def _lock_with_loadable(
    session: Session,
    name: str,
    choose: Callable[[Model], tuple[ModelVersion, Activation | None]],
) -> tuple[ModelVersion, Activation | None]:
    """Lock a model for writing, and return what ``choose`` finds of it: a version that loads.

    Loading takes seconds, and on SQLite the lock keeps all other writers out: the lock is given
    back for it, and then the choice is made again. Raises VersionUnusable.
    """
    loaded, unusable = 0, ""
    while True:
        begin_write(session)
        version, activation = choose(_lock_existing_model(session, name))
        if version.id == loaded:
            if unusable:
                raise VersionUnusable(name, version.number, unusable)
            return version, activation
        loaded, unusable = version.id, ""
        begin_read(session)
        try:
            load_version(session, loaded)
        except ArtifactUnusable as error:
            unusable = str(error)


def _get_active_activation(session: Session, model: Model) -> Activation | None:
    return session.scalar(
        sa.select(Activation).where(Activation.model_id == model.id, Activation.ended_at.is_(None))
    )


def _find_rollback_target(session: Session, active: Activation) -> Activation | None:
    """Return the nearest predecessor whose version exists, and is another than the active."""
    target = active
    while target.predecessor_id is not None:
        target = session.get_one(Activation, target.predecessor_id)
        if target.version_id is not None and target.version_number != active.version_number:
            return target
    return None


def _activate(
    session: Session,
    version: ModelVersion,
    *,
    reason: str,
    predecessor: Activation | None,
) -> None:
    now = utc_now()
    active = _get_active_activation(session, version.model)
    if active is not None:
        active.ended_at = now
        # The session would INSERT first and meet the unique index.
        session.flush()
    session.add(
        Activation(
            model_id=version.model_id,
            version_id=version.id,
            version_number=version.number,
            reason=reason,
            activated_at=now,
            activated_by=current_actor().name,
            previous_number=None if active is None else active.version_number,
            predecessor_id=None if predecessor is None else predecessor.id,
        )
    )


def _model_id(name: str) -> sa.ScalarSelect[int]:
    return sa.select(Model.id).where(Model.name == name).scalar_subquery()


_find_version = cache(metadata.version)  # reads files, for what stays as it is


def _library_versions() -> dict[str, str]:
    versions = {name: _find_version(name) for name in _RECORDED_LIBRARIES}
    return {"python": platform.python_version(), **versions}
