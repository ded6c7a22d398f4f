"""Logging, configured once: one line per event on standard error, JSON or for the eye."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Final, Literal

import orjson
import structlog

from app.log_stream import LogStream

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from structlog.typing import EventDict, WrappedLogger

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# Libraries that log requests with their addresses, in which Kite wants the access token.
SILENCED: Final = ("httpx", "httpcore", "websockets", "uvicorn", "redis", "asyncio")
SECRET_WORDS: Final = ("token", "secret", "password", "passphrase", "authorization", "api_key")
SECRET_KEYS: Final = frozenset({"redis_url", "database_url"})
HARMLESS_KEYS: Final = frozenset({"instrument_token", "tokens"})
_IN_AN_ADDRESS: Final = re.compile(
    r"(access_token=|api_key=)[^\s&@\"']+|(://[^\s/:@\"']*:)(?:(?!://)[^\s\"'])+(?=@)"
)
"""A credential in the query of Kite's WebSocket, or a password: what stands before the last ``@``.

Without an ``@`` it is a port. A password may hold what should have been encoded, even ``/``.
"""


def configure(level: str, style: Literal["json", "console"]) -> Callable[[], int]:
    """Send structlog's events to standard error, and only warnings of the libraries.

    Returns:
        How many lines nobody took so far, to be asked at any time.
    """
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_to_json)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    stream = _standard_error(renderer)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hide_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),  # type: ignore[arg-type]  # it writes
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=stream, level=logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Foreign(renderer))
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.ERROR)
    return lambda: stream.dropped if isinstance(stream, LogStream) else 0


def _standard_error(renderer: structlog.typing.Processor) -> LogStream | TextIO:
    """Return the stream that never keeps us; what is no file, as in a test, is written to as is."""
    try:
        descriptor = sys.stderr.fileno()
    except OSError:
        return sys.stderr

    def dropped_line(lines: int) -> str:
        event: EventDict = {"event": "log_lines_dropped", "level": "warning", "lines": lines}
        return f"{renderer(None, '', _stamped(event))!s}\n"

    return LogStream(descriptor, dropped_line)


def _stamped(event: EventDict) -> EventDict:
    """Return an event of ours that did not come through structlog, with its time."""
    stamped: EventDict = structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "", event)
    return stamped


class _Foreign(logging.Formatter):
    """Makes what a library logs one event of ours, its secrets hidden like any other's."""

    def __init__(self, renderer: structlog.typing.Processor) -> None:
        super().__init__()
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        event: EventDict = {
            "event": "library_says",
            "level": record.levelname.lower(),
            "library": record.name,
            "words": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return str(self._renderer(None, "", _hide_secrets(None, "", _stamped(event))))


def _hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Hide what speaks of a secret, however deep: the last wall, not the first."""
    return {key: _hidden(key, value) for key, value in event.items()}


def _hidden(key: str, value: object) -> object:
    name = key.lower()
    is_secret = name in SECRET_KEYS or any(word in name for word in SECRET_WORDS)
    if is_secret and name not in HARMLESS_KEYS:
        return "(hidden)"
    if isinstance(value, dict):
        return {inner: _hidden(str(inner), each) for inner, each in value.items()}
    if isinstance(value, str):
        return _IN_AN_ADDRESS.sub(r"\1\2(hidden)", value)
    return value


def _to_json(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode()
