"""`flask jobs`: look at the queue, cancel jobs, do them again."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click
from flask.cli import AppGroup

from webapp.commands import clear_errors, echo_table
from webapp.extensions import db
from webapp.jobs import service
from webapp.jobs.models import STATUSES, Job

commands = AppGroup("jobs", help="Look at the queue of jobs, cancel jobs, do them again.")
number_argument = click.argument("number", type=click.IntRange(min=1), metavar="JOB")
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
SHOWN = ("id", "kind", "model", "status", "progress", "created_at", "created_by")


def describe(job: Job) -> dict[str, Any]:
    """Return all of a job but its rows and its claim, as JSON values."""
    names = [column.key for column in Job.__table__.columns]
    hidden = ("payload", "token", "holder")
    values = {name: getattr(job, name) for name in names if name not in hidden}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }


@commands.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only jobs with this status.")
@click.option("--most", type=click.IntRange(1, 1000), default=20, show_default=True)
@json_option
@clear_errors
def list_jobs(status: str | None, most: int, as_json: bool) -> None:
    """List jobs, the latest first."""
    page = service.list_jobs(db.session(), page=1, page_size=most, status=status)
    found = [describe(job) for job in page.objects]
    if as_json:
        click.echo(json.dumps(found))
        return
    for job in found:
        progress = job["progress"]
        if progress is not None:
            of_all = "" if progress["total"] is None else f"/{progress['total']}"
            job["progress"] = f"{progress['done']}{of_all} {progress['unit']}"
    echo_table(found, SHOWN, as_json=False)
    click.echo(f"{len(found)} of {page.total} jobs")


@commands.command()
@number_argument
@clear_errors
def show(number: int) -> None:
    """Show a job, as JSON."""
    click.echo(json.dumps(describe(service.get_job(db.session(), number)), indent=2))


@commands.command()
@number_argument
@clear_errors
def cancel(number: int) -> None:
    """Cancel a job: its process ends within two seconds, and nothing of it is stored."""
    service.cancel(db.session(), number)
    click.echo(f"Job {number} is cancelled.")


@commands.command()
@number_argument
@clear_errors
def retry(number: int) -> None:
    """Put a job whose process died back into the queue."""
    service.retry(db.session(), number)
    click.echo(f"Job {number} is queued again.")
