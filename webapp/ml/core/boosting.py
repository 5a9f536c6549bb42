"""Boosting on data in files: what a cluster loads of each part, and the version that it makes.

A process loads the parts that it is given, and keeps their rows in memory as numbers; what it
tells of them (``PartFacts``) is small. Rows to judge the model by are drawn as in ``streaming``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.errors import Faults, InvalidInput, faults_in
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    Matrix,
    Subset,
    check_feature_names,
    warn_of_missing,
)
from webapp.ml.core.estimators import BOOSTERS, Estimator, resolve_params
from webapp.ml.core.formats import FORMATS, inspect_file
from webapp.ml.core.formats.elsewhere import REQUIREMENTS
from webapp.ml.core.formats.shapes import list_labels, relabel
from webapp.ml.core.learning import EXCLUDE, Choices, check_kinds, find_doubts
from webapp.ml.core.metrics import measure_scores
from webapp.ml.core.plots import Judged
from webapp.ml.core.scoring import score
from webapp.ml.core.signature import Column, Signature
from webapp.ml.core.sources import DataSource, Head, Part, check_columns
from webapp.ml.core.streaming import PartOptions, draw_rows, make_options
from webapp.ml.core.tables.numbers import to_numbers
from webapp.ml.core.tables.reading import open_table, parse_errors
from webapp.ml.core.tables.shapes import BLANKS, NUMERIC, Columns, check_target, kind_of
from webapp.ml.core.targets import take_target
from webapp.ml.core.training import (
    FEWEST_ROWS_TO_JUDGE,
    FEWEST_ROWS_TO_SPLIT,
    MOST_CLASSES,
    TrainedModel,
    TrainingSpec,
)

MOST_FEATURES = 2000
PRECISION = {"xgboost": np.float32, "lightgbm": np.float64}  # as they compare values
_ADDRESSES = re.compile(rb"^\[(machines|machine_list_filename|local_listen_port): .*\]\n", re.M)


def name_library(entry: Estimator) -> str:
    """Return the library that fits an estimator, which is also the name of its format."""
    return entry.type_name.partition(".")[0]


def check_cluster(estimator: str | None, engine: str | None) -> None:
    """Raise InvalidInput for a booster where it cannot be trained.

    ``engine`` is the setting TRAINING_ENGINE; None for rows that came with the request.
    """
    if estimator is None or estimator not in BOOSTERS:
        return
    elsewhere = "or fit it elsewhere, and upload it"
    if engine is None:
        message = (
            f"is trained on files (source), spread over a Dask cluster: give them, {elsewhere}"
        )
    elif engine == "local":
        message = (
            "is trained on a Dask cluster, and this service has none: an operator sets "
            f"TRAINING_ENGINE, {elsewhere}"
        )
    elif importlib.util.find_spec(library := name_library(BOOSTERS[estimator])) is None:
        message = (
            f"needs {library}, which is not installed: pip install -r {REQUIREMENTS} "
            "for the service and for the workers"
        )
    else:
        return
    raise InvalidInput({"estimator": [message]})


@dataclass(frozen=True)
class BoostingPlan:
    """How to train a booster on the parts of a source: ``options`` say what to take of each."""

    entry: Estimator
    params: Mapping[str, Any]
    options: PartOptions
    parts: tuple[Part, ...]

    @property
    def library(self) -> str:
        """Return the name of the library that fits it."""
        return name_library(self.entry)

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
    target = choices.target.strip(BLANKS)
    head = source.read_head([target])
    with faults_in("target"):
        check_target(list(head.kinds), target)
    features = [name for name in head.kinds if name != target]
    check_kinds(choices.kinds, features)
    names = tuple(name for name in features if choices.kinds.get(name) != EXCLUDE)
    if not names:
        raise InvalidInput({"source": [f"has no column beside the target {target!r}"]})
    _check_features(head, names, choices)
    options = make_options(head, names, target, spec)
    return BoostingPlan(entry, params, options, tuple(source.split()))


def _check_features(head: Head, names: Sequence[str], choices: Choices) -> None:
    check_feature_names(names)
    if len(names) > MOST_FEATURES:
        raise InvalidInput({"source": [f"has {len(names)} features, at most {MOST_FEATURES}"]})
    for name in names:
        if {choices.kinds.get(name, head.kinds[name]), head.kinds[name]} != {"number"}:
            message = f"in parts, columns are numbers, and {name} is not: exclude it"
            raise InvalidInput({"source": [message]})


@dataclass(frozen=True)
class Moments:
    """Values of each feature that are not missing: (n_features,) each.

    ``squares`` are the sums of squared distances from the mean.
    """

    count: Any
    mean: Any
    squares: Any
    low: Any
    high: Any

    @classmethod
    def of(cls, X: Matrix) -> Moments:
        """Return those of rows, (n_rows, n_features), with NaN for what is missing."""
        present = ~np.isnan(X)
        count = present.sum(axis=0)
        mean = np.where(present, X, 0.0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(present, X - mean, 0.0) ** 2).sum(axis=0)
        low = np.where(present, X, np.inf).min(axis=0, initial=np.inf)
        high = np.where(present, X, -np.inf).max(axis=0, initial=-np.inf)
        return cls(count, mean, squares, low, high)

    def combine(self, other: Moments) -> Moments:
        """Return those of the rows of both (Chan, Golub and LeVeque, 1983)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        gap = other.mean - self.mean
        return Moments(
            count,
            self.mean + gap * share,
            self.squares + other.squares + gap**2 * self.count * share,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def profile(self) -> dict[str, list[float | None]]:
        """Return mean, std, min and max by feature, None where it has no values."""
        std = np.sqrt(self.squares / np.maximum(self.count - 1, 1))
        found = {"mean": self.mean, "std": std, "min": self.low, "max": self.high}
        return {
            name: [
                value if count and math.isfinite(value) else None
                for value, count in zip(values.tolist(), self.count.tolist(), strict=True)
            ]
            for name, values in found.items()
        }


@dataclass(frozen=True)
class PartFacts:
    """What is known of a part that has been loaded; only ``faults`` where it cannot be.

    kept, kept_y and draws: the rows to judge by, their targets, and the numbers drawn for them.
    labels: the values of a target of classes, whose places stand in ``y`` for them (-1: missing);
    counts: how many fitted rows have each. total: the sum of a target of numbers.
    """

    faults: Faults | None = None
    n_rows: int = 0
    n_fitted: int = 0
    n_missing: int = 0
    kept: Any = None
    kept_y: Any = None
    draws: Any = None
    digest: bytes = b""
    moments: Moments | None = None
    n_infinite: Any = None
    labels: tuple[Any, ...] = ()
    counts: Any = None
    untyped: bool = False
    total: float = 0.0
    warnings: tuple[DataWarning, ...] = ()


@dataclass(frozen=True)
class LoadedPart:
    """The rows of a part to fit, X: (n_rows, n_features) and y: (n_rows,), and what they are."""

    X: Any
    y: Any
    facts: PartFacts


@dataclass
class _Labels:
    """The distinct values of a target, by their places, in the order in which they came."""

    target: str
    places: dict[Any, int] = field(default_factory=dict)

    def encode(self, column: Any) -> NDArray[np.int64]:
        """Return the places of a column's values, -1 where one is missing."""
        import pyarrow as pa

        encoded = column
        if not pa.types.is_dictionary(column.type):
            encoded = column.dictionary_encode()
        found = [self._place(value) for value in encoded.dictionary.to_pylist()]
        codes = np.asarray(encoded.indices.cast(pa.int64()).fill_null(len(found)))
        places: NDArray[np.int64] = np.array([*found, -1])[codes]
        return places

    def _place(self, value: Any) -> int:
        if value is None or value != value or value == "":
            return -1
        if len(self.places) > MOST_CLASSES and value not in self.places:
            message = f"has more than {MOST_CLASSES} classes, which are not allowed"
            raise InvalidInput({self.target: [message]})
        return self.places.setdefault(value, len(self.places))


def load_part(plan: BoostingPlan, part: Part) -> LoadedPart:
    """Return a part's rows in memory; what is wrong with it is in its facts."""
    try:
        return _load_part(plan, part)
    except InvalidInput as error:
        return LoadedPart(None, None, PartFacts(faults=error.faults))


def _load_part(plan: BoostingPlan, part: Part) -> LoadedPart:
    options, precision = plan.options, PRECISION[plan.library]
    width = len(options.names)
    columns = (*options.names, options.target)
    labels, random = _Labels(options.target), draw_rows(part, options.random_state)
    blocks: list[Any] = [np.empty((0, width), precision)]
    targets: list[Any] = [np.empty(0, np.float64 if plan.is_regression else np.int64)]
    kept, kept_y, draws = [np.empty((0, width))], [targets[0]], [np.empty(0)]
    moments, n_infinite = Moments.of(kept[0]), np.zeros(width, np.int64)
    sha, n_rows, n_missing = hashlib.sha256(), 0, 0
    as_text = {*options.left_out, *(() if plan.is_regression else (options.target,))}
    with part.open() as source, parse_errors(source.format), np.errstate(all="ignore"):
        table = open_table(source, set(columns), as_text.__contains__)
        given = [name for name in table.schema.names if name not in options.left_out]
        check_columns(given, columns)
        for batch in table.batches:
            X = _read_features(batch, options.names)
            drawn = random.random(len(X))
            n_rows += len(X)
            if plan.is_regression:
                found = Columns(batch.select([options.target]), table.untyped)
                found = replace(found, decimal=source.dialect.decimal)
                y, present = take_target(found, options.target, "regression")
            else:
                codes = labels.encode(batch[options.target])
                present = codes >= 0
                y = codes[present]
            X, drawn = X[present], drawn[present]
            n_missing += len(present) - len(X)
            sha.update(np.ascontiguousarray(X, dtype="<f8").data)
            sha.update(np.ascontiguousarray(y).data)
            infinite = np.isinf(X)
            n_infinite += infinite.sum(axis=0)
            X[infinite] = np.nan
            _check_range(X, y, options, precision)
            wanted, fitted = drawn < options.kept, drawn >= options.held_out
            kept.append(X[wanted])
            kept_y.append(y[wanted])
            draws.append(drawn[wanted])
            moments = moments.combine(Moments.of(X[fitted]))
            blocks.append(X[fitted].astype(precision))
            targets.append(y[fitted])
    y = np.concatenate(targets)
    sha.update(repr(tuple(labels.places)).encode())
    facts = PartFacts(
        n_rows=n_rows,
        n_fitted=len(y),
        n_missing=n_missing,
        kept=np.concatenate(kept),
        kept_y=np.concatenate(kept_y),
        draws=np.concatenate(draws),
        digest=sha.digest(),
        moments=moments,
        n_infinite=n_infinite,
        labels=tuple(labels.places),
        counts=None if plan.is_regression else np.bincount(y, minlength=len(labels.places)),
        untyped=table.untyped,
        total=float(y.sum()) if plan.is_regression else 0.0,
        warnings=table.warnings,
    )
    return LoadedPart(np.concatenate(blocks), y, facts)


def _read_features(batch: Any, names: Sequence[str]) -> Matrix:
    """Return columns of numbers, (n_rows, n_features), NaN where one is missing."""
    X = np.empty((len(batch), len(names)))
    for place, name in enumerate(names):
        kind = kind_of(batch.schema.field(name).type)
        if kind not in (*NUMERIC, "null"):
            raise InvalidInput({name: [f"holds {kind} values, expected numbers"]})
        X[:, place] = to_numbers(batch[name])
    return X


def _check_range(X: Matrix, y: Any, options: PartOptions, precision: Any) -> None:
    """Raise InvalidInput for values that the library takes for infinite: targets as float32."""
    largest = np.nanmax(np.abs(X), axis=0, initial=0.0)
    beyond = dict(zip(options.names, largest > np.finfo(precision).max, strict=True))
    beyond[options.target] = np.abs(y).max(initial=0) > np.finfo(np.float32).max
    faults = {name: ["holds values too large to fit"] for name, is_so in beyond.items() if is_so}
    if faults:
        raise InvalidInput(faults)


@dataclass(frozen=True)
class Loaded:
    """All parts together: their facts, by part, and the classes of the target, in their order.

    codes: by part, the place among ``classes`` of each of the part's labels; empty for numbers.
    ``average`` is the mean of the fitted rows' targets, or their most frequent label.
    """

    facts: tuple[PartFacts, ...]
    classes: tuple[Any, ...] | None
    codes: tuple[Any, ...]
    n_seen: int
    average: Any

    @property
    def n_classes(self) -> int:
        """Return how many classes there are, 0 for a target of numbers."""
        return 0 if self.classes is None else len(self.classes)

    @property
    def n_fitted(self) -> int:
        """Return how many rows are to be fitted."""
        return sum(part.n_fitted for part in self.facts)


def combine_parts(plan: BoostingPlan, facts: Sequence[PartFacts]) -> Loaded:
    """Return what all parts are together; raises InvalidInput for the faults of any."""
    for part in facts:
        if part.faults is not None:
            raise InvalidInput({"source": part.faults})
    if not any(len(part.draws) or part.n_fitted for part in facts):
        raise InvalidInput({"source": ["has no rows"]})
    if plan.is_regression:
        n_fitted = sum(part.n_fitted for part in facts)
        mean = sum(part.total for part in facts) / max(1, n_fitted)
        return Loaded(tuple(facts), None, ((),) * len(facts), 0, mean)
    return _combine_labels(plan.options.target, facts)


def _combine_labels(target: str, facts: Sequence[PartFacts]) -> Loaded:
    import pyarrow as pa

    values = list(dict.fromkeys(value for part in facts for value in part.labels))
    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        message = f"has values of other types in other files in {target}"
        raise InvalidInput({"source": [message]}) from None
    untyped = all(part.untyped for part in facts)
    with _without_rows(target):
        found, _ = take_target(
            Columns(pa.table({target: column}), untyped), target, "classification"
        )
    label_of = dict(zip(values, found.tolist(), strict=True))
    counts = dict.fromkeys(label_of.values(), 0)
    for part in facts:
        for value, count in zip(part.labels, part.counts.tolist(), strict=True):
            counts[label_of[value]] += count
    classes = tuple(sorted(counts))
    if len(classes) > MOST_CLASSES:
        message = f"has {len(classes)} classes, at most {MOST_CLASSES} are allowed"
        raise InvalidInput({target: [message]})
    places = {label: place for place, label in enumerate(classes)}
    codes = tuple(
        np.array([places[label_of[value]] for value in part.labels], np.int64) for part in facts
    )
    majority = min(classes, key=lambda label: (-counts[label], label))
    n_seen = sum(count > 0 for count in counts.values())
    return Loaded(tuple(facts), classes, codes, n_seen, majority)


@contextmanager
def _without_rows(target: str) -> Iterator[None]:
    """Leave the rows out of faults: they would be places among the labels."""
    try:
        yield
    except InvalidInput as error:
        faults = error.faults[target] if isinstance(error.faults, dict) else error.faults
        messages = next(iter(faults.values())) if isinstance(faults, dict) else faults
        raise InvalidInput({target: messages}) from None


def encode_target(part: LoadedPart, codes: Any) -> Any:
    """Return the target of a part's rows to fit, (n_rows,): numbers, or codes of classes."""
    return codes[part.y] if len(codes) else part.y


@dataclass(frozen=True)
class JudgedRows:
    """The rows that were kept, in an order of chance: (n_kept, …).

    y: numbers, or places among the classes. held_out: which of them the parts do not have to fit;
    ``n_test`` are judged by, 0 where there are too few.
    """

    X: Matrix
    y: Any
    n_test: int
    held_out: NDArray[np.bool_]


def judge_by(plan: BoostingPlan, spec: TrainingSpec, loaded: Loaded) -> JudgedRows:
    """Return the rows to judge by: those held out, or some of those that are fitted.

    Raises InvalidInput where no row is left to fit, or they are of one class only.
    """
    facts = loaded.facts
    draws = np.concatenate([part.draws for part in facts])
    X = np.concatenate([part.kept for part in facts])
    targets = [
        codes[part.kept_y] if len(codes) else part.kept_y
        for part, codes in zip(facts, loaded.codes, strict=True)
    ]
    y, order = np.concatenate(targets), np.argsort(draws, kind="stable")
    held_out = (draws < plan.options.held_out)[order]
    n_test = int(held_out.sum())
    n_rows = loaded.n_fitted + n_test
    if n_rows < FEWEST_ROWS_TO_SPLIT or n_test < FEWEST_ROWS_TO_JUDGE:
        n_test = 0
    elif not loaded.n_fitted:
        raise InvalidInput({"test_size": [f"leaves none of {n_rows} rows to fit"]})
    if not plan.is_regression and (loaded.n_seen if n_test else loaded.n_classes) < 2:
        message = "has one class only among the rows to fit"
        raise InvalidInput({plan.options.target: [message]})
    return JudgedRows(X[order], y[order], n_test, held_out)


def library_params(plan: BoostingPlan, n_classes: int, random_state: int) -> dict[str, Any]:
    """Return the parameters of a fit as its library takes them, but for the rounds."""
    params = {name: value for name, value in plan.params.items() if name != "n_estimators"}
    seed = random_state % 2**31
    if plan.library == "xgboost":
        objective = "multi:softprob" if n_classes > 2 else "binary:logistic"
        params |= {"objective": "reg:squarederror" if plan.is_regression else objective}
        params |= {"tree_method": "hist", "seed": seed}
    else:
        objective = "multiclass" if n_classes > 2 else "binary"
        params |= {"objective": "regression" if plan.is_regression else objective}
        # It draws rows only in every so manieth round; by default in none.
        params |= {"subsample_freq": int(params["subsample"] < 1)}
        params |= {"random_state": seed, "verbosity": -1, "tree_learner": "data"}
    if n_classes > 2:
        params["num_class"] = n_classes
    return params


def clean_artifact(library: str, artifact: bytes) -> bytes:
    """Return a model file without the addresses of the workers, which LightGBM writes into it."""
    return _ADDRESSES.sub(b"", artifact) if library == "lightgbm" else artifact


def make_version(
    plan: BoostingPlan,
    spec: TrainingSpec,
    loaded: Loaded,
    rows: JudgedRows,
    artifacts: tuple[bytes, bytes],
    seconds: float,
) -> tuple[TrainedModel, Mapping[str, Any]]:
    """Return what is known of a model, from its file: that to judge, and that to serve.

    With it comes what ``inspect_file`` tells of the latter. Raises InvalidInput, also where the
    service could not serve it, and ArtifactUnusable.
    """
    options, facts = plan.options, loaded.facts
    judged_file, served_file = artifacts
    kind, judging = FORMATS[plan.library], rows.n_test or len(rows.y)
    moments = Moments.of(np.empty((0, len(options.names))))
    for part in facts:
        assert part.moments is not None  # noqa: S101 (it has no faults)
        moments = moments.combine(part.moments)
    if not rows.n_test or spec.refit:
        moments = moments.combine(Moments.of(rows.X[rows.held_out]))
    profile = moments.profile()
    columns = tuple(Column(name, missing=True) for name in options.names)
    signature = Signature(columns, plan.entry.task, options.target).with_ranges(profile)
    checks = {"max_features": len(columns), "feature_names": list(options.names)}
    described = inspect_file(None, served_file, plan.library, checks)
    classes = loaded.classes
    model = relabel(kind.load(judged_file, signature, profile), classes)
    order = rows.held_out if rows.n_test else slice(None)
    X, y = rows.X[order], rows.y[order]
    if classes is not None:
        y = list_labels(classes).take(y)
    average = list_labels([loaded.average]) if classes else np.array([loaded.average])
    judged = Dataset(X, y, options.names, signature=signature, target=options.target)
    scores = score(model.scorer, X)
    n_rows = loaded.n_fitted + int(rows.held_out.sum())
    trained = TrainedModel(
        estimator=model.model,
        estimator_name=plan.entry.name,
        params=plan.params,
        metrics=measure_scores(scores, y, classes, average),
        evaluated_on="hold-out" if rows.n_test else "training",
        n_train=loaded.n_fitted if rows.n_test else n_rows,
        n_test=rows.n_test,
        fit_seconds=seconds,
        classes=classes,
        coefficients=None,
        importances=described["importances"],
        profile=profile,
        data_digest=_digest(options.names, facts),
        interval_basis=None,
        judged=Judged.from_scores(y, scores, classes),
        converged=None,
        signature=signature,
        scale=False,
        warnings=tuple(_warn(plan, spec, loaded, rows, n_rows, judging, judged)),
        held_out=Subset(judged, np.arange(rows.n_test)) if rows.n_test else None,
    )
    return trained, described


def _digest(names: Sequence[str], facts: Sequence[PartFacts]) -> str:
    sha = hashlib.sha256()
    for name in names:
        sha.update(name.encode() + b"\0")
    for part in facts:
        sha.update(part.digest)
    return sha.hexdigest()


def _warn(
    plan: BoostingPlan,
    spec: TrainingSpec,
    loaded: Loaded,
    rows: JudgedRows,
    n_rows: int,
    n_judged: int,
    judged: Dataset,
) -> Iterator[DataWarning]:
    """Yield what was left out of the data, or looks wrong in it."""
    facts, options = loaded.facts, plan.options
    yield from dict.fromkeys(warning for part in facts for warning in part.warnings)
    if n_missing := sum(part.n_missing for part in facts):
        yield warn_of_missing(options.target, n_missing, n_rows + n_missing)
    infinite = np.sum([part.n_infinite for part in facts], axis=0).tolist()
    for name, count in zip(options.names, infinite, strict=True):
        if count:
            yield DataWarning(name, f"has {count} infinite values, which count as missing")
    if rows.n_test and spec.test_size > options.kept:
        message = f"{rows.n_test:,} of {n_rows:,} rows were held out: no more are kept in memory"
        yield DataWarning("", message)
    if not rows.n_test and n_judged < n_rows:
        message = f"was judged on {n_judged:,} of the {n_rows:,} rows that were fitted"
        yield DataWarning("", message)
    yield from find_doubts(judged)


def share_out(parts: Sequence[Part], workers: Collection[str]) -> list[str]:
    """Return which worker loads each part: the largest first, to whoever has least."""
    load: dict[str, int] = dict.fromkeys(workers, 0)
    chosen = [""] * len(parts)
    for place in sorted(range(len(parts)), key=lambda place: -parts[place].size):
        worker = min(load, key=lambda one: load[one])
        chosen[place] = worker
        load[worker] += parts[place].size
    return chosen
