"""All routes of the blueprint `ml`, in the order of the API's pages.

What acts on a model stands under its name, and once more, shorter, for the model `default`.
"""

# isort: skip_file

from __future__ import annotations

from webapp.ml.blueprint import blp
from webapp.ml.training import routes as training
from webapp.ml.search import routes as search
from webapp.ml.inference import routes as inference
from webapp.ml.registry import routes as registry
from webapp.ml.upload import routes as upload
from webapp.ml.evaluation import routes as evaluation
from webapp.ml.jobs import routes as jobs

__all__ = ["blp", "evaluation", "inference", "jobs", "registry", "search", "training", "upload"]
