"""The benchmark compares equals or nothing, and says what it found in a form programs read."""

from __future__ import annotations

import asyncio
import sys
import types
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from kiteconnect import KiteTicker

from scripts.benchmarks import __main__ as runner
from scripts.benchmarks import (
    chain,
    decode,
    frames,
    machine,
    measure,
    pricing,
    pricing_peers,
    scene,
)
from scripts.benchmarks import path as bench_path
from ticker_service.config import Encoding
from ticker_service.domain.tick import Mode
from ticker_service.market import decode as our_decode
from ticker_service.pricing import PricingKernel
from ticker_service.testing import MemoryPublisher

if TYPE_CHECKING:
    from pathlib import Path

    from ticker_service.ports import Frame


def result(**changes: object) -> measure.Result:
    facts = {"name": "decode_1", "ours": 300.0, "peer": 100.0, "unit": "packets/s", "against": "x"}
    return measure.Result(**(facts | changes))


def run_with(suite: object, monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str) -> int:
    module = types.ModuleType("scripts.benchmarks.pricing")
    module.run = suite
    monkeypatch.setitem(sys.modules, "scripts.benchmarks.pricing", module)
    monkeypatch.setattr(machine, "pin", lambda: None)
    monkeypatch.setattr(sys, "argv", ["bench", "pricing", "--json", str(path), *arguments])
    return runner.main()


def test_results_are_written_as_a_list_of_objects(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    found = [result(more={"rows": 9}), result(name="alone", peer=None)]
    assert run_with(lambda _: found, monkeypatch, path) == 0
    first, second = orjson.loads(path.read_bytes())
    wanted = {"name": "decode_1", "ours": 300.0, "peer": 100.0, "ratio": 3.0, "unit": "packets/s"}
    assert wanted.items() <= first.items()
    assert first["rows"] == 9
    assert (second["peer"], second["ratio"]) == (None, None)
    assert "decode_1" in capsys.readouterr().out


def test_sides_that_disagree_end_the_run_and_leave_no_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def suite(_: measure.Options) -> list[measure.Result]:
        raise measure.Disagreement("row=3: 17.0, ours 18.0")

    path = tmp_path / "bench.json"
    assert run_with(suite, monkeypatch, path) == 1
    assert not path.exists()
    assert "row=3: 17.0, ours 18.0" in capsys.readouterr().err


def test_an_unknown_suite_and_an_impossible_number_of_runs_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for arguments in (("nonsense",), ("--runs", "0")):
        with pytest.raises(SystemExit, match="2"):
            run_with(lambda _: [], monkeypatch, tmp_path / "none.json", *arguments)


def test_a_goal_is_met_only_when_every_part_of_it_is() -> None:
    assert result().is_met is None
    assert result(ours_goal=300.0, ratio_goal=3.0).is_met is True
    assert result(ours_goal=300.0, ratio_goal=3.1).is_met is False
    assert result(ours_goal=301.0).is_met is False
    assert result(peer=None, ratio_goal=3.0).is_met is None


def test_sides_take_turns_and_neither_always_goes_first() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: float(len(order.append(name) or order)) for name in "ab"}
    turns = measure.interleaved(sides, runs=4)
    assert order == list("abbaabba")
    assert turns["a"].seconds == [1.0, 4.0, 5.0, 8.0]
    assert turns["b"].median_s == 4.5


def test_a_wrong_volatility_of_a_peer_is_not_timed() -> None:
    options = chain.listed(200, seed=5)
    terms = options.forward, options.strike, options.years, options.rate, options.is_call
    solution, status = PricingKernel(200).solve(options.price, *terms)
    assert not status.any()
    theirs = [np.array(row) for row in pricing_peers.OneByOne(options).solve()]
    pricing._check("vollib", solution, theirs)
    theirs[0][7] += 1e-8 * solution[0].max()
    with pytest.raises(measure.Disagreement, match="vollib row=0 option=7"):
        pricing._check("vollib", solution, theirs)
    theirs[0][7] = np.nan
    with pytest.raises(measure.Disagreement, match="vollib row=0"):
        pricing._check("vollib", solution, theirs)


