"""All routes of the blueprint `ml`.

What acts on a model stands under its name, and once more, shorter, for the model `default`.
"""

from __future__ import annotations

from webapp.ml.blueprint import blp
from webapp.ml.inference import routes as inference
from webapp.ml.registry import routes as registry
from webapp.ml.training import routes as training

__all__ = ["blp", "inference", "registry", "training"]
