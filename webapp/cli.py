"""`flask seed`, `flask backup` and `flask audit`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from flask.cli import with_appcontext

from webapp.audit.routes import AuditEntrySchema
from webapp.audit.service import list_entries
from webapp.commands import clear_errors
from webapp.db.backup import back_up
from webapp.extensions import db
from webapp.items.service import seed_items
from webapp.ml.cli import run_job
from webapp.ml.core.sample_data import make_sample_data
from webapp.ml.core.training import TrainingSpec
from webapp.ml.registry.service import DEFAULT_MODEL, has_versions
from webapp.ml.training.service import order_training


@click.command()
@click.option(
    "--items",
    "total",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="How many items there should be; existing ones count.",
)
@with_appcontext
@clear_errors
def seed(total: int) -> None:
    """Add sample items, and train the default model on sample data.

    Nothing is removed, and what exists already is not added again.
    """
    added = seed_items(db.session(), total)
    click.echo(f"Items: {added} added." if added else "Items: enough already.")
    if has_versions(db.session(), DEFAULT_MODEL):
        done = "trained already"
    else:
        order = order_training(name=DEFAULT_MODEL, dataset=make_sample_data(), spec=TrainingSpec())
        done = f"version {run_job(order).number} trained"
    click.echo(f"Model {DEFAULT_MODEL!r}: {done}.")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@with_appcontext
@clear_errors
def backup(file: Path, force: bool) -> None:
    """Copy the SQLite database to FILE while the service runs.

    The copy is complete and checked: it has everything acknowledged before the command began.
    For PostgreSQL, the command shows the one to use instead.
    """
    back_up(db.engine, file.absolute(), overwrite=force)
    click.echo(f"Backup: {file}, {file.stat().st_size:,} bytes.")


@click.command()
@click.option("--last", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@click.option("--subject", help="Only entries about this: `item 7`, `model default`.")
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
@with_appcontext
@clear_errors
def audit(last: int, subject: str | None, as_json: bool) -> None:
    """List who did what, when and from where, the latest last."""
    page = list_entries(db.session(), page=1, page_size=last, subject=subject)
    entries = AuditEntrySchema(many=True).dump(page.objects[::-1])
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        details = json.dumps(entry["details"]) if entry["details"] else ""
        columns = [entry[name] or "-" for name in ("at", "actor", "address", "action", "subject")]
        click.echo("  ".join([*columns, details]).rstrip())
