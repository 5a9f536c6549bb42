"""The domain errors: what can go wrong, in the words of the domain. Knows no HTTP.

ServiceError
├── InvalidInput            well-formed, but not acceptable; says where
│   ├── FitTooLong
│   └── KeyReused
├── NotFound
│   ├── ItemNotFound
│   ├── KeyNotFound
│   ├── ModelNotFound
│   └── VersionNotFound
├── Conflict
│   ├── KeyInFlight
│   ├── KeyNameTaken
│   ├── ModelNotTrained
│   ├── NothingToRollBack
│   ├── VersionActive
│   └── VersionUnusable
├── Unauthenticated
│   ├── KeyMissing
│   └── KeyRefused
├── Forbidden
│   └── ScopeMissing
├── PreconditionFailed
│   └── ItemChanged
├── TooManyRequests
└── Unavailable
    ├── DatabaseUnavailable
    ├── DatabaseReadOnly
    ├── DatabaseDamaged
    ├── SchemaMissing
    ├── StorageFull
    ├── OutOfMemory
    ├── OutOfDescriptors
    ├── BackupFailed
    └── ArtifactUnusable
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

Faults: TypeAlias = "Mapping[str, Faults] | Sequence[str]"
"""Messages by place: field name, then row, then column, each a string."""


MOST_FAULTS = 10  # naming more places helps nobody, and costs an answer as large as the request
LONGEST_PLACE = 255  # the same goes for a name that is longer than any that exists


class ServiceError(Exception):
    """Base of every error that the service raises on purpose; `str()` is fit for a client.

    ``retry_after`` is the number of seconds after which trying again may help; None for never.
    """

    retry_after: int | None = None


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


class ItemNotFound(NotFound):
    """No item has this id."""

    def __init__(self, item_id: int) -> None:
        super().__init__(f"There is no item {item_id}.")


class KeyNotFound(NotFound):
    """No API key that works has this name or id."""

    def __init__(self, name_or_id: str) -> None:
        super().__init__(f"There is no API key {name_or_id!r} that works.")


class ModelNotFound(NotFound):
    """No model has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no model named {name!r}.")


class VersionNotFound(NotFound):
    """The model has no such version."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"The model {name!r} has no version {number}.")


class Conflict(ServiceError):
    """The state of the service does not allow the operation."""


class KeyInFlight(Conflict):
    """A request with the same idempotency key is being worked on."""

    retry_after = 1

    def __init__(self) -> None:
        super().__init__("A request with this Idempotency-Key is under way: try again later.")


class KeyNameTaken(Conflict):
    """The holder has an API key already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} has an API key that works: rotate or revoke that one.")


class ModelNotTrained(Conflict):
    """The model has no active version to predict with."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The model {name!r} is not trained: train it before predicting.")


class NothingToRollBack(Conflict):
    """No version was active before the present one, or it exists no more."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No earlier version of {name!r} is there to go back to.")


class VersionActive(Conflict):
    """The active version cannot be deleted."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"Version {number} of {name!r} is active: activate another one first.")


class VersionUnusable(Conflict):
    """A version that cannot be loaded was refused at its activation."""

    def __init__(self, name: str, number: int, reason: str) -> None:
        super().__init__(f"Version {number} of {name!r} cannot be activated. {reason}")


class FitTooLong(InvalidInput):
    """Fitting took longer than the service allows."""

    def __init__(self) -> None:
        super().__init__({"estimator": ["takes longer to fit than MAX_FIT_SECONDS allows"]})


class KeyReused(InvalidInput):
    """An idempotency key was used before, for something else."""

    def __init__(self) -> None:
        message = "was used before, with another request: a new request needs a new key"
        super().__init__({"Idempotency-Key": [message]}, source="headers")


class Unauthenticated(ServiceError):
    """Nobody knows who is asking."""


class KeyMissing(Unauthenticated):
    """The request carries no API key."""

    def __init__(self) -> None:
        super().__init__("An API key is needed: send it as `Authorization: Bearer KEY`.")


class KeyRefused(Unauthenticated):
    """The API key that the request carries is none, or works no more."""


class Forbidden(ServiceError):
    """Whoever is asking may not do this."""


class ScopeMissing(Forbidden):
    """The API key has none of the scopes that would do."""

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__(f"The API key lacks the scope {' or '.join(scopes)}.")
        self.scopes = scopes


class PreconditionFailed(ServiceError):
    """The caller's condition on the resource does not hold."""


class ItemChanged(PreconditionFailed):
    """The item is not in the state that the caller named."""

    def __init__(self, item_id: int) -> None:
        super().__init__(f"Item {item_id} has changed: read it again, then repeat the request.")


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


class BackupFailed(Unavailable):
    """No copy of the database was made; nothing of it was kept."""


class SchemaMissing(Unavailable):
    """The database has not been brought to the revision that this code needs."""

    def __init__(self) -> None:
        super().__init__("The database lacks tables: an operator must run `flask db upgrade`.")


class ArtifactUnusable(Unavailable):
    """A stored model version cannot be loaded."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The model version cannot be loaded: {reason}.")


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
