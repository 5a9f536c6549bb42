"""How every `flask` command of ours runs: as its user, and failing with one clear line."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click

from webapp.access.actor import Actor, set_actor
from webapp.errors import ServiceError
from webapp.outages import driver_message, outages_translated

P = ParamSpec("P")
R = TypeVar("R")


def clear_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a command's expected errors into click's one line on standard error.

    What it does is written down as done by the user who runs it.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        set_actor(Actor(name=_describe_user()))
        try:
            with outages_translated():
                return command(*args, **kwargs)
        except ServiceError as error:
            raise click.ClickException(f"{error} {driver_message(error)}".strip()) from None

    return run


def _describe_user() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user need not have a name
        return f"cli:{os.getuid()}"
