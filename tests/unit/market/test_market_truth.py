"""Minutes of a moving market whose volatilities are known: nothing else may be called OK.

The simulated exchange on a clock of our own, no sockets: its packets go down the real path, what
comes out is read as a consumer reads it and held against what the exchange priced with at each
packet's instant. Quotes cross and lose a side, strikes are dead, and an expiry passes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pytest

from ticker_service.adapters.kite_instruments import parse_dump
from ticker_service.config import (
    EngineConfig,
    KiteConfig,
    PublishConfig,
    SubscriptionConfig,
    ValidationConfig,
)
from ticker_service.domain import session, universe
from ticker_service.domain.tick import Mode
from ticker_service.market.pipeline import TickPath
from ticker_service.ports import Frame
from ticker_service.runtime.clock import ManualClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.simulator.truth import Truth, TruthHistory
from ticker_service.testing import MemoryPublisher

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.slow

Row = dict[str, Any]

NS_PER_S: Final = 10**9
SEED: Final = 11
STEPS_PER_S: Final = 4
STARTS: Final = dt.datetime(2026, 11, 17, 15, 27, 30, tzinfo=session.IST)
MINUTES: Final = 3
EXPIRES_US: Final = session.instant_ns(STARTS.replace(hour=15, minute=30, second=0)) // 1_000
PRICE_STEP: Final = 0.05
VOL_POINT: Final = 0.01
VALUES: Final = ("implied_volatility", "delta", "gamma", "theta", "vega", "rho")
WORDS: Final = ("iv_status", "iv_leg", "forward_source", "own_iv_status")


class Run:
    """The exchange, the path, and what came out of it."""

    def __init__(self) -> None:
        options = SimulatorOptions(
            seed=SEED,
            rate_per_s=700.0,
            steps_per_s=STEPS_PER_S,
            strikes_each_side=12,
            nearest_expiry_days_min=0,
            crossed_quote_ratio=0.05,
            one_sided_quote_ratio=0.05,
            dead_strike_ratio=0.1,
        )
        self.clock = ManualClock(session.instant_ns(STARTS))
        self.market = Market(options, now_ns=self.clock.now_ns())
        self.history = TruthHistory(self.market.catalogue, steps_max=10_000)
        dump = self.market.catalogue.dump(self.market.last_price_inr)
        self.chosen = universe.select(
            parse_dump(dump.decode()),
            underlyings=("NIFTY", "SENSEX"),
            instruments=(),
            expiries_max=3,
            today=STARTS.date(),
        )
        self.publisher = MemoryPublisher()
        self.path = TickPath(
            self.chosen,
            EngineConfig(
                kite=KiteConfig(rest_root="-", ws_root="-", api_key="-", access_token="-"),
                redis_url="-",
                subscription=SubscriptionConfig(underlyings=("NIFTY", "SENSEX")),
                publish=PublishConfig(own_volatility=True),
                validation=ValidationConfig(publishes_doubtful=True),
            ),
            self.publisher,
            surroundings=Surroundings(
                clock=self.clock,
                chance=random.Random(SEED),  # noqa: S311 - jitter, not a secret
                telemetry=Telemetry(),
            ),
            pause=_no_pause,
        )
        self.messages_at_snapshot: list[int] = []
        self.snapshots: list[list[Row]] = []
        asyncio.run(self._play())
        batches = [orjson.loads(raw) for _, raw in self.publisher.messages]
        self.batches = [
            [{"published_at_us": each["published_at_us"], **row} for row in options_of(each)]
            for each in batches
        ]
        self.rows = [row for each in self.batches for row in each]
        """Every option row that was published, in order."""
        self.quoted = Table([row for row in self.rows if not row["is_repriced"]])
        """Those that had a packet."""
        self.truth = self._truth()

    async def _play(self) -> None:
        token = self.market.catalogue.instrument_token
        is_ours = np.isin(token, self.chosen.instrument_token)
        self.path.subscribed(np.arange(len(self.chosen)), since_ns=self.clock.now_ns())
        self.history.record(self.clock.now_ns(), self.market.underlyings)
        await self._receive(np.flatnonzero(is_ours))
        for step in range(MINUTES * 60 * STEPS_PER_S):
            self.clock.advance(NS_PER_S // STEPS_PER_S)
            changes = self.market.step(self.clock.now_ns())
            self.history.record(self.clock.now_ns(), self.market.underlyings)
            await self._receive(changes.rows[is_ours[changes.rows]])
            await self.path.reprice()
            if step % 10 == 0:
                await self._snapshot()

    async def _receive(self, rows: np.ndarray) -> None:
        """Hand the path the present packets of some instruments, as one socket would."""
        full = np.full(len(rows), Mode.FULL, np.uint8)
        payloads = self.market.packets.frames(rows, full)
        frames = [Frame(self.clock.now_ns(), payload) for payload in payloads]
        await self.path.flush(frames, np.ones(len(self.chosen), np.bool_))

    async def _snapshot(self) -> None:
        await self.path.snapshot()
        values = [orjson.loads(raw) for key, raw in self.publisher.values.items() if "snap" in key]
        self.snapshots.append([row for each in values for row in options_of(each)])
        self.messages_at_snapshot.append(len(self.publisher.messages))

    def _truth(self) -> Truth:
        now_us = self.clock.now_ns() // 1_000
        data = self.history.window(now_us=now_us, from_us=None, to_us=None)
        return Truth(orjson.loads(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)))


class Table:
    """Rows as columns: numbers as floats with NaN for null, words as they are."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def number(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self._rows], np.float64)

    def word(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self._rows], dtype=object)

    def where(self, mask: np.ndarray) -> Table:
        return Table([self._rows[place] for place in np.flatnonzero(mask).tolist()])

    def doubt(self) -> np.ndarray:
        """Return the stated bound on each row's forward: docs/pricing.md, section 6."""
        age_s = np.maximum(self.number("forward_age_ms") / 1_000.0, 0.05)
        wandering = 7e-5 * self.number("forward") * np.sqrt(age_s)
        return np.nan_to_num(self.number("forward_dispersion")) + 3.0 * wandering

    def at(self) -> tuple[np.ndarray, np.ndarray]:
        """Return token and instant of each row's packet, as the truth is asked."""
        return self.number("instrument_token").astype(np.int64), self.number(
            "received_at_us"
        ).astype(np.int64)


