"""Boosting on data in files: what a cluster loads of each part, and the version that it makes.

A process loads the parts that it is given, and keeps their rows in memory as numbers; what it
tells of them (``PartFacts``) is small. Rows to judge the model by are drawn as in ``streaming``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from webapp.errors import InvalidInput, number_rows
from webapp.ml.core import streaming
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    Matrix,
    Subset,
    check_feature_names,
    describe_label,
)
from webapp.ml.core.estimators import BOOSTERS, Estimator, resolve_params
from webapp.ml.core.formats import FORMATS, inspect_file
from webapp.ml.core.formats.elsewhere import REQUIREMENTS
from webapp.ml.core.formats.shapes import list_labels
from webapp.ml.core.learning import Choices, find_doubts
from webapp.ml.core.metrics import measure_scores
from webapp.ml.core.plots import Judged
from webapp.ml.core.scoring import score
from webapp.ml.core.signature import Column, Signature
from webapp.ml.core.sources import DataSource, Part, check_columns
from webapp.ml.core.tables.reading import open_table, parse_errors
from webapp.ml.core.tables.shapes import NUMERIC, Columns
from webapp.ml.core.targets import take_target, to_whole_numbers
from webapp.ml.core.training import MOST_CLASSES, TrainedModel, TrainingSpec

PRECISION = {"xgboost": np.float32, "lightgbm": np.float64}  # as they compare values
OBJECTIVES = {
    "xgboost": ("reg:squarederror", "binary:logistic", "multi:softprob"),
    "lightgbm": ("regression", "binary", "multiclass"),
}
"""Of numbers, of two classes, and of more."""
_ADDRESSES = re.compile(rb"^\[(machines|machine_list_filename|local_listen_port): .*\]\n", re.M)


def check_cluster(estimator: str | None, engine: str | None) -> None:
    """Raise InvalidInput for a booster where it cannot be trained.

    ``engine`` is the setting TRAINING_ENGINE; None for rows that came with the request.
    """
    if estimator is None or estimator not in BOOSTERS:
        return
    library = BOOSTERS[estimator].library
    if engine is None:
        why = "is trained on files (source), spread over a Dask cluster: give them"
    elif engine == "local":
        why = "is trained on a Dask cluster, and here is none: an operator sets TRAINING_ENGINE"
    elif importlib.util.find_spec(library) is None:
        why = f"needs {library}: pip install -r {REQUIREMENTS} for the service and for the workers"
    else:
        return
    raise InvalidInput({"estimator": [f"{why}, or fit it elsewhere, and upload it"]})


@dataclass(frozen=True)
class BoostingPlan:
    """How to train a booster on the parts of a source: ``options`` say what to take of each."""

    entry: Estimator
    params: Mapping[str, Any]
    options: streaming.PartOptions
    parts: tuple[Part, ...]

    @property
    def is_regression(self) -> bool:
        """Return whether the target is numbers to learn, and not labels."""
        return self.entry.task == "regression"


def plan_boosting(source: DataSource, choices: Choices, spec: TrainingSpec) -> BoostingPlan:
    """Return how to train; raises InvalidInput for what cannot be trained so."""
    entry = BOOSTERS[spec.estimator or ""]
    params = resolve_params(entry, spec.params)
    if spec.cv:
        raise InvalidInput({"cv": [f"must be 0 for {entry.name}"]})
    if spec.scale:
        raise InvalidInput({"scale": [f"must be false for {entry.name}: trees need none"]})
    head, choices, names = streaming.read_head(source, choices)
    check_feature_names(names)
    obstacle = streaming.find_other_than_numbers(head, names, choices)
    if not names:
        obstacle = f"has no column beside the target {choices.target!r}"
    if obstacle:
        raise InvalidInput({"source": [obstacle]})
    options = streaming.make_options(head, names, choices.target, spec)
    return BoostingPlan(entry, params, options, tuple(source.split()))


@dataclass(frozen=True)
class Moments:
    """Values of ``n_rows`` by column, the target being last: (n_columns,) each.

    count: those that are not missing; squares: the sums of squared distances from their mean.
    """

    n_rows: int
    count: Any
    mean: Any
    squares: Any
    low: Any
    high: Any

    @classmethod
    def of(cls, Z: Matrix) -> Moments:
        """Return those of rows, (n_columns, n_rows), with NaN for what is missing."""
        present = ~np.isnan(Z)
        count = present.sum(axis=1)
        with np.errstate(all="ignore"):
            mean = Z.sum(axis=1, where=present) / np.maximum(count, 1)
            squares = ((Z - mean[:, np.newaxis]) ** 2).sum(axis=1, where=present)
        low = Z.min(axis=1, initial=np.inf, where=present)
        high = Z.max(axis=1, initial=-np.inf, where=present)
        return cls(Z.shape[1], count, mean, squares, low, high)

    def combine(self, other: Moments) -> Moments:
        """Return those of the rows of both (Chan, Golub and LeVeque, 1983)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        with np.errstate(all="ignore"):
            gap = other.mean - self.mean
            mean = self.mean + gap * share
            squares = self.squares + other.squares + gap**2 * self.count * share
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Moments(self.n_rows + other.n_rows, count, mean, squares, low, high)

    def profile(self) -> dict[str, list[float | None]]:
        """Return mean, std, min and max by feature, None where it has no values."""
        absent = np.where(self.count, 0.0, np.nan)
        std = np.sqrt(self.squares / np.maximum(self.count - 1, 1)) + absent
        return streaming.list_profile(self.mean + absent, std, self.low, self.high)


