"""`flask seed` and `flask backup`: data to start with, and a copy of all there is."""

from __future__ import annotations

from pathlib import Path

import click
from flask.cli import with_appcontext

from webapp.commands import clear_errors
from webapp.db.backup import back_up
from webapp.extensions import db
from webapp.items.service import count_missing_items, seed_items
from webapp.ml.blueprint import model_leases
from webapp.ml.registry.service import DEFAULT_MODEL
from webapp.ml.training.service import seed_default_model

FEWEST_ITEMS_FOR_A_BAR = 10_000


@click.command()
@click.option(
    "--items",
    "total",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="How many items there should be; nothing is added where there are as many already.",
)
@with_appcontext
@clear_errors
def seed(total: int) -> None:
    """Fill an empty service: sample items and a trained default model.

    Running it again adds nothing that is there already, and removes nothing.
    """
    missing = count_missing_items(db.session(), total)
    with click.progressbar(
        length=missing, label="Items", hidden=missing < FEWEST_ITEMS_FOR_A_BAR
    ) as bar:
        seed_items(db.session(), missing, on_progress=bar.update)
    click.echo(f"Items: {missing} added." if missing else "Items: enough already.")
    version = seed_default_model(db.session(), model_leases())
    if version is None:
        click.echo(f"Model {DEFAULT_MODEL!r}: trained already.")
    else:
        click.echo(f"Model {DEFAULT_MODEL!r}: version {version.number} trained on sample data.")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@with_appcontext
@clear_errors
def backup(file: Path, force: bool) -> None:
    """Copy the SQLite database to FILE while the service goes on.

    FILE is a database by itself, checked and complete: all that the service had acknowledged
    before the command began is in it. For PostgreSQL, the command to use is shown.
    """
    back_up(db.engine, file.absolute(), overwrite=force)
    click.echo(f"Backup: {file}, {file.stat().st_size:,} bytes.")
