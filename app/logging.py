"""Logging, configured once: one line per event on standard error, JSON or for the eye."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Final, Literal

import orjson
import structlog

if TYPE_CHECKING:
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


def configure(level: str, style: Literal["json", "console"]) -> None:
    """Send structlog's events to standard error, and only warnings of the libraries."""
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_to_json)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Foreign(renderer))
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.ERROR)


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
            "timestamp": structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "", {})[
                "timestamp"
            ],
            "library": record.name,
            "words": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return str(self._renderer(None, "", _hide_secrets(None, "", event)))


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
