"""The blueprint `ml`, and how it chooses formats by content type, for what comes in and goes out.

Rows come as JSON, or as a table in CSV, Parquet or Arrow, alone or as the file of a form. With
JSON, everything is in the body. With a table, the options are query parameters, or fields of the
form; each is a JSON value, or plain text.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, ClassVar, TypeAlias, cast

import marshmallow as ma
import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Request, Response, abort, current_app, jsonify, request, url_for
from marshmallow import fields
from werkzeug.datastructures import FileStorage, MultiDict

from webapp.db.leases import Leases
from webapp.errors import InvalidInput
from webapp.extensions import db
from webapp.idempotency.views import REPLAYED_HEADER, KeyHeader, idempotent
from webapp.jobs.models import Job
from webapp.jobs.processes import MB
from webapp.jobs.runner import Runner
from webapp.jobs.service import Order, QueueLimits, submit
from webapp.ml.core import tables
from webapp.ml.core.tables.shapes import CsvDialect, Limits, Source
from webapp.ml.jobs.schemas import JobSchema, prefers_async
from webapp.ml.registry.models import ModelVersion
from webapp.ml.registry.schemas import NewVersionSchema
from webapp.ml.schemas import CsvOptions, FilePart, RowsSchema, Table, TablePart, about
from webapp.web import jsonio
from webapp.web.blueprint import Blueprint, View
from webapp.web.openapi import OPENAPI_VERSION, header
from webapp.web.parsing import StrictParser, is_utf8, load
from webapp.web.request import check_client, current_identity, unpack

JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
MULTIPART = "multipart/form-data"
TABLE_TYPES = [media_type for row in tables.FORMATS.values() for media_type in row.media_types]
BINARY = {"type": "string", "format": "binary"}
Answer: TypeAlias = dict[str, Any]
Headers: TypeAlias = dict[str, str]
BeforeCommit: TypeAlias = Callable[[Any], object]

LONGEST_FILE_NAME = 255
FURTHER_VALUES = 1000  # of a JSON body, beside its rows and the names of their columns


def model_leases() -> Leases[Any, Any]:
    """Return the leases by which this process knows which version of each model is active."""
    return cast(Leases[Any, Any], current_app.extensions["model_server"].leases)


class JobHeaders(KeyHeader):
    """The headers of a request that a job is done for."""

    prefer = fields.String(
        data_key="Prefer",
        metadata=about("`respond-async` for an answer at once, with the URL of a job (RFC 7240)."),
    )


def job_runner(kind: str = "") -> Runner:
    """Return what does jobs of a kind in this process: some wait for no training."""
    uploads: Runner = current_app.extensions["uploads"]
    return uploads if kind in uploads.kinds else cast(Runner, current_app.extensions["jobs"])


def holder_id() -> str:
    """Return the id of who sent the current request, "" without a key."""
    identity = current_identity()
    return "" if identity is None else identity.holder_id


def do(order: Order, *, before_commit: BeforeCommit) -> Any | Job:
    """Do a job while its client waits, and return what it makes; or put it into the queue."""
    runner = job_runner(order.kind)
    if not prefers_async(request.headers.get("Prefer", "")):
        return runner.run(
            db.session(),
            order,
            before_commit=before_commit,
            watch=lambda _: check_client(),
        )
    settings = current_app.config
    limits = QueueLimits(
        settings["JOB_QUEUE"], settings["JOB_QUEUE_OF_KEY"], settings["JOB_QUEUE_MB"] * MB
    )
    job = submit(db.session(), order, limits=limits, before_commit=before_commit)
    if not current_app.testing:  # where gunicorn has not done it: under `flask run`, say
        runner.start()
    runner.wake()
    return job


def is_long(environ: Mapping[str, Any]) -> bool:
    """Return whether a request may take seconds: it makes or judges a model, or awaits a job."""
    path = str(environ["PATH_INFO"]).rstrip("/")
    if environ["REQUEST_METHOD"] == "POST":
        return path.endswith(("/train", "/search", "/versions", "/evaluate"))
    return "/ml/jobs/" in path and "HTTP_PREFER" in environ


class RowsParser(StrictParser):
    """Reads the locations ``rows`` (JSON or a table) and ``form`` (a file with its fields)."""

    def parse(self, argmap: Any, req: Any = None, *, location: Any = None, **kwargs: Any) -> Any:
        """Return the checked arguments of a view."""
        if location != "rows":
            return super().parse(argmap, req, location=location, **kwargs)
        return load(argmap, self.load_rows(self.get_default_request(), argmap), source="json")

    def read_json(self, req: Request) -> bytes:
        """Return the JSON body; raises InvalidInput for too many values, before it is decoded.

        A value takes two bytes of a body, and up to 60 once it is decoded.
        """
        body = super().read_json(req)
        if len(body) > 2 * FURTHER_VALUES:  # a shorter one cannot hold too many
            limits = Limits.from_settings(current_app.config)
            most = limits.cells + limits.rows + limits.columns + FURTHER_VALUES
            if len(body) > most and jsonio.count_values(body) > most:
                raise InvalidInput([f"holds more than {limits.cells} values"], source="json")
        return body

    def load_rows(self, req: Request, schema: RowsSchema) -> dict[str, Any] | Table:
        """Return the JSON object, or the table, in the body of a request."""
        if req.mimetype != JSON:
            return _find_table(req, schema)
        if req.args:
            faults = {name: ["belongs into the JSON body"] for name in req.args}
            raise InvalidInput(faults, source="query")
        most = current_app.config["MAX_CONTENT_LENGTH"]
        body: dict[str, Any] = self.load_json(req, schema, most=most)
        for name in schema.rows_fields:
            _check_size(body, name)
        return body

    def load_form(self, req: Request, schema: ma.Schema) -> Any:
        """Return the fields of a form, its files among them."""
        if req.mimetype != MULTIPART:
            abort(415, f"The body must be sent as Content-Type: {MULTIPART}.")
        parts = {name: f for name, f in schema.fields.items() if isinstance(f, FilePart)}
        files: dict[str, Any] = _find_files(req, {n: f.required for n, f in parts.items()})
        options = _read_options(req.form, schema)
        for name in [name for name, part in parts.items() if isinstance(part, TablePart)]:
            source = _open_table(files[name]) if name in files else None
            _check_csv_options(source, options, "form")
            if source is not None:
                # It is read more than once, which a packed file cannot be.
                files[name] = replace(source, file=io.BytesIO(source.file.read()))
        return {**files, **options}


class RowsBlueprint(Blueprint):
    """A blueprint whose views take rows in any format, and files."""

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
            encoding = {}
            for name, field in schema().fields.items():
                if isinstance(field, FilePart):
                    is_table = isinstance(field, TablePart)
                    kinds = TABLE_TYPES if is_table else ["application/octet-stream"]
                    encoding[name] = {"contentType": ", ".join(kinds)}
            document = self.doc(requestBody={"content": {MULTIPART: {"encoding": encoding}}})
        elif location == "rows":
            document = self._document_tables(schema.table_options)
        else:
            return decorate
        return lambda view: decorate(document(view))

    def _document_tables(self, table_options: type[ma.Schema]) -> Any:
        plugin = MarshmallowPlugin()
        APISpec("", "", OPENAPI_VERSION, plugins=[plugin])
        properties = plugin.converter.schema2jsonschema(table_options)["properties"]  # type: ignore[union-attr] # set by APISpec
        options = {name: _describe_option(found) for name, found in properties.items()}
        form = {
            "schema": {
                "type": "object",
                "properties": {"file": BINARY, **options},
                "required": ["file"],
                "additionalProperties": False,
            },
            "encoding": {"file": {"contentType": ", ".join(TABLE_TYPES)}},
        }
        tables_content = {media_type: {"schema": BINARY} for media_type in TABLE_TYPES}
        return self.doc(
            requestBody={"content": {**tables_content, MULTIPART: form}},
            parameters=[_describe_parameter(name, found) for name, found in options.items()],
        )


def _check_size(body: Mapping[str, Any], rows_field: str) -> None:
    """Hold JSON rows to the limits that the reader of a table keeps by itself."""
    limits, rows = Limits.from_settings(current_app.config), body.get(rows_field)
    if isinstance(rows, list) and rows and isinstance(rows[0], list | dict):
        columns = len(rows[0])
        if columns > limits.columns:
            message = f"has {columns} columns, at most {limits.columns} are allowed"
            raise InvalidInput({rows_field: [message]}, source="json")
        limits.check(rows=len(rows), columns=columns + ("y" in body))


def _find_table(req: Request, schema: RowsSchema) -> Table:
    """Return the table in the body of a request, its options checked."""
    expected = schema.table_options()
    options, source = _read_options(req.args, expected), "query"
    sent: Request | FileStorage = req
    if req.mimetype == MULTIPART:
        form = _read_options(req.form, expected)
        repeated = {name: ["is in the query and in the form"] for name in form if name in options}
        if repeated:
            raise InvalidInput(repeated, source="form")
        options, source = options | form, "form" if form else "query"
        sent = _find_files(req, {"file": True})["file"]
    opened = _open_table(sent)
    loaded = load(expected, options, source=source)
    _check_csv_options(opened, options, source)
    return Table(replace(opened, dialect=loaded.pop("dialect")), loaded)


def _check_csv_options(opened: Source | None, options: Mapping[str, Any], place: str) -> None:
    """Raise InvalidInput for options of CSV that go with another table, or with none."""
    if opened is None or opened.format.name != "csv":
        given = CsvOptions().fields.keys() & options
        if given:
            raise InvalidInput({n: ["is an option of CSV alone"] for n in given}, source=place)


def _open_table(sent: Request | FileStorage) -> Source:
    """Return the bytes of a table and their format, by its suffix or content type."""
    # RFC 4180, section 3: a content type may say that the table is not what would be read.
    if not is_utf8(sent.mimetype_params.get("charset", "utf-8")):
        abort(415, "A table must be sent in UTF-8.")
    if sent.mimetype_params.get("header", "present").lower() != "present":
        abort(415, "A table must be sent with a header.")
    stream, found = cast(BinaryIO, sent.stream), None
    file_name = sent.filename if isinstance(sent, FileStorage) else None
    if isinstance(sent, FileStorage):
        name = (file_name or "").lower()
        if name.endswith(".gz"):
            stream = unpack(stream, "gzip", current_app.config["MAX_CONTENT_LENGTH"])
        found = tables.format_of_suffix(name.removesuffix(".gz"))
    found = found or tables.format_of_media_type(sent.mimetype)
    if found is None:
        known = ", ".join([JSON, *TABLE_TYPES, MULTIPART])
        abort(415, f"The body must be of one of these types: {known}.")
    limits = Limits.from_settings(current_app.config)
    return Source(stream, found, CsvDialect(), limits, name_of(file_name))


def name_of(path: str | None) -> str | None:
    """Return the name of a file without its folders, as far as it can be shown."""
    name = re.split(r"[/\\]", path or "")[-1][:LONGEST_FILE_NAME]
    return name if name and name.isprintable() else None


def _find_files(req: Request, needed: Mapping[str, bool]) -> dict[str, FileStorage]:
    """Return the files of a form; ``needed`` are its fields of files, and whether it needs them.

    Raises InvalidInput for files of other fields, and for more than one of a field.
    """
    others = {name: ["Unknown file."] for name in req.files if name not in needed}
    if others:
        raise InvalidInput(others, source="form")
    files = {}
    for field, must in needed.items():
        found = req.files.getlist(field)
        if len(found) > 1 or (must and not found):
            message = f"needs exactly one file part named {field}, and got {len(found)}"
            raise InvalidInput({field: [message]}, source="form")
        if found:
            files[field] = found[0]
    return files


def _read_options(values: MultiDict[str, str], schema: ma.Schema) -> dict[str, Any]:
    """Return the options in a query or a form; a list may come in parts."""
    options, repeated = {}, {}
    for name, texts in values.lists():
        if isinstance(schema.fields.get(name), fields.List):
            only = read_option(name, texts[0]) if len(texts) == 1 else texts
            options[name] = only if only is None or isinstance(only, list) else texts
        elif len(texts) > 1:  # of a form: a query with repeated parameters is refused before
            repeated[name] = ["Given more than once."]
        else:
            options[name] = read_option(name, texts[0])
    if repeated:
        raise InvalidInput(repeated, source="form")
    return options


def read_option(name: str, text: str) -> Any:
    """Return the value of an option that is written as JSON, or as plain text."""
    if name == "target":
        return text  # a column may be called 1, or true
    if name in ("exclude", "passthrough") and not text.startswith("["):
        return text.split(",") if text else []
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _describe_option(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an option of a table with its example in words: pages would send it as it stands."""
    described = dict(schema)
    if "example" in described:
        described["description"] += f" Such as `{json.dumps(described.pop('example'))}`."
    return described


