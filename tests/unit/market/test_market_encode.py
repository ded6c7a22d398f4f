"""One message in several encodings: the same header, the same rows, the same number."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
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

from ticker_service.config import Encoding, PricingConfig, PublishConfig
from ticker_service.domain.tick import Ticks
from ticker_service.errors import ConfigurationError
from ticker_service.market import columns, encode, encode_arrow
from ticker_service.market.batch import Batch
from ticker_service.market.columns import Rows
from ticker_service.market.latest import LatestTable
from ticker_service.market.price import Priced, Pricer
from ticker_service.market.publish import Announcer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.domain.universe import Universe
    from ticker_service.ports import Outgoing

CHOSEN = choose(nifty([24_000.0, 24_100.0], EXPIRIES[:1]), "NIFTY")
SPOT = row_of(CHOSEN, "NIFTY 50")
CALL = option_row(CHOSEN, 0, 24_000.0, "CE")
EVERY_ROW = list(range(len(CHOSEN)))
BOTH = PublishConfig(encodings=(Encoding.JSON, Encoding.ARROW), depth=True, own_volatility=True)


class TwoChannels:
    """An announcer that writes both encodings, read back as their consumers would."""

    def __init__(self, chosen: Universe = CHOSEN, config: PublishConfig = BOTH) -> None:
        self.chosen = chosen
        self.announcer = Announcer(chosen, config, epoch=1_763_000_000_000_000)
        self.pricer = Pricer(chosen, LatestTable(chosen), PricingConfig())

    def priced(self, rows: Sequence[int]) -> Priced:
        return self.pricer.columns(self.chosen.terms(np.array(rows, np.intp)), now_ns=NOW_NS)

    def batch(self, rows: Sequence[int], ticks: Ticks, **more: Any) -> Outgoing:
        priced = more.pop("priced", None) or self.priced(rows)
        one = Batch(book=0, part=slice(0, len(rows)), ticks=ticks)
        shown = Rows(
            ticks=ticks,
            priced=priced,
            standing=fresh(len(rows)),
            **more,
        )
        (sent,) = self.announcer.batches([one], shown, now_ns=NOW_NS)
        return sent


def both(sent: Outgoing) -> tuple[dict[str, Any], dict[str, Any]]:
    (_, text, *_), (_, stream, *_) = sent.messages or sent.values
    return json.loads(text), from_arrow(stream)


def from_arrow(stream: bytes) -> dict[str, Any]:
    """Return an Arrow message in the shape of the JSON one."""
    table = pa.ipc.open_stream(stream).read_all()
    table.validate(full=True)
    header: dict[str, Any] = json.loads(table.schema.metadata[b"message"])
    return header | ({"columns": table.to_pydict()} if table.num_columns else {})


@pytest.fixture
def wire() -> TwoChannels:
    return TwoChannels()


def test_each_encoding_has_a_channel_of_its_own(wire: TwoChannels) -> None:
    sent = wire.batch([SPOT], ticks_of(CHOSEN, [SPOT], ltp=24_000.0))
    assert [channel for channel, _ in sent.messages] == [
        "ticker:v1:ticks:NIFTY",
        "ticker:v1:arrow:NIFTY",
    ]


def test_arrow_alone_publishes_no_json() -> None:
    wire = TwoChannels(config=PublishConfig(encodings=(Encoding.ARROW,)))
    sent = wire.batch([SPOT], ticks_of(CHOSEN, [SPOT], ltp=24_000.0))
    assert [channel for channel, _ in sent.messages] == ["ticker:v1:arrow:NIFTY"]


def test_both_channels_say_the_same_under_the_same_number(wire: TwoChannels) -> None:
    ticks = ticks_of(CHOSEN, EVERY_ROW, ltp=24_000.05, volume=65, bid_price=1.5, exchange_ts_ns=0)
    for _ in range(3):
        text, stream = both(wire.batch(EVERY_ROW, ticks))
        assert text == stream
    assert (text["seq"], text["n"]) == (3, len(EVERY_ROW))


def test_kinds_without_columns_are_the_same_on_both_channels(wire: TwoChannels) -> None:
    gap = {"from_us": 1, "to_us": 5, "reason": "silent", "instruments": [1, 2]}
    for sent in (
        wire.announcer.status(0, "feed_up", "subscribed", now_ns=NOW_NS),
        wire.announcer.gap(0, gap, now_ns=NOW_NS),
        wire.announcer.heartbeat(0, "up", is_market_open=True, now_ns=NOW_NS),
    ):
        text, stream = both(sent)
        assert text == stream
    assert text["seq"] == 2


def test_each_encoding_has_a_snapshot_key_of_its_own(wire: TwoChannels) -> None:
    ticks = ticks_of(CHOSEN, EVERY_ROW, ltp=24_000.0)
    sent = wire.announcer.snapshot(
        0, ticks, wire.priced(EVERY_ROW), fresh(len(EVERY_ROW)), now_ns=NOW_NS
    )
    keys = [key for key, _, _ in sent.values]
    assert keys == ["ticker:v1:snapshot:NIFTY", "ticker:v1:arrow-snapshot:NIFTY"]
    text, stream = both(sent)
    assert text == stream


def test_an_empty_snapshot_keeps_its_columns(wire: TwoChannels) -> None:
    empty = wire.announcer.snapshot(0, Ticks.empty(0), wire.priced([]), fresh(0), now_ns=NOW_NS)
    text, stream = both(empty)
    assert text == stream
    assert len(stream["columns"]) > 50


def test_the_instruments_key_is_json_whatever_the_encodings_are() -> None:
    wire = TwoChannels(config=PublishConfig(encodings=(Encoding.ARROW,)))
    ((key, value, _),) = wire.announcer.instruments(0, now_ns=NOW_NS).values
    assert key == "ticker:v1:instruments:NIFTY"
    assert json.loads(value)["n"] == len(CHOSEN)


def test_types_are_what_columns_hold(wire: TwoChannels) -> None:
    _, (_, stream) = wire.batch([CALL], ticks_of(CHOSEN, [CALL], ltp=1.0)).messages
    schema = pa.ipc.open_stream(stream).schema
    word = pa.dictionary(pa.int8(), pa.string())
    names = ("instrument_token", "received_at_us", "ltp", "volume", "bid_orders_5", "iv_status")
    expected = [pa.uint32(), pa.int64(), pa.float64(), pa.int64(), pa.int64(), word]
    assert [schema.field(name).type for name in names] == expected
    assert schema.field("is_repriced").type == pa.bool_()


def test_every_message_is_a_whole_stream_with_one_record_batch(wire: TwoChannels) -> None:
    _, (_, stream) = wire.batch(EVERY_ROW, ticks_of(CHOSEN, EVERY_ROW, ltp=1.0)).messages
    source = io.BytesIO(stream)
    reader = pa.ipc.open_stream(source)
    assert [batch.num_rows for batch in reader] == [len(EVERY_ROW)]
    assert source.read() == b""


def test_what_is_missing_is_null_and_spoils_no_sum(wire: TwoChannels) -> None:
    ticks = ticks_of(CHOSEN, [CALL, CALL], ltp=[np.nan, 2.0], volume=[-1, 65])
    _, (_, stream) = wire.batch([CALL, CALL], ticks).messages
    table = pa.ipc.open_stream(stream).read_all()
    assert pa.compute.sum(table["ltp"]).as_py() == 2.0
    assert pa.compute.sum(table["volume"]).as_py() == 65


def test_a_reader_may_use_the_numbers_in_place(wire: TwoChannels) -> None:
    _, (_, stream) = wire.batch(EVERY_ROW, ticks_of(CHOSEN, EVERY_ROW, ltp=7.5)).messages
    column = pa.ipc.open_stream(stream).read_next_batch()["ltp"]
    assert column.to_numpy(zero_copy_only=True).tolist() == [7.5] * len(EVERY_ROW)


def test_a_column_that_is_no_contiguous_slice_is_copied_and_not_misread() -> None:
    wire = TwoChannels(config=PublishConfig(encodings=(Encoding.ARROW,)))
    wide = ticks_of(CHOSEN, EVERY_ROW * 2, ltp=np.arange(2.0 * len(EVERY_ROW)))
    halved = replace(
        wide, **{field.name: getattr(wide, field.name)[..., ::2] for field in fields(wide)}
    )
    rows = (EVERY_ROW * 2)[::2]
    ((_, stream),) = wire.batch(rows, halved).messages
    assert from_arrow(stream)["columns"]["ltp"] == [2.0 * n for n in range(len(rows))]


@given(st.integers(0, 2**32), st.integers(0, 9))
def test_both_channels_agree_on_any_values(seed: int, n: int) -> None:
    wire, chance = TwoChannels(), np.random.default_rng(seed)
    rows = chance.integers(0, len(CHOSEN), n).tolist()
    ticks = any_values(ticks_of(CHOSEN, rows), chance)
    priced = any_values(wire.priced(rows), chance)
    text, stream = both(wire.batch(rows, ticks, priced=priced, is_repriced=bool(seed % 2)))
    assert text == stream


SPECIAL = {
    "f": [0.0, -0.0, 0.05, 1e300, -1e300, 5e-324, np.nan, np.inf, -np.inf],
    "i": [-1, 0, 1, 2**32 - 1, 2**53],
    "u": [0, 1],
    "b": [False, True],
}


def any_values(table: Any, chance: np.random.Generator) -> Any:
    """Return the table with special values in every column; codes of words stay known ones."""
    return replace(
        table,
        **{
            field.name: chance.choice(SPECIAL[old.dtype.kind], old.shape).astype(old.dtype)
            for field in fields(table)
            for old in [getattr(table, field.name)]
        },
    )


def test_without_pyarrow_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ticker_service.market.encode_arrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install|ticker-service\[arrow\]"):
        encode.encoders([Encoding.ARROW], columns.chosen(depth=False, options=False))


def test_a_close_of_zero_is_no_change_and_no_warning(wire: TwoChannels) -> None:
    text, _ = both(wire.batch([CALL], ticks_of(CHOSEN, [CALL], ltp=1.0, close=0.0)))
    assert text["columns"]["change_pct"] == [None]


def test_a_universe_without_options_has_no_columns_of_options() -> None:
    chosen = choose([share(1, "SBIN")], instruments=["NSE:SBIN"])
    wire = TwoChannels(chosen)
    text, stream = both(wire.batch([0], ticks_of(chosen, [0], ltp=800.0)))
    assert text == stream
    assert "iv_status" not in stream["columns"]


def test_the_columns_have_each_a_name_of_their_own() -> None:
    names = [
        column.name for column in columns.chosen(depth=True, options=True, own_volatility=True)
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 64, 1_000])
@pytest.mark.parametrize("missing", ["nothing", "everything", "something"])
def test_a_record_batch_holds_what_pyarrow_writes_of_the_same_columns(
    rows: int, missing: str
) -> None:
    listed = columns.chosen(depth=True, options=True, own_volatility=True)
    chance = np.random.default_rng(rows)
    gone = {"nothing": np.zeros, "everything": np.ones}.get(
        missing, lambda n, _: chance.random(n) < 0.3
    )
    values = [any_column(column, chance, gone(rows, np.bool_)) for column in listed]
    encoder = encode_arrow.ArrowEncoder(listed)
    ours = pa.ipc.open_stream(encoder.encode({"seq": 1}, values)).read_all()
    ours.validate(full=True)
    theirs = pa.RecordBatch.from_arrays(
        [
            encode_arrow.array_of(column, pa.array(column.words, pa.string()), array)
            for column, array in zip(listed, values, strict=True)
        ],
        schema=pa.schema([encode_arrow.field_of(column) for column in listed]),
    )
    assert ours.replace_schema_metadata() == pa.Table.from_batches([theirs])
    assert [column.null_count for column in ours] == [column.null_count for column in theirs]


@pytest.mark.parametrize("missing", [0.0, 0.3, 1.0])
def test_parts_encoded_together_are_what_each_is_alone(missing: float) -> None:
    listed = columns.chosen(depth=True, options=True, own_volatility=True)
    chance = np.random.default_rng(11)
    values = [any_column(column, chance, chance.random(90) < missing) for column in listed]
    parts = [slice(0, 40), slice(40, 41), slice(41, 90)]
    headers = [{"seq": number} for number in range(len(parts))]
    for encoder in encode.encoders([Encoding.JSON, Encoding.ARROW], listed):
        together = encoder.encode_parts(headers, values, parts)
        alone = [
            encoder.encode(header, [column[part] for column in values])
            for header, part in zip(headers, parts, strict=True)
        ]
        assert list(map(bytes, together)) == list(map(bytes, alone))


def test_no_memory_of_ours_goes_out_between_the_columns() -> None:
    listed = columns.chosen(depth=True, options=True)
    values = [np.zeros(3, column.dtype) for column in listed]
    encoder = encode_arrow.ArrowEncoder(listed)
    seen = set()
    for byte in (0, 1, 0xFF):
        np.full(1 << 14, byte, np.uint8)  # what the next array of this size may find in its place
        seen.add(bytes(encoder.encode({"seq": 1}, values)))
    assert len(seen) == 1


def any_column(column: columns.Column, chance: Any, gone: Any) -> Any:
    rows = len(gone)
    match column.kind:
        case columns.Kind.NUMBER:
            return np.where(gone, np.nan, chance.normal(size=rows))
        case columns.Kind.WORD:
            codes = chance.integers(0, len(column.words), rows)
            return np.where(gone, columns.NO_WORD, codes).astype(np.uint8)
        case columns.Kind.FLAG:
            return chance.random(rows) < 0.5
        case columns.Kind.WHOLE:
            whole = chance.integers(1, 2**31, rows)
            return np.where(gone, column.missing or 0, whole).astype(column.dtype)
