"""The HTTP face of machine learning.

What acts on a model stands under its name, and once more, shorter, for the model `default`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from flask import Response, current_app, url_for
from flask.views import MethodView

from webapp.extensions import db, model_server
from webapp.idempotency.views import REPLAYED_HEADER, idempotent
from webapp.ml import schemas, service
from webapp.ml.answers import (
    ARROW,
    CSV,
    STALE_HEADER,
    TABLE_HEADERS,
    answer_batch,
    answer_one,
    choose_media_type,
    most_values,
)
from webapp.ml.bodies import RowsBlueprint
from webapp.ml.core import artifacts
from webapp.ml.core.costs import FitLimits
from webapp.ml.core.estimators import CATALOGUE, describe_estimator
from webapp.ml.core.profile import digest_dataset
from webapp.ml.core.sample_data import DESCRIPTION, make_sample_data
from webapp.ml.core.training import TrainingSpec
from webapp.ml.models import Activation, Model, ModelVersion
from webapp.ml.service import DEFAULT_MODEL
from webapp.observability.observer import Prediction, note_prediction, training_noted
from webapp.scopes import ANY_ML, Scope
from webapp.web.paging import HEADERS, PageQuery, answer_page

Answer: TypeAlias = dict[str, Any]
Headers: TypeAlias = dict[str, str]
Keep: TypeAlias = Callable[[ModelVersion], None]

blp = RowsBlueprint("ml", __name__, url_prefix="/ml", description="Train, serve, predict.")

NEW_VERSION_HEADERS = {
    "Location": {
        "description": "URL of the new version.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    **REPLAYED_HEADER,
}
TRAINING_EXAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}
BATCH_EXAMPLE = {"instances": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}
BINARY = {"type": "string", "format": "binary"}
ARTIFACT_HEADERS = {
    "ETag": {
        "description": "SHA-256 of the file in hexadecimal.",
        "schema": {"type": "string", "pattern": '^"[0-9a-f]{64}"$'},
    },
    "Digest": {
        "description": "The same in base64 (RFC 3230).",
        "schema": {"type": "string", "pattern": "^sha-256=[0-9A-Za-z+/]{43}=$"},
    },
    "Content-Disposition": {
        "description": "A name for the file.",
        "schema": {"type": "string"},
    },
}
DEFAULTS = {"name": DEFAULT_MODEL}


def version_url(version: ModelVersion) -> str:
    """Return the URL of a version."""
    return url_for("ml.Version", name=version.model.name, number=version.number)


def announce_training(version: ModelVersion) -> tuple[Answer, Headers]:
    """Return the answer that tells of a version that was trained."""
    return _announce(version, "Model trained successfully")


def announce_upload(version: ModelVersion) -> tuple[Answer, Headers]:
    """Return the answer that tells of a version that was uploaded."""
    return _announce(version, "Model registered successfully")


def _announce(version: ModelVersion, message: str) -> tuple[Answer, Headers]:
    answer = {"message": message, "metrics": version.metrics, "model": version}
    answer["warnings"] = version.warnings
    return answer, {"Location": version_url(version)}


def describe_training(request: Mapping[str, Any]) -> Answer:
    """Return what a training is told by: the same rows and options, however they were sent."""
    return {**request, "dataset": digest_dataset(request["dataset"])}


def describe_upload(request: Mapping[str, Any]) -> Answer:
    """Return what an upload is told by."""
    stream = request["artifact"].stream
    digest = artifacts.digest(stream.read())
    stream.seek(0)
    return {**request, "artifact": digest}


def note(predictions: service.Predictions) -> None:
    """Say what answered, to whoever is told of requests."""
    version, rows = predictions.version, len(predictions.scores.values)
    note_prediction(Prediction(version.model, version.number, rows, predictions.stale))


def wait_until_served() -> None:
    """Wait until whoever activated a version before now may say that every worker serves it."""
    model_server.wait_out_leases()


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
    @blp.response(201, schemas.TrainingResponse, headers=NEW_VERSION_HEADERS)
    @blp.problems(404, 503)
    @idempotent(
        blp,
        schemas.TrainingResponse(),
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


@blp.route(
    "/predict", endpoint="PredictDefault", defaults=DEFAULTS, post="predict_with_default_model"
)
@blp.route("/models/<name:name>/predict", post="predict")
@blp.route(
    "/models/<name:name>/versions/<id:number>/predict",
    endpoint="PredictVersion",
    post="predict_with_version",
)
class Predict(MethodView):
    """Predictions one by one."""

    @blp.allow(Scope.ML_PREDICT)
    @blp.arguments(schemas.PredictionRequest, example={"features": [1.0, 2.0, 3.0]})
    @blp.alt_response(200, schema=schemas.PredictionResponse, headers=STALE_HEADER, success=True)
    @blp.problems(404, 409, 503)
    def post(self, request: dict[str, Any], name: str, number: int | None = None) -> Response:
        """Predict for one row.

        A feature outside the range that it had in training is answered, and named in
        `extrapolated`.
        """
        predictions = service.predict_one(model_server, name=name, number=number, **request)
        note(predictions)
        return answer_one(predictions)


@blp.route(
    "/predict/batch",
    endpoint="PredictBatchDefault",
    defaults=DEFAULTS,
    post="predict_batch_with_default_model",
)
@blp.route("/models/<name:name>/predict/batch", post="predict_batch")
@blp.route(
    "/models/<name:name>/versions/<id:number>/predict/batch",
    endpoint="BatchVersion",
    post="predict_batch_with_version",
)
class PredictBatch(MethodView):
    """Predictions many at once."""

    @blp.allow(Scope.ML_PREDICT)
    @blp.arguments(schemas.BatchRequest, location="rows", example=BATCH_EXAMPLE)
    @blp.response(200, schemas.BatchResponse, headers=STALE_HEADER)
    @blp.alt_response(200, schema=BINARY, content_type=CSV, headers=TABLE_HEADERS, success=True)
    @blp.alt_response(200, schema=BINARY, content_type=ARROW, headers=TABLE_HEADERS, success=True)
    @blp.problems(404, 406, 409, 503)
    def post(self, request: dict[str, Any], name: str, number: int | None = None) -> Response:
        """Predict for many rows.

        Instead of JSON, the body may be a table (CSV, Parquet or an Arrow stream) whose columns
        are the features, in any order. `Accept` chooses between JSON, CSV and Arrow; a table
        names the version in `X-Model`. A label such as `=1+1` is written into CSV as it is, unless
        `for_spreadsheet` asks for an apostrophe before it. An answer has at most MAX_CELLS
        values: rows times classes; in JSON also no more than fit into MAX_CONTENT_LENGTH at 20
        bytes each.
        """
        media_type = choose_media_type()
        for_spreadsheet = request.pop("for_spreadsheet")
        predictions = service.predict_batch(
            model_server,
            name=name,
            number=number,
            most_values=most_values(media_type),
            **request,
        )
        note(predictions)
        return answer_batch(predictions, media_type, for_spreadsheet=for_spreadsheet)


@blp.route("/model-info", get="get_model_info")
class ModelInfo(MethodView):
    """What serves as the default model."""

    @blp.allow(*ANY_ML)
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


@blp.route("/models", get="list_models")
class Models(MethodView):
    """All models."""

    @blp.allow(*ANY_ML)
    @blp.arguments(PageQuery, location="query")
    @blp.response(200, schemas.ModelSchema(many=True), headers=HEADERS)
    @blp.problems(503)
    def get(self, query: Mapping[str, Any]) -> tuple[Sequence[Model], Headers]:
        """List models, by name."""
        return answer_page(service.list_models(db.session(), **query))


@blp.route("/models/<name:name>", get="get_model")
class ModelByName(MethodView):
    """One model."""

    @blp.allow(*ANY_ML)
    @blp.response(200, schemas.ModelSchema)
    @blp.problems(404, 503)
    def get(self, name: str) -> Model:
        """Describe a model."""
        return service.get_model(db.session(), name)


@blp.route("/models/<name:name>/versions", get="list_versions", post="upload_version")
class Versions(MethodView):
    """The versions of a model."""

    @blp.allow(*ANY_ML)
    @blp.arguments(PageQuery, location="query")
    @blp.response(200, schemas.VersionSummarySchema(many=True), headers=HEADERS)
    @blp.problems(404, 503)
    def get(self, query: Mapping[str, Any], name: str) -> tuple[Sequence[ModelVersion], Headers]:
        """List the versions of a model, the newest first.

        What grows with features or classes is left out: a single version shows it.
        """
        return answer_page(service.list_versions(db.session(), name=name, **query))

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(schemas.UploadRequest, location="form")
    @blp.response(201, schemas.TrainingResponse, headers=NEW_VERSION_HEADERS)
    @blp.problems(404, 503)
    @idempotent(
        blp,
        schemas.TrainingResponse(),
        announce_upload,
        describe=describe_upload,
        before_repeat=wait_until_served,
    )
    def post(self, request: dict[str, Any], name: str, before_commit: Keep) -> ModelVersion:
        """Upload a model that was fitted elsewhere.

        The file is what `skops.io.dump` wrote of a fitted estimator of the catalogue, alone or in
        a pipeline behind a StandardScaler. It predicts exactly what it predicted there, for rows
        with a finite number for every feature: missing values are refused, even where the model
        was fitted on some.
        """
        data = request.pop("artifact").stream.read()
        return service.register_version(
            db.session(),
            model_server,
            name=name,
            data=data,
            max_features=current_app.config["MAX_COLUMNS"],
            before_commit=before_commit,
            **request,
        )


@blp.route("/models/<name:name>/versions/<id:number>", get="get_version", delete="delete_version")
class Version(MethodView):
    """One version of a model."""

    @blp.allow(*ANY_ML)
    @blp.response(200, schemas.VersionSchema)
    @blp.problems(404, 503)
    def get(self, name: str, number: int) -> ModelVersion:
        """Describe a version."""
        return service.get_version(db.session(), name, number)

    @blp.allow(Scope.ML_ADMIN)
    @blp.response(204)
    @blp.problems(404, 409, 503)
    def delete(self, name: str, number: int) -> None:
        """Delete a version, unless it is active. Its number is not given again."""
        service.delete_version(db.session(), model_server, name=name, number=number)


@blp.route("/models/<name:name>/versions/<id:number>/coefficients", get="get_version_coefficients")
class VersionCoefficients(MethodView):
    """The coefficients of a version."""

    @blp.allow(*ANY_ML)
    @blp.response(200, schemas.CoefficientsSchema)
    @blp.problems(404, 503)
    def get(self, name: str, number: int) -> service.Coefficients:
        """Read all coefficients of a linear model, however many."""
        return service.get_coefficients(db.session(), name, number)


@blp.route("/models/<name:name>/versions/<id:number>/artifact", get="download_artifact")
class VersionArtifact(MethodView):
    """The file of a version."""

    @blp.allow(Scope.ML_ADMIN)
    @blp.response(200, BINARY, content_type="application/octet-stream", headers=ARTIFACT_HEADERS)
    @blp.problems(404, 503)
    def get(self, name: str, number: int) -> Response:
        """Download a version as a skops file."""
        artifact = service.get_artifact(db.session(), name, number)
        response = Response(artifact.data, content_type="application/octet-stream")
        response.set_etag(artifact.digest)
        sha = base64.b64encode(bytes.fromhex(artifact.digest)).decode()
        response.headers["Digest"] = f"sha-256={sha}"
        filename = f"{name}-{number}.skops"
        response.headers["Content-Disposition"] = f'attachment; filename="{filename}"'
        return response


@blp.route("/models/<name:name>/active", put="activate_version")
class Active(MethodView):
    """Which version of a model serves."""

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(schemas.ActivationRequest, example={"version": 1})
    @blp.response(200, schemas.VersionSchema)
    @blp.problems(404, 409, 503)
    def put(self, request: Mapping[str, int], name: str) -> ModelVersion:
        """Activate a version.

        Once the answer is there, every worker on every host serves it. A version that cannot be
        loaded is refused with 409, and the one before keeps serving.
        """
        return service.activate_version(
            db.session(), model_server, name=name, number=request["version"]
        )


@blp.route("/models/<name:name>/rollback", post="roll_back_model")
class Rollback(MethodView):
    """The way back."""

    @blp.allow(Scope.ML_ADMIN)
    @blp.response(200, schemas.VersionSchema)
    @blp.problems(404, 409, 503)
    def post(self, name: str) -> ModelVersion:
        """Activate what was active before.

        Again: what was active before that. 409 when there is nothing to go back to.
        """
        return service.roll_back(db.session(), model_server, name=name)


@blp.route("/models/<name:name>/activations", get="list_activations")
class Activations(MethodView):
    """What was active when."""

    @blp.allow(*ANY_ML)
    @blp.arguments(PageQuery, location="query")
    @blp.response(200, schemas.ActivationSchema(many=True), headers=HEADERS)
    @blp.problems(404, 503)
    def get(self, query: Mapping[str, Any], name: str) -> tuple[Sequence[Activation], Headers]:
        """List a model's activations, the latest first."""
        return answer_page(service.list_activations(db.session(), name=name, **query))
