"""BentoML's service of the linear model of three features, trained when a worker starts."""

from __future__ import annotations

import bentoml
import numpy as np
import sample


@bentoml.service(workers=2)
class Linear:
    """The model behind BentoML's own JSON."""

    def __init__(self) -> None:
        self.model = sample.fit(*sample.make_sample())[0]

    @bentoml.api
    def predict(self, features: list[float]) -> float:
        """Predict for one row."""
        return float(self.model.predict(np.array([features]))[0])
