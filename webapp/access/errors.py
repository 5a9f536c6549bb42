"""Errors of API keys and scopes."""

from __future__ import annotations

from collections.abc import Sequence

from webapp.errors import Conflict, Forbidden, NotFound, Unauthenticated


class KeyNotFound(NotFound):
    """No valid API key has this name or id."""

    def __init__(self, name_or_id: str) -> None:
        super().__init__(f"There is no valid API key {name_or_id!r}.")


class KeyNameTaken(Conflict):
    """The holder already has a valid API key."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} already has a valid API key: rotate or revoke that one.")


class KeyMissing(Unauthenticated):
    """The request carries no API key."""

    def __init__(self) -> None:
        super().__init__("An API key is needed: send it as `Authorization: Bearer KEY`.")


class KeyRefused(Unauthenticated):
    """The API key of the request is invalid, expired or revoked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.challenge = {"error": "invalid_token", "error_description": reason}


class ScopeMissing(Forbidden):
    """The API key has none of the scopes that the route allows."""

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__(f"The API key lacks the scope {' or '.join(scopes)}.")
        self.challenge = {"error": "insufficient_scope", "scope": " ".join(scopes)}
