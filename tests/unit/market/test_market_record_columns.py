"""The published columns that are kept: the same rows, in parts that are whole or not there."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from recorded_stage import CHOSEN, SPOT_RAW, RecordedStage, record, replay
from small_exchange import NOW_NS, nifty_universe, option_row

from ticker_service.config import RecordConfig
from ticker_service.errors import RecordingError
from ticker_service.market import columns, record_columns
from ticker_service.market.record_columns import ColumnRecorder
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryParts

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

SECOND_NS = 10**9
NOW_US = NOW_NS // 1_000
ROWS = np.flatnonzero(CHOSEN.is_option)
WIRE = columns.chosen(depth=False, options=True)
FOLDER = "columns/date=2026-11-20/book=NIFTY"
CONTEXT = {
    "published_at_us",
    "epoch",
    "seq",
    "tradingsymbol",
    "exchange",
    "instrument_type",
    "expiry",
    "strike",
}


def limits(**changed: Any) -> RecordConfig:
    return RecordConfig(folder=Path("unused"), **{"free_bytes_min": 0, **changed})


async def trade(stage: RecordedStage, seconds: int = 5) -> None:
    await stage.come_up()
    for second in range(seconds):
        await stage.spot(SPOT_RAW + 1_000 * second)
        await stage.chain(SPOT_RAW + 1_000 * second)
        await stage.pass_s(0.4)
        # Some quotes move the forward, and so the Greeks of all the others.
        await stage.chain(SPOT_RAW + 1_000 * second + 500, strikes=[23_900.0, 24_000.0, 24_100.0])
        await stage.pass_s(0.45)


def table_of(streams: Iterable[bytes]) -> pa.Table:
    tables = [pa.ipc.open_stream(stream).read_all() for stream in streams]
    return pa.concat_tables([table.unify_dictionaries() for table in tables])


def rows_kept(parts: MemoryParts) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in sorted(parts.whole):
        rows += table_of(parts.whole[name]).to_pylist()
    return rows


def rows_published(stage: RecordedStage) -> list[dict[str, Any]]:
    rows = []
    for name, raw in stage.publisher.messages:
        message = json.loads(raw)
        if name.endswith("ticks:NIFTY") and message["kind"] == "batch":
            table = message["columns"]
            for place in range(message["n"]):
                row = {column: values[place] for column, values in table.items()}
                head = {key: message[key] for key in ("seq", "epoch", "published_at_us")}
                rows.append(head | row)
    return rows


class Kept:
    """A recorder of columns whose batches a test makes by hand; ``work`` when the test says."""

    def __init__(self, **changed: Any) -> None:
        self.parts = MemoryParts()
        self.telemetry = Telemetry()
        self.seq = 0
        self.recorder = ColumnRecorder(
            limits(**changed),
            self.parts,
            CHOSEN,
            WIRE,
            epoch=7,
            telemetry=self.telemetry,
        )

    def batch(self, rows: int = 10, *, at_s: float = 0.0) -> None:
        self.seq += 1
        values = []
        for column in WIRE:
            if column.name == "instrument_token":
                tokens = CHOSEN.instrument_token[np.resize(ROWS, rows)]
                values.append(tokens)
            else:
                values.append(np.zeros(rows, column.dtype))
        at_us = NOW_US + round(at_s * 1_000_000)
        self.recorder.take(0, {"seq": self.seq, "published_at_us": at_us}, values)

    def work(self, *, at_s: float = 0.0, is_over: bool = False) -> int:
        return run(self.recorder.work(NOW_NS + round(at_s * SECOND_NS), is_over=is_over))

    def rows(self) -> dict[str, int]:
        return {
            name.rsplit("/", 1)[1]: table_of(streams).num_rows
            for name, streams in self.parts.whole.items()
        }

    def metric(self, name: str) -> float:
        return self.telemetry._registry.get_sample_value(name) or 0.0


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


def test_the_rows_that_are_kept_are_the_rows_that_were_published() -> None:
    stage = record(trade)
    kept = [{k: v for k, v in row.items() if k not in CONTEXT} for row in rows_kept(stage.parts)]
    published = rows_published(stage)
    assert {row["is_repriced"] for row in published} == {False, True}
    assert kept == [
        {name: row[name] for name in (column.name for column in WIRE)} for row in published
    ]
    heads = [(row["seq"], row["epoch"], row["published_at_us"]) for row in rows_kept(stage.parts)]
    assert heads == [(row["seq"], row["epoch"], row["published_at_us"]) for row in published]


def test_rows_that_nobody_traded_can_be_left_out() -> None:
    stage = record(trade, config=limits(repriced=False))
    published = [row for row in rows_published(stage) if not row["is_repriced"]]
    assert 0 < len(published) < len(rows_published(stage))
    assert len(rows_kept(stage.parts)) == len(published)
    assert not any(row["is_repriced"] for row in rows_kept(stage.parts))


def test_every_row_says_its_contract_by_name_because_tokens_are_used_again() -> None:
    stage = record(trade)
    call = option_row(CHOSEN, 0, 24_000.0, "CE")
    token = int(CHOSEN.instrument_token[call])
    (row, *_) = [row for row in rows_kept(stage.parts) if row["instrument_token"] == token]
    assert row["tradingsymbol"] == CHOSEN.instruments.tradingsymbol[call]
    assert (row["exchange"], row["instrument_type"]) == ("NFO", "CE")
    assert (row["expiry"], row["strike"]) == (dt.date(2026, 11, 23), 24_000.0)
    (spot, *_) = [row for row in rows_kept(stage.parts) if row["tradingsymbol"] == "NIFTY 50"]
    assert (spot["expiry"], spot["strike"]) == (None, None)


def test_the_columns_of_a_replay_are_those_of_the_run_byte_by_byte() -> None:
    stage = record(trade)
    again = MemoryParts()
    replay(stage.folder.contents, parts=again)
    assert again.whole.keys() == stage.parts.whole.keys()
    assert rows_kept(again) == rows_kept(stage.parts)


def test_a_part_appears_when_its_time_is_over() -> None:
    kept = Kept(part_s=900)
    kept.batch()
    kept.work(at_s=899.0)
    assert kept.rows() == {}
    kept.work(at_s=900.0)
    assert kept.rows() == {"7-0000.parquet": 10}
    kept.batch(at_s=901.0)
    kept.work(at_s=1_900.0)
    assert kept.rows() == {"7-0000.parquet": 10, "7-0001.parquet": 10}


def test_a_part_is_of_one_day_and_one_book() -> None:
    midnight_s = 13 * 3_600.0
    kept = Kept(part_s=86_400)
    kept.batch(at_s=midnight_s - 1.0)
    kept.batch(at_s=midnight_s)
    kept.work(at_s=midnight_s + 1.0, is_over=True)
    assert {name: len(streams) for name, streams in kept.parts.whole.items()} == {
        f"{FOLDER}/7-0000.parquet": 1,
        "columns/date=2026-11-21/book=NIFTY/7-0001.parquet": 1,
    }


def test_rows_wait_until_there_are_enough_to_compress_together() -> None:
    kept = Kept(waiting_bytes_max=1 << 30)
    for _ in range(3):
        kept.batch(30_000)
        kept.work()
    assert [len(streams) for streams in kept.parts.unfinished.values()] == [1]
    assert kept.recorder.waiting_bytes == 0
    kept.batch(1_000)
    kept.work()
    assert kept.recorder.waiting_bytes > 0


def test_many_small_books_do_not_hold_more_than_their_share_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(record_columns, "BUFFER_BYTES", 100_000)
    kept = Kept()
    for _ in range(60):
        kept.batch(10)
        kept.work()
        assert kept.recorder.waiting_bytes <= 100_000
    assert kept.metric("record_rows_total") > 0


def test_what_does_not_fit_is_counted_not_kept() -> None:
    kept = Kept(waiting_bytes_max=50_000)
    for _ in range(20):
        kept.batch(10)
        assert kept.recorder.waiting_bytes <= 50_000
    kept.work(is_over=True)
    lost = kept.metric("record_rows_lost_total")
    assert lost > 0
    assert sum(kept.rows().values()) + lost == 200


def test_a_part_that_could_not_be_written_is_given_up_with_all_its_rows() -> None:
    kept = Kept(waiting_bytes_max=1 << 30)
    kept.batch(70_000)
    kept.work()
    kept.batch(100)
    kept.parts.is_broken = True
    with pytest.raises(RecordingError):
        kept.work(is_over=True)
    assert kept.metric("record_rows_lost_total") == 70_100
    assert kept.recorder.waiting_bytes == 0
    kept.parts.is_broken = False
    kept.batch(10)
    kept.work(is_over=True)
    assert kept.rows() == {"7-0001.parquet": 10}


def test_stopping_closes_what_is_open_and_takes_nothing_more() -> None:
    kept = Kept()
    kept.batch(10)
    run(kept.recorder.stop())
    kept.batch(5)
    assert kept.rows() == {"7-0000.parquet": 10}
    assert kept.metric("record_rows_lost_total") == 5


def test_the_arrays_of_a_batch_may_be_used_again_at_once() -> None:
    kept = Kept()
    values = [np.ones(3, column.dtype) for column in WIRE]
    values[0] = CHOSEN.instrument_token[ROWS[:3]].copy()
    kept.recorder.take(0, {"seq": 1, "published_at_us": NOW_US}, values)
    for array in values[1:]:
        array[:] = 0
    kept.work(is_over=True)
    table = table_of(next(iter(kept.parts.whole.values())))
    assert table["ltp"].to_pylist() == [1.0, 1.0, 1.0]


def test_a_full_disk_stops_the_columns_with_the_frames_and_both_go_on() -> None:
    async def script(stage: RecordedStage) -> None:
        await trade(stage, 8)
        stage.folder.free = 0
        await trade(stage, 8)
        assert stage.parts.unfinished == {}
        stage.folder.free = 1 << 40
        await trade(stage, 16)

    stage = record(script, config=limits(free_bytes_min=1 << 30))
    assert [name.rsplit("/", 1)[1][-12:] for name in sorted(stage.parts.whole)] == [
        "0000.parquet",
        "0001.parquet",
    ]
    lost = stage.metric("record_rows_lost_total")
    assert lost > 0
    assert len(rows_kept(stage.parts)) + lost == len(rows_published(stage))


def test_columns_that_cannot_be_written_stop_the_recording_and_not_the_feed() -> None:
    async def script(stage: RecordedStage) -> None:
        await trade(stage, 3)
        stage.parts.is_broken = True
        await trade(stage, 15)
        assert stage.engine.health().recording == "write_failed"
        stage.parts.is_broken = False
        await trade(stage, 45)
        assert stage.engine.health().recording == "on"

    stage = record(script, config=limits(part_s=10))
    assert rows_kept(stage.parts)
    assert stage.metric("batches_published_total") == len(
        {row["seq"] for row in rows_published(stage)}
    )


def test_what_has_no_options_is_kept_without_their_columns() -> None:
    chosen = nifty_universe((), ())
    parts = MemoryParts()
    wire = columns.chosen(depth=False, options=False)
    recorder = ColumnRecorder(limits(), parts, chosen, wire, epoch=7, telemetry=Telemetry())
    values = [np.zeros(1, column.dtype) for column in wire]
    values[0] = chosen.instrument_token[:1]
    recorder.take(0, {"seq": 1, "published_at_us": NOW_US}, values)
    run(recorder.work(NOW_NS, is_over=True))
    (streams,) = parts.whole.values()
    names = table_of(streams).schema.names
    assert "ltp" in names
    assert "delta" not in names
