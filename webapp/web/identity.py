"""Who is asking: what the guard found out about a request, for whoever wants to know."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Request, request

ENVIRON_KEY = "webapp.identity"  # in the environment of the request


@dataclass(frozen=True)
class Identity:
    """The holder of an API key."""

    key_id: str
    holder_id: str
    name: str
    scopes: frozenset[str]


def current_identity() -> Identity | None:
    """Return who sent this request; None for a caller without a key that is good."""
    found: Identity | None = request.environ.get(ENVIRON_KEY)
    return found


def remember_identity(request: Request, identity: Identity) -> None:
    """Keep who sent a request."""
    request.environ[ENVIRON_KEY] = identity
