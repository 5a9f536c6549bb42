"""The HTTP face of machine learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from flask import url_for
from flask.views import MethodView

from webapp.api import Blueprint
from webapp.extensions import db, model_server
from webapp.ml import schemas, service
from webapp.ml.core.datasets import make_dataset
from webapp.ml.core.sample_data import DESCRIPTION, make_sample_data
from webapp.ml.core.training import TrainingSpec
from webapp.ml.models import ModelVersion
from webapp.ml.service import DEFAULT_MODEL, Predictions

blp = Blueprint("ml", __name__, url_prefix="/ml", description="Train, serve, predict.")

Answer: TypeAlias = dict[str, Any]
Headers: TypeAlias = dict[str, str]

STALE = {
    "X-Model-Stale": {
        "description": "`true` when the database could not be asked which version is active, and "
        "the last known one answered.",
        "schema": {"type": "string"},
    }
}
LOCATION = {
    "Location": {
        "description": "URL of the new version.",
        "schema": {"type": "string", "format": "uri-reference"},
    }
}


def describe_version(predictions: Predictions) -> Answer:
    """Return the part of an answer that names the version that predicted."""
    version = predictions.version
    return {"name": version.model, "version": version.number}


def stale_header(predictions: Predictions) -> Headers:
    """Return the header that marks an answer of a version that may no longer be active."""
    return {"X-Model-Stale": "true"} if predictions.stale else {}


@blp.route("/sample-data")
class SampleData(MethodView):
    """Data to try the service with."""

    init_every_request = False

    @blp.arguments(schemas.SampleDataQuery, location="query")
    @blp.response(200, schemas.SampleDataSchema)
    def get(self, query: Mapping[str, Any]) -> Answer:
        """Make sample data.

        Seeded rows of `y = 2*x1 + 3*x2 - x3 + noise`, ready to be sent to `/ml/train`.
        """
        dataset = make_sample_data(**query)
        return {"X": dataset.X, "y": dataset.y, "description": DESCRIPTION}


@blp.route("/train")
class Train(MethodView):
    """Training of the default model."""

    init_every_request = False

    @blp.arguments(schemas.TrainingRequest, example={"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]})
    @blp.response(201, schemas.TrainingResponse, headers=LOCATION)
    @blp.problems(503)
    def post(self, request: dict[str, Any]) -> tuple[Answer, Headers]:
        """Train the default model.

        Every training is a new version. Once the answer is there, every worker on every host
        predicts with it. With fewer than 10 rows, or a hold-out of one, the metrics speak of
        the training rows, and `evaluated_on` says so.
        """
        activate = request.pop("activate")
        dataset = make_dataset(request.pop("X"), request.pop("y"), request.pop("feature_names"))
        version = service.train_model(
            db.session(),
            model_server,
            name=DEFAULT_MODEL,
            dataset=dataset,
            spec=TrainingSpec(**request),
            activate=activate,
        )
        answer = {
            "message": "Model trained successfully",
            "metrics": version.metrics,
            "model": version,
        }
        return answer, {"Location": version_url(version)}


@blp.route("/predict")
class Predict(MethodView):
    """Predictions of the default model, one by one."""

    init_every_request = False

    @blp.arguments(schemas.PredictionRequest, example={"features": [1.0, 2.0, 3.0]})
    @blp.response(200, schemas.PredictionResponse, headers=STALE)
    @blp.problems(409, 503)
    def post(self, request: dict[str, Any]) -> tuple[Answer, Headers]:
        """Predict for one row with the default model."""
        predictions = service.predict_one(model_server, name=DEFAULT_MODEL, **request)
        answer = {
            "prediction": float(predictions.values[0]),
            "model": describe_version(predictions),
        }
        return answer, stale_header(predictions)


@blp.route("/predict/batch")
class PredictBatch(MethodView):
    """Predictions of the default model, many at once."""

    init_every_request = False

    @blp.arguments(schemas.BatchRequest, example={"instances": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]})
    @blp.response(200, schemas.BatchResponse, headers=STALE)
    @blp.problems(409, 503)
    def post(self, request: dict[str, Any]) -> tuple[Answer, Headers]:
        """Predict for many rows with the default model."""
        predictions = service.predict_batch(model_server, name=DEFAULT_MODEL, **request)
        answer = {"predictions": predictions.values, "model": describe_version(predictions)}
        return answer, stale_header(predictions)


@blp.route("/model-info")
class ModelInfo(MethodView):
    """What serves as the default model."""

    init_every_request = False

    @blp.response(200, schemas.ModelInfoSchema)
    @blp.problems(503)
    def get(self) -> Answer:
        """Describe the default model."""
        version = service.get_active_version(db.session(), DEFAULT_MODEL)
        if version is None:
            return {"trained": False, "model_type": None, "metrics": {}}
        return {
            "trained": True,
            "model_type": version.model_type,
            "metrics": version.metrics,
            "model": version,
        }


@blp.route("/models/<name:name>/versions/<id:number>")
class VersionByNumber(MethodView):
    """One version of a model."""

    init_every_request = False

    @blp.response(200, schemas.VersionSchema)
    @blp.problems(404, 503)
    def get(self, name: str, number: int) -> ModelVersion:
        """Describe a version of a model."""
        return service.get_version(db.session(), name, number)


def version_url(version: ModelVersion) -> str:
    """Return the URL of a version."""
    return url_for("ml.VersionByNumber", name=version.model.name, number=version.number)
