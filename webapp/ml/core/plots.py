"""Plots of a version's held-out rows, by scikit-learn's own displays, as SVG.

matplotlib is imported only when a plot is asked for: it takes a second and 70 MB.
"""

from __future__ import annotations

import io
import json
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np

from webapp.ml.core.datasets import Labels, Matrix, Vector
from webapp.ml.core.metrics import encode_labels
from webapp.ml.core.scoring import Scores

MOST_JUDGED = 5000  # rows that are kept of those held out
MOST_JUDGED_CELLS = 100_000  # their probabilities, at 4 bytes each
MOST_CURVES = 10  # classes that have a curve of their own
MOST_MATRIX_CLASSES = 30
MOST_BARS, MOST_IMPORTANCES = 30, 20
MOST_KEPT = 32  # plots, of up to 1 MB with their rows
LONGEST_NAME = 40  # characters of a label in a plot
_DRAWING = threading.Lock()  # matplotlib is not made for threads


@dataclass(frozen=True)
class Judged:
    """Held-out rows as a version was judged by them: at most 5,000.

    y, predicted: (n_rows,), numbers, or the places of labels among the version's classes (-1 for
    a label that was not among the fitted rows); probabilities: (n_rows, n_classes), None for a
    regression, for a classifier that has none, and where they are too many to keep.
    """

    y: Any
    predicted: Any
    probabilities: Matrix | None = None

    @classmethod
    def from_scores(
        cls, y: Vector | Labels, scores: Scores, classes: Sequence[Any] | None
    ) -> Judged:
        """Return the first rows of those that a model was judged by."""
        y, values = y[:MOST_JUDGED], scores.values[:MOST_JUDGED]
        if classes is None:
            return cls(y, values)
        places = {label: place for place, label in enumerate(classes)}
        codes = np.array([places.get(label, -1) for label in y.tolist()])
        kept = scores.probabilities
        if kept is not None:
            few = len(y) * len(classes) <= MOST_JUDGED_CELLS
            kept = kept[:MOST_JUDGED].astype(np.float32) if few else None
        return cls(codes, encode_labels(cast(Labels, values), classes), kept)

    def to_bytes(self) -> bytes:
        """Return them as the bytes of an .npz file."""
        arrays = {"y": self.y, "predicted": self.predicted}
        if self.probabilities is not None:
            arrays["probabilities"] = self.probabilities
        written = io.BytesIO()
        np.savez(written, **arrays)
        return written.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Judged:
        """Return what ``to_bytes`` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(**arrays)


@dataclass(frozen=True)
class Shown:
    """What a version has to draw.

    classes: None for a regression; rows: ``Judged`` as bytes, coefficients and importances: as
    JSON, None where they are not known.
    """

    classes: tuple[Any, ...] | None
    rows: bytes | None
    coefficients: str | None
    importances: str | None

    def read_rows(self) -> Judged:
        """Return the held-out rows."""
        return Judged.from_bytes(self.rows or b"")

    def why_not(self, plot: str) -> str:
        """Return why a plot cannot be drawn; "" where it can be."""
        row = PLOTS[plot]
        if row.of == "coefficients":
            return "" if self.coefficients else "it has no coefficients"
        if row.of == "importances":
            return "" if self.importances else "it has no importances"
        if row.of == "numbers" and self.classes is not None:
            return "it is not a regression"
        if row.of != "numbers" and self.classes is None:
            return "it is not a classification"
        if self.rows is None:
            return "its held-out rows are not known: it was not trained here, or long ago"
        if row.of == "probabilities" and self.read_rows().probabilities is None:
            return "it gives no probabilities, or too many to keep"
        return ""


@dataclass(frozen=True)
class Plot:
    """A kind of plot: what it is of, and what draws it onto matplotlib's axes."""

    title: str
    of: str
    draw: Callable[[Any, Shown], None]


@lru_cache(MOST_KEPT)
def draw_plot(plot: str, shown: Shown) -> bytes:
    """Return a plot as SVG, the same bytes for the same version.

    ``Shown.why_not`` tells whether it can be drawn.
    """
    import matplotlib as mpl

    mpl.use("agg")  # pyplot, which the displays import, must look for no screen
    from matplotlib.figure import Figure

    written = io.StringIO()
    with (
        _DRAWING,
        # Text stays text; and a label may hold dollars, which are no formula.
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot, "text.parse_math": False}),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of letters that the font lacks
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        axes = figure.subplots()
        PLOTS[plot].draw(axes, shown)
        axes.set_title(PLOTS[plot].title)
        figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue().encode()


def _name(label: Any) -> str:
    text = str(label)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def _draw_errors(axes: Any, shown: Shown, kind: str) -> None:
    from sklearn.metrics import PredictionErrorDisplay

    judged = shown.read_rows()
    PredictionErrorDisplay.from_predictions(
        judged.y,
        judged.predicted,
        kind=kind,
        subsample=None,
        ax=axes,
        scatter_kwargs={"s": 9, "alpha": 0.5},
    )


