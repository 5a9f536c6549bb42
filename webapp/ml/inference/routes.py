"""The HTTP face of prediction."""

from __future__ import annotations

from typing import Any

from flask import Response

from webapp.extensions import model_server
from webapp.ml.blueprint import blp
from webapp.ml.inference import schemas, service
from webapp.ml.inference.answers import (
    ARROW,
    CSV,
    STALE_HEADER,
    TABLE_HEADERS,
    answer_batch,
    answer_one,
    choose_media_type,
    most_values,
)
from webapp.ml.registry.routes import (
    BINARY,
    DEFAULTS,
)
from webapp.observability.observer import Prediction, note_prediction
from webapp.scopes import Scope
from webapp.web.api import MethodView

BATCH_EXAMPLE = {"instances": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}


def note(predictions: service.Predictions) -> None:
    """Say what answered, to whoever is told of requests."""
    version, rows = predictions.version, len(predictions.scores.values)
    note_prediction(Prediction(version.model, version.number, rows, predictions.stale))


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
