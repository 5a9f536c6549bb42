"""Answers in CSV that people open in a spreadsheet."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from flask.testing import FlaskClient

ML = "/api/v1/ml"
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|'/c calc'!A1"]
HARMLESS = ["plain", "'quoted", "1=1", "a,b"]


@pytest.mark.parametrize("accept", ["text/csv", "application/json"])
def test_labels_that_a_spreadsheet_would_run_are_quoted_in_csv_where_asked_for(
    client: FlaskClient, accept: str
) -> None:
    labels = [*FORMULAS, *HARMLESS]
    rows = (np.eye(len(labels)) * 100).tolist()
    training = {"X": rows, "y": labels, "estimator": "logistic_regression"}
    assert client.post(f"{ML}/train", json=training).status_code == 201

    def predict(**options: bool) -> list[str]:
        body = {"instances": rows, **options}
        answer = client.post(f"{ML}/predict/batch", json=body, headers={"Accept": accept})
        if accept == "application/json":
            return list(answer.json["predictions"])
        return [row[0] for row in csv.reader(io.StringIO(answer.text))][1:]

    asked = predict(for_spreadsheet=True)

    assert predict() == labels
    if accept == "text/csv":
        assert asked == [*(f"'{label}" for label in FORMULAS), *HARMLESS]
    else:
        assert asked == labels


def test_numbers_are_written_as_they_are(client: FlaskClient) -> None:
    client.post(f"{ML}/train", json={"X": [[1], [2], [3]], "y": [-1, -2, -3]})

    answer = client.post(
        f"{ML}/predict/batch?for_spreadsheet=true",
        data="x1\n1\n",
        content_type="text/csv",
        headers={"Accept": "text/csv"},
    )

    assert float(answer.text.splitlines()[1]) == pytest.approx(-1)
