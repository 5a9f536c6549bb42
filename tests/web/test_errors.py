"""The domain errors: their tree, their words, and the status that each one gets."""

from __future__ import annotations

import re

import pytest

from webapp import errors
from webapp.errors import Faults, InvalidInput, ServiceError, describe_faults, faults_in
from webapp.items.errors import ItemChanged, ItemNotFound
from webapp.ml.errors import ArtifactUnusable, ModelNotFound, ModelNotTrained, VersionNotFound
from webapp.web.problems import status_of


def subclasses_of(kind: type[ServiceError]) -> list[type[ServiceError]]:
    found = []
    for subclass in kind.__subclasses__():
        found += [subclass, *subclasses_of(subclass)]
    return found


def drawn_bases() -> dict[str, str]:
    """Return the tree in the module's docstring: name of an error → name of its base."""
    path: list[str] = []
    bases = {}
    for line in str(errors.__doc__).splitlines():
        branch = re.match(r"(?P<indent>(?:│   |    )*)[├└]── (?P<name>\w+)", line)
        if branch:
            depth = len(branch["indent"]) // 4 + 1
            path[depth:] = [branch["name"]]
            bases[branch["name"]] = path[depth - 1]
        elif re.fullmatch(r"\w+", line):
            path = [line]
    return bases


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    classes = {
        kind.__name__: kind.__bases__[0].__name__
        for kind in subclasses_of(ServiceError)
        if kind.__module__ == "webapp.errors"
    }

    assert drawn_bases() == classes


@pytest.mark.parametrize("kind", subclasses_of(ServiceError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind: type[ServiceError]) -> None:
    assert 400 <= status_of(kind) < 600


def test_an_error_has_the_status_of_its_nearest_ancestor() -> None:
    assert status_of(errors.DatabaseUnavailable) == 503
    assert status_of(errors.StorageFull) == 507


@pytest.mark.parametrize("kind", subclasses_of(ServiceError), ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_is(kind: type[ServiceError]) -> None:
    assert kind.__doc__ is not None
    assert kind.__doc__ != ServiceError.__doc__


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ItemNotFound(7), "There is no item 7."),
        (ModelNotFound("iris"), "There is no model named 'iris'."),
        (VersionNotFound("iris", 3), "The model 'iris' has no version 3."),
        (
            ModelNotTrained("iris"),
            "The model 'iris' is not trained: train it before predicting.",
        ),
        (ItemChanged(7), "Item 7 has changed: read it again, then repeat the request."),
        (errors.DatabaseUnavailable(), "The database is not available."),
        (
            ArtifactUnusable("it has been deleted"),
            "The model version cannot be loaded: it has been deleted.",
        ),
        (InvalidInput({"X": {"3": ["has no values"]}}), "X.3: has no values"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_speaks_to_the_client(error: ServiceError, words: str) -> None:
    assert str(error) == words


@pytest.mark.parametrize(
    ("faults", "line"),
    [
        ([], ""),
        (["is empty"], "is empty"),
        (["is empty.", "Is late."], "is empty. Is late."),
        ({}, ""),
        ({"y": ["is empty"]}, "y: is empty"),
        ({"X": {"3": ["has 2 values, expected 3"]}}, "X.3: has 2 values, expected 3"),
        (
            {"X": {"3": {"0": ["is null"], "1": ["is a string"]}}, "y": ["is empty"]},
            "X.3.0: is null; X.3.1: is a string; y: is empty",
        ),
        ({0: {"name": ["is empty"]}}, "0.name: is empty"),
    ],
)
def test_faults_are_described_in_one_line(faults: Faults, line: str) -> None:
    assert describe_faults(faults) == line


def test_a_description_may_begin_at_a_place() -> None:
    assert describe_faults({"3": ["is empty"]}, "X") == "X.3: is empty"
    assert describe_faults(["is empty"], "X") == "X: is empty"


def test_invalid_input_keeps_its_facts() -> None:
    error = InvalidInput({"page": ["is zero"]}, source="query")

    assert error.faults == {"page": ["is zero"]}
    assert error.source == "query"
    assert InvalidInput(["is empty"]).source is None


def test_faults_are_put_under_the_place_they_were_found_in() -> None:
    with pytest.raises(InvalidInput) as raised, faults_in("body"), faults_in("X"):
        raise InvalidInput({"3": ["is empty"]}, source="files")

    assert raised.value.faults == {"body": {"X": {"3": ["is empty"]}}}
    assert raised.value.source == "files"
    assert str(raised.value) == "body.X.3: is empty"


def test_messages_without_a_place_get_one() -> None:
    with pytest.raises(InvalidInput) as raised, faults_in("X"):
        raise InvalidInput(["is empty"])

    assert raised.value.faults == {"X": ["is empty"]}
    assert raised.value.source is None


def test_other_errors_pass_a_place_untouched() -> None:
    error = ItemNotFound(7)

    with pytest.raises(ItemNotFound) as raised, faults_in("X"):
        raise error

    assert raised.value is error


def test_a_name_too_long_to_help_is_shortened() -> None:
    error = InvalidInput({"x" * 1_000_000: ["Unknown field."], "x" * 255: {"1": ["is null"]}})

    assert list(error.faults) == ["x" * 255 + "…", "x" * 255]
    assert len(str(error)) < 1000
