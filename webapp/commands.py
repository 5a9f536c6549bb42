"""What all `flask` commands share: who runs them, errors as one clear line, tables."""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import click

from webapp.audit.service import NAME_LENGTH, Actor, set_actor
from webapp.db.outages import driver_message, outages_translated
from webapp.errors import ServiceError

R = TypeVar("R")
LONGEST_CELL = 80


def check_name(text: str) -> str:
    """Return the name of a person or program; raises BadParameter."""
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._@-]{{0,{NAME_LENGTH - 1}}}", text):
        message = f"{text!r} is not 1 to {NAME_LENGTH} letters, digits and . _ @ -"
        raise click.BadParameter(message)
    return text


def clear_errors(command: Callable[..., R]) -> Callable[..., R]:
    """Let a command take ``--as NAME`` for the audit, and show expected errors as one line."""

    @click.option(
        "--as",
        "person",
        type=check_name,
        metavar="NAME",
        help="Who runs this, for the audit. Default: the name of the account.",
    )
    @wraps(command)
    def run(*args: Any, person: str | None, **kwargs: Any) -> R:
        set_actor(Actor(name=f"cli:{person or _account()}"))
        try:
            with outages_translated():
                return command(*args, **kwargs)
        except ServiceError as error:
            raise click.ClickException(f"{error} {driver_message(error)}".strip()) from None

    return run


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def echo_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool
) -> None:
    """Print rows: as JSON, or some columns as a table."""
    if as_json:
        click.echo(json.dumps(rows))
        return
    cells = [columns, *([_cut(format_value(row[column])) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _cut(text: str) -> str:
    """Return a text as a table shows it, at most ``LONGEST_CELL`` characters."""
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…"


def format_value(value: Any) -> str:
    """Return a JSON value as people read it, in one line."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    words = {True: "yes", False: "no", None: "-"}
    if value is None or isinstance(value, bool):
        return words[value]
    return " ".join(str(value).splitlines())  # of notes
