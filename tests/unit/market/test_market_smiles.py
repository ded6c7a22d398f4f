"""The smiles of a book: which quotes make them, and what goes on the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from small_exchange import (
    EXPIRIES,
    NOW_NS,
    chain,
    choose,
    index,
    nifty,
    nifty_universe,
    option_row,
    share,
    ticks_of,
)

from ticker_service.config import PricingConfig, PublishConfig
from ticker_service.domain.expiry_clock import years_to_expiry
from ticker_service.market import batch
from ticker_service.market.latest import LatestTable
from ticker_service.market.price import Pricer
from ticker_service.market.publish import Announcer
from ticker_service.market.smiles import SmileDrawer
from ticker_service.market.streams import Marks
from ticker_service.pricing import PricingKernel, SmileStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.domain.universe import Universe
    from ticker_service.market.smiles import BookSmiles

FORWARD = 24_013.0
NOTHING = [
    *("atm_volatility", "skew", "curvature", "fit_error", "fit_error_max", "strike_min"),
    *("strike_max", "svi_a", "svi_b", "svi_rho", "svi_m", "svi_sigma", "butterfly_ok"),
    "calendar_ok",
]


def truth(strike: np.ndarray, forward: float = FORWARD) -> np.ndarray:
    moneyness = np.log(strike / forward)
    return 0.14 - 0.3 * moneyness + 3.0 * moneyness**2


class Chains:
    """A pricer with the smile drawer over it."""

    def __init__(self, chosen: Universe | None = None) -> None:
        self.chosen = chosen or nifty_universe()
        self.latest = LatestTable(self.chosen)
        self.pricer = Pricer(self.chosen, self.latest, PricingConfig())
        self.drawer = SmileDrawer(self.chosen, self.pricer)
        self.now_ns = NOW_NS

    def options(self, expiry: int) -> list[int]:
        return np.flatnonzero(self.chosen.expiry == expiry).tolist()

    def quote(
        self,
        rows: Sequence[int],
        *,
        forward: float = FORWARD,
        above: float = 0.0,
        half_spread: float = 0.05,
        **columns: object,
    ) -> None:
        """Let options quote round the true smile, shifted by so much volatility."""
        places = np.array(rows, np.intp)
        chosen = self.chosen
        strike = chosen.strike[places]
        price = PricingKernel(1_000).evaluate(
            truth(strike, forward) + above,
            np.full(len(places), forward),
            strike,
            years_to_expiry(self.now_ns, chosen.expiry_ns[places]),
            0.0,
            chosen.is_call[places],
        )[0]
        sides = {"bid_price": price - half_spread, "ask_price": price + half_spread}
        quantity = {"bid_quantity": 65, "ask_quantity": 65}
        ticks = ticks_of(chosen, rows, at_ns=self.now_ns, **{**sides, **quantity, **columns})
        arrived = batch.by_book(places, ticks, Marks.none(len(ticks)), chosen, conflate=False)
        self.latest.merge(arrived.terms.rows, arrived.ticks)
        self.pricer.update(arrived, now_ns=self.now_ns)

    def draw(self, book: int = 0) -> BookSmiles:
        return self.drawer.draw(book, now_ns=self.now_ns)


def test_the_smile_is_the_one_the_quotes_were_made_from() -> None:
    chains = Chains()
    for expiry in range(3):
        chains.quote(chains.options(expiry))

    drawn = chains.draw()

    smiles = drawn.smiles
    assert smiles.status.tolist() == [SmileStatus.OK] * 3
    assert [expiry.date for expiry in drawn.expiries] == list(EXPIRIES)
    np.testing.assert_allclose(smiles.forward, FORWARD, atol=0.01)
    np.testing.assert_allclose(smiles.atm_volatility, 0.14, atol=1e-4)
    np.testing.assert_allclose(smiles.skew, -0.3, atol=0.01)
    assert smiles.butterfly_ok.all()
    assert smiles.calendar_ok.all()


def test_only_the_out_of_the_money_leg_of_a_strike_speaks() -> None:
    chains = Chains()
    rows = chains.options(0)
    strike, is_call = chains.chosen.strike[rows], chains.chosen.is_call[rows]
    is_in_the_money = (strike < FORWARD) == is_call
    far = is_in_the_money & (np.abs(strike - FORWARD) > 400.0)  # beyond the strikes of the forward

    chains.quote(rows)
    before = chains.draw().smiles.atm_volatility[0]
    chains.quote(np.array(rows)[far].tolist(), above=0.05)

    assert chains.draw().smiles.atm_volatility[0] == pytest.approx(before, abs=1e-12)


def test_a_doubtful_quote_is_no_point_of_the_curve() -> None:
    chains = Chains()
    chains.quote(chains.options(0))
    points = chains.draw().smiles.points[0]
    put = option_row(chains.chosen, 0, 23_800.0, "PE")

    chains.quote([put], half_spread=40.0)  # so wide that it has no mid

    assert chains.draw().smiles.points[0] == points - 1
    assert chains.draw().smiles.atm_volatility[0] == pytest.approx(0.14, abs=2e-4)


def test_a_wide_quote_weighs_less_than_tight_ones() -> None:
    chains = Chains()
    chains.quote(chains.options(0))
    put = option_row(chains.chosen, 0, 23_900.0, "PE")

    chains.quote([put], above=0.02, half_spread=8.0)

    smiles = chains.draw().smiles
    assert smiles.atm_volatility[0] == pytest.approx(0.14, abs=3e-4)
    assert smiles.fit_error_max[0] > 0.01


def test_quotes_of_a_minute_ago_are_not_of_now() -> None:
    chains = Chains()
    chains.quote(chains.options(0))
    chains.now_ns += 90 * 10**9

    drawn = chains.draw()

    assert drawn.smiles.status[0] == SmileStatus.TOO_FEW_POINTS
    assert np.isnan(drawn.smiles.atm_volatility[0])


def test_a_book_without_quotes_says_why_it_has_no_smile() -> None:
    drawn = Chains().draw()

    assert drawn.smiles.status.tolist() == [SmileStatus.NO_FORWARD] * 3


def test_books_without_options_have_no_smiles() -> None:
    chosen = choose(
        [*nifty([24_000.0], EXPIRIES[:1]), index(5, "NIFTY BANK"), share(7, "INFY")],
        "NIFTY",
        instruments=["NSE:NIFTY BANK", "NSE:INFY"],
    )
    nothing = choose([share(7, "INFY")], instruments=["NSE:INFY"])

    drawer = Chains(chosen).drawer
    assert [chosen.books[book] for book in drawer.books] == ["NIFTY"]
    assert Chains(nothing).drawer.books == []


def test_one_name_at_two_exchanges_is_no_calendar_arbitrage() -> None:
    strikes = range(5_700, 6_301, 50)
    rows = [*chain(100, "CRUDEOIL", EXPIRIES[0], strikes, "MCX")]
    rows += chain(500, "CRUDEOIL", EXPIRIES[1], strikes, "NCO")
    chains = Chains(choose(rows, "CRUDEOIL"))
    chains.quote(chains.options(0), forward=6_000.0, above=0.3)
    chains.quote(chains.options(1), forward=6_000.0, above=-0.05)

    drawn = chains.draw()

    assert sorted(drawn.exchange) == ["MCX", "NCO"]
    assert drawn.smiles.status.tolist() == [SmileStatus.OK] * 2
    assert drawn.smiles.calendar_ok.tolist() == [True, True]


def smile_message(chains: Chains) -> tuple[Announcer, str, dict[str, Any]]:
    announcer = Announcer(chains.chosen, PublishConfig(), epoch=7)
    outgoing = announcer.smile(0, chains.draw(), now_ns=NOW_NS)
    [(channel, raw)] = outgoing.messages
    return announcer, channel, json.loads(raw)


def test_a_smile_goes_out_on_the_books_channel_and_consumes_a_number() -> None:
    chains = Chains()
    chains.quote(chains.options(0))

    announcer, channel, message = smile_message(chains)

    assert channel == "ticker:v1:ticks:NIFTY"
    assert (message["kind"], message["seq"], message["epoch"], message["n"]) == ("smile", 1, 7, 3)
    [(_, next_raw)] = announcer.status(0, "feed_up", "", now_ns=NOW_NS).messages
    assert json.loads(next_raw)["seq"] == 2
    columns = message["columns"]
    assert {len(values) for values in columns.values()} == {3}
    assert columns["expiry"] == [str(day) for day in EXPIRIES]
    assert columns["exchange"] == ["NFO"] * 3
    assert columns["smile_status"] == ["OK", "NO_FORWARD", "NO_FORWARD"]
    assert columns["forward_source"] == ["parity", "none", "none"]
    assert columns["atm_volatility"][0] == pytest.approx(0.14, abs=1e-4)
    assert columns["points"][0] > 10
    assert (columns["butterfly_ok"], columns["calendar_ok"]) == ([True, None, None],) * 2


def test_an_expiry_without_a_smile_has_null_everywhere_and_a_reason() -> None:
    _, _, message = smile_message(Chains())

    assert message["columns"]["smile_status"] == ["NO_FORWARD"] * 3
    for name in (*NOTHING, "forward"):
        assert message["columns"][name] == [None] * 3, name
    assert message["columns"]["points"] == [0, 0, 0]