def _describe_parameter(name: str, option: Mapping[str, Any]) -> dict[str, Any]:
    """Return an option of a table as a query parameter; none is required, as JSON needs none.

    Its default is given in words: pages, and some generated clients, send it beside JSON too,
    where it is refused.
    """
    schema = dict(option)
    description = f"Of a table. {schema.pop('description')}"
    default = schema.pop("default", None)
    if default not in (None, [], {}):
        description += f" Default: `{json.dumps(default)}`."
    described = {"in": "query", "name": name, "description": description}
    if schema["type"] == "array":
        return {**described, "schema": schema, "style": "form", "explode": False}
    if "object" in schema["type"]:
        return {**described, "content": {JSON: {"schema": schema}}}
    return {**described, "schema": schema}


blp = RowsBlueprint("ml", __name__, url_prefix="/ml", description="Train, serve, predict.")


def does_job(
    schema: ma.Schema,
    announce: Callable[[Any], tuple[Any, Headers]],
    *,
    status: int,
    headers: Mapping[str, Any],
    describe: Callable[[Any], Any],
    before_repeat: Callable[[], None] = lambda: None,
) -> Callable[[View], Any]:
    """Let a view answer with what a job has made, or 202 with the job; heed `Idempotency-Key`.

    ``announce`` returns what ``schema`` dumps of what was made, and the ``headers`` of the answer,
    whose status is given. ``describe`` returns what tells one request from another, as JSON
    values. ``before_repeat`` is called before the first answer is sent again.
    """

    def announce_any(made: Any) -> Response | tuple[Any, Headers]:
        if not isinstance(made, Job):
            return announce(made)
        response = jsonify(JobSchema().dump(made))
        response.status_code = 202
        response.headers["Location"] = url_for("ml.OneJob", job=made.id)
        response.headers["Preference-Applied"] = "respond-async"
        return response

    def decorate(view: View) -> Any:
        create = idempotent(
            blp,
            schema,
            announce_any,
            describe=describe,
            before_repeat=before_repeat,
            status=status,
            headers=JobHeaders,
        )(view)
        answers = blp.response(status, schema, headers={**headers, **REPLAYED_HEADER})
        queued = {
            "Location": header("URL of the job.", format="uri-reference"),
            "Preference-Applied": header("`respond-async`"),
            **REPLAYED_HEADER,
        }
        answers_async = blp.alt_response(
            202, schema=JobSchema, headers=queued, description="The job, if preferred."
        )
        return answers_async(answers(blp.problems(404, 503)(create)))

    return decorate


def creates_version(
    message: str, *, describe: Callable[[Answer], Answer]
) -> Callable[[View], Any]:
    """Let a view answer 201 with the version that it returns, or as ``does_job`` says."""

    def announce(version: ModelVersion) -> tuple[Answer, Headers]:
        url = url_for("ml.Version", name=version.model.name, number=version.number)
        answer = {
            "message": message,
            "metrics": version.metrics,
            "warnings": version.warnings,
            "model": version,
        }
        if "comparison" in version.metrics:
            answer["comparison"] = version.metrics["comparison"]
        return answer, {"Location": url}

    return does_job(
        NewVersionSchema(),
        announce,
        status=201,
        headers={"Location": header("URL of the new version.", format="uri-reference")},
        describe=describe,
        before_repeat=lambda: model_leases().wait_out(),
    )
