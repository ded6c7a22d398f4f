"""What the path refused, kept in samples for whoever has to find out why.

Counting says that something is refused, not what it looked like. So of every reason the newest few
are kept, no more than some a second, and a line is logged now and then. Memory and work are bounded
however much is refused, and one flood does not wash away the samples of another reason.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final

import structlog

from ticker_service.constants import NS_PER_MS, NS_PER_S, NS_PER_US
from ticker_service.domain.tick import TICK_COLUMNS, Mode
from ticker_service.domain.universe import ABSENT
from ticker_service.market import decode, validate

if TYPE_CHECKING:
    from ticker_service.domain.tick import Ticks
    from ticker_service.domain.universe import Universe
    from ticker_service.market.decode import Decoded
    from ticker_service.market.validate import Plausible

log = structlog.get_logger()

SAMPLES_PER_REASON_MAX: Final = 16
SAMPLE_INTERVAL_NS: Final = 100 * NS_PER_MS
LOG_INTERVAL_NS: Final = 10 * NS_PER_S

MEANINGS: Final = {
    decode.MALFORMED_FRAME: "counts or lengths contradict the frame's size; read up to there",
    decode.UNKNOWN_LENGTH: "a packet of a length that is none of 8, 28, 32, 44, 184",
    **validate.REASONS,
}
"""Every reason for which something is not published, or is with a doubt."""
_USUAL: Final = frozenset({validate.NOT_SUBSCRIBED})
"""What happens in good order: a tick was under way when the window moved."""

Sample = dict[str, Any]


class Refusals:
    """Counts, samples and log lines by reason; owned by the path's task."""

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self._count: Counter[str] = Counter()
        self._samples: dict[str, deque[Sample]] = {}
        self._sampled_ns: dict[str, int] = {}
        self._logged_ns: dict[str, int] = {}
        self._logged_count: Counter[str] = Counter()

    def take(self, decoded: Decoded, accepted: Plausible, *, now_ns: int) -> None:
        """Take what a flush has refused or marked."""
        for reason, count in decoded.rejected.items():
            if self._note(reason, count, now_ns):
                self._keep(reason, now_ns, _bytes_sample(decoded.examples[reason]))
        for reason, places in accepted.refused.items():
            if self._note(reason, len(places), now_ns):
                self._keep(reason, now_ns, self._tick_sample(decoded.ticks, int(places[0])))
        for doubt, places in accepted.doubted.items():
            if self._note(doubt, len(places), now_ns, is_refused=False):
                self._keep(doubt, now_ns, self._tick_sample(accepted.ticks, int(places[0])))

    def report(self) -> dict[str, Any]:
        """Return every reason with its meaning, its count and its newest samples."""
        return {
            reason: {
                "meaning": meaning,
                "count": self._count[reason],
                "samples": list(self._samples.get(reason, ())),
            }
            for reason, meaning in MEANINGS.items()
        }

    def _note(self, reason: str, count: int, now_ns: int, *, is_refused: bool = True) -> bool:
        """Count; return whether it is time for another sample."""
        self._count[reason] += count
        if is_refused and self._is_due(self._logged_ns, reason, now_ns, LOG_INTERVAL_NS):
            fresh = self._count[reason] - self._logged_count[reason]
            self._logged_count[reason] = self._count[reason]
            say = log.info if reason in _USUAL else log.warning
            say("packets_rejected", reason=reason, count=fresh, total=self._count[reason])
        return self._is_due(self._sampled_ns, reason, now_ns, SAMPLE_INTERVAL_NS)

    def _keep(self, reason: str, now_ns: int, sample: Sample) -> None:
        kept = self._samples.setdefault(reason, deque(maxlen=SAMPLES_PER_REASON_MAX))
        kept.append({"at_us": now_ns // NS_PER_US, **sample})

    def _tick_sample(self, ticks: Ticks, place: int) -> Sample:
        """Return every value of one tick, with what its token stands for."""
        values: Sample = {
            name: _plain(getattr(ticks, name)[..., place].tolist()) for name in TICK_COLUMNS
        }
        values["mode"] = Mode(values["mode"]).wire_name
        row = int(self._universe.rows_of(ticks.instrument_token[place : place + 1])[0])
        symbol = None if row == ABSENT else self._universe.instruments.tradingsymbol[row]
        return {"tradingsymbol": symbol, **values}

    @staticmethod
    def _is_due(last_ns: dict[str, int], reason: str, now_ns: int, interval_ns: int) -> bool:
        if reason in last_ns and now_ns - last_ns[reason] < interval_ns:
            return False
        last_ns[reason] = now_ns
        return True


def _bytes_sample(head: bytes) -> Sample:
    return {"head": head.hex(" ", 2)}


def _plain(value: object) -> object:
    """Return a value as JSON can say it."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