@dataclass(frozen=True)
class PartFacts:
    """What is known of a part that has been loaded: ``reduced`` is to the Moments of its rows.

    labels: the values of a target of classes, whose places stand for them in ``y``, and in the
    rows that are kept; counts: how many fitted rows have each. n_infinite: by feature.
    """

    reduced: streaming.Reduced
    n_infinite: Any
    labels: tuple[Any, ...]
    counts: Any
    untyped: bool


@dataclass(frozen=True)
class LoadedPart:
    """The rows of a part to fit, X: (n_rows, n_features) and y: (n_rows,), and what they are."""

    X: Any
    y: Any
    facts: PartFacts


def load_part(plan: BoostingPlan, part: Part) -> LoadedPart:
    """Return a part's rows in memory; raises InvalidInput by file, column and row."""
    options, precision = plan.options, PRECISION[plan.entry.library]
    columns = (*options.names, options.target)
    nothing, random = np.empty((len(columns), 0)), streaming.draw_rows(part, options.random_state)
    blocks, targets = [nothing[:-1].T.astype(precision)], [nothing[-1]]
    kept, draws, moments = [nothing], [nothing[-1]], Moments.of(nothing)
    n_infinite, n_rows, n_missing = np.zeros(len(options.names), np.int64), 0, 0
    places, sha = dict[Any, int](), hashlib.sha256()
    as_text = {*options.left_out, *(() if plan.is_regression else (options.target,))}
    with part.open() as source, parse_errors(source.format), np.errstate(all="ignore"):
        table = open_table(source, set(columns), as_text.__contains__)
        given = [name for name in table.schema.names if name not in options.left_out]
        check_columns(given, columns)
        for batch in table.batches:
            Z = _read_batch(plan, batch, n_rows, places)
            drawn, present = random.random(len(batch)), ~np.isnan(Z[-1])
            Z, drawn = Z[:, present], drawn[present]
            n_rows += len(batch)
            n_missing += len(batch) - len(drawn)
            sha.update(np.ascontiguousarray(Z.T, dtype="<f8").data)
            infinite = np.isinf(Z[:-1])
            n_infinite += infinite.sum(axis=1)
            Z[:-1][infinite] = np.nan
            _check_range(Z, columns, precision)
            wanted = drawn < options.kept
            kept.append(Z[:, wanted])
            draws.append(drawn[wanted])
            Z = Z[:, drawn >= options.held_out]
            moments = moments.combine(Moments.of(Z))
            blocks.append(Z[:-1].T.astype(precision, order="C"))
            targets.append(Z[-1])
    y, labels, counts = np.concatenate(targets), tuple(places), None
    if not plan.is_regression:
        y = y.astype(np.int64)
        counts = np.bincount(y, minlength=len(labels))
        sha.update(repr(labels).encode())
    reduced = streaming.Reduced(
        moments,
        np.concatenate(kept, axis=1),
        np.concatenate(draws),
        sha.digest(),
        n_rows,
        n_missing,
        table.warnings,
    )
    facts = PartFacts(reduced, n_infinite, labels, counts, table.untyped)
    return LoadedPart(np.concatenate(blocks), y, facts)


def _read_batch(plan: BoostingPlan, batch: Any, first_row: int, places: dict[Any, int]) -> Matrix:
    """Return columns of numbers, the target being last: (n_columns, n_rows), NaN for missing.

    For labels it has their ``places``, to which new ones are added. Raises InvalidInput.
    """
    import pyarrow as pa

    names, target, kinds = plan.options.names, plan.options.target, (*NUMERIC, "null")
    if plan.is_regression:
        return streaming.read_columns(batch, (*names, target), kinds)
    column = Columns(pa.Table.from_batches([batch.select([target])]))
    try:
        labels, present = take_target(column, target, "classification")
    except InvalidInput as error:
        raise InvalidInput(number_rows(error.faults, first_row.__add__)) from None
    encoded = pa.array(labels).dictionary_encode()
    found = [places.setdefault(label, len(places)) for label in encoded.dictionary.to_pylist()]
    _check_classes(places, target)
    codes = np.full(len(batch), np.nan)
    codes[present] = np.array(found, np.int64)[np.asarray(encoded.indices)]
    return np.vstack([streaming.read_columns(batch, names, kinds), codes])


def _check_range(Z: Matrix, columns: Sequence[str], precision: Any) -> None:
    """Raise InvalidInput for values that the library takes for infinite: targets as float32."""
    for name, values in zip(columns, Z, strict=True):
        kind = np.float32 if name == columns[-1] else precision
        if (np.abs(values) > np.finfo(kind).max).any():
            raise InvalidInput({name: ["holds values too large to fit"]})


def _check_classes(labels: Collection[Any], target: str) -> None:
    if len(labels) > MOST_CLASSES:
        message = f"has {len(labels)} classes, at most {MOST_CLASSES} are allowed"
        raise InvalidInput({target: [message]})


@dataclass(frozen=True)
class Loaded:
    """All parts together, and the classes of the target, in their order; None for numbers.

    ``whole`` has places among the classes for the target, and so has ``kept`` of it. codes: by
    part, that of each of the part's labels; counts: how many fitted rows each class has.
    """

    whole: streaming.Reduced
    kept: streaming.KeptRows
    n_infinite: Any
    classes: tuple[Any, ...] | None
    codes: Sequence[Any]
    counts: Any


def combine_parts(plan: BoostingPlan, facts: Sequence[PartFacts]) -> Loaded:
    """Return what all parts are together.

    Raises InvalidInput where they do not fit, no row is left to fit, or these are of one class.
    """
    parts = [part.reduced for part in facts]
    classes, codes, counts = None, [np.empty(0)] * len(facts), None
    if not plan.is_regression:
        label_of = _unite_labels(plan.options.target, facts)
        classes = tuple(sorted(set(label_of.values())))
        places = {label: classes.index(found) for label, found in label_of.items()}
        codes = [np.array([places[label] for label in part.labels], np.float64) for part in facts]
        counts = np.zeros(len(classes), np.int64)
        for place, (part, found) in enumerate(zip(facts, codes, strict=True)):
            np.add.at(counts, found.astype(np.intp), part.counts)
            *features, labels = part.reduced.kept
            rows = np.array([*features, found[labels.astype(np.intp)]])
            parts[place] = replace(part.reduced, kept=rows)
    whole = streaming.combine(parts)
    kept = streaming.split_kept(plan.options, whole)
    if counts is not None and (np.count_nonzero(counts) if kept.n_test else len(counts)) < 2:
        message = "has one class only among the rows to fit"
        raise InvalidInput({plan.options.target: [message]})
    n_infinite = sum(part.n_infinite for part in facts)
    return Loaded(whole, kept, n_infinite, classes, codes, counts)


