"""The domain errors that features share: what can go wrong, without a word of HTTP.

Each feature derives its own errors from these, in its ``errors.py``.

ServiceError
├── InvalidInput            well-formed, but not acceptable; says where
├── NotFound
├── Conflict
├── Unauthenticated
├── Forbidden
├── PreconditionFailed
├── TooManyRequests
└── Unavailable
    ├── DatabaseUnavailable
    ├── DatabaseReadOnly
    ├── DatabaseDamaged
    ├── SchemaMissing
    ├── StorageFull
    ├── OutOfMemory
    └── OutOfDescriptors
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeAlias

Faults: TypeAlias = "Mapping[str, Faults] | Sequence[str]"
"""Messages by place: field name, then row, then column, each a string."""


MOST_FAULTS = 10  # naming more places helps nobody, and costs an answer as large as the request
LONGEST_PLACE = 255  # the same goes for a name that is longer than any that exists


class ServiceError(Exception):
    """Base of every error that the service raises on purpose; `str()` is fit for a client.

    ``retry_after`` is the number of seconds after which trying again may help; None for never.
    ``challenge`` says which key is wanted: the parameters of a Bearer challenge (RFC 6750, 3).
    """

    retry_after: int | None = None
    challenge: Mapping[str, str] | None = None


class InvalidInput(ServiceError):
    """Data that cannot be used. ``faults`` maps the place of each fault to messages.

    ``source`` names what the data came in, where the raiser knows it.
    """

    def __init__(self, faults: Faults, *, source: str | None = None) -> None:
        faults = _first_faults(faults, MOST_FAULTS)
        super().__init__(describe_faults(faults))
        self.faults = faults
        self.source = source


class NotFound(ServiceError):
    """Something that was asked for does not exist."""


class Conflict(ServiceError):
    """The state of the service does not allow the operation."""


class Unauthenticated(ServiceError):
    """Nobody knows who is asking."""

    challenge: Mapping[str, str] | None = MappingProxyType({})


class Forbidden(ServiceError):
    """Whoever is asking may not do this."""


class PreconditionFailed(ServiceError):
    """The caller's condition on the resource does not hold."""


class TooManyRequests(ServiceError):
    """A caller has sent more requests than it may for now."""

    def __init__(self, limit: str, retry_after: int) -> None:
        super().__init__(f"More requests were sent than are allowed: {limit}.")
        self.retry_after = retry_after


class Unavailable(ServiceError):
    """Something that the service depends on does not answer; trying later may help."""

    retry_after = 5


class DatabaseUnavailable(Unavailable):
    """The database did not answer, or not in time."""

    def __init__(self) -> None:
        super().__init__("The database is not available.")


class DatabaseReadOnly(Unavailable):
    """The database can be read, but not written."""

    def __init__(self) -> None:
        super().__init__("The database cannot be written at present.")


class DatabaseDamaged(Unavailable):
    """The database says that its own data are damaged."""

    def __init__(self) -> None:
        super().__init__("The database is damaged: an operator must restore it.")


class StorageFull(Unavailable):
    """A disk has no room for what was to be stored."""

    def __init__(self) -> None:
        super().__init__("The service has no room left to store this: nothing was kept.")


class OutOfMemory(Unavailable):
    """The process has not enough memory for what was asked."""

    def __init__(self) -> None:
        super().__init__("The service has not enough memory for this at present.")


class OutOfDescriptors(Unavailable):
    """The process, or the machine, has as many files and connections open as it may."""

    def __init__(self) -> None:
        super().__init__("The service has too many files and connections open at present.")


class SchemaMissing(Unavailable):
    """The database has not been brought to the revision that this code needs."""

    def __init__(self) -> None:
        super().__init__("The database lacks tables: an operator must run `flask db upgrade`.")


@contextmanager
def faults_in(place: str) -> Iterator[None]:
    """Put the faults of any InvalidInput raised in this block under a place of their own."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput({place: error.faults}, source=error.source) from None


def describe_faults(faults: Faults, place: str = "") -> str:
    """Return faults as one line, such as ``X.3: has 2 values, expected 3``."""
    if not isinstance(faults, Mapping):
        text = " ".join(faults)
        return f"{place}: {text}" if place else text
    parts = (
        describe_faults(inner, f"{place}.{key}" if place else str(key))
        for key, inner in faults.items()
    )
    return "; ".join(parts)


def _first_faults(faults: Faults, most: int) -> Faults:
    if not isinstance(faults, Mapping):
        return faults
    first: dict[str, Faults] = {}
    for place, inner in faults.items():
        if most <= 0:
            break
        name = str(place)  # marshmallow counts the values of a list in numbers
        name = name if len(name) <= LONGEST_PLACE else f"{name[:LONGEST_PLACE]}…"
        first[name] = _first_faults(inner, most)
        most -= _count_places(first[name])
    return first


def _count_places(faults: Faults) -> int:
    return sum(map(_count_places, faults.values())) if isinstance(faults, Mapping) else 1
