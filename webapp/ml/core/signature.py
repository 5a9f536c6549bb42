"""What a model takes: its columns with their kinds, its target and its task.

A table whose features are numbers without gaps is a matrix: its signature says no more than the
names and ranges. Any other table has kinds, and is encoded as numbers (``encoding``) before it
reaches the estimator (``preprocessing``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from webapp.errors import InvalidInput

Kind: TypeAlias = Literal["number", "boolean", "category", "datetime", "text"]
Task: TypeAlias = Literal["regression", "classification", "clustering", "outliers"]
KINDS: tuple[str, ...] = get_args(Kind)

_BOUNDS = ("minimum", "maximum")
DATE_PARTS = ("days", "year", "month", "day", "weekday", "hour")
"""What a date becomes: days since 1970-01-01 (with the fraction of a time), and parts of UTC.

Monday is weekday 0. Dates without times have no hour."""


@dataclass(frozen=True)
class Column:
    """A column that a model takes.

    ``categories`` are the values of a category that were seen in training, sorted: text or
    numbers. ``parts`` are what a date was expanded to. ``minimum`` and ``maximum`` are those of
    the fitted rows, of a date in days since 1970. ``missing``: whether a value may be missing.
    """

    name: str
    kind: Kind = "number"
    missing: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[Any, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the numbers that the column is encoded as."""
        if self.kind == "text":
            return ()
        return tuple(f"{self.name}.{part}" for part in self.parts) or (self.name,)


