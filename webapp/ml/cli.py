"""`flask ml`: train, predict, and manage versions at the command line."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from flask import current_app
from flask.cli import AppGroup
from marshmallow import fields, validate

from webapp.commands import clear_errors, echo_table, format_value
from webapp.errors import InvalidInput, faults_in
from webapp.extensions import db
from webapp.jobs.processes import Task
from webapp.jobs.service import Order
from webapp.ml.blueprint import job_runner, model_leases, name_of, read_option
from webapp.ml.core import tables
from webapp.ml.core.batch import StoredPredictor, predict_source
from webapp.ml.core.datasets import DataWarning
from webapp.ml.core.features import BatchOptions, iterate_features
from webapp.ml.core.inspection import inspect_columns
from webapp.ml.core.sources import open_source, open_store
from webapp.ml.core.tables import writing
from webapp.ml.core.tables.reading import read_columns
from webapp.ml.core.tables.shapes import CsvDialect, Format, Limits, Source
from webapp.ml.evaluation import service as evaluation
from webapp.ml.evaluation.schemas import (
    EvaluationRequest,
    EvaluationSchema,
    EvaluationTableOptions,
)
from webapp.ml.inference import service as inference
from webapp.ml.inference.schemas import PredictionTableOptions
from webapp.ml.registry import service as registry
from webapp.ml.registry.models import ModelVersion
from webapp.ml.registry.schemas import (
    ComparisonQuery,
    ModelChanges,
    ModelQuery,
    ModelSchema,
    TrafficRequest,
    VersionChanges,
    VersionQuery,
    VersionSchema,
    VersionSummarySchema,
)
from webapp.ml.registry.schemas import compare as compare_versions
from webapp.ml.registry.service import DEFAULT_MODEL
from webapp.ml.schemas import IF_BETTER, Table
from webapp.ml.search import service as searches
from webapp.ml.search.schemas import SearchRequest, TableSearchOptions
from webapp.ml.training import service as training
from webapp.ml.training.schemas import (
    ColumnSchema,
    InspectionOptions,
    InspectionSchema,
    TableTrainingOptions,
    TrainingRequest,
    read_source_options,
)
from webapp.ml.upload import service as uploads
from webapp.web.fields import StrictSchema
from webapp.web.openapi import NameConverter
from webapp.web.parsing import load

F = TypeVar("F", bound=Callable[..., Any])

commands = AppGroup("ml", help="Train models, predict with them, manage their versions.")
WIDTH_OF_BAR = 30
PAGE = {"page": 1, "page_size": 1000}

model_option = click.option(
    "--model", "name", default=DEFAULT_MODEL, show_default=True, help="Which model."
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
tag_option = click.option("--tag", metavar="KEY:VALUE", help="Only those with this tag.")
number_argument = click.argument("number", type=click.IntRange(min=1), metavar="VERSION")


def options_of(schema: type[StrictSchema]) -> Callable[[F], F]:
    """Give a command an option for each field of a schema, which checks them."""

    def decorate(command: F) -> F:
        for name, field in reversed(schema().fields.items()):
            flag = f"--{name.replace('_', '-')}"
            settings = {"help": field.metadata["description"], "required": field.required}
            if isinstance(field, fields.Dict):
                flag = flag.removesuffix("s")
                settings |= {"multiple": True, "metavar": "NAME=VALUE"}
            elif isinstance(field, fields.List):
                settings |= {"default": "", "metavar": "NAME,…"}
            elif not field.required:
                settings |= {"default": field.load_default, "show_default": True}
            if isinstance(field, fields.Boolean):
                flag += f"/--no-{flag[2:]}"
            for one_of in field.validators:
                if isinstance(one_of, validate.OneOf):
                    settings["type"] = click.Choice(list(one_of.choices))
            command = click.option(flag, name, **settings)(command)
        return command

    return decorate


@commands.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--source", metavar="PATTERN", help="Files below DATA_ROOT instead, larger than memory."
)
@model_option
@options_of(TableTrainingOptions)
@json_option
@clear_errors
def train(file: Path | None, source: str | None, name: str, as_json: bool, **options: Any) -> None:
    """Train a model on a FILE with a header: CSV, Parquet or Arrow, by its suffix.

    Every column but the target is a feature. When the command returns, every worker of a running
    service uses the new version.

    Examples: flask ml train titanic.csv --target survived --exclude name,ticket,
    flask ml train diabetes.csv --target progression --estimator ridge --param alpha=0.1,
    flask ml train --source 'sales/2026/*.parquet' --target amount
    """
    _check_name(name)
    if options["metric"]:
        options["activate"] = IF_BETTER
    loaded = _load(TableTrainingOptions, options)
    if file is not None and source is None:
        with _open_source(file, loaded.pop("dialect")) as table:
            request = TrainingRequest().load(Table(table, loaded))
        order = training.order_training(name=name, **request)
    elif source is not None and file is None:
        request = read_source_options(source, loaded)
        settings = current_app.config
        order = training.order_source_training(
            name=name, root=settings["DATA_ROOT"], engine=settings["TRAINING_ENGINE"], **request
        )
    else:
        raise click.UsageError("Give either FILE or --source.")
    _echo_version(run_job(order), as_json=as_json)


@commands.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@model_option
@options_of(TableSearchOptions)
@json_option
@clear_errors
def search(file: Path, name: str, as_json: bool, **options: Any) -> None:
    """Search for the best parameters on a FILE as `flask ml train` reads it, and train with them.

    Example: flask ml search houses.csv --target price --estimator ridge
    --grid '{"alpha": [0.1, 1, 10]}'
    """
    _check_name(name)
    loaded = _load(TableSearchOptions, options)
    with _open_source(file, loaded.pop("dialect")) as source:
        request = SearchRequest().load(Table(source, loaded))
    version = run_job(searches.order_search(name=name, **request))
    _echo_version(version, as_json=as_json)


def run_job(order: Order) -> Any:
    """Do a job, and show how far it is where somebody looks on; return what it makes."""
    runner, shown = job_runner(order.kind), ""
    if not current_app.testing:  # where other threads run
        runner.executor.start()

    def show(task: Task) -> None:
        nonlocal shown
        if task.progress is not None and sys.stderr.isatty():
            text = _draw_bar(**task.progress)
            click.echo(f"\r{text:<{len(shown)}}", nl=False, err=True)
            shown = text

    try:
        return runner.run(db.session(), order, watch=show)
    finally:
        if shown:
            click.echo(err=True)


def _draw_bar(done: int, total: int | None, unit: str) -> str:
    """Return how far a job is, as a line; without a bar where the total is not known."""
    if not total:
        return f"{done} {unit}"
    filled = "#" * (WIDTH_OF_BAR * done // total)
    return f"[{filled:-<{WIDTH_OF_BAR}}] {done} of {total} {unit}"


@commands.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options_of(InspectionOptions)
@json_option
@clear_errors
def inspect(file: Path, as_json: bool, **options: Any) -> None:
    """Show what the columns of FILE hold: kinds, missing values, and what looks wrong.

    FILE is CSV, Parquet or Arrow, by its suffix. Nothing is trained or stored.
    """
    loaded = _load(InspectionOptions, options)
    with _open_source(file, loaded["dialect"]) as source:
        columns = read_columns(source, target=loaded["target"])
        found = inspect_columns(columns, target=loaded["target"])
    shown = InspectionSchema().dump(found)
    if as_json:
        click.echo(json.dumps(shown))
        return
    click.echo(f"{file.name}: {found.n_rows} rows" + (f", a {found.task}" if found.task else ""))
    echo_table(shown["columns"], list(ColumnSchema().fields), as_json=False)
    for warning in found.warnings:
        click.echo(f"{warning.column}: {warning.message}")


class Place(click.Path):
    """A path, or the URL of a folder in an object store, which stays a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Path or a URL; raises BadParameter where there is nothing at a path."""
        return value if "://" in str(value) else super().convert(value, param, ctx)


@commands.command()
@click.argument("source", metavar="[IN]", required=False, type=Place(exists=True, path_type=Path))
@click.argument("out", metavar="[OUT]", type=click.Path(allow_dash=True), default="-")
@model_option
@click.option("--version", "number", type=click.IntRange(min=1), help="Not the active version.")
@click.option("--features", help="One row instead of a file: values separated by commas.")
@click.option("--overwrite", is_flag=True, help="Replace the files that are in the folder OUT.")
@click.option(
    "--engine",
    type=click.Choice(["local", "dask"]),
    default="local",
    show_default=True,
    help="What predicts a folder: this host, or the workers of the cluster TRAINING_ENGINE.",
)
@options_of(PredictionTableOptions)
@clear_errors
def predict(
    source: Path | str | None,
    out: str,
    name: str,
    number: int | None,
    features: str | None,
    overwrite: bool,
    engine: str,
    **options: Any,
) -> None:
    """Write a line to OUT (CSV, by default standard output) per row of IN.

    IN is CSV, Parquet or Arrow; its header names the features, in any order. It may be larger
    than memory. If it is a folder, each of its files is answered by a file of the same name in
    the folder OUT, by as many processes as trainings may have (TRAINING_PROCESSES). Both folders
    may lie in an object store (s3://bucket/june). With --features, a single row comes from the
    command line, as a line of CSV.

    With --engine dask, the workers of a Dask cluster read and write the files: they must reach
    both folders at the same path as this host, or in an object store.

    Examples: flask ml predict rows.parquet predictions.csv, flask ml predict june predicted,
    flask ml predict --engine dask /data/june /data/predicted, flask ml predict --features 1,2,3
    """
    if (source is None) == (features is None):
        raise click.UsageError("Give either IN or --features.")
    if isinstance(source, str) or (source is not None and source.is_dir()):
        loaded = _load(PredictionTableOptions, options)
        folder, target = _locate(str(source)), _locate(out)
        if out == "-" or target == folder or Path(target).is_file():
            raise click.UsageError("Give another folder OUT for the predictions of a folder.")
        if re.fullmatch(r".+://[^/]*", target):
            raise click.UsageError("OUT must be a folder in its bucket, as s3://bucket/folder.")
        _predict_folder(folder, target, name, number, overwrite=overwrite, engine=engine, **loaded)
        return
    if overwrite or engine != "local":
        raise click.UsageError("--overwrite and --engine are for folders.")
    server = current_app.extensions["model_server"]
    version, _ = server.get_version(name, number)  # the same for all rows
    names = version.signature.names
    loaded = _load(PredictionTableOptions, options)
    if source is None:
        row = io.BytesIO(_write_row(names, features or ""))
        found = Source(row, tables.FORMATS["csv"], CsvDialect())
        with faults_in("--features"):
            blocks = iterate_features(found, version.signature, loaded["batch"])
            row_features = next(iter(blocks))
        predictions = inference.predict(
            server, name=name, which=version.number, rows=lambda _signature: row_features
        )
        click.echo(str(predictions.scores.values[0]))
        _echo_warnings(inference.warn_of_notes(predictions.count_notes(), names, n_rows=1))
        return
    notes: Counter[tuple[str, str]] = Counter()
    n_rows = 0
    with (
        source.open("rb") as stream,
        click.open_file(out, "wb", lazy=True, atomic=True) as written,
        faults_in(source.name),
        click.progressbar(length=source.stat().st_size, label=source.name, file=sys.stderr) as bar,
    ):
        table = Source(stream, _find_format(source), loaded["dialect"])
        batches = iterate_features(table, version.signature, loaded["batch"])
        for index, batch in enumerate(batches):
            rows = partial(lambda batch, _signature: batch, batch)
            predictions = inference.predict(server, name=name, which=version.number, rows=rows)
            written.writelines(writing.write_csv(predictions.to_columns(), header=index == 0))
            bar.update(stream.tell() - bar.pos)
            notes += predictions.count_notes()
            n_rows += len(batch.X)
    _echo_warnings([*batch.warnings, *inference.warn_of_notes(notes, names, n_rows)])


def _locate(folder: str) -> str:
    """Return the URL of a folder, or its real path."""
    folder = folder.removeprefix("file://")
    return folder.rstrip("/") if "://" in folder else str(Path(folder).resolve())


def _predict_folder(
    folder: str,
    out: str,
    name: str,
    number: int | None,
    *,
    overwrite: bool,
    engine: str,
    batch: BatchOptions,
    dialect: CsvDialect,
) -> None:
    """Write the predictions for each file of a folder into another one."""
    loaded, _ = current_app.extensions["model_server"].get_version(name, number)
    version = registry.get_version(db.session(), name, loaded.number)
    predictor = StoredPredictor(
        version.format,
        registry.get_artifact(db.session(), name, loaded.number).data,
        json.dumps(loaded.signature.to_json()),
        json.dumps(version.profile),
        json.dumps(version.classes),
    )
    source = open_source(folder, "*", dialect=dialect)
    root, _, name_of_out = out.rpartition("/")
    label = folder.rpartition("/")[2]
    with (
        open_executor(engine, len(source.parts)) as pool,
        click.progressbar(length=len(source.parts), label=label, file=sys.stderr) as bar,
    ):
        written = predict_source(
            source,
            name_of_out,
            predict=predictor,
            signature=loaded.signature,
            options=batch,
            store=open_store(root or "/"),
            executor=pool,
            report=lambda done, _: bar.update(done - bar.pos),
            overwrite=overwrite,
        )
    _echo_warnings(written.warnings)
    click.echo(f"{written.n_rows} rows of {written.n_files} files: {out}", err=True)


@contextmanager
def open_executor(engine: str, n_parts: int) -> Iterator[Executor | None]:
    """Yield what predicts files at the same time; None where one process is enough."""
    if engine == "dask":
        if current_app.config["TRAINING_ENGINE"] == "local":
            example = "TRAINING_ENGINE=tcp://scheduler:8786"
            raise click.UsageError(f"--engine dask needs a cluster: set {example}, or tls://….")
        with job_runner().executor.open_pool() as pool:
            yield pool
        return
    processes = min(current_app.config["TRAINING_PROCESSES"], n_parts)
    if processes < 2:
        yield None
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool


@commands.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@model_option
@click.option("--version", "number", type=click.IntRange(min=1), help="Not the active version.")
@options_of(EvaluationTableOptions)
@json_option
@clear_errors
def evaluate(file: Path, name: str, number: int | None, as_json: bool, **options: Any) -> None:
    """Show how good a version is on FILE (CSV, Parquet or Arrow), and keep it.

    FILE has the columns of the model and the one that it predicts.

    Example: flask ml evaluate may.csv --version 3
    """
    if number is None:
        active = inference.find_version(db.session(), name, None)
        if callable(active):  # there is none
            raise active()
        number = active.number
    loaded = _load(EvaluationTableOptions, options)
    with _open_source(file, loaded.pop("dialect")) as source:
        request = EvaluationRequest().load(Table(source, loaded))
        order = evaluation.order_evaluation(db.session(), name=name, number=number, **request)
    made = EvaluationSchema().dump(run_job(order))
    _echo_fields({"version": number, **made}, as_json=as_json)


@commands.command()
@click.option("--q", metavar="TEXT", help="Only those with TEXT in name or description.")
@tag_option
@json_option
@clear_errors
def models(q: str | None, tag: str | None, as_json: bool) -> None:
    """List the models and their active versions."""
    query = _load_query(ModelQuery, q=q, tag=tag)
    found = ModelSchema(many=True).dump(registry.list_models(db.session(), **query).objects)
    columns = ["name", "active_version", "last_version", "created_at"]
    echo_table(found, [*columns, "aliases", "tags", "description"], as_json=as_json)


@commands.command()
@model_option
@tag_option
@click.option("--estimator", metavar="NAME", help="Only those of this estimator.")
@click.option("--sort", metavar="KEY", help="version, created_at or metrics.NAME; - reverses it.")
@json_option
@clear_errors
def versions(name: str, as_json: bool, **filters: str | None) -> None:
    """List the versions of a model, the newest first.

    Example: flask ml versions --tag stage:candidate --sort=-metrics.r2_score
    """
    active = registry.get_active_version(db.session(), name)
    page = registry.list_versions(db.session(), name=name, **_load_query(VersionQuery, **filters))
    rows = VersionSummarySchema(many=True).dump(page.objects)
    for row in rows:
        row["active"] = active is not None and row["version"] == active.number
    columns = ["version", "active", "origin", "estimator", "n_train", "created_at"]
    echo_table(rows, [*columns, "aliases", "tags", "notes"], as_json=as_json)


@commands.command()
@number_argument
@model_option
@json_option
@clear_errors
def show(number: int, name: str, as_json: bool) -> None:
    """Show a version: how it was made, and how good it is."""
    _echo_version(registry.get_version(db.session(), name, number), as_json=as_json)


@commands.command()
@click.argument("numbers", nargs=-1, required=True, metavar="VERSION VERSION…")
@model_option
@json_option
@clear_errors
def compare(numbers: Sequence[str], name: str, as_json: bool) -> None:
    """Show what versions differ in, a column for each.

    Example: flask ml compare 1 2 --model houses
    """
    query = load(ComparisonQuery(), {"versions": ",".join(numbers)}, source="options")
    found = compare_versions(registry.get_versions(db.session(), name=name, **query))
    if as_json:
        click.echo(json.dumps(found))
        return
    columns = ["", *numbers]
    rows = [dict(zip(columns, [key, *row], strict=True)) for key, row in found["differs"].items()]
    echo_table(rows, columns, as_json=False)
    click.echo(f"{len(found['same'])} others are the same")


@commands.command()
@model_option
@json_option
@clear_errors
def info(name: str, as_json: bool) -> None:
    """Show the active version, and how good it is."""
    version = registry.get_active_version(db.session(), name)
    if version is not None:
        _echo_version(version, as_json=as_json)
    else:
        click.echo("null" if as_json else f"Model {name!r} is not trained.")


@commands.command()
@number_argument
@model_option
@clear_errors
def activate(number: int, name: str) -> None:
    """Activate a version; when the command returns, every worker serves it."""
    registry.activate_version(db.session(), model_leases(), name=name, number=number)
    click.echo(f"Model {name!r}: version {number} is active.")


@commands.command()
@model_option
@clear_errors
def rollback(name: str) -> None:
    """Activate the version that was active before."""
    version = registry.roll_back(db.session(), model_leases(), name=name)
    click.echo(f"Model {name!r}: version {version.number} is active.")


@commands.command()
@click.argument("alias", metavar="NAME")
@click.argument("number", type=click.IntRange(min=1), metavar="[VERSION]", required=False)
@click.option("--delete", is_flag=True, help="Delete the alias; its version stays.")
@model_option
@clear_errors
def alias(alias: str, number: int | None, delete: bool, name: str) -> None:
    """Let the alias NAME stand for a VERSION; when the command returns, every worker serves it.

    Examples: flask ml alias champion 3 --model houses, flask ml alias --delete champion
    """
    if delete == (number is not None):
        raise click.UsageError("Give either VERSION or --delete.")
    if number is None:
        registry.delete_alias(db.session(), model_leases(), name=name, alias=alias)
        click.echo(f"Model {name!r}: the alias {alias!r} is deleted.")
        return
    _check_name(alias, "NAME")
    registry.set_alias(db.session(), model_leases(), name=name, alias=alias, number=number)
    click.echo(f"Model {name!r}: the alias {alias!r} names version {number}.")


@commands.command()
@click.argument("name")
@click.argument("shares", nargs=-1, metavar="[VERSION=PERCENT]…")
@click.option("--shadow", type=int, metavar="VERSION", help="Predicts too, and answers nothing.")
@click.option("--clear", is_flag=True, help="Let the active version answer everything again.")
@json_option
@clear_errors
def traffic(
    name: str, shares: Sequence[str], shadow: int | None, clear: bool, as_json: bool
) -> None:
    """Share the traffic of the model NAME among versions, or show how it is shared.

    When the command returns, every worker does so.

    Examples: flask ml traffic houses 3=90 4=10 --shadow 5, flask ml traffic houses --clear
    """
    changes = bool(shares) or shadow is not None
    if changes and clear:
        raise click.UsageError("Give either shares or --clear.")
    if changes:
        values = {"shares": _parse_pairs("VERSION=PERCENT", shares), "shadow": shadow}
        request = load(TrafficRequest(), values, source="options")
        registry.set_traffic(db.session(), model_leases(), name=name, **request)
    elif clear:
        registry.end_traffic(db.session(), model_leases(), name=name)
    _echo_fields(registry.get_model(db.session(), name).traffic, as_json=as_json)


@commands.command()
@click.argument("name")
@click.option("--version", "number", type=click.IntRange(min=1), help="Of this version instead.")
@click.option("--text", help="The description of the model, or the notes on the version.")
@click.option("--tag", "tags", multiple=True, metavar="KEY:VALUE", help="A tag to set.")
@click.option("--remove-tag", "removed", multiple=True, metavar="KEY", help="A tag to remove.")
@clear_errors
def describe(
    name: str,
    number: int | None,
    text: str | None,
    tags: Sequence[str],
    removed: Sequence[str],
) -> None:
    """Change the description and the tags of the model NAME, or of one of its versions.

    What is not given stays.

    Example: flask ml describe houses --version 3 --text "no outliers" --tag stage:candidate
    """
    changes: dict[str, Any] = {}
    if text is not None:
        changes["description" if number is None else "notes"] = text
    if tags or removed:
        pairs = (tag.partition(":") for tag in tags)
        changes["tags"] = {key: value for key, _, value in pairs} | dict.fromkeys(removed)
    if number is None:
        loaded = load(ModelChanges(), changes, source="options")
        registry.change_model(db.session(), name=name, **loaded)
        click.echo(f"Model {name!r} is changed.")
    else:
        loaded = load(VersionChanges(), changes, source="options")
        registry.change_version(db.session(), name=name, number=number, **loaded)
        click.echo(f"Model {name!r}: version {number} is changed.")


@commands.command()
@click.argument("name")
@click.option("--versions", type=click.Choice(["all"]), help="Delete its versions too.")
@clear_errors
def delete_model(name: str, versions: str | None) -> None:
    """Delete the model NAME; when the command returns, no worker serves it."""
    registry.delete_model(db.session(), model_leases(), name=name, versions=versions)
    click.echo(f"Model {name!r} is deleted.")


@commands.command()
@number_argument
@click.argument("plot")
@click.argument("out", type=click.File("wb", atomic=True))
@model_option
@clear_errors
def plot(number: int, plot: str, out: IO[bytes], name: str) -> None:
    """Draw a PLOT of a version into OUT, as SVG.

    Example: flask ml plot 3 residuals residuals.svg
    """
    drawn = registry.get_plot(db.session(), name, number, plot)
    out.write(drawn)  # which opens OUT: where nothing is drawn, it stays as it is


@commands.command("export")
@number_argument
@click.argument("out", type=click.File("wb", atomic=True))
@model_option
@clear_errors
def export_artifact(number: int, out: IO[bytes], name: str) -> None:
    """Write a version to OUT as a skops file."""
    artifact = registry.get_artifact(db.session(), name, number)
    out.write(artifact.data)  # which opens OUT


@commands.command("import")
@click.argument("file", type=click.File("rb"))
@model_option
@click.option("--activate", is_flag=True, help="Make it the active version.")
@click.option("--metric", help="Make it active only if it is better by this, on --table.")
@click.option(
    "--table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rows to judge it and the active version on: CSV, Parquet or Arrow.",
)
@click.option("--target", help="The column of --table that is to be predicted.")
@json_option
@clear_errors
def import_artifact(
    file: IO[bytes],
    name: str,
    activate: bool,
    metric: str | None,
    table: Path | None,
    target: str | None,
    as_json: bool,
) -> None:
    """Register a model that was fitted elsewhere: FILE is what skops.io.dump wrote.

    Example: flask ml import model.skops --metric rmse --table june.csv --target price
    """
    _check_name(name)
    if not (metric is None) == (table is None) == (target is None):
        raise click.UsageError("--metric, --table and --target go together.")
    rows = None
    if table is not None:
        stream, limits = io.BytesIO(table.read_bytes()), Limits.from_settings(current_app.config)
        rows = Source(stream, _find_format(table), CsvDialect(), limits)
    order = uploads.order_upload(
        name=name,
        data=file.read(),
        source=name_of(file.name),
        activate=activate,
        metric=metric,
        table=rows,
        target=target,
    )
    _echo_version(run_job(order), as_json=as_json)


def _check_name(name: str, option: str = "--model") -> None:
    """Raise InvalidInput for a name that no URL can carry."""
    if not re.fullmatch(NameConverter.pattern, name):
        raise InvalidInput({option: [f"must match {NameConverter.pattern}"]})


def _write_row(names: Sequence[str], row: str) -> bytes:
    """Return a line of CSV with its header."""
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(names)
    return f"{header.getvalue()}{row}\n".encode()


@contextmanager
def _open_source(file: Path, dialect: CsvDialect) -> Iterator[Source]:
    """Open a table for a block, whose faults then name the file."""
    limits = Limits.from_settings(current_app.config)
    with file.open("rb") as stream, faults_in(file.name):
        yield Source(stream, _find_format(file), dialect, limits, name_of(file.name))


def _find_format(path: Path) -> Format:
    """Return the format that a file's suffix stands for; raises InvalidInput."""
    found = tables.format_of_suffix(path.name)
    if found is None:
        known = ", ".join(s for row in tables.FORMATS.values() for s in row.suffixes)
        raise InvalidInput({path.name: [f"has none of the suffixes {known}"]})
    return found


def _load(schema: type[StrictSchema], options: Mapping[str, Any]) -> Any:
    """Return the options of a command as their schema checks them; raises InvalidInput."""
    values = {k: read_option(k, v) if isinstance(v, str) else v for k, v in options.items()}
    for name, field in schema().fields.items():
        if isinstance(field, fields.Dict):
            values[name] = _parse_pairs(f"--{name.removesuffix('s')}", values[name])
        elif isinstance(field, fields.List):
            values[name] = options[name].split(",") if options[name] else []
    return load(schema(), values, source="options")


def _load_query(schema: type[StrictSchema], **filters: str | None) -> Any:
    """Return the checked filters of a list, and its first page; raises InvalidInput."""
    given = {name: text for name, text in filters.items() if text is not None}
    return {**load(schema(), given, source="options"), **PAGE}


def _parse_pairs(flag: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE pairs as a mapping; a value is JSON, or plain text."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise InvalidInput({flag: [f"{pair!r} is not of the form NAME=VALUE"]})
        values[name] = read_option("", text)
    return values


def _echo_warnings(warnings: Iterable[DataWarning]) -> None:
    """Print warnings on standard error, a line each."""
    for warning in warnings:
        click.echo(f"{warning.column}: {warning.message}", err=True)


def _echo_version(version: ModelVersion, *, as_json: bool) -> None:
    """Print a version: as JSON, or a field per line without those of each column."""
    shown = VersionSchema().dump(version)
    candidates = shown["metrics"].get("candidates", [])
    if not as_json:
        for grows in ("coefficients", "importances", "profile"):
            del shown[grows]
        shown["metrics"] = {k: v for k, v in shown["metrics"].items() if k != "candidates"}
    _echo_fields(shown, as_json=as_json)
    if candidates and not as_json:
        columns = [name for name in candidates[0] if name not in ("metric", "scores")]
        echo_table(candidates, columns, as_json=False)


def _echo_fields(shown: dict[str, Any], *, as_json: bool) -> None:
    """Print fields and their metrics: as JSON, or one per line."""
    if as_json:
        click.echo(json.dumps(shown))
        return
    shown |= shown.pop("metrics", {})
    width = max(map(len, shown))
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {format_value(value)}")
