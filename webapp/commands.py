"""How every `flask` command of ours fails: one clear line and exit code 1, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click
from sqlalchemy.exc import DBAPIError

from webapp.database import OUTAGES, is_missing_table
from webapp.errors import DatabaseUnavailable, ServiceError

P = ParamSpec("P")
R = TypeVar("R")


def clear_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a command's expected errors into click's one line on standard error."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ServiceError as error:
            raise click.ClickException(str(error)) from None
        except DBAPIError as error:
            if is_missing_table(error):
                raise click.ClickException(
                    "The database has no tables yet: run `flask db upgrade` first."
                ) from None
            if isinstance(error, OUTAGES):
                raise click.ClickException(f"{DatabaseUnavailable()} ({error.orig})") from None
            raise

    return run
