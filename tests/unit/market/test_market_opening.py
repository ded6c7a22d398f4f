"""What is said when a book's market opens and closes."""

from __future__ import annotations

import datetime as dt

import numpy as np
from small_exchange import EXPIRIES, NOW_NS, choose, future, index, nifty, option, share

from ticker_service.config import HoursConfig
from ticker_service.domain.session import IST, instant_ns
from ticker_service.market.opening import Opening, Turn

NIFTY = choose(nifty([24_000.0]), "NIFTY")
DAY_NS = 24 * 3_600 * 10**9


def at(text: str) -> int:
    return instant_ns(dt.datetime.fromisoformat(text).replace(tzinfo=IST))


def states(turns: list[Turn]) -> list[tuple[int, str]]:
    return [(turn.book, turn.state) for turn in turns]


def test_a_market_that_is_open_at_the_start_is_no_news() -> None:
    opening = Opening(NIFTY, HoursConfig())
    assert opening.advance(NOW_NS) == []
    assert opening.open_books == [0]
    assert opening.is_open.all()


def test_a_market_that_is_closed_at_the_start_is_told_with_the_next_opening() -> None:
    opening = Opening(NIFTY, HoursConfig())
    (turn,) = opening.advance(at("2026-11-20 08:00"))
    assert (turn.state, turn.reason) == ("market_closed", "opens 2026-11-20 09:15 IST")
    assert opening.open_books == []


def test_a_day_opens_once_and_ends_once() -> None:
    opening = Opening(NIFTY, HoursConfig())
    told = []
    for minute in range(8 * 60, 24 * 60):
        told += opening.advance(at("2026-11-20 00:00") + minute * 60 * 10**9)
    assert [(turn.state, turn.reason) for turn in told] == [
        ("market_closed", "opens 2026-11-20 09:15 IST"),
        ("market_open", "NFO until 2026-11-20 15:40 IST, NSE until 2026-11-20 15:30 IST"),
        ("session_end", "opens 2026-11-23 09:15 IST"),
    ]


def test_within_a_book_each_row_has_the_hours_of_its_own_market() -> None:
    opening = Opening(NIFTY, HoursConfig())
    opening.advance(at("2026-11-20 15:35"))
    is_index = NIFTY.instruments.is_index()
    assert not opening.is_open[is_index].any()
    assert opening.is_open[~is_index].all()
    assert opening.open_books == [0]


def test_a_contract_is_closed_after_its_own_last_trade() -> None:
    opening = Opening(NIFTY, HoursConfig())
    opening.advance(at("2026-11-23 15:39:59"))
    of_today = NIFTY.is_option & (NIFTY.expiry == 0)
    assert opening.is_open[of_today].all()
    opening.advance(at("2026-11-25 11:00"))
    assert not opening.is_open[of_today].any()
    assert opening.is_open[~of_today].all()


def test_a_share_with_options_is_quiet_during_its_closing_auction() -> None:
    rows = [share(5, "SBIN"), share(6, "IDEA"), future(7, "SBIN", EXPIRIES[1])]
    rows += [option(8 + n, "SBIN", EXPIRIES[1], 800.0, kind) for n, kind in enumerate(("CE", "PE"))]
    chosen = choose(rows, "SBIN", instruments=["NSE:IDEA"])
    opening = Opening(chosen, HoursConfig())
    opening.advance(at("2026-11-20 15:20"))
    is_open = dict(zip(chosen.instruments.tradingsymbol.tolist(), opening.is_open, strict=True))
    assert not is_open["SBIN"]
    assert is_open["IDEA"]
    assert sum(is_open.values()) == 4


def test_the_books_of_one_day_end_each_in_its_own_time() -> None:
    rows = [*nifty([24_000.0]), index(5, "NIFTY IT"), future(9, "GOLD", EXPIRIES[1], "MCX")]
    chosen = choose(rows, "NIFTY", "GOLD", instruments=["NSE:NIFTY IT"])
    opening = Opening(chosen, HoursConfig())
    opening.advance(at("2026-11-20 11:00"))
    ended = {
        hour: [chosen.books[book] for book, _ in states(opening.advance(at(f"2026-11-20 {hour}")))]
        for hour in ("15:30", "15:40", "23:55")
    }
    assert ended == {"15:30": ["NSE-INDEX"], "15:40": ["NIFTY"], "23:55": ["GOLD"]}


def test_a_clock_that_is_set_back_is_believed() -> None:
    opening = Opening(NIFTY, HoursConfig())
    opening.advance(NOW_NS + 30 * DAY_NS)
    opening.advance(NOW_NS)
    assert opening.open_books == [0]


def test_a_simulated_market_never_closes_not_even_for_what_has_expired() -> None:
    opening = Opening(NIFTY, HoursConfig(is_always_open=True))
    assert opening.advance(NOW_NS + 60 * DAY_NS) == []
    assert np.count_nonzero(opening.is_open) == len(NIFTY)
