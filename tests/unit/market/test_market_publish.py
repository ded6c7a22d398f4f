"""What goes on the wire: numbers, columns, null where nothing is known."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_exchange import (
    EXPIRIES,
    NOW_NS,
    chain,
    choose,
    index,
    nifty,
    option_row,
    row_of,
    share,
    ticks_of,
)

from ticker_service.config import PricingConfig, PublishConfig
from ticker_service.domain.tick import Mode, Ticks
from ticker_service.market.batch import Batch
from ticker_service.market.columns import Rows
from ticker_service.market.latest import LatestTable
from ticker_service.market.price import Priced, Pricer
from ticker_service.market.publish import Announcer
from ticker_service.market.streams import Doubt, Marks, Standing, Streams

if TYPE_CHECKING:
    from ticker_service.domain.universe import Universe
    from ticker_service.ports import Outgoing

ROWS = [*nifty([24_000.0, 24_100.0], EXPIRIES[:1]), index(5, "NIFTY BANK")]
ROWS += chain(500, "BANKNIFTY", EXPIRIES[0], [52_000.0])
CHOSEN = choose(ROWS, "NIFTY", "BANKNIFTY")
BANK, NIFTY = 0, 1
SPOT = row_of(CHOSEN, "NIFTY 50")
CALL = option_row(CHOSEN, int(CHOSEN.expiry[CHOSEN.book == NIFTY].max()), 24_000.0, "CE")
TICK_COLUMNS = [
    "instrument_token",
    "exchange_ts_us",
    "received_at_us",
    "ltp",
    "last_quantity",
    "average_price",
    "volume",
    "buy_quantity",
    "sell_quantity",
    "open",
    "high",
    "low",
    "close",
    "change_pct",
    "oi",
    "bid",
    "ask",
    "bid_quantity",
    "ask_quantity",
    "mode",
    "is_cached",
    "staleness_ratio",
    "doubt",
]
OPTION_COLUMNS = [
    "implied_volatility",
    "delta",
    "gamma",
    "theta",
    "vega",
    "rho",
    "price_used",
    "price_source",
    "forward",
    "forward_source",
    "forward_age_ms",
    "forward_dispersion",
    "iv_status",
    "iv_leg",
]
DEPTH_COLUMNS = [
    f"{side}_{name}_{level}"
    for level in range(1, 6)
    for side in ("bid", "ask")
    for name in ("price", "quantity", "orders")
]


class Wire:
    """An announcer, and the messages it wrote as a consumer reads them."""

    def __init__(self, chosen: Universe = CHOSEN, config: PublishConfig | None = None) -> None:
        self.chosen = chosen
        self.announcer = Announcer(chosen, config or PublishConfig(), epoch=1_763_000_000_000_000)
        self.streams = Streams(chosen)
        self.pricer = Pricer(chosen, LatestTable(chosen), PricingConfig())

    def priced(self, rows: list[int]) -> Priced:
        return self.pricer.columns(self.chosen.terms(np.array(rows, np.intp)), now_ns=NOW_NS)

    def message(self, rows: list[int], ticks: Ticks, **more: Any) -> tuple[str, dict[str, Any]]:
        book, part = int(self.chosen.book[rows[0]]), slice(0, len(rows))
        standing = self.standing(rows, ticks, more.pop("marks", None))
        is_repriced = more.pop("is_repriced", False)
        one = Batch(book=book, part=part, ticks=ticks, **more)
        shown = Rows(
            ticks=ticks,
            priced=self.priced(rows),
            standing=standing,
            is_repriced=is_repriced,
        )
        (sent,) = self.announcer.batches([one], shown, now_ns=NOW_NS)
        ((channel, raw),) = sent.messages
        return channel, json.loads(raw)

    def snapshot(self, rows: list[int], ticks: Ticks) -> Outgoing:
        standing = self.standing(rows, ticks)
        return self.announcer.snapshot(NIFTY, ticks, self.priced(rows), standing, now_ns=NOW_NS)

    def standing(self, rows: list[int], ticks: Ticks, marks: Marks | None = None) -> Standing:
        places = np.array(rows, np.intp)
        return self.streams.standing(places, ticks.received_at_ns, now_ns=NOW_NS, marks=marks)

    def batch(self, rows: list[int], **columns: object) -> dict[str, Any]:
        return self.message(rows, ticks_of(self.chosen, rows, **columns))[1]

    def columns(self, rows: list[int], **columns: object) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = self.batch(rows, **columns)["columns"]
        return found

    def status(self, book: int) -> dict[str, Any]:
        return read(self.announcer.status(book, "feed_up", "subscribed", now_ns=NOW_NS))

    def gap(self, book: int) -> dict[str, Any]:
        facts = {"from_us": 1, "to_us": 5, "reason": "silent", "instruments": [1, 2]}
        return read(self.announcer.gap(book, facts, now_ns=NOW_NS))

    def heartbeat(self, book: int) -> dict[str, Any]:
        return read(self.announcer.heartbeat(book, "up", is_market_open=True, now_ns=NOW_NS))


def read(sent: Outgoing) -> dict[str, Any]:
    ((_, raw, *_lifetime),) = sent.messages or sent.values
    body: dict[str, Any] = json.loads(raw)
    return body


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_a_batch_goes_to_its_book_s_channel(wire: Wire) -> None:
    channel, _ = wire.message([SPOT], ticks_of(CHOSEN, [SPOT], ltp=1.0))
    assert channel == "ticker:v1:ticks:NIFTY"


def test_the_prefix_of_the_channels_is_settable() -> None:
    wire = Wire(config=PublishConfig(channel_prefix="mine:"))
    channel, _ = wire.message([SPOT], ticks_of(CHOSEN, [SPOT], ltp=1.0))
    assert channel == "mine:ticks:NIFTY"


def test_a_batch_says_what_it_is_before_its_columns(wire: Wire) -> None:
    body = wire.batch([SPOT], ltp=1.0)
    assert list(body) == ["v", "kind", "book", "epoch", "seq", "published_at_us", "n", "columns"]
    del body["columns"]
    assert body == {
        "v": 1,
        "kind": "batch",
        "book": "NIFTY",
        "epoch": 1_763_000_000_000_000,
        "seq": 1,
        "published_at_us": NOW_NS // 1_000,
        "n": 1,
    }


def test_the_columns_are_those_of_the_contract_in_their_order(wire: Wire) -> None:
    assert list(wire.columns([CALL])) == [*TICK_COLUMNS, *OPTION_COLUMNS, "is_repriced"]


def test_depth_adds_thirty_columns_when_asked_for() -> None:
    wire = Wire(config=PublishConfig(depth=True))
    assert set(DEPTH_COLUMNS) < set(wire.columns([CALL]))
    assert not set(DEPTH_COLUMNS) & set(Wire().columns([CALL]))


def test_each_option_s_own_volatility_is_two_more_columns_when_asked_for() -> None:
    wire = Wire(config=PublishConfig(own_volatility=True))
    columns = wire.columns([SPOT, CALL], ltp=[24_000.0, 100.0])
    own = ["own_implied_volatility", "own_iv_status"]
    assert list(columns) == [*TICK_COLUMNS, *OPTION_COLUMNS, *own, "is_repriced"]
    assert [columns[name] for name in own] == [[None, None], [None, "NO_PRICE"]]


def test_a_universe_without_options_has_no_columns_of_options() -> None:
    wire = Wire(choose([share(1, "SBIN")], instruments=["NSE:SBIN"]))
    assert list(wire.columns([0], ltp=800.0)) == [*TICK_COLUMNS, "is_repriced"]


def test_every_column_has_a_value_for_every_row(wire: Wire) -> None:
    rows = np.flatnonzero(CHOSEN.book == NIFTY).tolist()
    body = wire.batch(rows, ltp=1.0)
    assert {len(values) for values in body["columns"].values()} == {body["n"]} == {len(rows)}


def test_prices_come_out_as_the_rupees_that_went_in(wire: Wire) -> None:
    columns = wire.columns([CALL], ltp=2_345.05, bid_price=2_345.0, ask_price=2_345.1)
    assert (columns["ltp"], columns["bid"], columns["ask"]) == ([2_345.05], [2_345.0], [2_345.1])


def test_what_was_not_carried_is_null_and_never_zero_or_minus_one(wire: Wire) -> None:
    columns = wire.columns([SPOT], ltp=24_000.0)
    empty = {name for name, values in columns.items() if values == [None]}
    known = {"instrument_token", "received_at_us", "ltp", "mode", "is_cached", "is_repriced"}
    assert empty == set(columns) - known


def test_a_row_says_whether_kite_had_kept_it_and_what_is_doubtful_about_it(wire: Wire) -> None:
    marks = Marks(
        is_cached=np.array([True, False, False]),
        doubt=np.array([Doubt.NONE, Doubt.CROSSED_DEPTH, Doubt.OFF_PRICE_STEP], np.uint8),
    )
    rows = [CALL, CALL, CALL + 1]
    _, body = wire.message(rows, ticks_of(CHOSEN, rows, ltp=5.0), marks=marks)
    assert body["columns"]["is_cached"] == [True, False, False]
    assert body["columns"]["doubt"] == [None, "crossed_depth", "off_price_step"]


@pytest.mark.parametrize("name", ["volume", "oi", "bid_quantity", "last_quantity"])
def test_whole_numbers_stay_whole_beside_a_missing_one(wire: Wire, name: str) -> None:
    raw = wire.columns([CALL, CALL + 1], **{name: [65, -1]})[name]
    assert [type(value) for value in raw] == [int, type(None)]


def test_a_quantity_of_zero_is_zero_and_not_null(wire: Wire) -> None:
    assert wire.columns([CALL], volume=0)["volume"] == [0]


def test_the_largest_numbers_of_the_wire_are_exact(wire: Wire) -> None:
    top = 2**32 - 1
    columns = wire.columns([CALL], volume=top, exchange_ts_ns=top * 10**9)
    assert (columns["volume"], columns["exchange_ts_us"]) == ([top], [top * 10**6])


def test_times_are_microseconds(wire: Wire) -> None:
    columns = wire.columns([CALL], exchange_ts_ns=1_763_615_460 * 10**9)
    assert columns["exchange_ts_us"] == [1_763_615_460_000_000]
    assert columns["received_at_us"] == [NOW_NS // 1_000]


def test_the_mode_is_named_as_kite_names_it(wire: Wire) -> None:
    modes = wire.columns([SPOT] * 3, mode=[Mode.LTP, Mode.QUOTE, Mode.FULL])["mode"]
    assert modes == ["ltp", "quote", "full"]


@pytest.mark.parametrize(
    ("ltp", "close", "change"),
    [(101.0, 100.0, 1.0), (99.0, 100.0, -1.0), (100.0, np.nan, None), (np.nan, 100.0, None)],
)
def test_the_change_is_in_percent_of_the_last_close(
    wire: Wire, ltp: float, close: float, change: float | None
) -> None:
    assert wire.columns([SPOT], ltp=ltp, close=close)["change_pct"] == [change]


def test_rows_that_are_not_options_have_null_in_the_columns_of_options(wire: Wire) -> None:
    columns = wire.columns([SPOT, CALL], ltp=[24_000.0, 100.0])
    assert [columns[name][0] for name in OPTION_COLUMNS] == [None] * len(OPTION_COLUMNS)


def test_an_option_without_an_answer_has_a_status_and_no_zero(wire: Wire) -> None:
    columns = wire.columns([CALL])
    values = [
        columns[name] for name in ("implied_volatility", "delta", "gamma", "theta", "forward")
    ]
    assert values == [[None]] * 5
    words = [columns[name] for name in ("price_source", "forward_source", "iv_status", "iv_leg")]
    assert words == [["none"], ["none"], ["NO_PRICE"], ["own"]]


def test_depth_is_numbered_from_the_best_level() -> None:
    wire = Wire(config=PublishConfig(depth=True))
    ticks = ticks_of(CHOSEN, [CALL])
    ticks.bid_price[:, 0] = [5.0, 4.0, 3.0, 2.0, np.nan]
    ticks.bid_orders[:, 0] = [1, 2, 3, 4, -1]
    columns = wire.message([CALL], ticks)[1]["columns"]
    assert [columns[f"bid_price_{level}"][0] for level in range(1, 6)] == [5, 4, 3, 2, None]
    assert [columns[f"bid_orders_{level}"][0] for level in range(1, 6)] == [1, 2, 3, 4, None]


def test_taken_rows_encode_like_the_table_they_came_from() -> None:
    wire = Wire(config=PublishConfig(depth=True))
    rows = np.flatnonzero(CHOSEN.book == NIFTY).tolist()
    ticks = ticks_of(CHOSEN, rows, ltp=np.arange(1.0, len(rows) + 1.0))
    ticks.ask_price[:] = np.arange(1.0, len(rows) + 1.0)
    some = np.array([2, 0])
    columns = wire.message([rows[2], rows[0]], ticks.take(some))[1]["columns"]
    assert (columns["ltp"], columns["ask_price_5"]) == ([3.0, 1.0], [3.0, 1.0])


def test_a_repriced_batch_says_so_in_every_row(wire: Wire) -> None:
    ticks = ticks_of(CHOSEN, [CALL, CALL + 1])
    body = wire.message([CALL, CALL + 1], ticks, is_repriced=True)[1]
    assert body["columns"]["is_repriced"] == [True, True]


@given(
    st.lists(st.tuples(st.sampled_from(["batch", "gap", "status"]), st.sampled_from([BANK, NIFTY])))
)
def test_seq_has_no_gap_in_any_book_whatever_is_sent(kinds: list[tuple[str, int]]) -> None:
    wire = Wire()
    seen: dict[int, list[int]] = {BANK: [], NIFTY: []}
    rows = {BANK: row_of(CHOSEN, "NIFTY BANK"), NIFTY: SPOT}
    for kind, book in kinds:
        body = wire.batch([rows[book]], ltp=1.0) if kind == "batch" else getattr(wire, kind)(book)
        seen[book].append(body["seq"])
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in seen.values())


def test_a_heartbeat_repeats_the_last_seq_and_consumes_none(wire: Wire) -> None:
    wire.status(NIFTY)
    seqs = [wire.heartbeat(NIFTY)["seq"], wire.heartbeat(NIFTY)["seq"], wire.status(NIFTY)["seq"]]
    assert seqs == [1, 1, 2]


def test_a_heartbeat_before_anything_else_has_seq_zero(wire: Wire) -> None:
    assert wire.heartbeat(NIFTY)["seq"] == 0


def test_the_newest_heartbeat_is_a_key_too_and_outlives_a_long_weekend(wire: Wire) -> None:
    sent = wire.announcer.heartbeat(NIFTY, "up", is_market_open=True, now_ns=NOW_NS)
    ((key, raw, lifetime_ms),) = sent.values
    assert key == "ticker:v1:heartbeat:NIFTY"
    assert json.loads(raw) == wire.heartbeat(NIFTY)
    assert lifetime_ms > 4 * 86_400_000


def test_a_heartbeat_counts_what_the_book_has_seen(wire: Wire) -> None:
    wire.message([SPOT, CALL], ticks_of(CHOSEN, [SPOT, CALL]), conflated=3)
    wire.message([CALL], ticks_of(CHOSEN, [CALL]), is_repriced=True)
    wire.announcer.count_rejected(np.array([0, 7]))
    body = wire.heartbeat(NIFTY)
    counters = {name: body[name] for name in ("feed", "published", "conflated", "rejected")}
    assert counters == {"feed": "up", "published": 2, "conflated": 3, "rejected": 7}


def test_a_gap_tells_interval_reason_and_instruments(wire: Wire) -> None:
    body = wire.gap(NIFTY)
    facts = {name: body[name] for name in ("kind", "from_us", "to_us", "reason", "instruments")}
    assert facts == {
        "kind": "gap",
        "from_us": 1,
        "to_us": 5,
        "reason": "silent",
        "instruments": [1, 2],
    }


def test_a_status_tells_state_and_reason(wire: Wire) -> None:
    body = wire.status(BANK)
    assert (body["kind"], body["book"]) == ("status", "BANKNIFTY")
    assert (body["state"], body["reason"]) == ("feed_up", "subscribed")


def test_a_snapshot_is_true_for_the_seq_sent_last_and_consumes_none(wire: Wire) -> None:
    wire.status(NIFTY)
    ticks = ticks_of(CHOSEN, [SPOT, CALL], ltp=5.0)
    ((key, raw, lifetime_ms),) = wire.snapshot([SPOT, CALL], ticks).values
    body = json.loads(raw)
    assert (key, lifetime_ms) == ("ticker:v1:snapshot:NIFTY", 5_000)
    assert (body["kind"], body["seq"], body["n"]) == ("snapshot", 1, 2)
    assert wire.status(NIFTY)["seq"] == 2


def test_a_snapshot_has_the_columns_of_a_batch(wire: Wire) -> None:
    ticks = ticks_of(CHOSEN, [SPOT], ltp=5.0)
    body = read(wire.snapshot([SPOT], ticks))
    assert list(body["columns"]) == list(wire.columns([SPOT], ltp=5.0))


def test_a_snapshot_before_the_first_tick_is_empty_and_readable(wire: Wire) -> None:
    body = read(wire.snapshot([], Ticks.empty(0)))
    assert {tuple(values) for values in body["columns"].values()} == {()}


def test_the_instruments_key_says_what_the_tokens_stand_for(wire: Wire) -> None:
    ((key, raw, _),) = wire.announcer.instruments(NIFTY, now_ns=NOW_NS).values
    columns = json.loads(raw)["columns"]
    by_token = dict(
        zip(columns["instrument_token"], zip(*columns.values(), strict=True), strict=True)
    )
    call = dict(zip(columns, by_token[int(CHOSEN.instrument_token[CALL])], strict=True))
    assert key == "ticker:v1:instruments:NIFTY"
    assert call == {
        "instrument_token": int(CHOSEN.instrument_token[CALL]),
        "tradingsymbol": "NIFTY26112324000CE",
        "exchange": "NFO",
        "instrument_type": "CE",
        "expiry": "2026-11-23",
        "variance_ends_us": 1_795_428_000_000_000,
        "last_trade_us": 1_795_428_600_000_000,
        "strike": 24_000.0,
        "lot_size": 65,
        "price_step": 0.05,
    }


def test_an_index_has_no_expiry_and_no_strike_in_the_instruments_key(wire: Wire) -> None:
    columns = read(wire.announcer.instruments(NIFTY, now_ns=NOW_NS))["columns"]
    place = columns["tradingsymbol"].index("NIFTY 50")
    names = ("expiry", "variance_ends_us", "last_trade_us", "strike")
    assert [columns[name][place] for name in names] == [None] * 4


def test_a_book_lists_its_own_instruments_only(wire: Wire) -> None:
    columns = read(wire.announcer.instruments(BANK, now_ns=NOW_NS))["columns"]
    assert len(columns["tradingsymbol"]) == 3


def test_a_row_that_is_infinite_would_be_null_and_not_broken_json(wire: Wire) -> None:
    priced = wire.priced([CALL])
    broken = replace(priced, delta=np.array([np.inf]))
    ticks = ticks_of(CHOSEN, [CALL])
    one = Batch(book=NIFTY, part=slice(0, 1), ticks=ticks)
    shown = Rows(ticks=ticks, priced=broken, standing=wire.standing([CALL], ticks))
    (sent,) = wire.announcer.batches([one], shown, now_ns=NOW_NS)
    assert read(sent)["columns"]["delta"] == [None]
