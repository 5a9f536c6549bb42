"""The HTTP face of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import current_app

from webapp.extensions import db, model_server
from webapp.idempotency.views import idempotent
from webapp.ml.blueprint import blp
from webapp.ml.core.costs import FitLimits
from webapp.ml.core.estimators import CATALOGUE, describe_estimator
from webapp.ml.core.profile import digest_dataset
from webapp.ml.core.sample_data import DESCRIPTION, make_sample_data
from webapp.ml.core.training import TrainingSpec
from webapp.ml.registry.models import ModelVersion
from webapp.ml.registry.routes import (
    DEFAULTS,
    NEW_VERSION_HEADERS,
    Answer,
    Headers,
    Keep,
    announce_version,
    wait_until_served,
)
from webapp.ml.registry.schemas import TrainingResponse
from webapp.ml.training import schemas, service
from webapp.observability.observer import training_noted
from webapp.scopes import ANY_ML, Scope
from webapp.web.api import MethodView

TRAINING_EXAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}


def announce_training(version: ModelVersion) -> tuple[Answer, Headers]:
    """Return the answer that tells of a version that was trained."""
    return announce_version(version, "Model trained successfully")


def describe_training(request: Mapping[str, Any]) -> Answer:
    """Return what a training is told by: the same rows and options, however they were sent."""
    return {**request, "dataset": digest_dataset(request["dataset"])}


@blp.route("/sample-data", get="make_sample_data")
class SampleData(MethodView):
    """Data to try the service with."""

    @blp.allow(*ANY_ML)
    @blp.arguments(schemas.SampleDataQuery, location="query")
    @blp.response(200, schemas.SampleDataSchema)
    def get(self, query: Mapping[str, Any]) -> Answer:
        """Make sample data.

        Seeded rows of `y = 2*x1 + 3*x2 - x3 + noise`, ready to be sent to `/ml/train`.
        """
        dataset = make_sample_data(**query)
        return {"X": dataset.X, "y": dataset.y, "description": DESCRIPTION}


@blp.route("/estimators", get="list_estimators")
class Estimators(MethodView):
    """The catalogue."""

    @blp.allow(*ANY_ML)
    @blp.response(200, schemas.EstimatorSchema(many=True))
    def get(self) -> Sequence[Answer]:
        """List the estimators that can be trained, and their parameters."""
        return [describe_estimator(row) for row in CATALOGUE.values()]


@blp.route("/train", endpoint="TrainDefault", defaults=DEFAULTS, post="train_default_model")
@blp.route("/models/<name:name>/train", post="train_model")
class Train(MethodView):
    """Training of a model."""

    @blp.allow(Scope.ML_TRAIN)
    @blp.arguments(schemas.TrainingRequest, location="rows", example=TRAINING_EXAMPLE)
    @blp.response(201, TrainingResponse, headers=NEW_VERSION_HEADERS)
    @blp.problems(404, 503)
    @idempotent(
        blp,
        TrainingResponse(),
        announce_training,
        describe=describe_training,
        before_repeat=wait_until_served,
    )
    def post(self, request: dict[str, Any], name: str, before_commit: Keep) -> ModelVersion:
        """Train a model.

        Every training is a new version; the first one creates the model. Once the answer is
        there, every worker on every host predicts with it. With fewer than 10 rows, or a hold-out
        of one, the metrics speak of the training rows, and `evaluated_on` says so.

        Instead of JSON, the body may be a table with a header (CSV, Parquet or an Arrow stream),
        or a form with such a `file`. The other fields are then query parameters, and `target`
        names the column to predict.
        """
        with training_noted():
            return service.train_model(
                db.session(),
                model_server,
                name=name,
                dataset=request.pop("dataset"),
                activate=request.pop("activate"),
                spec=TrainingSpec(**request),
                limits=FitLimits.from_settings(current_app.config),
                before_commit=before_commit,
            )
