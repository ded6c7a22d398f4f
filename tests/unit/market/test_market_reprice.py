"""What goes out again without a packet: what moved visibly, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_exchange import NOW_NS, nifty_universe, option_row, row_of, ticks_of

from ticker_service.config import PricingConfig
from ticker_service.market import batch
from ticker_service.market.latest import LatestTable
from ticker_service.market.price import Leg, Priced, Pricer
from ticker_service.market.reprice import SentRows
from ticker_service.market.streams import Marks
from ticker_service.pricing import PriceStatus

CHOSEN = nifty_universe()
CALL, PUT = (option_row(CHOSEN, 0, 24_000.0, kind) for kind in ("CE", "PE"))
SPOT = row_of(CHOSEN, "NIFTY 50")
TERMS = CHOSEN.terms(np.array([SPOT, CALL, PUT]))


def priced() -> Priced:
    """Return plausible numbers for the spot, a call and a put."""
    latest = LatestTable(CHOSEN)
    pricer = Pricer(CHOSEN, latest, PricingConfig())
    options = np.flatnonzero(CHOSEN.expiry == 0)
    is_call, strike = CHOSEN.is_call[options], CHOSEN.strike[options]
    value = 100.0 + np.maximum(np.where(is_call, 24_010.0 - strike, strike - 24_010.0), 0.0)
    ticks = ticks_of(CHOSEN, options.tolist(), bid_price=value, ask_price=value)
    marks = Marks.none(len(options))
    arrived = batch.by_book(options, ticks, marks, CHOSEN, conflate=False)
    latest.merge(arrived.terms.rows, arrived.ticks)
    pricer.update(arrived, now_ns=NOW_NS)
    found = pricer.columns(TERMS, now_ns=NOW_NS)
    assert found.iv_status[1:].tolist() == [PriceStatus.OK] * 2
    return found


SENT = priced()


@pytest.fixture
def sent() -> SentRows:
    rows = SentRows(len(CHOSEN))
    rows.keep(TERMS.rows, SENT)
    return rows


def changed(name: str, by: float) -> Priced:
    """Return what was sent with one number of the call changed."""
    column = getattr(SENT, name).copy()
    column[1] += by
    return replace(SENT, **{name: column})


def test_what_has_not_changed_is_not_sent_again(sent: SentRows) -> None:
    assert sent.has_moved(TERMS, SENT).tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("forward", 0.0002 * SENT.forward[1]),
        ("implied_volatility", max(0.0005, 0.01 * 0.05 / SENT.vega[1])),
        ("delta", 0.005),
        ("gamma", max(0.005 / (0.01 * SENT.forward[1]), 0.01 * SENT.gamma[1])),
        ("theta", max(0.05, 0.01 * abs(SENT.theta[1]))),
        ("vega", max(0.05, 0.01 * SENT.vega[1])),
        ("rho", max(0.05, 0.01 * abs(SENT.rho[1]))),
    ],
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_number_that_leaves_its_stated_tolerance_sends_its_row(
    sent: SentRows, name: str, tolerance: float, sign: float
) -> None:
    # The tolerance of a ratio is of the number as it is now, so a little is left on both sides.
    within = sent.has_moved(TERMS, changed(name, 0.98 * sign * tolerance))
    beyond = sent.has_moved(TERMS, changed(name, 1.02 * sign * tolerance))
    assert (within.tolist(), beyond.tolist()) == ([False] * 3, [False, True, False])


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("iv_status", PriceStatus.STALE),
        ("iv_leg", Leg.OWN),
        ("forward_source", 2),
        ("own_iv_status", PriceStatus.STALE),
    ],
)
def test_a_word_that_becomes_another_sends_its_row(sent: SentRows, name: str, word: int) -> None:
    column = getattr(SENT, name).copy()
    column[1] = word
    moved = sent.has_moved(TERMS, replace(SENT, **{name: column}))
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["forward", "implied_volatility", "delta", "vega"])
def test_a_number_that_comes_or_goes_sends_its_row(sent: SentRows, name: str) -> None:
    without = changed(name, np.nan)
    goes = sent.has_moved(TERMS, without)
    sent.keep(TERMS.rows, without)
    stays_away = sent.has_moved(TERMS, without)
    comes = sent.has_moved(TERMS, SENT)
    assert [mask.tolist()[1] for mask in (goes, stays_away, comes)] == [True, False, True]


def test_what_is_not_an_option_is_never_sent_again(sent: SentRows) -> None:
    assert not sent.has_moved(TERMS, replace(SENT, forward=SENT.forward * 2.0))[0]


def test_an_option_that_was_forgotten_counts_as_never_sent(sent: SentRows) -> None:
    sent.forget(np.array([CALL]))
    assert sent.has_moved(TERMS, SENT).tolist() == [False, True, False]
