"""What a format of models is, and what it makes of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from webapp.ml.core.datasets import Labels, Matrix, Vector
from webapp.ml.core.explaining import Explainer
from webapp.ml.core.scoring import Scorer, Scores
from webapp.ml.core.signature import Signature

Coefficients: TypeAlias = tuple[Sequence[str], Matrix, Vector]
"""Names, coefficients (n_functions, n_names) and intercepts (n_functions,) of a linear model."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to predict: what it takes, its labels (None for other tasks), its scorer.

    ``model`` is the fitted object of the library, for what only the format can say of it.
    ``explain`` is None where no model of the format can be explained.
    """

    model: Any
    signature: Signature
    classes: tuple[Any, ...] | None
    scorer: Scorer
    explain: Explainer | None = None


def list_labels(classes: Sequence[Any]) -> Labels:
    """Return the labels of classes as an array: (n_classes,)."""
    if isinstance(classes[0], str):
        return np.array(classes, np.object_)
    return np.array(classes, np.int64)


@dataclass(frozen=True)
class ModelFormat:
    """A format of models: how its files are recognised, described, and loaded.

    ``load(data, signature, profile)`` returns the model of a stored version; ``profile`` is that
    of its training rows, None where they are not known. ``describe(data, **options)`` returns
    what a version of an uploaded file has, as JSON; it may raise InvalidInput, too, by the field
    of the upload. Both raise ArtifactUnusable. ``list_coefficients`` is for formats that may hold
    linear models of the catalogue. ``library`` is the module that predicts with it, if the
    service can do without.
    """

    name: str
    title: str
    suffix: str
    recognises: Callable[[bytes], bool]
    load: Callable[[bytes, Signature, Mapping[str, Any] | None], LoadedModel]
    describe: Callable[..., dict[str, Any]]
    list_coefficients: Callable[[LoadedModel], Coefficients | None] = lambda _: None
    library: str | None = None

    def restore(
        self,
        data: bytes,
        signature: Signature,
        profile: Mapping[str, Any] | None,
        classes: Sequence[Any] | None,
    ) -> LoadedModel:
        """Return the model of a stored version with these classes; raises ArtifactUnusable.

        In a file that has none, they are 0, 1, …, and the model predicts those of the version.
        """
        model, places = self.load(data, signature, profile), tuple(range(len(classes or ())))
        if classes is None or tuple(classes) == places or model.classes != places:
            return model
        labels = list_labels(classes)

        def scorer(*rows: Any) -> Scores:
            scores = model.scorer(*rows)
            return replace(scores, values=labels.take(scores.values))

        return replace(model, classes=tuple(classes), scorer=scorer)