def options_of(body: Row) -> list[Row]:
    columns = body["columns"]
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return [row for row in rows if row["iv_status"] is not None]


async def _no_pause(_: int) -> None:
    raise AssertionError("the publisher in memory does not fail")


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


def test_every_volatility_called_ok_is_the_one_its_packet_was_priced_with(run: Run) -> None:
    """Within a price step, and what the forward may be off by; the seed is fixed, the margin not."""
    good = run.quoted.where(run.quoted.word("own_iv_status") == "OK")
    assert len(good) > 20_000
    error = np.abs(good.number("own_implied_volatility") - run.truth.volatility(*good.at()))
    allowed = PRICE_STEP + np.abs(good.number("delta")) * good.doubt()
    assert (error <= VOL_POINT * allowed / good.number("vega")).all()


def test_apart_from_the_forward_nothing_but_the_price_step_is_between_them(run: Run) -> None:
    good = run.quoted.where(run.quoted.word("own_iv_status") == "OK")
    error = np.abs(good.number("own_implied_volatility") - run.truth.volatility(*good.at()))
    forward_error = np.abs(good.number("forward") - run.truth.forward(*good.at()))
    allowed = PRICE_STEP + np.abs(good.number("delta")) * forward_error
    # A tenth for the curvature: delta and vega are those of one end of the difference.
    assert (error <= 1.1 * VOL_POINT * allowed / good.number("vega")).all()


def test_every_parity_forward_is_within_its_stated_doubt(run: Run) -> None:
    by_parity = run.quoted.where(run.quoted.word("forward_source") == "parity")
    error = np.abs(by_parity.number("forward") - run.truth.forward(*by_parity.at()))
    assert len(by_parity) > 20_000
    assert (error <= by_parity.doubt()).all()


def test_what_takes_a_leg_s_volatility_and_is_ok_takes_one_that_was_ok(run: Run) -> None:
    """So the proof for each option's own quote holds for every row, repriced ones too."""
    tokens = run.chosen.instrument_token
    other_of = dict(zip(tokens.tolist(), tokens[run.chosen.other_leg].tolist(), strict=True))
    own: dict[int, tuple[str, float | None]] = {}
    checked = set()
    for batch in run.batches:
        for row in batch:
            if not row["is_repriced"]:
                said = (row["own_iv_status"], row["own_implied_volatility"])
                own[row["instrument_token"]] = said
        for row in batch:
            if row["iv_status"] == "OK":
                token = row["instrument_token"]
                leg = token if row["iv_leg"] == "own" else other_of[token]
                assert own[leg] == ("OK", row["implied_volatility"])
                checked.add((row["iv_leg"], row["is_repriced"]))
    assert checked == {("own", False), ("other", False), ("own", True), ("other", True)}


