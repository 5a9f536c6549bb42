"""What a request of rows carries: JSON, or a table in CSV, Parquet or Arrow, alone or as a file.

With JSON, everything is in the body. With a table, the options come as query parameters, or as
fields of the form that the file is in; both are JSON values, or plain text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO, ClassVar, cast

import marshmallow as ma
import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Request, abort, current_app
from marshmallow import fields
from werkzeug.datastructures import FileStorage, MultiDict

from webapp.errors import InvalidInput
from webapp.ml.core import tables
from webapp.ml.core.tables import Limits
from webapp.ml.schemas import CsvOptions, FilePart, RowsSchema
from webapp.web import jsonio
from webapp.web.blueprint import Blueprint, View
from webapp.web.openapi import OPENAPI_VERSION
from webapp.web.parsing import StrictParser, is_utf8, load
from webapp.web.request import unpack

JSON = "application/json"
MULTIPART = "multipart/form-data"
OCTETS = "application/octet-stream"
FURTHER_VALUES = 1000  # of a JSON body, beside its rows and the names of their columns
TABLE_MEDIA_TYPES = [
    media_type for row in tables.FORMATS.values() for media_type in row.media_types
]


class RowsParser(StrictParser):
    """Reads ``rows`` (JSON or a table) and ``form`` (an uploaded file with its fields)."""

    def parse(
        self,
        argmap: Any,
        req: Request | None = None,
        *,
        location: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the checked arguments of a view."""
        req = req or self.get_default_request()
        if location != "rows":
            return super().parse(argmap, req, location=location, **kwargs)
        if req.mimetype == JSON:
            if req.args:
                faults = {name: ["belongs into the JSON body"] for name in req.args}
                raise InvalidInput(faults, source="query")
            body = self.load_json(req, argmap, most=current_app.config["MAX_CONTENT_LENGTH"])
            return _check_size(load(argmap, body, source="json"))
        return _parse_table(argmap, req)

    def read_json(self, req: Request) -> bytes:
        """Return the JSON body; one of more values than allowed is refused before it is decoded.

        A value takes two bytes of a body, and up to 60 once it is decoded.
        """
        body = super().read_json(req)
        limits = _limits()
        most = limits.cells + limits.rows + limits.columns + FURTHER_VALUES
        if len(body) > most and jsonio.count_values(body) > most:
            raise InvalidInput([f"holds more than {limits.cells} values"], source="json")
        return body

    def load_form(self, req: Request, schema: ma.Schema) -> Any:
        """Return the fields of a form, its one file among them."""
        if req.mimetype != MULTIPART:
            abort(415, f"The body must be sent as Content-Type: {MULTIPART}.")
        (file_field,) = (name for name, f in schema.fields.items() if isinstance(f, FilePart))
        form = req.form.copy()
        lists = {
            name: _read_list(form.poplist(name))
            for name, f in schema.fields.items()
            if isinstance(f, fields.List) and name in form
        }
        file = _only_file(req, file_field)
        return {file_field: file, **_read_options(form, "form"), **lists}


class RowsBlueprint(Blueprint):
    """A blueprint whose views take rows in any form."""

    ARGUMENTS_PARSER = RowsParser()
    DEFAULT_LOCATION_CONTENT_TYPE_MAPPING: ClassVar[dict[str, str]] = {
        **Blueprint.DEFAULT_LOCATION_CONTENT_TYPE_MAPPING,
        "rows": JSON,
        "form": MULTIPART,
    }

    def arguments(self, schema: Any, *, location: str = "json", **kwargs: Any) -> Any:
        """Declare what a view takes; for ``rows``, document tables and their options too."""
        decorate = super().arguments(schema, location=location, **kwargs)
        if location == "form":
            parts = {
                name: {"contentType": OCTETS}
                for name, f in schema().fields.items()
                if isinstance(f, FilePart)
            }
            encode: Any = self.doc(requestBody={"content": {MULTIPART: {"encoding": parts}}})
            return lambda view: encode(decorate(view))
        if location != "rows":
            return decorate
        options = _describe_fields(schema.tabular)
        binary = {"type": "string", "format": "binary"}
        part = {
            "type": "object",
            "properties": {"file": binary, **options},
            "required": ["file"],
            "additionalProperties": False,
        }
        form = {
            "schema": part,
            "encoding": {"file": {"contentType": ", ".join(TABLE_MEDIA_TYPES)}},
        }
        content: dict[str, Any] = {kind: {"schema": binary} for kind in TABLE_MEDIA_TYPES}
        content[MULTIPART] = form
        parameters = [_describe_parameter(name, found) for name, found in options.items()]

        def document(view: View) -> View:
            documented = self.doc(requestBody={"content": content}, parameters=parameters)(view)
            return cast(View, decorate(documented))

        return document