def test_the_chain_is_the_same_for_a_seed_and_every_row_has_a_volatility() -> None:
    one, again, other = (chain.listed(9_000, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(one.price, again.price)
    assert not np.array_equal(one.price, other.price)
    steps = one.price / chain.PRICE_STEP
    assert np.abs(steps - np.rint(steps)).max() < 1e-6
    terms = one.forward, one.strike, one.years, one.rate, one.is_call
    assert not PricingKernel(9_000).solve(one.price, *terms)[1].any()


@pytest.mark.parametrize("modes", [frames.MIXED, frames.FULL])
def test_every_number_of_the_official_parser_is_held_to_ours(modes: frames.Share) -> None:
    (batch,) = frames.batches(modes, frame_packets=10, batch_packets=200, count=1)
    ticks = our_decode.frames(batch).ticks
    theirs = decode._parsed(KiteTicker("key", "token"), batch)
    decode.check(ticks, theirs)
    full = next(t for frame in theirs for t in frame if t["mode"] == "full" and "depth" in t)
    full["depth"]["sell"][3]["orders"] += 1
    with pytest.raises(measure.Disagreement, match=r"ask_orders\.3"):
        decode.check(ticks, theirs)
    with pytest.raises(measure.Disagreement, match="ours 200"):
        decode.check(ticks, theirs[1:])


def test_frames_hold_the_packets_and_modes_that_were_asked_for() -> None:
    batches = frames.batches(frames.FULL, frame_packets=100, batch_packets=1_200, count=2)
    for batch in batches:
        decoded = our_decode.frames(batch)
        assert (len(batch), decoded.packets, dict(decoded.rejected)) == (12, 1_200, {})
        assert np.mean(decoded.ticks.mode == Mode.FULL) >= 0.95
    assert batches[0][0].payload != batches[1][0].payload


def test_a_played_scene_is_a_market_of_options_that_are_priced_and_never_refused() -> None:
    played = scene.play(2)
    assert played.universe.is_option.mean() > 0.99
    assert [sum(packets_in(frame) for frame in flush.frames) for flush in played.flushes] == [
        scene.FLUSH_TICKS
    ] * 2
    publisher = MemoryPublisher()
    path, clock = scene.path(played, publisher, [Encoding.JSON], prefix="")

    async def carry() -> None:
        wanted = np.ones(len(played.universe), np.bool_)
        for flush in (played.opening, *played.flushes):
            scene.set_clock(clock, flush.now_ns)
            await path.flush(flush.frames, wanted)

    asyncio.run(carry())
    assert not any(each["count"] for each in path.refusals.report().values())
    rows = [row for _, m in publisher.messages for row in bench_path.rows_of(Encoding.JSON, m)]
    assert len(rows) == len(played.universe) + played.ticks
    assert np.mean([row["iv_status"] == "OK" for row in rows]) > 0.7


def test_a_number_that_the_peer_publishes_otherwise_is_found() -> None:
    sides = {"buy": [{"price": 1.0, "quantity": 5, "orders": 1}], "sell": []}
    tick = {"instrument_token": 7, "last_price": 1.5, "implied_volatility": 0.2, "depth": sides}
    row = {
        "instrument_token": 7,
        "ltp": 1.5,
        "bid_price_1": 1.0,
        "bid_quantity_1": 5,
        "bid_orders_1": 1,
        "iv_leg": "own",
        "price_source": "mid",
        "iv_status": "OK",
        "implied_volatility": 0.2,
    }
    bench_path.same_rows([row], [tick])
    for name, wrong in (("ltp", 1.55), ("bid_orders_1", 2), ("implied_volatility", 0.2000001)):
        with pytest.raises(measure.Disagreement, match="token=7"):
            bench_path.same_rows([row | {name: wrong}], [tick])
    with pytest.raises(measure.Disagreement, match="could be compared"):
        bench_path.same_rows([row | {"iv_status": "STALE"}], [tick])


def packets_in(frame: Frame) -> int:
    return int.from_bytes(frame.payload[:2], "big")
