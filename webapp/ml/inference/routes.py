"""Routes of predictions, and their answers: JSON, or a table where the client asks for one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
from flask import Response, abort, current_app, request
from flask.views import MethodView

from webapp.ml.blueprint import ARROW, BINARY, CSV, JSON, blp
from webapp.ml.core.datasets import DataWarning
from webapp.ml.core.explaining import Explanation, refuse
from webapp.ml.core.tables import writing
from webapp.ml.inference import schemas, service
from webapp.ml.inference.service import NOTES, VALUE_BYTES, Predictions, warn_of_notes
from webapp.ml.inference.serving import TrafficKey
from webapp.ml.registry.service import DEFAULT_MODEL
from webapp.observability.observer import note_prediction
from webapp.scopes import Scope
from webapp.web import jsonio
from webapp.web.openapi import header

DEFAULTS = {"name": DEFAULT_MODEL}
TRAFFIC_KEY = "X-Traffic-Key"
TRAFFIC_PARAMETERS = [
    {
        "in": "header",
        "name": TRAFFIC_KEY,
        "description": "While the traffic of the model is shared: any text of your own, such as "
        "the id of a user. Equal keys are answered by the same version; without one, equal rows.",
        "schema": {"type": "string"},
    }
]
EXAMPLE = {"features": [1.0, 2.0, 3.0]}
BATCH_EXAMPLE = {"instances": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}
# Many proxies take 4 kB of all headers of an answer, unless told otherwise.
LONGEST_WARNINGS = 2048
STALE = "X-Model-Stale"
STALE_HEADER = {
    STALE: header(
        "`true` when the database could not be asked which version is active, and the last known "
        "one answered."
    )
}
TABLE_HEADERS = {
    "X-Model": header("Which version of which model: `default; version=1`."),
    "X-Warnings": header(
        "A JSON array of the columns that were left out, and of those with values that are "
        "missing, that training did not have, or that lie outside its range: "
        '`[{"column": …, "message": …}]`; absent without any. Where not all fit into '
        f"{LONGEST_WARNINGS} bytes, the last message, of the column `…`, says how many do."
    ),
    **STALE_HEADER,
}


@blp.route(
    "/predict",
    endpoint="PredictDefault",
    defaults=DEFAULTS,
    post="predict_with_default_model",
    parameters=TRAFFIC_PARAMETERS,
)
@blp.route("/models/<name:name>/predict", post="predict", parameters=TRAFFIC_PARAMETERS)
@blp.route(
    "/models/<name:name>/aliases/<name:alias>/predict",
    endpoint="PredictAlias",
    post="predict_with_alias",
)
@blp.route(
    "/models/<name:name>/versions/<id:number>/predict",
    endpoint="PredictVersion",
    post="predict_with_version",
)
class Predict(MethodView):
    """Predictions one by one."""

    @blp.allow(Scope.ML_PREDICT)
    @blp.arguments(schemas.PredictionRequest, example=EXAMPLE)
    @blp.alt_response(200, schema=schemas.PredictionResponse, headers=STALE_HEADER, success=True)
    @blp.problems(404, 409, 503)
    def post(
        self,
        request: dict[str, Any],
        name: str,
        number: int | None = None,
        alias: str | None = None,
    ) -> Response:
        """Predict for one row.

        A feature outside its range in training is accepted, and named in `extrapolated`.
        """
        server = current_app.extensions["model_server"]
        which = alias if number is None else number
        if request["explain"]:
            request["most_values"] = _count_json_values()
        predictions = service.predict_one(
            server, name=name, which=which, key_of=_key_of, **request
        )
        # Plain values: dumping them through the schema would take as long as predicting.
        answer = {
            "prediction": predictions.scores.values[0],
            **_describe(predictions, itemgetter(0)),
        }
        if predictions.explanation is not None:
            answer["explanation"] = _describe_explanation(predictions, predictions.explanation)
        for name in NOTES:
            noted = getattr(predictions, name)
            if noted.rows:
                answer[name] = noted.rows[0]
        return _finish(jsonio.answer(answer), predictions)


@blp.route(
    "/predict/batch",
    endpoint="PredictBatchDefault",
    defaults=DEFAULTS,
    post="predict_batch_with_default_model",
    parameters=TRAFFIC_PARAMETERS,
)
@blp.route(
    "/models/<name:name>/predict/batch", post="predict_batch", parameters=TRAFFIC_PARAMETERS
)
@blp.route(
    "/models/<name:name>/aliases/<name:alias>/predict/batch",
    endpoint="BatchAlias",
    post="predict_batch_with_alias",
)
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
    def post(
        self,
        request: dict[str, Any],
        name: str,
        number: int | None = None,
        alias: str | None = None,
    ) -> Response:
        """Predict for many rows.

        Instead of JSON, the body may be a table (CSV, Parquet or an Arrow stream) whose columns
        are the features, in any order. `Accept` chooses between JSON, CSV and Arrow; a table
        names the version in `X-Model`, and counts values that are missing or were not seen in
        training in `X-Warnings`. A label such as `=1+1` is written into CSV as it is, unless
        `for_spreadsheet` asks for an apostrophe before it. An answer has at most MAX_CELLS
        values: rows times classes; in JSON also no more than fit into MAX_CONTENT_LENGTH at 20
        bytes each.
        """
        media_type = _choose_answer_type()
        for_spreadsheet = request.pop("for_spreadsheet")
        if media_type == JSON:
            most_values = _count_json_values()
        else:
            most_values = current_app.config["MAX_CELLS"]
            if request["explain"]:
                raise refuse(f"is answered in JSON only: send `Accept: {JSON}`")
        server = current_app.extensions["model_server"]
        which = alias if number is None else number
        predictions = service.predict(
            server, name=name, which=which, key_of=_key_of, most_values=most_values, **request
        )
        if media_type == JSON:
            response: Response = jsonio.answer(_describe_rows(predictions))
        else:
            response = _write_table(predictions, media_type, for_spreadsheet=for_spreadsheet)
        return _finish(response, predictions)


def _key_of(rows: Any) -> TrafficKey:
    """Return the key that the client has sent, or else the bytes of the rows."""
    if isinstance(rows, schemas.TableRows):
        sent = rows.keep()
    else:
        sent = orjson.dumps(rows, option=orjson.OPT_SORT_KEYS)
    given = request.headers.get(TRAFFIC_KEY, "")
    return TrafficKey(given.encode() or sent, len(sent))


def _choose_answer_type() -> str:
    """Return the media type that the client prefers for many predictions; aborts with 406."""
    accepted = request.accept_mimetypes
    media_type = accepted.best_match([JSON, CSV, ARROW]) if accepted else JSON
    return media_type or abort(406, f"Predictions can be had as {JSON}, {CSV} or {ARROW}.")


def _count_json_values() -> int:
    """Return how many values an answer in JSON has at most."""
    config = current_app.config
    return int(min(config["MAX_CELLS"], config["MAX_CONTENT_LENGTH"] // VALUE_BYTES))


def _finish(response: Response, predictions: Predictions) -> Response:
    """Note what answered for log and metrics, and mark an answer that may be stale."""
    version, rows = predictions.version, len(predictions.scores.values)
    note_prediction(version.model, version.number, rows, predictions.stale)
    if predictions.stale:
        response.headers[STALE] = "true"
    return response


def _describe(predictions: Predictions, take: Callable[[Any], Any]) -> dict[str, Any]:
    """Return version, probabilities and intervals; ``take`` chooses from a column (n_rows,)."""
    version, bounds = predictions.version, predictions.intervals
    answer: dict[str, Any] = {"model": {"name": version.model, "version": version.number}}
    if predictions.scores.probabilities is not None:
        by_class = zip(version.classes or (), predictions.scores.probabilities.T, strict=True)
        answer["probabilities"] = {str(label): take(column) for label, column in by_class}
    if predictions.scores.decision is not None:
        answer["score"] = take(predictions.scores.decision)
    if bounds is not None:
        answer["intervals"] = {
            "level": bounds.level,
            "confidence": {
                "lower": take(bounds.confidence_lower),
                "upper": take(bounds.confidence_upper),
            },
            "prediction": {
                "lower": take(bounds.prediction_lower),
                "upper": take(bounds.prediction_upper),
            },
        }
    return answer


def _describe_rows(predictions: Predictions) -> dict[str, Any]:
    answer = {
        "predictions": predictions.scores.values,
        **_describe(predictions, lambda column: column),
    }
    if predictions.explanation is not None:
        answer["explanations"] = _describe_explanations(predictions, predictions.explanation)
    for name in NOTES:
        noted = getattr(predictions, name)
        if noted.rows:
            answer[name] = {str(row): found for row, found in noted.rows.items()}
        if noted.counts:
            answer[f"{name}_counts"] = noted.counts
    if predictions.passed:
        answer["passthrough"] = predictions.passed
    if predictions.warnings:
        answer["warnings"] = [asdict(warning) for warning in predictions.warnings]
    return answer


def _describe_explanation(predictions: Predictions, found: Explanation) -> dict[str, Any]:
    """Return what each feature added for the only row: by name, of a classification by class."""
    names, contributions = predictions.version.signature.names, found.contributions[0]
    sums = found.base + contributions.sum(axis=0)
    by_name = [dict(zip(names, values, strict=True)) for values in contributions.T.tolist()]
    by_function = _by_class(predictions.version.classes)
    return {
        "of": found.of,
        "against": found.against,
        "base": by_function(found.base.tolist()),
        "contributions": by_function(by_name),
        "sum": by_function(sums.tolist()),
    }


def _describe_explanations(predictions: Predictions, found: Explanation) -> dict[str, Any]:
    """Return what each feature added: rows of values in the order of the features."""
    by_function = _by_class(predictions.version.classes)
    values = np.ascontiguousarray(found.contributions.transpose(2, 0, 1))
    return {
        "of": found.of,
        "against": found.against,
        "features": predictions.version.signature.names,
        "base": by_function(found.base.tolist()),
        "contributions": by_function(list(values)),
    }


def _by_class(classes: Sequence[Any] | None) -> Callable[[list[Any]], Any]:
    """Return what names a value for each function by its class; one of two is of the second."""

    def name(values: list[Any]) -> Any:
        if classes is None:
            return values[0]
        labels = classes[1:] if len(values) == 1 else classes
        return dict(zip(map(str, labels), values, strict=True))

    return name


def _write_table(predictions: Predictions, media_type: str, *, for_spreadsheet: bool) -> Response:
    columns, version = predictions.to_columns(), predictions.version
    if media_type == CSV:
        body = writing.write_csv(columns, for_spreadsheet=for_spreadsheet)
    else:
        body = writing.write_arrow(columns)
    response = Response(body, content_type=media_type)
    if len(columns) * len(predictions.scores.values) <= writing.WRITTEN_CELLS:
        response.make_sequence()  # a single piece: the answer gets a Content-Length
    response.headers["X-Model"] = f"{version.model}; version={version.number}"
    n_rows, names = len(predictions.scores.values), version.signature.names
    notes = warn_of_notes(predictions.count_notes(), names, n_rows)
    if warnings := [*predictions.warnings, *notes]:
        response.headers["X-Warnings"] = _write_warnings(warnings)
    return response


def _write_warnings(warnings: Sequence[DataWarning]) -> str:
    """Return warnings as a JSON array for a header: printable ASCII of a limited length."""
    texts: list[str] = []
    length = 0
    for warning in warnings:
        text = json.dumps(asdict(warning))
        text = text.replace("\x7f", "\\u007f")  # the one control character that JSON may hold
        length += len(text) + len(", ")
        if length > LONGEST_WARNINGS:
            message = f"{len(texts)} of {len(warnings)} warnings fit here; JSON has all of them"
            texts.append(json.dumps({"column": "…", "message": message}))
            break
        texts.append(text)
    return f"[{', '.join(texts)}]"
