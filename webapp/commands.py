"""How every `flask` command of ours fails: one clear line and exit code 1, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click

from webapp.errors import ServiceError
from webapp.outages import driver_message, outages_translated

P = ParamSpec("P")
R = TypeVar("R")


def clear_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a command's expected errors into click's one line on standard error."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with outages_translated():
                return command(*args, **kwargs)
        except ServiceError as error:
            raise click.ClickException(f"{error} {driver_message(error)}".strip()) from None

    return run