@dataclass(frozen=True)
class Signature:
    """The columns that a model takes, in the order of a row, and what it predicts."""

    columns: tuple[Column, ...]
    task: Task
    target: str | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def name_set(self) -> frozenset[str]:
        """Return the names of the columns, as a set."""
        return frozenset(self.names)

    @cached_property
    def lookups(self) -> tuple[Mapping[Any, float], ...]:
        """Return the code of each category, by column."""
        return tuple(
            {value: float(code) for code, value in enumerate(column.categories)}
            for column in self.columns
        )

    @cached_property
    def is_matrix(self) -> bool:
        """Return whether all columns are numbers that may not be missing."""
        return all(column.kind == "number" and not column.missing for column in self.columns)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of all numbers that a row is encoded as."""
        return tuple(name for column in self.columns for name in column.inputs)

    @cached_property
    def places(self) -> tuple[slice, ...]:
        """Return where the numbers of each column stand among the inputs."""
        ends, places = 0, []
        for column in self.columns:
            places.append(slice(ends, ends + len(column.inputs)))
            ends += len(column.inputs)
        return tuple(places)

    @cached_property
    def text_names(self) -> tuple[str, ...]:
        """Return the names of the columns of text, which are not encoded."""
        return tuple(column.name for column in self.columns if column.kind == "text")

    def with_ranges(self, profile: Mapping[str, Sequence[float | None]]) -> Signature:
        """Return the signature with the ranges of a profile, which has a value per column."""
        ranges = zip(self.columns, profile["min"], profile["max"], strict=True)
        columns = (replace(column, minimum=low, maximum=high) for column, low, high in ranges)
        return replace(self, columns=tuple(columns))

    def find_difference(self, other: Signature) -> str:
        """Return what this signature has otherwise than another one, in words; "" for nothing."""
        if self.task != other.task:
            return f"is for {self.task}, and not for {other.task}"
        mine = {column.name: column.kind for column in self.columns}
        theirs = {column.name: column.kind for column in other.columns}
        parts = [f"has no {name}" for name in theirs if name not in mine]
        parts += [f"also has {name}" for name in mine if name not in theirs]
        parts += [
            f"has {name} as {kind}, and not as {theirs[name]}"
            for name, kind in mine.items()
            if theirs.get(name, kind) != kind
        ]
        if not parts and self.names != other.names:
            parts.append("has the columns in another order")
        shown = ", ".join(parts[:5])
        return f"{shown}, …" if len(parts) > 5 else shown

    def find_refused(self, other: Signature) -> str:
        """Return whose missing values this signature refuses and another takes, in words."""
        taken = {column.name for column in other.columns if column.missing}
        strict = (c for c in self.columns if not c.missing and c.kind != "text")  # text may be ""
        refused = [column.name for column in strict if column.name in taken]
        shown = ", ".join(refused[:5]) + (", …" if len(refused) > 5 else "")
        return f"refuses missing values of {shown}" if refused else ""

    def to_json(self) -> dict[str, Any]:
        """Return the signature as JSON values: of a column only what its kind has."""
        columns = []
        for column in self.columns:
            shown = asdict(column)
            if column.kind == "category":
                shown["categories"] = list(column.categories)
            else:
                del shown["categories"]
            if column.kind == "datetime":
                shown["parts"] = list(column.parts)
            else:
                del shown["parts"]
            if column.kind in ("category", "text"):
                del shown["minimum"], shown["maximum"]
            columns.append(shown)
        return {"columns": columns, "target": self.target, "task": self.task}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Signature:
        """Return the signature that ``to_json`` wrote."""
        columns = []
        for shown in values["columns"]:
            lists = {name: tuple(shown.get(name, ())) for name in ("categories", "parts")}
            columns.append(Column(**{**shown, **lists}))
        return cls(tuple(columns), values["task"], values["target"])


_FIELDS = {"name", "kind", "missing", "minimum", "maximum", "categories", "parts"}


def parse_signature(values: Mapping[str, Any]) -> Signature:
    """Return a signature that somebody wrote, as ``to_json`` writes them; raises InvalidInput."""
    columns = values.get("columns")
    if not isinstance(columns, list) or not columns:
        raise InvalidInput({"signature": {"columns": ["must be an array of columns"]}})
    faults = {str(n): [f] for n, column in enumerate(columns) if (f := _find_fault(column))}
    if faults:
        raise InvalidInput({"signature": {"columns": faults}})
    known = {"task": values.get("task", "regression"), "target": values.get("target")}
    if known["task"] not in get_args(Task) or not isinstance(known["target"], str | None):
        raise InvalidInput({"signature": ["has no task or target that there is"]})
    return Signature.from_json({"columns": columns, **known})


def _find_fault(column: Any) -> str:
    """Return what keeps a JSON value from being a column; "" for nothing."""
    if not isinstance(column, dict) or not isinstance(column.get("name"), str):
        return "must be an object with a name"
    if unknown := sorted(column.keys() - _FIELDS):
        return f"has no field {unknown[0][:40]!r}"
    kind, categories = column.get("kind", "number"), column.get("categories", [])
    if kind not in KINDS:
        return f"has a kind that is none of {', '.join(KINDS)}"
    if type(column.get("missing", False)) is not bool:
        return "says of missing something else than true or false"
    if any(type(column.get(bound)) not in (int, float, type(None)) for bound in _BOUNDS):
        return "has a bound that is no number"
    parts = column.get("parts", [])
    if kind == "datetime" and not (parts and [p for p in DATE_PARTS if p in parts] == parts):
        return f"needs parts, some of {', '.join(DATE_PARTS)} in this order"
    if kind == "category" and not (
        isinstance(categories, list)
        and categories
        and (all(isinstance(c, str) for c in categories) or all(map(_is_number, categories)))
        and len(set(categories)) == len(categories)
    ):
        return "needs categories: different texts, or different numbers"
    return ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**53


def matrix_signature(names: Sequence[str], task: Task, target: str | None = None) -> Signature:
    """Return the signature of a matrix whose columns have these names."""
    return Signature(tuple(Column(name) for name in names), task, target)


def read_signature(version: Any) -> Signature:
    """Return what columns a stored version takes; one of an older release says only their names.

    ``version`` has ``signature``, ``feature_names``, ``task`` and ``profile``.
    """
    if version.signature is not None:
        return Signature.from_json(version.signature)
    signature = matrix_signature(version.feature_names, version.task)
    return signature if version.profile is None else signature.with_ranges(version.profile)
