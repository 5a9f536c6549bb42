"""Who acts at present, for the audit and the history of models. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

NAME_LENGTH = 63  # characters of the name of a key's holder, or of who runs a command


@dataclass(frozen=True)
class Actor:
    """Who does something, and from where; ``name`` is a key's holder or ``cli:NAME``."""

    name: str | None = None
    address: str | None = None
    request_id: str | None = None


NOBODY = Actor()
_actor: ContextVar[Actor] = ContextVar("actor", default=NOBODY)
_find_sender: Callable[[], Actor | None] = lambda: None  # noqa: E731 (until there are requests)


def set_actor_source(find_sender: Callable[[], Actor | None]) -> None:
    """Set the function that returns who sent the current request, or None outside of requests."""
    global _find_sender
    _find_sender = find_sender


def set_actor(actor: Actor) -> None:
    """Set who acts in this thread outside of requests."""
    _actor.set(actor)


def current_actor() -> Actor:
    """Return who acts at present; ``NOBODY`` where that is not known."""
    return _find_sender() or _actor.get()
