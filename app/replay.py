"""``ticker-service replay``: recordings in, the same bytes out."""

from __future__ import annotations

import datetime as dt
import math
import random
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import orjson

from app import logging
from ticker_service.assembly import column_parts, open_recordings, replay_publisher
from ticker_service.constants import NS_PER_S, NS_PER_US
from ticker_service.domain.session import IST, from_instant_ns, instant_ns
from ticker_service.errors import ConfigurationError, RecordingError
from ticker_service.market.replay import Replay, ReplayOptions
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ticker_service.market.replay import Recording, ReplaySummary

PREFIX: Final = "replay:"
SUFFIX: Final = ".tape"
AS_FAST_AS_IT_GOES: Final = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for on the command line, not yet checked."""

    files: Sequence[Path]
    speed: str
    from_time: str
    to_time: str
    warm_up_s: float | None
    redis_url: str
    channel_prefix: str
    is_new_epoch: bool
    columns: Path | None
    as_json: bool


async def replay(request: Request) -> int:
    """Replay, say what was sent, and return the exit status.

    Raises:
        RecordingError: A file cannot be read, or holds nothing of the time that was asked for.
        ConfigurationError: An option cannot be right.
        PublishError: Redis does not answer.
    """
    logging.configure("warning", "console")
    speed = _speed(request.speed)
    clock = SystemClock()
    surroundings = Surroundings(
        clock=clock,
        chance=random.Random(),  # noqa: S311 - jitter of retries, not a secret
        telemetry=Telemetry(),
    )
    async with open_recordings(_files(request.files)) as recordings:
        first, last = recordings[0].header, recordings[-1].header
        from_ns = _instant_ns("--from", request.from_time, first.trading_day)
        to_ns = _instant_ns("--to", request.to_time, last.trading_day)
        options = ReplayOptions(
            channel_prefix=request.channel_prefix or PREFIX + first.config.publish.channel_prefix,
            speed=speed,
            from_ns=from_ns or 0,
            to_ns=to_ns,
            warm_up_ns=None if request.warm_up_s is None else int(request.warm_up_s * NS_PER_S),
            epoch=clock.now_ns() // NS_PER_US if request.is_new_epoch else None,
        )
        async with replay_publisher(
            request.redis_url, recordings, channel_prefix=options.channel_prefix
        ) as publisher:
            parts = None if request.columns is None else column_parts(request.columns)
            played = Replay(recordings, publisher, options, surroundings=surroundings, parts=parts)
            summary = await played.run()
        if not summary.first_at_us:
            raise RecordingError(f"nothing to replay: {_span(recordings)}")
    _say(summary, options, as_json=request.as_json)
    return 0


def _files(given: Sequence[Path]) -> list[Path]:
    """Return the files; those of a folder by run and part, as their names sort."""
    files: list[Path] = []
    for path in given:
        inside = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not inside:
            raise RecordingError(f"{path}: there is no recording (*{SUFFIX}) in this folder")
        files += inside
    return files


def _speed(text: str) -> float | None:
    if text == AS_FAST_AS_IT_GOES:
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0.0 < speed < math.inf:
        raise ConfigurationError(f"--speed: {text!r}: must be a number above 0, or max")
    return speed


def _instant_ns(option: str, text: str, day: str) -> int | None:
    """Return an Indian time of a recording's day as ns since the Unix epoch."""
    if not text:
        return None
    try:
        at = dt.time.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is not None:
        raise ConfigurationError(f"{option}: {text!r}: must be an Indian time such as 09:20")
    return instant_ns(dt.datetime.combine(dt.date.fromisoformat(day), at, tzinfo=IST))


def _span(recordings: Sequence[Recording]) -> str:
    """Return from when to when the files reach, for people."""
    begun = [each.tape.first_ns for each in recordings if each.tape.blocks]
    if not begun:
        return "the files hold no step"
    ended = max(each.tape.last_ns for each in recordings)
    return f"the files reach from {from_instant_ns(min(begun))} to {from_instant_ns(ended)}"


def _say(summary: ReplaySummary, options: ReplayOptions, *, as_json: bool) -> None:
    facts = {"channel_prefix": options.channel_prefix, **asdict(summary)}
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(facts) + b"\n")
        return
    for name, value in facts.items():
        print(f"{name:16} {value}")  # noqa: T201 - the answer
