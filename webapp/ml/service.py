"""The use cases of machine learning: session + core + serving."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as library_version
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.database import begin_write, insert_if_absent, outages_translated, time_limit, utc_now
from webapp.errors import ArtifactUnusable, InvalidInput, VersionNotFound, faults_in
from webapp.ml.core import artifacts, datasets, training
from webapp.ml.core.datasets import Dataset, Matrix, Vector
from webapp.ml.core.sample_data import make_sample_data
from webapp.ml.core.scoring import compile_scorer, score
from webapp.ml.core.training import TrainedModel, TrainingSpec
from webapp.ml.models import Activation, Artifact, Model, ModelVersion
from webapp.ml.serving import LoadedVersion, ModelServer, VersionRef

DEFAULT_MODEL = "default"
LEASE_DEADLINE = 0.5  # seconds a prediction waits to hear which version is active
_RECORDED_LIBRARIES = ("scikit-learn", "numpy", "scipy", "skops")

Rows: TypeAlias = Matrix | Sequence[Mapping[str, Any]]
"""Rows to predict for: a matrix in training order, or records by feature name."""


@dataclass(frozen=True)
class Predictions:
    """Values (n_rows,), the version that made them, and whether it is known to be current."""

    values: Vector
    version: LoadedVersion
    stale: bool


def train_model(
    session: Session,
    server: ModelServer,
    *,
    name: str,
    dataset: Dataset,
    spec: TrainingSpec,
    activate: bool = True,
) -> ModelVersion:
    """Train a model and store it as the model's next version; return that.

    Version, artifact and activation are one transaction. When the function returns, and
    ``activate`` was asked for, every worker on every host serves the new version.

    Raises InvalidInput where the data cannot be fitted.
    """
    trained = training.train(dataset, spec, clock=time.perf_counter)
    data = artifacts.dumps(trained.estimator)

    begin_write(session)
    model = _lock_model(session, name)
    version = _make_version(model, trained, dataset, spec)
    version.artifact_digest = artifacts.digest(data)
    insert_if_absent(session, Artifact, {"digest": version.artifact_digest, "data": data})
    session.add(version)
    session.flush()
    if activate:
        _activate(session, version)
    session.commit()
    if activate:
        server.wait_out_leases()
    return version


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


def predict_one(server: ModelServer, *, name: str, features: Rows) -> Predictions:
    """Predict for the single row in ``features``; see ``predict``."""
    try:
        return predict(server, name=name, rows=features)
    except InvalidInput as error:
        # There is but one row: its number would only be in the way.
        faults = error.faults["0"] if isinstance(error.faults, Mapping) else error.faults
        raise InvalidInput({"features": faults}) from None


def predict_batch(server: ModelServer, *, name: str, instances: Rows) -> Predictions:
    """Predict for the rows in ``instances``; see ``predict``."""
    with faults_in("instances"):
        return predict(server, name=name, rows=instances)


def predict(server: ModelServer, *, name: str, rows: Rows) -> Predictions:
    """Predict with the active version of a model.

    Raises ModelNotTrained, InvalidInput (by row) where rows do not fit the model, and
    Unavailable. Every prediction of the service passes here.
    """
    active = server.get_active(name)
    X = _arrange_rows(active.version, rows)
    return Predictions(score(active.version.scorer, X), active.version, active.stale)


def get_active_version(session: Session, name: str) -> ModelVersion | None:
    """Return the metadata of a model's active version, None where there is none."""
    return session.scalar(
        sa.select(ModelVersion)
        .join(Activation, Activation.version_id == ModelVersion.id)
        .where(Activation.model_id == _model_id(name), Activation.ended_at.is_(None))
    )


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


def make_server(engine: sa.Engine, *, lease: float, capacity: int) -> ModelServer:
    """Return the model server of a process, reading from a database; lease in seconds."""

    def find_active(name: str) -> VersionRef | None:
        with outages_translated(), time_limit(LEASE_DEADLINE), Session(engine) as session:
            return find_active_version(session, name)

    def load(ref: VersionRef) -> LoadedVersion:
        with outages_translated(), Session(engine) as session:
            return load_version(session, ref.id)

    return ModelServer(
        find_active=find_active,
        load_version=load,
        lease=lease,
        deadline=LEASE_DEADLINE,
        capacity=capacity,
    )


def find_active_version(session: Session, name: str) -> VersionRef | None:
    """Return which version of a model is active: the one query that a lease costs."""
    row = session.execute(
        sa.select(ModelVersion.id, ModelVersion.number)
        .join(Activation, Activation.version_id == ModelVersion.id)
        .where(Activation.model_id == _model_id(name), Activation.ended_at.is_(None))
    ).one_or_none()
    return None if row is None else VersionRef(row.id, row.number)


def load_version(session: Session, version_id: int) -> LoadedVersion:
    """Return a stored version ready to predict; raises ArtifactUnusable."""
    version = session.get(ModelVersion, version_id)
    if version is None:
        raise ArtifactUnusable("it has been deleted")
    data = session.scalar(
        sa.select(Artifact.data).where(Artifact.digest == version.artifact_digest)
    )
    estimator = artifacts.loads(data or b"", version.artifact_digest)
    return LoadedVersion(
        id=version.id,
        model=version.model.name,
        number=version.number,
        feature_names=tuple(version.feature_names),
        scorer=compile_scorer(estimator),
    )


def _arrange_rows(version: LoadedVersion, rows: Rows) -> Matrix:
    if isinstance(rows, Sequence):
        return datasets.matrix_from_records(rows, version.feature_names)
    datasets.check_width(rows, len(version.feature_names))
    return rows


def _lock_model(session: Session, name: str) -> Model:
    # The row lock makes trainings of one model number their versions one after the other, so
    # that numbers have neither gaps nor doubles; a rollback gives the number back.
    insert_if_absent(session, Model, {"name": name, "last_version": 0, "created_at": utc_now()})
    return session.scalars(sa.select(Model).where(Model.name == name).with_for_update()).one()


def _make_version(
    model: Model, trained: TrainedModel, dataset: Dataset, spec: TrainingSpec
) -> ModelVersion:
    model.last_version += 1
    return ModelVersion(
        model=model,
        number=model.last_version,
        estimator=spec.estimator,
        model_type=type(trained.estimator).__name__,
        params=dict(trained.params),
        feature_names=list(dataset.feature_names),
        metrics=dict(trained.metrics),
        evaluated_on=trained.evaluated_on,
        n_train=trained.n_train,
        n_test=trained.n_test,
        test_size=spec.test_size,
        random_state=spec.random_state,
        refit=spec.refit,
        fit_seconds=trained.fit_seconds,
        libraries=_library_versions(),
    )


def _activate(session: Session, version: ModelVersion) -> None:
    now = utc_now()
    # An explicit UPDATE, since the session would INSERT first and meet the unique index.
    session.execute(
        sa.update(Activation)
        .where(Activation.model_id == version.model_id, Activation.ended_at.is_(None))
        .values(ended_at=now)
    )
    session.add(
        Activation(
            model_id=version.model_id,
            version_id=version.id,
            version_number=version.number,
            activated_at=now,
        )
    )


def _model_id(name: str) -> sa.ScalarSelect[int]:
    return sa.select(Model.id).where(Model.name == name).scalar_subquery()


def _library_versions() -> dict[str, str]:
    versions = {name: library_version(name) for name in _RECORDED_LIBRARIES}
    return {"python": platform.python_version(), **versions}
