"""The domain errors: their words, and the status that each one gets."""

from __future__ import annotations

import pytest

from webapp import errors
from webapp.errors import Faults, InvalidInput, ServiceError, describe_faults, faults_in
from webapp.items.service import ItemNotFound
from webapp.web.problems import status_of


def subclasses_of(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [k for sub in kind.__subclasses__() for k in (sub, *subclasses_of(sub))]


def test_every_error_has_a_status_and_says_what_it_is() -> None:
    for kind in subclasses_of(ServiceError):
        assert 400 <= status_of(kind) < 600
        assert kind.__doc__ != ServiceError.__doc__
    assert status_of(errors.DatabaseUnavailable) == 503
    assert status_of(errors.StorageFull) == 507
    assert str(errors.DatabaseUnavailable()) == "The database is not available."


def test_faults_are_described_in_one_line() -> None:
    cells = {"3": {"0": ["is null"], "1": ["is a string"]}}
    described: list[tuple[Faults, str]] = [
        ([], ""),
        (["is empty.", "Is late."], "is empty. Is late."),
        ({"X": cells, "y": ["is empty"]}, "X.3.0: is null; X.3.1: is a string; y: is empty"),
        ({0: {"name": ["is empty"]}}, "0.name: is empty"),
    ]
    for faults, line in described:
        assert describe_faults(faults) == str(InvalidInput(faults)) == line


def test_faults_are_put_under_the_place_they_were_found_in() -> None:
    with pytest.raises(InvalidInput) as raised, faults_in("body"), faults_in("X"):
        raise InvalidInput({"3": ["is empty"]}, source="files")

    assert raised.value.faults == {"body": {"X": {"3": ["is empty"]}}}
    assert raised.value.source == "files"
    with pytest.raises(ItemNotFound), faults_in("X"):
        raise ItemNotFound(7)


def test_faults_that_are_too_many_or_too_long_are_cut() -> None:
    many = InvalidInput({f"f{number}": {"0": ["is null"]} for number in range(1000)})
    long = InvalidInput({"x" * 1_000_000: ["Unknown field."], "x" * 255: {"1": ["is null"]}})

    assert list(many.faults) == [f"f{number}" for number in range(errors.MOST_FAULTS)]
    assert list(long.faults) == ["x" * 255 + "…", "x" * 255]
