"""What an upload does in its own process: load, try, judge, and compare with the active one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from webapp.errors import InvalidInput, faults_in
from webapp.jobs.processes import Report
from webapp.ml.core import evaluation
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.formats import FORMATS, inspect_file
from webapp.ml.core.gate import compare
from webapp.ml.core.packing import unpack_upload
from webapp.ml.core.signature import Signature
from webapp.ml.core.tables.shapes import Source

Answer = dict[str, Any]


def inspect(
    report: Report, packed: bytes, active: Mapping[str, Any] | None, max_features: int
) -> Answer:
    """Look into a packed upload; return a version's columns, its libraries, and warnings.

    Where the upload has a metric, it is judged on its table, and compared with the ``active``
    version, as ``registry.service`` describes it. Raises InvalidInput, by the field of the form,
    where the file cannot be used, has more than ``max_features``, or cannot be judged.
    """
    data, table, further = unpack_upload(packed)
    options = {"max_features": max_features, **further["checks"]}
    try:
        version = inspect_file(report, data, further["format_name"], options)
    except InvalidInput as error:
        raise InvalidInput(error.faults, source="form") from None
    version["metrics"] |= further["metrics"]
    answer: Answer = {"libraries": version.pop("libraries"), "version": version, "warnings": []}
    if table is not None:
        try:
            answer |= _judge(version, data, table, active, further)
        except InvalidInput as error:
            raise InvalidInput(error.faults, source=error.source or "form") from None
    return answer


def _judge(
    version: Mapping[str, Any],
    data: bytes,
    table: Source,
    active: Mapping[str, Any] | None,
    further: Mapping[str, Any],
) -> Answer:
    """Return how an upload compares with the active version on a table, and its warnings."""
    import pyarrow as pa

    # A child has one core, and each thread takes 72 MB of its address space.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    metric, target = further["metric"], further["target"]
    ignores_extra = further["extra"] == "ignore"

    def read(task: evaluation.Task) -> Dataset:
        found = evaluation.Task(task.signature, task.classes, target, ignores_extra)
        found.find_target()  # what is wrong with it is no fault of the table
        table.file.seek(0)
        try:
            return evaluation.read_table(table, found)
        except InvalidInput as error:
            raise InvalidInput(error.faults, source=error.source or table.format.name) from None

    def read_alike(task: evaluation.Task) -> Dataset:
        if difference := loaded.signature.find_difference(task.signature):
            raise InvalidInput([f"it {difference}"])
        return read(task)

    evaluation.check_metric(metric, version["task"])
    signature = Signature.from_json(version["signature"])
    loaded = FORMATS[version["format"]].load(data, signature, None)
    rows = read(evaluation.Task(loaded.signature, loaded.classes))
    with faults_in("table"):
        judged = evaluation.evaluate(loaded.scorer, loaded.classes, rows)
    return {
        "comparison": compare(metric, judged[metric], active, read_alike),
        "warnings": [asdict(warning) for warning in rows.warnings],
    }
