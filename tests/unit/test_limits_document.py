"""``docs/limits.md`` names metrics that there are, and the numbers are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from app.doors import ConnectionCaps
from app.http import postback
from app.http.orders import BODY_BYTES_MAX
from app.log_stream import PATIENCE_MS
from app.security.limits import RequestRate
from app.ws import orders as socket_door
from ticker_service.accounts.limits import PaceRules
from ticker_service.adapters import kite_broker, kite_feed, redis_events, redis_publisher
from ticker_service.adapters.postgres_pool import JournalOptions
from ticker_service.client import arrivals, lines, order_client, tick_reader
from ticker_service.config import FlushConfig, OrdersConfig, RecordConfig
from ticker_service.domain import exit as exit_plan
from ticker_service.domain import exposure
from ticker_service.domain.job import (
    CANCELS_MAX,
    LEGS_MAX,
    PARTS_MAX,
    UNSENT_CANCELS_MAX,
)
from ticker_service.domain.limit import LIMITS
from ticker_service.domain.risk import DENIALS_KEPT
from ticker_service.engine import PUBLISH_RETRY
from ticker_service.market import inbox, refusals
from ticker_service.orders import (
    dead_letters,
    disconnects,
    exits,
    jobs,
    last_prices,
    notices,
    positions,
    postbacks,
    recent_orders,
    report,
    risk_fetch,
    risk_gate,
    risk_record,
)
from ticker_service.simulator import candles, connection, ledger

ROOT: Final = Path(__file__).resolve().parents[2]
TEXT: Final = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
MIB: Final = 1 << 20
KIB: Final = 1 << 10
METRIC: Final = re.compile(r"`([a-z]+(?:_[a-z]+)+)(?:\{[^`]*\})?`")

PHRASES: Final = [
    f"| {exit_plan.SLICES_MAX} at once, {exit_plan.ORDERS_MAX} in all; {exits.LEGS_MAX} |",
    f"| {CANCELS_MAX} that reached the broker, {UNSENT_CANCELS_MAX:,} that did not, a minute apart |",
    f"that are looked through | {positions.EVENTS_MAX} |",
    f"legs and orders of one | {jobs.OPEN_MAX}; {LEGS_MAX}, {PARTS_MAX} |",
    f"{kite_feed.FRAMES_UNREAD_MAX:,} frames a connection, {kite_feed.FRAME_BYTES_MAX // MIB} MiB",
    f"`backlog_bytes_max` ({FlushConfig().backlog_bytes_max // MIB} MiB)",
    f"{inbox.STATES_MAX:,} states",
    f"`conflate_after_ms` ({FlushConfig().conflate_after_ms} ms)",
    f"{PUBLISH_RETRY.delay_s_min * 1_000:.0f} ms, doubling to {PUBLISH_RETRY.delay_s_max:.0f} s",
    f"{refusals.SAMPLES_PER_REASON_MAX} of each reason",
    f"| {RecordConfig(folder=Path()).waiting_bytes_max // MIB} MiB each",
    f"after {PATIENCE_MS} ms of patience",
    f"{redis_publisher.CONNECTIONS_MAX} for ticks, {redis_events.CONNECTIONS_MAX} for orders",
    f"{arrivals.WAITING_MAX:,} messages or {arrivals.WAITING_BYTES_MAX // MIB} MiB",
    f"wait for its snapshot | {tick_reader.WAITING_MAX:,} messages",
    f"on which nothing comes | {lines.CONNECTION_SILENT_S_MAX:.0f} s",
    f"has not taken | {order_client.EVENTS_WAITING_MAX:,} |",
    f"no reply within {order_client.REPLY_S_MAX:.0f} s",
    f"cancels apart | {OrdersConfig().waiting_max:,}; {OrdersConfig().waiting_max:,} |",
    f"{PaceRules().waiting_max} a lane, each",
    f"{kite_broker.BrokerOptions().waiting_max} a lane |",
    f"{OrdersConfig().waiting_max:,} an account",
    f"{report.EVENTS_PER_READ_MAX} events at a time",
    f"{socket_door.EVENTS_PER_READ_MAX} at a time; {socket_door.SEND_S_MAX:.0f} s",
    f"{redis_events.STREAM_LENGTH_MAX:,} entries | DROP_OLDEST; older",
    f"`ticker:v1:events` | {notices.WAITING_MAX} |",
    f"{JournalOptions().orders.waiting_max} for orders",
    f"{ConnectionCaps().total_max:,}, {ConnectionCaps().per_principal_max} a principal",
    f"{ConnectionCaps().unnamed_max} without a token",
    f"when they are lost | {disconnects.SESSIONS_MAX:,}; {disconnects.TRIES_MAX} cancels of one",
    f"newest {dead_letters.LETTERS_MAX} of an account, {dead_letters.EVENTS_MAX} events of one",
    f"on their way to the journal | {risk_record.WAITING_MAX:,} |",
    f"{DENIALS_KEPT:,} an account in the journal, {risk_gate.DENIALS_KEPT} in memory",
    f"{recent_orders.KEPT_MAX:,} an account, an hour",
    f"{last_prices.KEPT_MAX:,} an app; an order waits {last_prices.WAIT_S_MAX:.0f} s for one",
    f"asks at a time, an account; an order waits {risk_fetch.MARGIN_WAIT_S_MAX:.0f} s | denied",
    f"remembered for late news | {exposure.CLOSED_KEPT_MAX:,} an account",
    f"{RequestRate().per_s:.0f} a second, {RequestRate().burst} at once",
    f"{postback.RATE.per_s:.0f} a second, {postback.RATE.burst} at once, for all together",
    f"remembered by their bytes | {postbacks.SEEN_MAX:,} |",
    f"{BODY_BYTES_MAX // KIB} KiB, {socket_door.FRAME_BYTES_MAX // KIB} KiB",
    f"{connection.TEXTS_MAX:,} | CLOSE",
    f"{connection.STALLED_S:.0f} s | CLOSE",
    f"the ledger | {ledger.BYTES_MAX >> 20} MiB",
    f"{candles.MINUTES_MAX} minutes or {candles.BYTES_MAX // MIB} MiB",
]


PHRASES += [
    f"| `{row.name}` | {row.scope} | {row.counts} | {row.window} | {row.at_most:,} | {row.reserve:,}"
    for row in LIMITS
]


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_limit_is_what_the_code_keeps_to(phrase: str) -> None:
    assert phrase in TEXT


def test_every_metric_it_names_exists() -> None:
    settings_and_events = {
        "api_key",
        "backlog_bytes_max",
        "conflate_after_ms",
        "feed_down",
        "flush_bytes_max",
        "is_current",
        "late_ticks",
        "order_cooldown_s",
        "order_events_delayed",
        "publish_failed",
        "publish_failing_ms",
        "snapshot_refused",
    }
    named = set(METRIC.findall(TEXT)) - settings_and_events - {row.name for row in LIMITS}
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("app", "ticker_service")
        for path in (ROOT / folder).rglob("*.py")
    )
    assert len(named) > 20
    assert {name for name in named if f'"{name}"' not in sources} == set()
