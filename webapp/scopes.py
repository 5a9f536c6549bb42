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


ANY_ML = (Scope.ML_PREDICT, Scope.ML_TRAIN, Scope.ML_ADMIN)  # any of them may see models