def _limits() -> Limits:
    return Limits.from_settings(current_app.config)


def _check_size(arguments: dict[str, Any]) -> dict[str, Any]:
    """Hold JSON rows to the limits that the reader of a table keeps by itself."""
    limits = _limits()
    if "dataset" in arguments:
        rows, columns = arguments["dataset"].X.shape
        if columns > limits.columns:
            message = f"has {columns} columns, at most {limits.columns} are allowed"
            raise InvalidInput({"X": [message]})
        columns += 1  # the target
    else:
        instances = arguments["instances"]
        rows, columns = len(instances), len(instances[0])
    limits.check(rows=rows, columns=columns)
    return arguments


def _parse_table(schema: Any, req: Request) -> dict[str, Any]:
    options, source = _read_options(req.args, "query"), "query"
    if req.mimetype == MULTIPART:
        form = _read_options(req.form, "form")
        doubled = {name: ["is in the query and in the form"] for name in form if name in options}
        if doubled:
            raise InvalidInput(doubled, source="form")
        options, source = options | form, "form" if form else "query"
        file = _only_file(req, "file")
        _check_parameters(file)
        stream, name = cast(BinaryIO, file.stream), (file.filename or "").lower()
        if name.endswith(".gz"):
            stream = unpack(stream, "gzip", current_app.config["MAX_CONTENT_LENGTH"])
        found = tables.format_of_suffix(name.removesuffix(".gz"))
        found = found or tables.format_of_media_type(file.mimetype)
    else:
        _check_parameters(req)
        stream = cast(BinaryIO, req.stream)
        found = tables.format_of_media_type(req.mimetype)
    if found is None:
        kinds = ", ".join(["application/json", *TABLE_MEDIA_TYPES, MULTIPART])
        abort(415, f"The body must be of one of these types: {kinds}.")
    loaded = load(schema.tabular(), options, source=source)
    if found.name != "csv" and (
        given := [name for name in CsvOptions().fields if name in options]
    ):
        raise InvalidInput({name: ["is an option of CSV alone"] for name in given}, source=source)
    try:
        return cast(RowsSchema, schema).read_table(stream, found, _limits(), loaded)
    except InvalidInput as error:
        raise InvalidInput(error.faults, source=error.source or found.name) from None


def _check_parameters(sent: Request | FileStorage) -> None:
    """Refuse a table whose content type says that it is not what would be read (RFC 4180, 3)."""
    said = sent.mimetype_params
    if not is_utf8(said.get("charset", "utf-8")):
        abort(415, "A table must be sent in UTF-8.")
    if said.get("header", "present").lower() != "present":
        abort(415, "A table must be sent with a header.")


def _only_file(req: Request, field: str) -> FileStorage:
    files = req.files.getlist(field)
    others = [name for name in req.files if name != field]
    if others:
        raise InvalidInput({name: ["Unknown file."] for name in others}, source="form")
    if len(files) != 1:
        message = f"needs exactly one file part named {field}, and got {len(files)}"
        raise InvalidInput({field: [message]}, source="form")
    return files[0]


def _read_options(values: MultiDict[str, str], source: str) -> dict[str, Any]:
    repeated = {name: ["Given more than once."] for name, v in values.lists() if len(v) > 1}
    if repeated:
        raise InvalidInput(repeated, source=source)
    return {name: _read_option(name, text) for name, text in values.items()}


def _read_list(texts: list[str]) -> list[Any] | None:
    """Return a list that came as one JSON array or, as OpenAPI has it, as a part per item."""
    only = _read_option("", texts[0]) if len(texts) == 1 else texts
    return only if only is None or isinstance(only, list) else texts


def _read_option(name: str, text: str) -> Any:
    if name in ("target", "estimator"):
        return text  # a column may be called 1, or true
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _describe_fields(schema: type[ma.Schema]) -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each field."""
    spec = APISpec("", "", OPENAPI_VERSION, plugins=[MarshmallowPlugin()])
    spec.components.schema("Options", schema=schema)
    properties: dict[str, dict[str, Any]] = spec.to_dict()["components"]["schemas"]["Options"][
        "properties"
    ]
    return properties


def _describe_parameter(name: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return an option as a query parameter: not a required one, as JSON has it in its body."""
    found = dict(described)
    about = found.pop("description", "")
    value = {"schema": found}
    return {
        "in": "query",
        "name": name,
        "description": f"With a table: {about[:1].lower()}{about[1:]}",
        **({"content": {JSON: value}} if found["type"] == "object" else value),
    }
