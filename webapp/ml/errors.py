"""What can go wrong with models, their versions and artifacts."""

from __future__ import annotations

from collections.abc import Sequence

from webapp.errors import Conflict, NotFound, Unavailable


class ModelNotFound(NotFound):
    """No model has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no model named {name!r}.")


class VersionNotFound(NotFound):
    """The model has no such version."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"The model {name!r} has no version {number}.")


class VersionDeleted(NotFound):
    """A version was deleted between the question for it and its loading."""

    message = "The model version has been deleted."


class CoefficientsNotFound(NotFound):
    """The version is of a model without coefficients."""

    def __init__(self, name: str, number: int, kind: str) -> None:
        super().__init__(f"Version {number} of {name!r} is a {kind}, which has no coefficients.")


class PlotNotFound(NotFound):
    """There is no such plot of a version."""

    def __init__(self, plot: str, why: str) -> None:
        super().__init__(f"There is no plot {plot!r} of this version: {why}.")


class ModelNotTrained(Conflict):
    """The model has no active version to predict with."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The model {name!r} has no active version: train it, or activate a version of it."
        )


class NothingToRollBack(Conflict):
    """No version was active before the active one, or it has been deleted."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The model {name!r} has no earlier version to roll back to.")


class AliasNotFound(NotFound):
    """The model has no such alias."""

    def __init__(self, name: str, alias: str) -> None:
        super().__init__(f"The model {name!r} has no alias {alias!r}.")


class TooManyAliases(Conflict):
    """The model has as many aliases as are allowed."""

    def __init__(self, name: str, most: int) -> None:
        super().__init__(f"The model {name!r} has {most} aliases, more are not allowed.")


class VersionHasAliases(Conflict):
    """A version that an alias names cannot be deleted."""

    def __init__(self, name: str, number: int, aliases: Sequence[str]) -> None:
        named = ", ".join(aliases)
        super().__init__(
            f"Version {number} of {name!r} is what an alias names ({named}): give the alias to "
            "another version first, or delete it."
        )


class VersionHasTraffic(Conflict):
    """A version that has a share of the traffic, or is the shadow, cannot be deleted."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(
            f"Version {number} of {name!r} has a share of the traffic, or is its shadow: end the "
            "traffic first, or share it among others."
        )


class VersionActive(Conflict):
    """The active version cannot be deleted."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"Version {number} of {name!r} is active: activate another one first.")


class ModelHasVersions(Conflict):
    """A model was to be deleted without its versions."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(
            f"The model {name!r} still has versions, {count} in all: `?versions=all` (at the "
            "command line, `--versions all`) deletes them too."
        )


class VersionUnusable(Conflict):
    """A version that cannot be loaded was to be activated, or to get an alias."""

    def __init__(self, name: str, number: int, reason: str) -> None:
        super().__init__(f"Version {number} of {name!r} cannot be served. {reason}")


class ArtifactUnusable(Unavailable):
    """A stored model version cannot be loaded."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The model version cannot be loaded: {reason}.")
