"""Errors of idempotency keys."""

from __future__ import annotations

from webapp.errors import Conflict, InvalidInput


class KeyInFlight(Conflict):
    """The request with this key is still under way."""

    retry_after = 1

    def __init__(self) -> None:
        super().__init__("A request with this Idempotency-Key is under way: try again later.")


class KeyReused(InvalidInput):
    """The key was used before with another request."""

    def __init__(self) -> None:
        message = "was used before, with another request: a new request needs a new key"
        super().__init__({"Idempotency-Key": [message]}, source="headers")