def test_no_crossed_or_one_sided_quote_and_no_dead_strike_is_called_ok(run: Run) -> None:
    bid, ask = run.quoted.number("bid"), run.quoted.number("ask")
    own = run.quoted.word("own_iv_status")
    is_crossed, is_one_sided = bid > ask, np.isnan(bid) != np.isnan(ask)
    is_dead = np.isnan(bid) & np.isnan(ask)
    assert [int(np.count_nonzero(mask)) > 20 for mask in (is_crossed, is_one_sided, is_dead)] == [
        True
    ] * 3
    assert not (own[is_crossed | is_one_sided | is_dead] == "OK").any()
    assert set(own[is_dead].tolist()) <= {"STALE", "BELOW_INTRINSIC"}


def test_every_status_of_a_real_market_occurs(run: Run) -> None:
    seen = {row["iv_status"] for row in run.rows}
    expected = {"OK", "STALE", "UNRELIABLE", "CROSSED", "ONE_SIDED", "BELOW_INTRINSIC", "EXPIRED"}
    assert expected <= seen


def test_a_row_without_a_volatility_has_no_greeks_and_a_reason(run: Run) -> None:
    for row in run.rows:
        has = {name for name in VALUES if row[name] is not None}
        assert has in (set(), set(VALUES))
        if row["iv_status"] in {"OK", "STALE", "UNRELIABLE"}:
            assert has
            assert row["implied_volatility"] > 0.0
        elif row["iv_status"] not in {"CROSSED", "ONE_SIDED"}:
            assert not has


def test_an_expiring_option_is_priced_to_its_last_second_and_then_expired(run: Run) -> None:
    expiring = run.chosen.instrument_token[run.chosen.expiry_ns == EXPIRES_US * 1_000]
    assert len(expiring) == 50
    mine = [row for row in run.rows if row["instrument_token"] in set(expiring.tolist())]
    before = [row for row in mine if row["published_at_us"] < EXPIRES_US]
    last_second = [row for row in before if row["published_at_us"] >= EXPIRES_US - 1_000_000]
    after = [row for row in mine if row["published_at_us"] >= EXPIRES_US]
    assert not any(row["iv_status"] == "EXPIRED" for row in before)
    assert any(row["implied_volatility"] for row in last_second)
    assert {row["iv_status"] for row in after} == {"EXPIRED"}
    assert {row["instrument_token"] for row in after} == set(expiring.tolist())


def test_whoever_keeps_the_last_row_of_each_option_has_numbers_of_now(run: Run) -> None:
    """Within the tolerances that docs/wire.md states; the snapshot is what is true now."""
    kept: dict[int, Row] = {}
    done = compared = 0
    for messages, snapshot in zip(run.messages_at_snapshot, run.snapshots, strict=True):
        for batch in run.batches[done:messages]:
            kept |= {row["instrument_token"]: row for row in batch}
        done = messages
        now = Table(snapshot)
        held = Table([kept[row["instrument_token"]] for row in snapshot])
        assert len(now) == len(kept)
        for name in WORDS:
            assert (held.word(name) == now.word(name)).all(), name
        step, forward = np.full(len(now), PRICE_STEP), now.number("forward")
        in_delta = np.full(len(now), 0.005)
        tolerances = {
            "delta": in_delta,
            "implied_volatility": np.fmax(0.0005, VOL_POINT * step / now.number("vega")),
            "gamma": np.fmax(in_delta / (0.01 * forward), 0.01 * now.number("gamma")),
            "forward": 0.0002 * forward,
            **{
                name: np.fmax(step, 0.01 * np.abs(now.number(name)))
                for name in ("theta", "vega", "rho")
            },
        }
        for name, tolerance in tolerances.items():
            a, b = held.number(name), now.number(name)
            is_same = (np.abs(a - b) < tolerance) | (np.isnan(a) & np.isnan(b))
            assert is_same.all(), name
            compared += len(now)
    assert compared > 50_000


def test_few_rows_go_out_without_a_packet(run: Run) -> None:
    repriced = sum(row["is_repriced"] for row in run.rows)
    pulses = MINUTES * 60 * STEPS_PER_S
    assert repriced / pulses < 0.2 * len(run.snapshots[0])
