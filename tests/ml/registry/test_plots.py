"""Plots of a version: drawn from its held-out rows, in SVG, by scikit-learn's displays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import skops.io
import sqlalchemy as sa
from flask.testing import FlaskClient, FlaskCliRunner
from sklearn.linear_model import LinearRegression
from sqlalchemy.orm import Session

from tests.faults import on_sqlite
from tests.ml.calls import ML
from tests.ml.test_uploads import send
from webapp.ml.core.plots import MOST_JUDGED, MOST_JUDGED_CELLS, PLOTS, Judged
from webapp.ml.core.scoring import Scores
from webapp.ml.registry.models import ModelVersion

OF_NUMBERS = {"predicted-vs-actual", "residuals"}
OF_LABELS = {"confusion-matrix"}
OF_CLASSES = OF_LABELS | {"roc", "precision-recall", "calibration"}
RANDOM = np.random.RandomState(0)
X = RANDOM.standard_normal((200, 2))
CODES = (X[:, 0] + RANDOM.standard_normal(200) > 0).astype(int)
# A formula, markup, an underscore (which legends leave out), letters of other fonts, a long one.
STRANGE = ["$\\frac{$", "<b>&\"'", "_hidden", "体重 😀", "x" * 255]


def train(client: FlaskClient, y: list[Any], **options: Any) -> dict[str, Any]:
    created = client.post(f"{ML}/train", json={"X": X.tolist(), "y": y, **options})
    assert created.status_code == 201, created.text
    model: dict[str, Any] = created.get_json()["model"]
    return model


def url(plot: str, number: int = 1) -> str:
    return f"{ML}/models/default/versions/{number}/plots/{plot}.svg"


def read_texts(svg: bytes) -> list[str]:
    """Return the texts in a plot."""
    texts = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 # our own
    return ["".join(text.itertext()) for text in texts]


@on_sqlite
@pytest.mark.parametrize(
    ("y", "options", "expected"),
    [
        (X[:, 0], {}, OF_NUMBERS | {"coefficients", "importances"}),
        (X[:, 0], {"estimator": "random_forest"}, OF_NUMBERS | {"importances"}),
        (X[:, 0], {"test_size": 0}, OF_NUMBERS | {"coefficients"}),
        (CODES, {"task": "classification"}, OF_CLASSES | {"coefficients", "importances"}),
        (CODES, {"estimator": "random_forest_classifier"}, OF_CLASSES | {"importances"}),
        (
            CODES,
            {"estimator": "linear_svm_classifier"},
            OF_LABELS | {"coefficients", "importances"},
        ),
        (
            np.arange(200) % 60,
            {"task": "classification"},
            OF_CLASSES | {"coefficients", "importances"},
        ),
        (
            np.take(STRANGE, np.arange(200) % 5),
            {"feature_names": ["$\\frac{$", "_a"]},
            OF_CLASSES | {"coefficients", "importances"},
        ),
    ],
)
def test_a_version_has_the_plots_of_its_kind_and_says_which_they_are(
    client: FlaskClient, y: Any, options: dict[str, Any], expected: set[str]
) -> None:
    train(client, y.tolist(), **options)

    for plot in [*PLOTS, "nothing"]:
        answer = client.get(url(plot))
        if plot in expected:
            assert answer.status_code == 200, answer.text
            assert answer.content_type == "image/svg+xml"
            assert read_texts(answer.data)
        else:
            assert answer.status_code == 404
            listed = answer.get_json()["detail"].partition("there are ")[2].rstrip(".")
            assert set(listed.split(", ")) == expected


def test_plots_show_the_numbers_of_the_metrics(client: FlaskClient) -> None:
    metrics = train(client, CODES.tolist(), task="classification")["metrics"]

    roc, recall, confusion = (
        read_texts(client.get(url(plot)).data)
        for plot in ("roc", "precision-recall", "confusion-matrix")
    )

    assert f"class 1 (AUC = {metrics['roc_auc']:.2f})" in roc
    assert f"class 1 (AP = {metrics['average_precision']:.2f})" in recall
    counts = metrics["confusion_matrix"]["counts"]
    assert {str(count) for row in counts for count in row} <= set(confusion)


def test_importances_are_drawn_as_the_version_shows_them(client: FlaskClient) -> None:
    permuted = train(client, X[:, 0].tolist(), feature_names=["right", "wrong"])["importances"]
    of_trees = train(client, CODES.tolist(), estimator="random_forest_classifier")["importances"]

    drawn = [read_texts(client.get(url("importances", number)).data) for number in (1, 2)]

    assert list(permuted["values"]) == ["right", "wrong"]
    assert {"right", "wrong", "mean fall of R²"} <= set(drawn[0])
    assert {*of_trees["values"], "share of the impurity"} <= set(drawn[1])
    assert client.get(f"{ML}/models/default/versions/2").get_json()["importances"] == of_trees


def test_labels_are_shown_as_they_are(client: FlaskClient) -> None:
    train(client, np.take(STRANGE, np.arange(200) % 5).tolist())

    texts = " ".join(read_texts(client.get(url("confusion-matrix")).data))

    assert all(label in texts for label in STRANGE[:4])
    assert STRANGE[4] not in texts  # it is cut


def test_a_plot_is_the_same_bytes_each_time_and_is_not_sent_twice(client: FlaskClient) -> None:
    train(client, X[:, 0].tolist())

    first = client.get(url("residuals"))
    again = client.get(url("residuals"), headers={"If-None-Match": first.headers["ETag"]})
    train(client, X[:, 1].tolist())
    other = client.get(url("residuals", 2))

    assert (again.status_code, again.data) == (304, b"")
    assert client.get(url("residuals")).data == first.data
    assert other.data != first.data


def test_of_rows_that_are_not_known_only_coefficients_are_drawn(
    client: FlaskClient, session: Session
) -> None:
    artifact = skops.io.dumps(LinearRegression().fit(X, X[:, 0]))
    assert send(client, f"{ML}/models/default", artifact).status_code == 201
    train(client, X[:, 0].tolist())
    session.execute(sa.update(ModelVersion).values(judged_rows=None))  # of an older release
    session.commit()

    for number in (1, 2):
        assert client.get(url("coefficients", number)).status_code == 200
        refused = client.get(url("residuals", number))
        assert refused.status_code == 404
        assert "rows are not known" in refused.get_json()["detail"]


def test_the_command_line_draws_plots_too(
    client: FlaskClient, runner: FlaskCliRunner, tmp_path: Path
) -> None:
    train(client, X[:, 0].tolist())
    out = tmp_path / "plot.svg"

    drawn = runner.invoke(args=["ml", "plot", "1", "residuals", str(out)])
    refused = runner.invoke(args=["ml", "plot", "1", "roc", str(tmp_path / "none.svg")])

    assert drawn.exit_code == 0, drawn.output
    assert out.read_bytes() == client.get(url("residuals")).data
    assert refused.exit_code == 1
    assert re.search("Error: .*it is not a classification", refused.stderr)
    assert not (tmp_path / "none.svg").exists()


@pytest.mark.parametrize("n_classes", [2, 20, 21])
def test_at_most_5000_rows_are_kept_and_probabilities_where_they_are_few(n_classes: int) -> None:
    classes = [f"c{n}" for n in range(n_classes)]
    y = np.array(["unknown", *classes], dtype=object)[np.arange(7000) % (n_classes + 1)]
    values = np.array(classes, dtype=object)[np.arange(7000) % n_classes]
    probabilities = np.random.RandomState(0).random_sample((7000, n_classes))

    judged = Judged.from_scores(y, Scores(values, probabilities, are_labels=True), classes)
    read = Judged.from_bytes(judged.to_bytes())

    assert read.y[:2].tolist() == [-1, 0]
    assert read.predicted[:2].tolist() == [0, 1]
    assert len(read.y) == len(read.predicted) == MOST_JUDGED
    if MOST_JUDGED * n_classes > MOST_JUDGED_CELLS:
        assert read.probabilities is None
    else:
        assert read.probabilities is not None
        np.testing.assert_allclose(read.probabilities, probabilities[:MOST_JUDGED], rtol=1e-6)
