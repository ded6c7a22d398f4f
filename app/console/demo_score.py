"""What the demo's subscriber saw, in numbers, and how far the volatilities were from the truth."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
import orjson
from prometheus_client.parser import text_string_to_metric_families

from app.console.demo_parts import HTTP_S_MAX
from ticker_service.simulator.truth import Truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.console.demo_orders import Trades
    from app.console.demo_parts import Parts
    from ticker_service.client import Message, TickReader

LATENCIES_MAX: Final = 500_000
IV_ERROR_MAX: Final = 0.01
VEGA_STEPS: Final = 0.2
"""A row is compared when its vega is worth a price step per so many volatility points."""


@dataclass(slots=True)
class Score:
    """What the subscriber saw, in numbers; bounded whatever the length of the run."""

    batches: int = 0
    ticks: int = 0
    options_priced: int = 0
    unvalued: int = 0
    """Rows that say OK and have no volatility or no vega: there must be none."""
    gaps: int = 0
    iv_error_max: float = 0.0
    iv_compared: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_MAX))
    to_compare: list[NDArray[np.float64]] = field(default_factory=list)


def count(message: Message, seen: Score, now_us: int) -> None:
    """Take a batch into the numbers; only rows with a packet are timed and compared."""
    columns = message.body["columns"]
    status = np.array(columns["iv_status"], dtype=object)
    is_priced = status == "OK"
    seen.batches += 1
    seen.options_priced += int(np.count_nonzero(is_priced))
    # null becomes NaN here
    volatility, vega = (
        np.array(columns[name], np.float64) for name in ("implied_volatility", "vega")
    )
    seen.unvalued += int(np.count_nonzero(is_priced & ~np.isfinite(volatility + vega)))
    if columns["is_repriced"] and columns["is_repriced"][0]:
        return
    received_us = np.array(columns["received_at_us"], np.float64)
    seen.ticks += len(received_us)
    seen.latencies_ms.extend(((now_us - received_us) / 1_000.0).tolist())
    rows = [
        np.array(columns[name], np.float64)
        for name in ("instrument_token", "received_at_us", "implied_volatility", "vega")
    ]
    seen.to_compare.append(np.stack(rows)[:, is_priced])


async def compare(parts: Parts, seen: Score) -> None:
    """Compare volatilities published since the last call with those the exchange priced with."""
    if not seen.to_compare:
        return
    rows = np.concatenate(seen.to_compare, axis=1)
    seen.to_compare.clear()
    # A row without a value is counted as such, and cannot be compared.
    token, received_us, volatility, vega = rows[:, np.isfinite(rows).all(axis=0)]
    if not len(token):
        return
    async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as client:
        answer = await client.get(
            f"{parts.rest_root}/sim/truth",
            params={"from_us": int(received_us.min()), "to_us": int(received_us.max())},
        )
    truth = Truth(orjson.loads(answer.raise_for_status().content)["data"])
    expected = truth.volatility(token.astype(np.int64), received_us.astype(np.int64))
    # Every option of the simulator moves in steps of five paise.
    is_telling = (vega * VEGA_STEPS >= 0.05) & np.isfinite(expected)  # noqa: PLR2004
    errors = np.abs(volatility - expected)[is_telling]
    seen.iv_compared += len(errors)
    if len(errors):
        seen.iv_error_max = max(seen.iv_error_max, float(errors.max()))


async def report_of(
    parts: Parts, seen: Score, reader: TickReader, trades: Trades
) -> dict[str, Any]:
    """Return the numbers that ``--json`` prints, the daemon's own counters among them."""
    metrics = await _metrics(parts.health_url)
    latencies = np.array(seen.latencies_ms) if seen.latencies_ms else np.full(1, np.nan)
    p50, p99 = (float(np.percentile(latencies, share)) for share in (50, 99))
    return {
        "ticks_received": int(metrics.get("feed_packets_total", 0)),
        "ticks_published": int(metrics.get("ticks_published_total", 0)),
        "batches": int(metrics.get("batches_published_total", 0)),
        "iv_error_max": seen.iv_error_max if seen.iv_compared else None,
        "iv_compared": seen.iv_compared,
        "gaps": seen.gaps + reader.missed,
        "options_priced": seen.options_priced,
        "unvalued": seen.unvalued,
        "orders": trades.counts(),
        "latency_ms": {"p50": round(p50, 3), "p99": round(p99, 3)},
        "redis_url": parts.redis_url,
        "database_url": parts.database_url,
    }


async def _metrics(health_url: str) -> dict[str, float]:
    """Return each of the daemon's counters, summed over its labels."""
    async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as client:
        answer = await client.get(f"{health_url}/metrics")
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.raise_for_status().text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals
