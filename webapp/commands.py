"""How every `flask` command of ours runs: as its user, and failing with one clear line."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from webapp.actor import NAME_LENGTH, Actor, set_actor
from webapp.db.outages import driver_message, outages_translated
from webapp.errors import ServiceError

R = TypeVar("R")

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@-]{{0,{NAME_LENGTH - 1}}}")


class PersonName(click.ParamType[str]):
    """The name of a key's holder, or of whoever runs a command."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        if not _NAME.fullmatch(value):
            self.fail(f"{value!r} is not 1 to {NAME_LENGTH} letters, digits and . _ @ -")
        return str(value)


def clear_errors(command: Callable[..., R]) -> Callable[..., R]:
    """Turn a command's expected errors into click's one line on standard error.

    The audit has what it does as done by the account that runs it, or by whom ``--as`` names.
    """

    @click.option(
        "--as",
        "person",
        type=PersonName(),
        metavar="NAME",
        help="Who runs this, for the audit; the account's name, unless given.",
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
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())
