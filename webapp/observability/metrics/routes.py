"""`/metrics`: what was counted, in the words that Prometheus asks for."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

blp = Blueprint("metrics", __name__)


@blp.get("/metrics", endpoint="Metrics")
def metrics() -> Response:
    """Tell what all workers of this server have counted."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(current_app.extensions["counting"])
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)
