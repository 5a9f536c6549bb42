"""LitServe's service of the linear model of three features, trained when a worker starts."""

from __future__ import annotations

import sys

import litserve
import numpy as np
import sample


class Linear(litserve.LitAPI):
    """The model behind LitServe's own JSON."""

    def setup(self, device: str) -> None:
        """Train."""
        self.model = sample.fit(*sample.make_sample())[0]

    def predict(self, request: dict[str, list[float]]) -> dict[str, float]:
        """Predict for one row."""
        return {"prediction": float(self.model.predict(np.array([request["features"]]))[0])}


if __name__ == "__main__":
    server = litserve.LitServer(Linear(), accelerator="cpu", workers_per_device=2)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=2,
        log_level="warning",
        generate_client_file=False,
    )
