"""`flask audit`: who did what."""

from __future__ import annotations

import json

import click
from flask.cli import with_appcontext

from webapp.audit import service
from webapp.audit.routes import AuditEntrySchema
from webapp.commands import clear_errors
from webapp.extensions import db


@click.command()
@click.option("--last", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@click.option("--subject", help="Only entries about this: `item 7`, `model default`.")
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
@with_appcontext
@clear_errors
def audit(last: int, subject: str | None, as_json: bool) -> None:
    """List who did what, when and from where, the latest last."""
    page = service.list_entries(db.session(), page=1, page_size=last, subject=subject)
    entries = AuditEntrySchema(many=True).dump(page.objects[::-1])
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        details = json.dumps(entry["details"]) if entry["details"] else ""
        columns = [entry[name] or "-" for name in ("at", "actor", "address", "action", "subject")]
        click.echo("  ".join([*columns, details]).rstrip())
