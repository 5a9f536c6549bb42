"""`flask keys`: make, list, revoke and rotate API keys."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import click
from flask.cli import AppGroup

from webapp.access import guard, service
from webapp.access.models import ApiKey
from webapp.commands import PersonName, clear_errors
from webapp.db.base import utc_now
from webapp.extensions import db
from webapp.scopes import ABOUT, Scope

commands = AppGroup("keys", help="Make, list, revoke and rotate API keys.")

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType[timedelta]):
    """A time such as 90d, 12h or 30m."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Return the time."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([0-9]{1,5})([mhd])", value)
        if found is None:
            self.fail(f"{value!r} is not a number of days, hours or minutes: 90d, 12h, 30m")
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


expires_option = click.option(
    "--expires",
    "expires_in",
    type=Duration(),
    metavar="90d",
    help="How long it works; for ever, unless given, and as long as the one before when rotated.",
)


@commands.command()
@click.option("--name", type=PersonName(), required=True, help="Who will have it.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    required=True,
    help="What it allows; may be given again. "
    + "; ".join(f"{scope}: {about}" for scope, about in ABOUT.items())
    + ".",
)
@expires_option
@clear_errors
def create(name: str, scopes: Sequence[str], expires_in: timedelta | None) -> None:
    """Make a key and show it: now, and never again."""
    asked = {Scope(scope) for scope in scopes}
    key, text = service.create_key(db.session(), name=name, scopes=asked, expires_in=expires_in)
    show_once(key, text)


@commands.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
@clear_errors
def list_keys(as_json: bool) -> None:
    """List all keys: who has them, what they allow, when they were used last."""
    rows = [describe(key) for key in service.list_keys(db.session())]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        used = row["last_used_at"] or "never"
        click.echo(
            f"{row['id']}  {row['name']}  {row['state']}  {','.join(row['scopes'])}  used: {used}"
        )
    if not rows:
        click.echo("There are no keys: `flask keys create` makes one.", err=True)


@commands.command()
@click.argument("name_or_id")
@clear_errors
def revoke(name_or_id: str) -> None:
    """End the keys of a holder, or one by its id; then no worker accepts them any more."""
    keys = service.revoke_keys(db.session(), name_or_id)
    guard.wait_until_heeded()
    for key in keys:
        click.echo(f"Key {key.key_id} of {key.name} is revoked.")


@commands.command()
@click.argument("name_or_id")
@click.option(
    "--overlap",
    type=Duration(),
    default="0m",
    metavar="1h",
    help="How long the key before still works; not at all, unless given.",
)
@expires_option
@clear_errors
def rotate(name_or_id: str, overlap: timedelta, expires_in: timedelta | None) -> None:
    """Make a new key for a holder, with the same scopes, in place of the one before."""
    key, text = service.rotate_key(
        db.session(), name_or_id, overlap=overlap, expires_in=expires_in
    )
    guard.wait_until_heeded()
    show_once(key, text)


def show_once(key: ApiKey, text: str) -> None:
    """Write a key alone to standard output, for scripts, and what it is to standard error."""
    until = "" if key.expires_at is None else f", until {key.expires_at:%Y-%m-%d %H:%M} UTC"
    about = f"Key {key.key_id} of {key.name}: {', '.join(key.scopes)}{until}. Keep it:"
    click.echo(f"{about} it is not shown again.", err=True)
    click.echo(text)


def describe(key: ApiKey) -> dict[str, Any]:
    """Return what there is to say of a key."""
    expired = key.expires_at is not None and key.expires_at <= utc_now()
    state = "revoked" if key.revoked_at else "expired" if expired else "good"
    times = ("created_at", "expires_at", "revoked_at", "last_used_at")
    return {
        "id": key.key_id,
        "name": key.name,
        "state": state,
        "scopes": key.scopes,
        **{name: _tell(getattr(key, name)) for name in times},
    }


def _tell(time: Any) -> str | None:
    return None if time is None else time.isoformat(timespec="seconds")