def _curves(shown: Shown) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, whether a row is of the class, and its probability: of two classes the second.

    Of many, those with the most rows.
    """
    classes, judged = cast(Sequence[Any], shown.classes), shown.read_rows()
    counts = np.bincount(judged.y[judged.y >= 0], minlength=len(classes))
    places = np.argsort(-counts, kind="stable")[:MOST_CURVES].tolist()
    for place in [1] if len(classes) == 2 else places:
        of_class = judged.y == place
        if 0 < of_class.sum() < len(of_class):  # else there is no curve
            yield _name(classes[place]), of_class, cast(Matrix, judged.probabilities)[:, place]


def _draw_curves(axes: Any, shown: Shown, display: str, **options: Any) -> None:
    from sklearn import metrics
    from sklearn.calibration import CalibrationDisplay

    kinds = {"calibration": CalibrationDisplay.from_predictions}
    draw = kinds.get(display) or getattr(metrics, display).from_predictions
    for name, of_class, probability in _curves(shown):
        draw(of_class, probability, name=f"class {name}", ax=axes, **options)
    for name, label in (("xlabel", axes.get_xlabel()), ("ylabel", axes.get_ylabel())):
        axes.set(**{name: label.partition(" (Positive")[0]})  # which the legend names
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _draw_matrix(axes: Any, shown: Shown) -> None:
    from sklearn.metrics import ConfusionMatrixDisplay

    classes, judged = cast(Sequence[Any], shown.classes), shown.read_rows()
    counts = np.bincount(judged.y[judged.y >= 0], minlength=len(classes))
    places = np.sort(np.argsort(-counts, kind="stable")[:MOST_MATRIX_CLASSES])
    names = [_name(classes[place]) for place in places.tolist()]
    few = len(names) <= 10  # with more, numbers would overlap
    ConfusionMatrixDisplay.from_predictions(
        judged.y,
        judged.predicted,
        labels=places,
        display_labels=names,
        include_values=few,
        xticks_rotation="vertical" if max(map(len, names)) > 4 else "horizontal",
        ax=axes,
    )


def _draw_coefficients(axes: Any, shown: Shown) -> None:
    described = json.loads(shown.coefficients or "{}")
    by_class = described.get("classes") or {"": described}
    bars = [
        (value, f"{_name(name)} ({_name(label)})" if len(by_class) > 1 else _name(name))
        for label, function in by_class.items()
        for name, value in function["coefficients"].items()
        if not name.endswith("=missing")  # of a number, it is what the imputed value adds
    ]
    largest = sorted(bars, key=lambda bar: -abs(bar[0]))[:MOST_BARS][::-1]
    axes.barh(range(len(largest)), [value for value, _ in largest])
    axes.set_yticks(range(len(largest)), [name for _, name in largest], fontsize="small")
    axes.set_xlabel("coefficient")


def _draw_importances(axes: Any, shown: Shown) -> None:
    described = json.loads(shown.importances or "{}")
    names = list(described["values"])[:MOST_IMPORTANCES][::-1]  # they begin with the largest
    std = described["std"]
    axes.barh(
        range(len(names)),
        [described["values"][name] for name in names],
        xerr=None if std is None else [std[name] for name in names],
    )
    axes.set_yticks(range(len(names)), map(_name, names), fontsize="small")
    falls = {"r2_score": "mean fall of R²", "accuracy": "mean fall of the accuracy"}
    axes.set_xlabel(falls.get(described["metric"], f"share of the {described['method']}"))


PLOTS: Mapping[str, Plot] = {
    "predicted-vs-actual": Plot(
        "Predicted and actual values",
        "numbers",
        lambda axes, shown: _draw_errors(axes, shown, "actual_vs_predicted"),
    ),
    "residuals": Plot(
        "Residuals",
        "numbers",
        lambda axes, shown: _draw_errors(axes, shown, "residual_vs_predicted"),
    ),
    "roc": Plot(
        "Receiver operating characteristic",
        "probabilities",
        lambda axes, shown: _draw_curves(axes, shown, "RocCurveDisplay"),
    ),
    "precision-recall": Plot(
        "Precision and recall",
        "probabilities",
        lambda axes, shown: _draw_curves(axes, shown, "PrecisionRecallDisplay"),
    ),
    "calibration": Plot(
        "Calibration",
        "probabilities",
        lambda axes, shown: _draw_curves(axes, shown, "calibration", n_bins=10),
    ),
    "confusion-matrix": Plot("Confusion matrix", "labels", _draw_matrix),
    "coefficients": Plot("Largest coefficients", "coefficients", _draw_coefficients),
    "importances": Plot("Largest importances", "importances", _draw_importances),
}
