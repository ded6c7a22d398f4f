"""What was typed wrong at the command line, as the one line that every other fault is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from pydantic import ValidationError

if TYPE_CHECKING:
    from typer import TyperException


def line(error: TyperException) -> str:
    """Return what is wrong: the option, what it was given, and the rule.

    Empty if nothing is, as when a command without arguments has shown its help.
    """
    if not isinstance(error, typer.BadParameter) or error.param is None:
        return error.format_message()
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return error.format_message()
    fault = cause.errors()[0]
    option = error.param.get_error_hint().replace("'", "")
    value = repr(fault["input"])
    rule = fault["msg"].removeprefix("Value error, ")
    # Some rules begin with the value themselves.
    return f"{option}: {rule}" if rule.startswith(value) else f"{option}: {value}: {rule}"
