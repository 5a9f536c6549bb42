"""What an API key may be allowed to do."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """A scope of API keys; a route that is not public needs one of those that it names."""

    ITEMS_READ = "items:read"
    ITEMS_WRITE = "items:write"
    ML_PREDICT = "ml:predict"
    ML_TRAIN = "ml:train"
    ML_ADMIN = "ml:admin"
    METRICS_READ = "metrics:read"


ABOUT = {
    Scope.ITEMS_READ: "read items",
    Scope.ITEMS_WRITE: "create, change and delete items",
    Scope.ML_PREDICT: "predict, and see models and versions",
    Scope.ML_TRAIN: "train, and see models and versions",
    Scope.ML_ADMIN: "activate, roll back, delete, upload and download versions; see the audit",
    Scope.METRICS_READ: "read the metrics",
}

ANY_ML = (Scope.ML_PREDICT, Scope.ML_TRAIN, Scope.ML_ADMIN)  # any of them may see models
