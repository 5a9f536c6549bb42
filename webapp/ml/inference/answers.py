"""Predictions as answers: JSON, or a table in CSV or Arrow where the client asks for one."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from flask import Response, abort, current_app, request

from webapp.ml.core import tables
from webapp.ml.inference.service import VALUE_BYTES, Predictions
from webapp.web import jsonio

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
    "X-Warnings": {
        "description": 'A JSON array of the columns that were left out: `[{"column": …, '
        '"message": …}]`; absent where there are none.',
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


def choose_media_type() -> str:
    """Return the form of answer that the client prefers; aborts with 406 where there is none."""
    accepted = request.accept_mimetypes
    media_type = accepted.best_match([JSON, *TABLES]) if accepted else JSON
    if media_type is None:
        abort(406, f"Predictions can be had as {', '.join([JSON, *TABLES])}.")
    return media_type


def most_values(media_type: str) -> int:
    """Return how many values an answer may have.

    A table is written piece by piece. JSON is one body, which may be as long as that of a
    request, MAX_CONTENT_LENGTH.
    """
    most: int = current_app.config["MAX_CELLS"]
    longest: int = current_app.config["MAX_CONTENT_LENGTH"]
    return min(most, longest // VALUE_BYTES) if media_type == JSON else most


def answer_batch(
    predictions: Predictions, media_type: str, *, for_spreadsheet: bool = False
) -> Response:
    """Return the answer for many rows.

    ``for_spreadsheet`` says that a CSV answer holds no text that would run as a formula.
    """
    if media_type in TABLES:
        columns = make_columns(predictions)
        if media_type == CSV:
            body = tables.write_csv(columns, for_spreadsheet=for_spreadsheet)
        else:
            body = tables.write_arrow(columns)
        response = Response(body, content_type=media_type)
        if len(columns) * len(predictions.scores.values) <= tables.WRITTEN_CELLS:
            response.make_sequence()  # a single piece, whose length the answer then says
        if predictions.stale:
            response.headers[STALE] = "true"
        version = predictions.version
        response.headers["X-Model"] = f"{version.model}; version={version.number}"
        if predictions.warnings:  # in ASCII, as a header must be
            response.headers["X-Warnings"] = json.dumps(_list_warnings(predictions))
        return response
    scores = predictions.scores
    answer: dict[str, Any] = {
        "predictions": scores.values,
        "model": _name_version(predictions),
    }
    if scores.probabilities is not None:
        answer["probabilities"] = _probabilities_by_class(predictions)
    if predictions.intervals is not None:
        answer["intervals"] = _describe_intervals(predictions, row=None)
    if predictions.extrapolated:
        answer["extrapolated"] = {str(row): n for row, n in predictions.extrapolated.items()}
    if predictions.extrapolated_counts:
        answer["extrapolated_counts"] = predictions.extrapolated_counts
    if predictions.warnings:
        answer["warnings"] = _list_warnings(predictions)
    return _answer_json(answer, predictions)


def _answer_json(answer: dict[str, Any], predictions: Predictions) -> Response:
    response = jsonio.answer(answer)
    if predictions.stale:
        response.headers[STALE] = "true"
    return response


def _name_version(predictions: Predictions) -> dict[str, Any]:
    return {"name": predictions.version.model, "version": predictions.version.number}


def _list_warnings(predictions: Predictions) -> list[dict[str, str]]:
    return [asdict(warning) for warning in predictions.warnings]


def _probabilities_by_class(predictions: Predictions) -> dict[str, Any]:
    probabilities = predictions.scores.probabilities
    assert probabilities is not None  # noqa: S101 (the caller has looked)
    return {
        str(label): probabilities[:, index]
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
        labels = predictions.version.classes or ()
        by_class = predictions.scores.probabilities.T  # no copy: it can take 400 MB
        columns |= dict(zip((f"probability:{label}" for label in labels), by_class, strict=True))
    if predictions.intervals is not None:
        found = predictions.intervals
        columns |= {
            "confidence:lower": found.confidence_lower,
            "confidence:upper": found.confidence_upper,
            "prediction:lower": found.prediction_lower,
            "prediction:upper": found.prediction_upper,
        }
    return columns
