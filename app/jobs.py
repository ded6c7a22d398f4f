"""Run one job of the command line; what it could not do becomes one clear line and a status."""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import uvloop

from ticker_service.errors import ConfigurationError, TickerServiceError

if TYPE_CHECKING:
    from collections.abc import Coroutine

EXIT_FAULT: Final = 1
EXIT_CONFIGURATION: Final = 2
EXIT_INTERRUPTED: Final = 130


def run_job(job: Coroutine[Any, Any, int]) -> int:
    """Run a job to its end; what it could not do becomes one clear line."""
    try:
        return uvloop.run(job)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except TickerServiceError as error:
        return _complain(error)
    except BaseExceptionGroup as group:
        faults = group.subgroup(TickerServiceError)
        if faults is None:
            raise
        return _complain(_first(faults))


def whoever() -> str:
    """Return who types; a container's user need not have a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter since Python 3.13
        return f"uid-{os.getuid()}"


def _complain(error: BaseException) -> int:
    for line in str(error).splitlines():
        print(f"ticker-service: {line}", file=sys.stderr)  # noqa: T201 - the user's terminal
    return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_FAULT


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
