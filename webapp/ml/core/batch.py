"""Predictions for data larger than memory: from the files of a source to files of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from webapp.errors import InvalidInput, faults_in
from webapp.ml.core.datasets import DataWarning, Features
from webapp.ml.core.encoding import shift_rows
from webapp.ml.core.features import NO_ROWS, BatchOptions, iterate_features
from webapp.ml.core.formats import FORMATS
from webapp.ml.core.formats.shapes import LoadedModel
from webapp.ml.core.least_squares import IntervalBasis, compute_intervals
from webapp.ml.core.scoring import name_columns, score
from webapp.ml.core.signature import Signature
from webapp.ml.core.sources import DataSource, Part, Report, Store, map_parts, split_path
from webapp.ml.core.tables.shapes import Source
from webapp.ml.core.tables.writing import write_csv, write_parquet

ELSEWHERE = (
    "the file of its predictions is not seen here (yet): the worker that wrote it must reach the "
    "folder at the same path"
)
Predictor: TypeAlias = Callable[[Features], Mapping[str, Any]]
"""Returns the columns of an answer, (n_rows,) each, by name."""


@dataclass(frozen=True)
class StoredPredictor:
    """A version as it is stored, to predict with in other processes, where it is loaded once.

    ``signature``, ``profile`` and ``classes`` are JSON texts. ``basis``: with bounds at ``level``,
    for a model fitted by least squares.
    """

    format: str
    artifact: bytes
    signature: str
    profile: str = "null"
    classes: str = "null"
    basis: IntervalBasis | None = None
    level: float = 0.95

    def __call__(self, features: Features) -> Mapping[str, Any]:
        """Return the columns that the batch endpoint answers with; raises InvalidInput by row."""
        model = _load(self.format, self.artifact, self.signature, self.profile, self.classes)
        scores = score(model.scorer, features.X, features.texts)
        bounds = None
        if self.basis is not None:
            bounds = compute_intervals(self.basis, features.X, scores.values, level=self.level)
        return {**features.passed, **name_columns(scores, model.classes, bounds)}


@lru_cache(maxsize=1)
def _load(kind: str, artifact: bytes, signature: str, *further: str) -> LoadedModel:
    profile, classes = map(json.loads, further)
    found = Signature.from_json(json.loads(signature))
    return FORMATS[kind].restore(artifact, found, profile, classes)


@dataclass(frozen=True)
class Written:
    """What was written: files, rows, and warnings, each of the first file that has it."""

    n_files: int
    n_rows: int
    warnings: tuple[DataWarning, ...]


@dataclass(frozen=True)
class _Job:
    predict: Predictor
    signature: Signature
    options: BatchOptions
    store: Store
    base: str
    folder: str

    def name_of(self, part: Part) -> str:
        """Return where the predictions for a part are written."""
        name = PurePosixPath(self.folder, PurePosixPath(part.name).relative_to(self.base or "."))
        return f"{name}.parquet" if part.format.name == "arrow" else str(name)


def predict_source(
    source: DataSource,
    folder: str,
    *,
    predict: Predictor,
    signature: Signature,
    options: BatchOptions,
    store: Store | None = None,
    executor: Executor | None = None,
    report: Report | None = None,
    overwrite: bool = False,
) -> Written:
    """Write the predictions for each file of a source to a file of the same name.

    ``folder`` is below the root of ``store``, by default of the source's. CSV is answered by CSV,
    Parquet by Parquet, and Arrow by Parquet, which ends the name. A file is there once it is
    complete. With an ``executor`` of processes, ``predict`` must be picklable
    (``StoredPredictor``).

    Raises InvalidInput, under ``source`` by file, column and row, and under ``folder`` where a
    file is there already, unless ``overwrite``; the files that were finished before stay.
    """
    with faults_in("folder"):
        split_path(folder)
        job = _Job(predict, signature, options, store or source.store, source.base, folder)
        read = {(part.store, part.name) for part in source.parts}
        for part in source.parts:
            name = job.name_of(part)
            if (job.store, name) in read:
                raise InvalidInput([f"is the folder of the source: {name!r} would be replaced"])
            if not overwrite and job.store.has(name):
                raise InvalidInput([f"holds {name!r} already"])
    n_files, n_rows, warnings = 0, 0, dict[DataWarning, None]()
    run = partial(predict_part, job)
    answers = map_parts(run, source.parts, executor=executor, report=report)
    for part, written in zip(source.parts, answers, strict=True):
        n_files += written.n_files
        n_rows += written.n_rows
        warnings |= dict.fromkeys(written.warnings)
        if written.n_files and not job.store.has(job.name_of(part)):
            warnings[DataWarning(part.name, ELSEWHERE)] = None
    return Written(n_files, n_rows, tuple(warnings))


def predict_part(job: _Job, part: Part) -> Written:
    """Write the predictions for a part; raises InvalidInput by file, column and row."""
    n_rows, warnings = 0, dict[DataWarning, None]()

    def answer(source: Source) -> Iterator[Mapping[str, Any]]:
        nonlocal n_rows
        for features in iterate_features(source, job.signature, job.options):
            warnings.update(dict.fromkeys(features.warnings))
            try:
                columns = job.predict(features)
            except InvalidInput as error:
                raise InvalidInput(shift_rows(error.faults, n_rows)) from None
            n_rows += len(features.X)
            yield columns

    try:
        with part.open() as source, job.store.write(job.name_of(part)) as file:
            if part.format.name == "csv":
                for index, columns in enumerate(answer(source)):
                    file.writelines(write_csv(columns, header=index == 0))
            else:
                write_parquet(answer(source), file)
    except InvalidInput as error:
        if error.faults != {part.name: NO_ROWS}:
            raise
        message = "has no rows: no predictions were written for it"
        return Written(0, 0, (DataWarning(part.name, message),))
    return Written(1, n_rows, tuple(warnings))
