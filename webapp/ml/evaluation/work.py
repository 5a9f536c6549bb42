"""What an evaluation does in its own process: load a version, and judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from webapp.jobs.processes import Report
from webapp.ml.core import evaluation
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.gate import load
from webapp.ml.core.metrics import digest_dataset
from webapp.ml.core.packing import unpack_dataset
from webapp.ml.core.scoring import Scorer
from webapp.ml.errors import ArtifactUnusable


def evaluate(_report: Report, packed: bytes, version: Mapping[str, Any]) -> dict[str, Any]:
    """Judge a version on a packed dataset; return the columns of an evaluation, or a ``fault``.

    ``version`` is as ``registry.service`` describes it. If it is not the one that the rows were
    read for, there are no metrics. Raises InvalidInput where it cannot be judged on the rows.
    """
    dataset, further = unpack_dataset(packed)
    answer: dict[str, Any] = {"version": further["version"]}
    if version["id"] != further["version"]:
        return answer
    try:
        loaded = load(version)
    except ArtifactUnusable as error:
        return {**answer, "fault": error.reason}
    return {**answer, "evaluation": make_evaluation(loaded.scorer, loaded.classes, dataset)}


def make_evaluation(
    scorer: Scorer, classes: Sequence[Any] | None, dataset: Dataset
) -> dict[str, Any]:
    """Return the columns of an evaluation; raises InvalidInput where it cannot be judged."""
    return {
        "metrics": evaluation.evaluate(scorer, classes, dataset),
        "n_rows": len(dataset.y),
        "data_digest": digest_dataset(dataset),
        "warnings": [asdict(warning) for warning in dataset.warnings],
    }
