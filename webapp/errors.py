"""The domain errors that all features share; `webapp.web.problems` gives each an HTTP status.

Each feature derives its own errors from these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeAlias

Faults: TypeAlias = "Mapping[str, Faults] | Sequence[str]"
"""Messages by place: field name, then row, then column, each a string."""


MOST_FAULTS = 10  # more would not help the client, and make answers as large as requests
LONGEST_PLACE = 255  # characters of a field's name in an answer, for the same reason


class ServiceError(Exception):
    """Base of every error that the service raises on purpose; `str()` may be shown to clients.

    ``retry_after`` is the number of seconds after which a retry may help; None for never.
    ``challenge`` has the parameters of a Bearer challenge, for errors of API keys (RFC 6750, 3).
    """

    message = ""
    retry_after: int | None = None
    challenge: Mapping[str, str] | None = None

    def __init__(self, message: str | None = None) -> None:
        super().__init__(self.message if message is None else message)


class InvalidInput(ServiceError):
    """Data that cannot be used. ``faults`` maps the place of each fault to messages.

    ``source`` names the part of the request, such as ``query``, where the raiser knows it.
    """

    def __init__(self, faults: Faults, *, source: str | None = None) -> None:
        faults = _find_first(faults)
        super().__init__(describe_faults(faults))
        self.faults = faults
        self.source = source


class NotFound(ServiceError):
    """Something that was asked for does not exist."""


class Conflict(ServiceError):
    """The state of the service does not allow the operation."""


class Unauthenticated(ServiceError):
    """The caller is not known."""

    challenge: Mapping[str, str] | None = MappingProxyType({})


class Forbidden(ServiceError):
    """The caller is known, and may not do this."""


class PreconditionFailed(ServiceError):
    """The caller's condition on the resource does not hold."""


class TooManyRequests(ServiceError):
    """A caller has sent more requests than its limit allows."""

    def __init__(self, limit: str, retry_after: int) -> None:
        super().__init__(f"Too many requests: the limit is {limit}. Retry in {retry_after} s.")
        self.retry_after = retry_after


class Unavailable(ServiceError):
    """Something that the service depends on does not answer; a later retry may help."""

    retry_after = 5


class DatabaseUnavailable(Unavailable):
    """The database did not answer, or not in time."""

    message = "The database is not available."


class DatabaseReadOnly(Unavailable):
    """The database can be read, but not written."""

    message = "The database cannot be written at present."


class DatabaseDamaged(Unavailable):
    """The database reports that its own data is damaged."""

    message = "The database is damaged: an operator must restore it."


class SchemaMissing(Unavailable):
    """The database is not at the revision that this code needs."""

    message = "The database lacks tables: an operator must run `flask db upgrade`."


class StorageFull(Unavailable):
    """A disk has no space for what was to be stored."""

    message = "The service has no room left on its disk: nothing was stored."


class OutOfMemory(Unavailable):
    """The process has not enough memory for a request."""

    message = "The service has not enough memory for this request at present."


class OutOfDescriptors(Unavailable):
    """The process, or the machine, has no file descriptor left."""

    message = "The service has too many files and connections open at present."


@contextmanager
def faults_in(place: str) -> Iterator[None]:
    """Put the faults of an InvalidInput that is raised in this block under a place."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput({place: error.faults}, source=error.source) from None


def number_rows(faults: Faults, number: Callable[[int], int]) -> Faults:
    """Return faults by column and row, such as ``{"age": {"3": […]}}``, with other numbers."""
    if not isinstance(faults, Mapping):
        return faults
    return {
        column: {str(number(int(row))): fault for row, fault in rows.items()}
        if isinstance(rows, Mapping)
        else rows
        for column, rows in faults.items()
    }


def describe_faults(faults: Faults) -> str:
    """Return faults as one line, such as ``X.3: has 2 values, expected 3``."""
    lines = ((".".join(place), " ".join(messages)) for place, messages in _list_faults(faults))
    return "; ".join(": ".join(filter(None, line)) for line in lines)


def _find_first(faults: Faults) -> Faults:
    if not isinstance(faults, Mapping):
        return faults
    first: dict[str, Any] = {}
    for place, messages in islice(_list_faults(faults), MOST_FAULTS):
        inner = first
        for name in place[:-1]:
            inner = inner.setdefault(name, {})
        inner[place[-1]] = messages
    return first


def _list_faults(
    faults: Faults, place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Sequence[str]]]:
    if not isinstance(faults, Mapping):
        yield place, faults
        return
    for key, inner in faults.items():
        name = str(key)  # marshmallow numbers the values of a list with integers
        name = name if len(name) <= LONGEST_PLACE else f"{name[:LONGEST_PLACE]}…"
        yield from _list_faults(inner, (*place, name))
