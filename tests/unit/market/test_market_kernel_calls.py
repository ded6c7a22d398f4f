"""What a flush costs in kernel calls: one of each, however many books and expiries it touches."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from recorded_stage import CONFIG
from small_exchange import EXPIRIES, NOW_NS, chain, choose, future, index, nifty
from wire_packets import frame_of, full_packet, index_full_packet

from ticker_service.domain.universe import ABSENT
from ticker_service.market import forwards
from ticker_service.market.pipeline import TickPath
from ticker_service.pricing import PriceStatus, PricingKernel
from ticker_service.runtime.clock import ManualClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryPublisher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ticker_service.ports import Frame

FLUSH_NS = 20_000_000
SPOT_OF_BOOK = {"NIFTY": 24_010.0, "BANKNIFTY": 52_010.0, "FINNIFTY": 26_010.0}
CHOSEN = choose(
    [
        *nifty(),
        index(5, "NIFTY BANK"),
        future(6, "BANKNIFTY", EXPIRIES[1]),
        *chain(500, "BANKNIFTY", EXPIRIES[0], range(51_000, 53_001, 100)),
        *chain(700, "BANKNIFTY", EXPIRIES[1], range(51_000, 53_001, 100)),
        index(7, "NIFTY FIN SERVICE"),
        *chain(900, "FINNIFTY", EXPIRIES[1], range(25_500, 26_501, 50)),
    ],
    *SPOT_OF_BOOK,
)
WANTED = np.ones(len(CHOSEN), np.bool_)
OPTIONS = np.flatnonzero(CHOSEN.is_option).tolist()
NEAR_THE_MONEY = [
    row
    for row in OPTIONS
    if abs(CHOSEN.strike[row] / SPOT_OF_BOOK[CHOSEN.books[CHOSEN.book[row]]] - 1.0) < 0.01
]
INDICES = [row for row in CHOSEN.spot_row if row != ABSENT]
ONE_OF_EACH = {"parity": 1, "solve": 1, "evaluate": 1}


class Counted:
    """A tick path whose arithmetic is the real one, and is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.rows: dict[str, int] = {}
        self._spy(monkeypatch, forwards, "parity_forwards", "parity")
        for name in ("solve", "evaluate"):
            self._spy(monkeypatch, PricingKernel, name, name)
        self.clock = ManualClock(NOW_NS)
        self.publisher = MemoryPublisher()
        self.path = TickPath(
            CHOSEN,
            CONFIG,
            self.publisher,
            surroundings=Surroundings(
                clock=self.clock,
                chance=random.Random(1),  # noqa: S311 - jitter, not a secret
                telemetry=Telemetry(),
            ),
            pause=_no_pause,
        )

    def _spy(self, patch: pytest.MonkeyPatch, owner: Any, name: str, called: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)
        here = threading.get_ident()

        def counted(*arguments: Any, **named: Any) -> Any:
            # A simulator of other tests may price in a thread beside this one.
            if threading.get_ident() == here:
                self.calls[called] += 1
                self.rows[called] = len(arguments[-1])
            return real(*arguments, **named)

        patch.setattr(owner, name, counted)

    def flush(self, rows: Sequence[int], *, moved: float = 0.0) -> dict[str, int]:
        """Let rows tick in a frame each, with the market moved; return the calls that it took."""
        self.clock.advance(FLUSH_NS)
        self.calls.clear()
        frames = [_frame(row, moved, self.clock.now_ns()) for row in rows]
        asyncio.run(self.path.flush(frames, WANTED))
        return dict(self.calls)


async def _no_pause(_: int) -> None:
    raise AssertionError("sending failed")


def _frame(row: int, moved: float, at_ns: int) -> Frame:
    token = int(CHOSEN.instrument_token[row])
    spot = SPOT_OF_BOOK[CHOSEN.books[CHOSEN.book[row]]] + moved
    stamp = at_ns // 10**9
    if not CHOSEN.is_option[row]:
        return frame_of(
            index_full_packet(token, round(spot * 100), (0, 0, 0, 0), stamp), at_ns=at_ns
        )
    gap = spot - CHOSEN.strike[row]
    price = round(100 * max(gap if CHOSEN.is_call[row] else -gap, 0.0)) + 10_000
    quote = {"bids": [(65, price - 5, 1)], "asks": [(65, price + 5, 1)]}
    return frame_of(full_packet(token, price, times=(stamp, stamp), **quote), at_ns=at_ns)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def test_a_flush_over_several_books_takes_one_call_of_each(counted: Counted) -> None:
    calls = counted.flush(OPTIONS)

    assert calls == ONE_OF_EACH
    assert counted.rows["solve"] == counted.rows["evaluate"] == len(OPTIONS)
    said = counted.path.pricer.columns(CHOSEN.terms(np.array(OPTIONS)), now_ns=NOW_NS + FLUSH_NS)
    assert {CHOSEN.books[book] for book in CHOSEN.book[OPTIONS]} == set(SPOT_OF_BOOK)
    assert (said.iv_status == PriceStatus.OK).all()


def test_underlyings_that_move_in_the_same_flush_cost_no_further_call(counted: Counted) -> None:
    counted.flush(OPTIONS)

    assert counted.flush([*INDICES, *NEAR_THE_MONEY], moved=5.0) == ONE_OF_EACH
    assert counted.flush(OPTIONS[:1], moved=5.0) == ONE_OF_EACH


def test_underlyings_alone_solve_nothing_and_evaluate_once(counted: Counted) -> None:
    counted.flush(OPTIONS)

    assert counted.flush(INDICES, moved=5.0) == {"parity": 1, "evaluate": 1}


def test_the_options_that_underlyings_moved_are_repriced_in_one_call(counted: Counted) -> None:
    counted.flush(OPTIONS)
    counted.flush(NEAR_THE_MONEY, moved=60.0)
    counted.calls.clear()
    sent = len(counted.publisher.messages)

    asyncio.run(counted.path.reprice())

    assert dict(counted.calls) == {"evaluate": 1}
    assert len(counted.publisher.messages) == sent + len(SPOT_OF_BOOK)
