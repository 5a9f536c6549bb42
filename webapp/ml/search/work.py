"""What a search does in processes of its own: list the candidates, and score each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from webapp.ml.core.datasets import Dataset
from webapp.ml.core.packing import unpack_dataset
from webapp.ml.core.search import SearchSpec, prepare_search, score_candidate
from webapp.ml.core.training import TrainingSpec

Answer = dict[str, Any]


def prepare(_report: Any, packed: bytes, *_: Any) -> Answer:
    """Return the candidates of a search, what ranks them, and how the best one is trained.

    Raises InvalidInput for all that can be refused before anything is fitted.
    """
    search = prepare_search(*_unpack(packed), clock=time.perf_counter)
    return {
        "candidates": list(search.candidates),
        "metric": search.metric,
        "training": asdict(search.training),
    }


def score(_report: Any, packed: bytes, params: Mapping[str, Any], seconds: float) -> Answer:
    """Return what `score_candidate` does; raises InvalidInput for a candidate that cannot be."""
    dataset, spec = _unpack(packed)
    alone = {name: [value] for name, value in params.items()}
    spec = replace(spec, grid=alone, distributions=None)
    search = prepare_search(dataset, spec, clock=time.perf_counter)
    return score_candidate(search.rows, params, seconds)


def _unpack(packed: bytes) -> tuple[Dataset, SearchSpec]:
    dataset, further = unpack_dataset(packed)
    return dataset, SearchSpec(TrainingSpec(**further["spec"]), **further["search"])
