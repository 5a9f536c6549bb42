"""`flask keys`: create, list, rotate and revoke API keys."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup

from webapp.access import service
from webapp.access.service import ApiKey
from webapp.commands import check_name, clear_errors
from webapp.db.base import utc_now
from webapp.extensions import db
from webapp.scopes import Scope

commands = AppGroup("keys", help="Create, list, rotate and revoke API keys.")

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str) -> timedelta:
    """Return the time that 90d, 12h or 30m stands for."""
    found = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    if found is None:
        message = f"{text!r} is not a number of days, hours or minutes: 90d, 12h, 30m"
        raise click.BadParameter(message)
    return timedelta(**{UNITS[found[2]]: int(found[1])})


expires_option = click.option(
    "--expires",
    "expires_in",
    type=parse_duration,
    metavar="90d",
    help="When it expires. Default: never; for a rotated key, after as long as the old one.",
)


@commands.command()
@click.option("--name", type=check_name, required=True, help="Who will hold it.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    required=True,
    help="What it allows, as docs/operations.md explains; may be given again.",
)
@expires_option
@clear_errors
def create(name: str, scopes: Sequence[str], expires_in: timedelta | None) -> None:
    """Create a key and show it, this once."""
    allowed = {Scope(scope) for scope in scopes}
    show(*service.create_key(db.session(), name=name, scopes=allowed, expires_in=expires_in))


@commands.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
@clear_errors
def list_keys(as_json: bool) -> None:
    """List all keys: who holds them, what they allow, when they were last used."""
    keys = [describe(key) for key in service.list_keys(db.session())]
    if as_json:
        click.echo(json.dumps(keys, indent=2))
        return
    for key in keys:
        scopes, used = ",".join(key["scopes"]), key["last_used_at"] or "never"
        click.echo(f"{key['id']}  {key['name']}  {key['state']}  {scopes}  used: {used}")
    if not keys:
        click.echo("There are no keys: `flask keys create` creates one.", err=True)


@commands.command()
@click.argument("name_or_id")
@clear_errors
def revoke(name_or_id: str) -> None:
    """Revoke a key by its id, or all keys of a holder; no worker accepts them afterwards."""
    keys = service.revoke_keys(db.session(), name_or_id)
    wait_for_workers()
    for key in keys:
        click.echo(f"Key {key.key_id} of {key.name} is revoked.")


@commands.command()
@click.argument("name_or_id")
@click.option(
    "--overlap",
    type=parse_duration,
    default="0m",
    metavar="1h",
    help="How long the old key still works. Default: not at all.",
)
@expires_option
@clear_errors
def rotate(name_or_id: str, overlap: timedelta, expires_in: timedelta | None) -> None:
    """Replace the key of a holder by a new one with the same scopes."""
    session = db.session()
    new = service.rotate_key(session, name_or_id, overlap=overlap, expires_in=expires_in)
    wait_for_workers()
    show(*new)


def wait_for_workers() -> None:
    """Wait until every worker knows which keys are valid."""
    current_app.extensions["keyring"].wait_out_leases()


def show(key: ApiKey, text: str) -> None:
    """Write a key alone to standard output, for scripts, and about it to standard error."""
    until = "" if key.expires_at is None else f", until {key.expires_at:%Y-%m-%d %H:%M} UTC"
    about = f"Key {key.key_id} of {key.name}: {', '.join(key.scopes)}{until}."
    click.echo(f"{about} Keep it: it is not shown again.", err=True)
    click.echo(text)


def describe(key: ApiKey) -> dict[str, Any]:
    """Return what `flask keys list` tells of a key."""
    expired = key.expires_at is not None and key.expires_at <= utc_now()
    state = "revoked" if key.revoked_at else "expired" if expired else "good"
    about: dict[str, Any] = {
        "id": key.key_id,
        "name": key.name,
        "state": state,
        "scopes": key.scopes,
    }
    for name in ("created_at", "expires_at", "revoked_at", "last_used_at"):
        time = getattr(key, name)
        about[name] = None if time is None else time.isoformat(timespec="seconds")
    return about
