"""A channel and a key per instrument: one whole row each, and nothing older than it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from small_exchange import (
    EXPIRIES,
    NOW_NS,
    choose,
    fresh,
    nifty,
    option_row,
    row_of,
    share,
    ticks_of,
)

from ticker_service.config import PricingConfig, PublishConfig
from ticker_service.errors import CatalogError
from ticker_service.market import columns
from ticker_service.market.batch import Batch
from ticker_service.market.columns import Rows
from ticker_service.market.instrument_channels import InstrumentChannels
from ticker_service.market.latest import LatestTable
from ticker_service.market.price import Pricer
from ticker_service.market.publish import Announcer

if TYPE_CHECKING:
    from ticker_service.ports import Outgoing

CHOSEN = choose(nifty([24_000.0], EXPIRIES[:1]), "NIFTY")
SPOT = row_of(CHOSEN, "NIFTY 50")
CALL = option_row(CHOSEN, 0, 24_000.0, "CE")
CALL_NAME = "ticker:v1:tick:NFO:NIFTY26112324000CE"
SPOT_NAME = "ticker:v1:tick:NSE:NIFTY_50"


def sent(rows: list[int], *, is_repriced: bool = False, **ticks: object) -> Outgoing:
    announcer = Announcer(CHOSEN, PublishConfig(instrument_channels=True), epoch=7)
    pricer = Pricer(CHOSEN, LatestTable(CHOSEN), PricingConfig())
    terms = CHOSEN.terms(np.array(rows, np.intp))
    batch = Batch(
        book=0,
        part=slice(0, len(rows)),
        ticks=ticks_of(CHOSEN, rows, **ticks),
    )
    priced = pricer.columns(terms, now_ns=NOW_NS)
    shown = Rows(
        ticks=batch.ticks, priced=priced, standing=fresh(len(rows)), is_repriced=is_repriced
    )
    (sent,) = announcer.batches([batch], shown, now_ns=NOW_NS)
    return sent


def rows_of(outgoing: Outgoing) -> dict[str, dict[str, Any]]:
    """Return what went to the channels of instruments."""
    return {name: json.loads(raw) for name, raw in outgoing.messages if ":tick:" in name}


def test_every_instrument_of_a_batch_has_a_message_of_its_own() -> None:
    outgoing = sent([SPOT, CALL], ltp=[24_000.0, 100.05])
    assert [name for name, _ in outgoing.messages] == [
        "ticker:v1:ticks:NIFTY",
        SPOT_NAME,
        CALL_NAME,
    ]
    assert {name: row["ltp"] for name, row in rows_of(outgoing).items()} == {
        SPOT_NAME: 24_000.0,
        CALL_NAME: 100.05,
    }


def test_a_row_says_what_it_is_and_everything_the_batch_says_of_it() -> None:
    outgoing = sent([CALL], ltp=100.05)
    batch = json.loads(outgoing.messages[0][1])
    row = rows_of(outgoing)[CALL_NAME]
    head = {
        "v": 1,
        "kind": "tick",
        "book": "NIFTY",
        "epoch": 7,
        "seq": 1,
        "published_at_us": NOW_NS // 1_000,
        "exchange": "NFO",
        "tradingsymbol": "NIFTY26112324000CE",
    }
    assert row == head | {name: values[0] for name, values in batch["columns"].items()}


def test_the_key_holds_what_the_channel_said_and_ends_itself() -> None:
    outgoing = sent([SPOT, CALL], ltp=1.0)
    channels = [(name, raw, 60_000) for name, raw in outgoing.messages[1:]]
    assert list(outgoing.values) == channels


def test_of_several_ticks_in_a_batch_only_the_newest_is_told() -> None:
    outgoing = sent([CALL, SPOT, CALL], ltp=[1.0, 2.0, 3.0])
    assert {name: row["ltp"] for name, row in rows_of(outgoing).items()} == {
        CALL_NAME: 3.0,
        SPOT_NAME: 2.0,
    }


def test_what_is_missing_is_null() -> None:
    row = rows_of(sent([SPOT], ltp=np.nan, volume=-1))[SPOT_NAME]
    assert (row["ltp"], row["volume"], row["iv_status"]) == (None, None, None)


def test_a_repriced_row_says_so() -> None:
    assert rows_of(sent([CALL], is_repriced=True))[CALL_NAME]["is_repriced"] is True


def test_nothing_of_it_goes_out_unless_asked_for() -> None:
    announcer = Announcer(CHOSEN, PublishConfig(), epoch=7)
    pricer = Pricer(CHOSEN, LatestTable(CHOSEN), PricingConfig())
    priced = pricer.columns(CHOSEN.terms(np.array([SPOT])), now_ns=NOW_NS)
    batch = Batch(book=0, part=slice(0, 1), ticks=ticks_of(CHOSEN, [SPOT], ltp=1.0))
    shown = Rows(ticks=batch.ticks, priced=priced, standing=fresh(1))
    (outgoing,) = announcer.batches([batch], shown, now_ns=NOW_NS)
    assert (len(outgoing.messages), len(outgoing.values)) == (1, 0)


def test_two_instruments_never_share_a_channel() -> None:
    chosen = choose([share(1, "M&M"), share(2, "MANDM")], instruments=["NSE:M&M", "NSE:MANDM"])
    with pytest.raises(CatalogError, match="1 instruments would share a channel"):
        InstrumentChannels(
            chosen, columns.chosen(depth=False, options=False), prefix="", lifetime_ms=1_000
        )
