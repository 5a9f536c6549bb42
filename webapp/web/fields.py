"""The field classes that schemas are made of: strict where marshmallow's own are lenient."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from operator import attrgetter
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

_CONTROL = r"\x00-\x1f\x7f-\x9f"
_CONTROL_EXCEPT_LAYOUT = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
DEEPEST_OBJECT = 32


class StrictSchema(ma.Schema):
    """A schema that refuses unknown fields, naming them, and keeps the order of its fields."""

    class Meta:
        """Refuse what the schema does not name."""

        unknown = ma.RAISE

    def load(self, data: Any, **kwargs: Any) -> Any:
        """Return the checked values of an object; raises marshmallow's ValidationError.

        Good input is taken field by field. Only for what is refused does marshmallow go through
        it all, to find every fault.
        """
        if not kwargs and isinstance(data, dict) and not any(self._hooks.values()):
            try:
                return self._load_good(data)
            except ma.ValidationError:
                pass
        return super().load(data, **kwargs)

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """Return an object, or many, as plain values.

        Objects that have all attributes are read field by field. For others, and for
        dictionaries, marshmallow looks in each place where a value may be.
        """
        many = self.many if many is None else many
        if not any(self._hooks.values()):
            try:
                return [self._dump_whole(o) for o in obj] if many else self._dump_whole(obj)
            except AttributeError:
                pass
        return super().dump(obj, many=many)

    def _dump_whole(self, obj: Any) -> dict[str, Any]:
        return {name: write(read(obj), name, obj) for name, read, write in self._dumped}

    @cached_property
    def _dumped(self) -> list[tuple[str, Callable[[Any], Any], Callable[..., Any]]]:
        return [
            (name, attrgetter(field.attribute or name), field._serialize)
            for name, field in self.dump_fields.items()
        ]

    def _load_good(self, data: dict[str, Any]) -> dict[str, Any]:
        if not data.keys() <= self.load_fields.keys():
            raise ma.ValidationError("")
        loaded = {}
        for name, field in self.load_fields.items():
            if name in data or field.required:
                loaded[name] = field.deserialize(data.get(name, ma.missing), name, data)
            elif field.load_default is not ma.missing:
                default = field.load_default
                loaded[name] = default() if callable(default) else default
        return loaded


class Text(fields.String):
    """Text that both databases can store: no NUL, no lone surrogate, no control character.

    ``multiline`` allows tabs and line ends.
    """

    def __init__(
        self, *, min_length: int = 0, max_length: int, multiline: bool = False, **kwargs: Any
    ) -> None:
        length = validate.Length(min=min_length, max=max_length)
        forbidden = _CONTROL_EXCEPT_LAYOUT if multiline else _CONTROL
        _document(kwargs, pattern=f"^[^{forbidden}]*$")
        super().__init__(validate=length, **kwargs)
        self._forbidden = re.compile(f"[{forbidden}]")

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if self._forbidden.search(text):
            raise ma.ValidationError("Must not contain control characters.")
        if _SURROGATE.search(text):
            raise ma.ValidationError("Must be valid Unicode text.")
        return text


class JSONInteger(fields.Integer):
    """A JSON whole number within bounds: not a string, a boolean or a fraction."""

    def __init__(self, *, minimum: int, maximum: int, **kwargs: Any) -> None:
        super().__init__(strict=True, validate=validate.Range(minimum, maximum), **kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if not isinstance(value, int):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class QueryInteger(fields.Integer):
    """A whole number within bounds, written in plain decimal digits in a query string."""

    def __init__(self, *, minimum: int, maximum: int, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(minimum, maximum), **kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if not _WHOLE_NUMBER.fullmatch(str(value)):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class JSONFloat(fields.Float):
    """A finite JSON number within bounds: not a string or a boolean."""

    def __init__(self, *, bounds: validate.Range, **kwargs: Any) -> None:
        _document(kwargs, **_exclusive(bounds))
        super().__init__(validate=bounds, **kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> float:
        if type(value) not in (int, float):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class QueryFloat(fields.Float):
    """A finite number within bounds, written in a query string."""

    _LITERAL = re.compile(r"[-+]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?")

    def __init__(self, *, bounds: validate.Range, **kwargs: Any) -> None:
        _document(kwargs, **_exclusive(bounds))
        super().__init__(validate=bounds, **kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> float:
        if not self._LITERAL.fullmatch(str(value)) or not math.isfinite(float(value)):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class JSONBoolean(fields.Boolean):
    """true or false, and nothing that merely looks like it."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class JSONObject(fields.Dict):
    """Any JSON object that can be kept and answered: JSON is read far deeper than written."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> dict[str, Any]:
        found: dict[str, Any] = super()._deserialize(value, attr, data, **kwargs)  # type: ignore[no-untyped-call]
        level: list[Any] = [found]
        for _ in range(DEEPEST_OBJECT):
            level = [inner for outer in level for inner in _list_inner(outer)]
        if level:
            raise ma.ValidationError(f"Must not be nested deeper than {DEEPEST_OBJECT} levels.")
        return found


def _list_inner(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value
    return [inner for inner in values if isinstance(inner, dict | list)]


def _document(kwargs: dict[str, Any], **keywords: Any) -> None:
    """Add what apispec does not find out by itself to a field's part of the OpenAPI document."""
    kwargs["metadata"] = {**keywords, **kwargs.get("metadata", {})}


def _exclusive(bounds: validate.Range) -> dict[str, Any]:
    found = {}
    if bounds.min is not None and not bounds.min_inclusive:
        found["exclusiveMinimum"] = bounds.min
    if bounds.max is not None and not bounds.max_inclusive:
        found["exclusiveMaximum"] = bounds.max
    return found