def _unite_labels(target: str, facts: Sequence[PartFacts]) -> dict[Any, Any]:
    """Return the class of each label: text that is a whole number in all files is one."""
    labels = list(dict.fromkeys(label for part in facts for label in part.labels))
    if len(set(map(type, labels))) > 1:
        message = f"has values of other types in other files in {target}"
        raise InvalidInput({"source": [message]})
    numbers = to_whole_numbers(labels) if all(part.untyped for part in facts) else None
    for label in numbers or ():
        if fault := describe_label(label):
            raise InvalidInput({target: fault})
    _check_classes(labels, target)
    return dict(zip(labels, numbers or labels, strict=True))


def encode_target(part: LoadedPart, codes: Any) -> Any:
    """Return the target of a part's rows to fit, (n_rows,): numbers, or codes of classes."""
    return codes[part.y] if len(codes) else part.y


def library_params(plan: BoostingPlan, n_classes: int, random_state: int) -> dict[str, Any]:
    """Return the parameters of a fit as its library takes them, but for the rounds."""
    params = {name: value for name, value in plan.params.items() if name != "n_estimators"}
    kind = 0 if plan.is_regression else min(n_classes, 3) - 1
    params |= {
        "objective": OBJECTIVES[plan.entry.library][kind],
        "random_state": random_state % 2**31,
    }
    if n_classes > 2:
        params["num_class"] = n_classes
    if plan.entry.library == "xgboost":
        return {**params, "tree_method": "hist"}
    # LightGBM ignores subsample while subsample_freq is 0, its default.
    frequency = int(params["subsample"] < 1)
    return {**params, "subsample_freq": frequency, "verbosity": -1, "tree_learner": "data"}


def clean_artifact(library: str, artifact: bytes) -> bytes:
    """Return a model file without the addresses of the workers, which LightGBM writes into it."""
    return _ADDRESSES.sub(b"", artifact) if library == "lightgbm" else artifact


def make_version(
    plan: BoostingPlan,
    spec: TrainingSpec,
    loaded: Loaded,
    artifacts: Sequence[bytes],
    seconds: float,
) -> tuple[TrainedModel, Mapping[str, Any]]:
    """Return what is known of a model, from its files: that to judge is the first.

    The last is that to serve, and may be the same. With it comes what ``inspect_file`` tells of
    the latter. Raises InvalidInput, also where it could not be served, and ArtifactUnusable.
    """
    options, whole, kept, classes = plan.options, loaded.whole, loaded.kept, loaded.classes
    fitted, n_test = whole.fitted, kept.n_test
    if not n_test or spec.refit:
        fitted = fitted.combine(Moments.of(kept.held_out))
    profile = fitted.profile()
    columns = tuple(Column(name, missing=True) for name in options.names)
    signature = Signature(columns, plan.entry.task, options.target).with_ranges(profile)
    checks = {"max_features": len(columns), "feature_names": list(options.names)}
    described = inspect_file(None, artifacts[-1], plan.entry.library, checks)
    model = FORMATS[plan.entry.library].restore(artifacts[0], signature, profile, classes)
    X, y = np.ascontiguousarray(kept.judged[:-1].T), kept.judged[-1]
    average = whole.fitted.mean[-1:]
    if classes is not None:
        labels = list_labels(classes)
        y, average = labels.take(y.astype(np.intp)), labels.take([np.argmax(loaded.counts)])
    judged = Dataset(X, y, options.names, signature=signature, target=options.target)
    infinite = [
        DataWarning(options.names[place], f"has {count} infinite values, which count as missing")
        for place, count in enumerate(loaded.n_infinite.tolist())
        if count
    ]
    doubts = [*kept.list_doubts(options, spec, whole), *infinite, *find_doubts(judged)]
    scores = score(model.scorer, X)
    trained = TrainedModel(
        estimator=model.model,
        estimator_name=plan.entry.name,
        params=plan.params,
        metrics=measure_scores(scores, y, classes, average),
        evaluated_on="hold-out" if n_test else "training",
        n_train=whole.fitted.n_rows if n_test else kept.n_rows,
        n_test=n_test,
        fit_seconds=seconds,
        classes=classes,
        importances=described["importances"],
        profile=profile,
        data_digest=streaming.digest_parts(options.names, whole),
        judged=Judged.from_scores(y, scores, classes),
        signature=signature,
        warnings=tuple(doubts),
        held_out=Subset(judged, np.arange(n_test)) if n_test else None,
    )
    return trained, described
