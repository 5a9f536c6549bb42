"""Whether a new model is better than the active version, by a metric on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from webapp.errors import InvalidInput
from webapp.ml.core import evaluation
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.formats import FORMATS
from webapp.ml.core.formats.shapes import LoadedModel
from webapp.ml.core.signature import Signature
from webapp.ml.errors import ArtifactUnusable


def compare(
    metric: str,
    candidate: float | None,
    active: Mapping[str, Any] | None,
    rows: Callable[[evaluation.Task], Dataset],
) -> dict[str, Any]:
    """Return both values of a metric, and which is better.

    ``candidate`` is that of the new model. ``active`` is the active version, as
    ``registry.service.describe_version`` has it, None where there is none. ``rows`` returns the
    same rows for the task of that, and raises InvalidInput where it cannot be judged on them:
    ``obstacle`` then says why, and it stays.
    """
    comparison: dict[str, Any] = {"metric": metric, "candidate": candidate}
    comparison |= {"active": None, "version": None}
    if active is None:
        return {**comparison, "better": True, "obstacle": "", "over": None}
    obstacle = ""
    try:
        comparison["active"] = _judge(active, rows)[metric]
        if candidate is None or comparison["active"] is None:
            obstacle = f"{metric} is undefined for the rows compared"
    except InvalidInput as error:
        obstacle = str(error)
    except ArtifactUnusable as error:
        obstacle = f"it cannot be loaded: {error.reason}"
    better = evaluation.is_better(metric, candidate, comparison["active"])
    comparison |= {"version": active["number"], "better": better, "over": active["id"]}
    return {**comparison, "obstacle": obstacle}


def _judge(
    active: Mapping[str, Any], rows: Callable[[evaluation.Task], Dataset]
) -> dict[str, Any]:
    signature, classes = Signature.from_json(active["signature"]), active["classes"]
    found = rows(evaluation.Task(signature, classes))
    return evaluation.evaluate(load(active).scorer, classes, found)


def load(version: Mapping[str, Any]) -> LoadedModel:
    """Return the model of a version, described as for ``compare``; raises ArtifactUnusable."""
    if version["fault"]:
        raise ArtifactUnusable(version["fault"])
    signature = Signature.from_json(version["signature"])
    kind = FORMATS[version["format"]]
    return kind.restore(version["artifact"], signature, version["profile"], version["classes"])
