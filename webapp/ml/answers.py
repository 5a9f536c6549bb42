"""Predictions as answers: JSON, or a table in CSV or Arrow where the client asks for one."""

from __future__ import annotations

from typing import Any

import numpy as np
from flask import Response, abort, request

from webapp import jsonio
from webapp.ml.core import tables
from webapp.ml.service import Predictions

CSV, ARROW, JSON = "text/csv", "application/vnd.apache.arrow.stream", "application/json"
TABLES = (CSV, ARROW)

STALE = "X-Model-Stale"
STALE_HEADER = {
    STALE: {
        "description": "`true` when the database could not be asked which version is active, and "
        "the last known one answered.",
        "schema": {"type": "string"},
    }
}
TABLE_HEADERS = {
    "X-Model": {
        "description": "Which version of which model: `default; version=1`.",
        "schema": {"type": "string"},
    },
    **STALE_HEADER,
}


def answer_one(predictions: Predictions) -> Response:
    """Return the JSON answer for a single row.

    It is made of plain values, which ``PredictionResponse`` documents: dumping them through the
    schema would take as long as predicting.
    """
    scores = predictions.scores
    answer: dict[str, Any] = {
        "prediction": scores.values[:1].tolist()[0],  # labels that are strings have no item()
        "model": _name_version(predictions),
    }
    if scores.probabilities is not None:
        labels = map(str, predictions.version.classes or ())
        answer["probabilities"] = dict(zip(labels, scores.probabilities[0].tolist(), strict=True))
    if predictions.intervals is not None:
        answer["intervals"] = _describe_intervals(predictions, row=0)
    if predictions.extrapolated:
        answer["extrapolated"] = predictions.extrapolated[0]
    return _answer_json(answer, predictions)


def answer_batch(predictions: Predictions, *, for_spreadsheet: bool) -> Response:
    """Return the answer for many rows, in the form that the client accepts.

    ``for_spreadsheet`` says that a CSV answer holds no text that would run as a formula.
    """
    accepted = request.accept_mimetypes
    media_type = accepted.best_match([JSON, *TABLES]) if accepted else JSON
    if media_type is None:
        abort(406, f"Predictions can be had as {', '.join([JSON, *TABLES])}.")
    if media_type in TABLES:
        columns = make_columns(predictions)
        if media_type == CSV:
            body = tables.write_csv(columns, for_spreadsheet=for_spreadsheet)
        else:
            body = tables.write_arrow(columns)
        response = Response(body, content_type=media_type)
        if predictions.stale:
            response.headers[STALE] = "true"
        version = predictions.version
        response.headers["X-Model"] = f"{version.model}; version={version.number}"
        return response
    scores = predictions.scores
    answer: dict[str, Any] = {
        "predictions": _json_array(scores.values),
        "model": _name_version(predictions),
    }
    if scores.probabilities is not None:
        answer["probabilities"] = _probabilities_by_class(predictions)
    if predictions.intervals is not None:
        answer["intervals"] = _describe_intervals(predictions, row=None)
    if predictions.extrapolated:
        answer["extrapolated"] = {str(row): n for row, n in predictions.extrapolated.items()}
    return _answer_json(answer, predictions)


def _answer_json(answer: dict[str, Any], predictions: Predictions) -> Response:
    response = jsonio.answer(answer)
    if predictions.stale:
        response.headers[STALE] = "true"
    return response


def _name_version(predictions: Predictions) -> dict[str, Any]:
    return {"name": predictions.version.model, "version": predictions.version.number}


def _json_array(values: Any) -> Any:
    # orjson writes numbers from the array's own memory; strings it takes from a list only.
    return values if values.dtype.kind in "fiu" else values.tolist()


def _probabilities_by_class(predictions: Predictions) -> dict[str, Any]:
    probabilities = predictions.scores.probabilities
    assert probabilities is not None  # noqa: S101 (the caller has looked)
    return {
        str(label): np.ascontiguousarray(probabilities[:, index])
        for index, label in enumerate(predictions.version.classes or ())
    }


def _describe_intervals(predictions: Predictions, row: int | None) -> dict[str, Any]:
    found = predictions.intervals
    assert found is not None  # noqa: S101 (the caller has looked)

    def bounds(lower: Any, upper: Any) -> dict[str, Any]:
        if row is None:
            return {"lower": lower, "upper": upper}
        return {"lower": float(lower[row]), "upper": float(upper[row])}

    return {
        "level": found.level,
        "confidence": bounds(found.confidence_lower, found.confidence_upper),
        "prediction": bounds(found.prediction_lower, found.prediction_upper),
    }


def make_columns(predictions: Predictions) -> dict[str, Any]:
    """Return what the rows have, a column each: prediction, probability:CLASS, bounds."""
    columns: dict[str, Any] = {"prediction": predictions.scores.values}
    if predictions.scores.probabilities is not None:
        by_class = _probabilities_by_class(predictions)
        columns |= {f"probability:{label}": values for label, values in by_class.items()}
    if predictions.intervals is not None:
        found = predictions.intervals
        columns |= {
            "confidence:lower": found.confidence_lower,
            "confidence:upper": found.confidence_upper,
            "prediction:lower": found.prediction_lower,
            "prediction:upper": found.prediction_upper,
        }
    return columns
