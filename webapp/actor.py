"""Who acts at present: for the history, and for the audit. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

NAME_LENGTH = 63  # characters of the name of a key's holder, or of whoever runs a command


@dataclass(frozen=True)
class Actor:
    """Who does something, and from where: a key's name, or ``cli:NAME``; None is nobody known."""

    name: str | None = None
    address: str | None = None
    request_id: str | None = None


NOBODY = Actor()
_actor: ContextVar[Actor] = ContextVar("actor", default=NOBODY)
_source: Callable[[], Actor | None] = lambda: None  # noqa: E731 (until there are requests)


def set_actor_source(source: Callable[[], Actor | None]) -> None:
    """Say who knows the actor of a request; it returns None outside of requests."""
    global _source
    _source = source


def set_actor(actor: Actor) -> None:
    """Say who acts in this thread outside of requests."""
    _actor.set(actor)


def current_actor() -> Actor:
    """Return who acts at present."""
    return _source() or _actor.get()
