"""Rows in any form a consumer wants: one meaning and one type per column, whatever the encoding."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_exchange import EXPIRIES, NOW_NS, choose, fresh, nifty, ticks_of

from ticker_service.client import Message, NoColumns
from ticker_service.client.messages import reader_of
from ticker_service.client.rows import Kind, kind_of
from ticker_service.config import Encoding, PricingConfig, PublishConfig
from ticker_service.errors import ConfigurationError
from ticker_service.market import columns
from ticker_service.market.batch import Batch
from ticker_service.market.columns import Rows
from ticker_service.market.latest import LatestTable
from ticker_service.market.price import Pricer
from ticker_service.market.publish import Announcer

CHOSEN = choose(nifty([24_000.0, 24_100.0], EXPIRIES[:1]), "NIFTY")
BOTH = PublishConfig(encodings=(Encoding.JSON, Encoding.ARROW), depth=True, own_volatility=True)
SOME = {
    "instrument_token": [1, 2],
    "received_at_us": [1_795_251_566_694_981, 1_795_251_566_694_982],
    "exchange_ts_us": [1_795_251_566_000_000, None],
    "ltp": [5.05, None],
    "volume": [4_294_967_295, None],
    "iv_status": ["OK", None],
    "is_repriced": [False, True],
}


def published(seed: int, rows: int) -> tuple[Message, Message]:
    """Return one batch as a reader gets it from either channel."""
    announcer = Announcer(CHOSEN, BOTH, epoch=7)
    chance = np.random.default_rng(seed)
    chosen = chance.integers(0, len(CHOSEN), rows)
    priced = Pricer(CHOSEN, LatestTable(CHOSEN), PricingConfig()).columns(
        CHOSEN.terms(chosen), now_ns=NOW_NS
    )
    ticks = any_values(ticks_of(CHOSEN, chosen.tolist()), chance)
    batch = Batch(book=0, part=slice(0, rows), ticks=ticks)
    shown = Rows(ticks=ticks, priced=any_values(priced, chance), standing=fresh(rows))
    (sent,) = announcer.batches([batch], shown, now_ns=NOW_NS)
    (_, text), (_, stream) = sent.messages
    of_json, of_arrow = reader_of("json")(text), reader_of("arrow")(stream)
    assert of_json is not None
    assert of_arrow is not None
    return of_json, of_arrow


SPECIAL = {
    "f": [0.0, 0.05, -3.5, 1e300, np.nan, np.inf],
    "i": [-1, 0, 1, 2**32 - 1],
    "u": [0, 1],
    "b": [False, True],
}


def any_values(table: Any, chance: np.random.Generator) -> Any:
    return replace(
        table,
        **{
            field.name: chance.choice(SPECIAL[old.dtype.kind], old.shape).astype(old.dtype)
            for field in fields(table)
            for old in [getattr(table, field.name)]
        },
    )


def some() -> Message:
    return Message("batch", "NIFTY", {"columns": SOME})


def test_the_name_of_every_published_column_says_its_kind() -> None:
    everything = columns.chosen(depth=True, options=True, own_volatility=True)
    published_as = {
        columns.Kind.NUMBER: {Kind.NUMBER},
        columns.Kind.WHOLE: {Kind.WHOLE, Kind.STAMP, Kind.TOKEN},
        columns.Kind.WORD: {Kind.WORD},
        columns.Kind.FLAG: {Kind.FLAG},
    }
    wrong = [c.name for c in everything if kind_of(c.name) not in published_as[c.kind]]
    assert wrong == []
    wholes = [c for c in everything if c.kind is columns.Kind.WHOLE]
    never_missing = {c.name for c in wholes if c.missing is None}
    assert never_missing == {c.name for c in wholes if kind_of(c.name) in {Kind.TOKEN, Kind.STAMP}}


@given(st.integers(0, 2**32), st.integers(0, 6))
def test_both_encodings_give_the_same_rows_in_every_form(seed: int, rows: int) -> None:
    of_json, of_arrow = published(seed, rows)
    assert of_json.rows() == of_arrow.rows()
    assert len(of_json.view) == len(of_arrow.view) == rows
    assert of_json.view.names == of_arrow.view.names
    for name, array in of_json.to_numpy().items():
        other = of_arrow.to_numpy()[name]
        assert array.dtype == other.dtype, name
        np.testing.assert_array_equal(array, other, err_msg=name)
    assert of_json.to_pandas().equals(of_arrow.to_pandas())
    assert of_json.to_polars().equals(of_arrow.to_polars())
    assert of_json.to_arrow().to_pydict() == of_arrow.to_arrow().to_pydict()
    types = [of_json.to_arrow().schema.types, of_arrow.to_arrow().schema.types]
    assert types[0] == types[1]


def test_the_type_of_a_column_does_not_depend_on_what_is_missing() -> None:
    whole = {name: [values[0]] for name, values in SOME.items()}
    lacking = {name: [values[1]] for name, values in SOME.items()}
    types = [
        {
            name: array.dtype
            for name, array in Message("batch", "B", {"columns": c}).to_numpy().items()
        }
        for c in (whole, lacking)
    ]
    assert types[0] == types[1]


def test_missing_is_nan_or_none_in_numpy() -> None:
    arrays = some().to_numpy()
    assert arrays["instrument_token"].dtype == np.uint32
    assert arrays["received_at_us"].tolist() == SOME["received_at_us"]
    assert (arrays["volume"][0], arrays["exchange_ts_us"][0]) == (2**32 - 1, 1_795_251_566_000_000)
    assert np.isnan([arrays[name][1] for name in ("ltp", "volume", "exchange_ts_us")]).all()
    assert arrays["iv_status"].tolist() == ["OK", None]
    assert arrays["is_repriced"].tolist() == [False, True]


def test_a_pandas_frame_has_the_columns_of_the_message() -> None:
    frame = some().to_pandas()
    assert list(frame.columns) == list(SOME)
    assert frame["ltp"].sum() == 5.05


def test_a_polars_frame_has_null_for_missing_and_whole_numbers() -> None:
    frame = some().to_polars()
    assert frame.schema["volume"] == pl.Int64
    assert frame.schema["iv_status"] == pl.String
    assert frame["volume"].to_list() == [2**32 - 1, None]
    assert frame["ltp"].null_count() == 1


def test_a_smile_has_rows_in_every_form() -> None:
    drawn = {
        "expiry": ["2026-11-24", "2026-12-01"],
        "points": [12, 3],
        "atm_volatility": [0.13, None],
        "butterfly_ok": [True, None],
        "smile_status": ["OK", "TOO_FEW_POINTS"],
    }
    smile = Message("smile", "NIFTY", {"columns": drawn})
    assert smile.to_numpy()["butterfly_ok"].tolist() == [True, None]
    assert smile.to_arrow().to_pydict() == drawn
    assert smile.to_polars().to_dict(as_series=False) == drawn
    assert smile.to_pandas()["atm_volatility"].isna().tolist() == [False, True]


def test_an_arrow_table_has_the_types_of_the_channel() -> None:
    table = some().to_arrow()
    assert table.schema.field("volume").type == pa.int64()
    assert table.schema.field("iv_status").type == pa.dictionary(pa.int8(), pa.string())
    assert table.to_pydict() == SOME


def test_an_arrow_message_is_not_copied() -> None:
    _, of_arrow = published(1, 3)
    assert of_arrow.to_arrow() is of_arrow.arrow


@pytest.mark.parametrize("kind", ["heartbeat", "gap", "status", "missed"])
def test_a_kind_without_rows_says_so(kind: str) -> None:
    with pytest.raises(NoColumns, match=kind):
        Message(kind, "NIFTY", {"seq": 1}).to_pandas()


@pytest.mark.parametrize(
    ("method", "library"),
    [("to_pandas", "pandas"), ("to_polars", "polars"), ("to_arrow", "pyarrow")],
)
def test_a_library_that_is_not_installed_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, method: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=f"pip install {library}"):
        getattr(some(), method)()


def test_reading_arrow_without_pyarrow_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"ticker-service\[arrow\]"):
        reader_of("arrow")


def test_an_encoding_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigurationError, match="encoding='csv'"):
        reader_of("csv")  # type: ignore[arg-type]


def stream_of(metadata: dict[bytes, bytes] | None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([]).with_metadata(metadata)):
        pass
    raw: bytes = sink.getvalue().to_pybytes()
    return raw


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not arrow",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        stream_of(None),
        stream_of({b"other": b"{}"}),
        stream_of({b"message": b"{}"}),
        stream_of({b"message": json.dumps({"v": 2}).encode()}),
    ],
)
def test_a_stream_that_is_none_of_ours_is_passed_over(raw: bytes) -> None:
    assert reader_of("arrow")(raw) is None
