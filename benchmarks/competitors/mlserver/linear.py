"""MLServer's runtime for the linear model of three features, trained when a worker loads it."""

from __future__ import annotations

import sample
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class LinearModel(MLModel):
    """The model behind the Open Inference Protocol."""

    async def load(self) -> bool:
        """Train."""
        self.model = sample.fit(*sample.make_sample())[0]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Predict for the rows of the first input."""
        X = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output(name="prediction", payload=self.model.predict(X))
        return InferenceResponse(model_name=self.name, outputs=[output])
