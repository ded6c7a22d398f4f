"""The engine's limits and choices, frozen; ``app.settings`` builds it from the environment.

Relations between numbers are checked here, so that no other part has to doubt them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.domain.limit import Limits, limits_of
from ticker_service.domain.risk import RiskTable, risk_table
from ticker_service.domain.tick import Mode
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ticker_service.domain.account_group import AccountGroup

CONNECTIONS_MAX: Final = 3
TOKENS_PER_CONNECTION_MAX: Final = 3_000
"""Kite's limits for one api_key (kite.md §1.8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KiteConfig:
    """Where Kite is and who we are there; the token is kept out of ``repr``.

    ``route_prefix`` goes before every REST route but the instruments dump, and ``extra_parameters``
    into the WebSocket's query: the official sandbox needs ``/oms`` and ``user_id`` (kite.md §2.8).
    """

    rest_root: str
    ws_root: str
    api_key: str
    access_token: str = field(repr=False)
    route_prefix: str = ""
    extra_parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionConfig:
    """What to subscribe: underlyings with a window of strikes, and single instruments."""

    underlyings: tuple[str, ...]
    instruments: tuple[str, ...] = ()
    strikes_each_side: int = 20
    expiries_max: int = 3
    mode: Mode = Mode.FULL


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushConfig:
    """When waiting frames become batches, and how much may wait.

    ``interval_ms`` is the least time between two flushes and so the longest a frame waits for its
    batch; ``bytes_max`` flushes earlier; ``backlog_bytes_max`` bounds what waits while Redis does
    not answer, the oldest going first. A backlog older than ``conflate_after_ms`` is merged to each
    instrument's newest.
    """

    interval_ms: int = 20
    bytes_max: int = 1 << 20
    backlog_bytes_max: int = 64 << 20
    conflate_after_ms: int = 500


class Encoding(StrEnum):
    """How a book's messages are written; each encoding has a channel of its own."""

    JSON = "json"
    ARROW = "arrow"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationConfig:
    """What may still be called a tick.

    ``tick_age_ms_max`` bounds how long before its receipt the exchange may have stamped it; ticks
    that Kite had kept from before the subscription are marked instead. ``publishes_doubtful`` lets
    ticks with a crossed depth or a price off the step out, marked and never priced.
    """

    tick_age_ms_max: int = 300_000
    publishes_doubtful: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HoursConfig:
    """When the markets trade, beyond what ``domain.trading_hours`` knows.

    ``is_always_open`` is for a simulated exchange. ``holidays`` and ``sessions`` are entries as
    ``trading_hours.calendar`` reads them.
    """

    is_always_open: bool = False
    holidays: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BarsConfig:
    """Which bars are made from ticks, by the names of ``domain.bar``; none unless asked for.

    A bar is final ``grace_ms`` after its end: so late may a tick of it still come.
    """

    intervals: tuple[str, ...] = ()
    grace_ms: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishConfig:
    """How the books' channels behave; ``smile_ms`` 0 means that there are no smiles."""

    channel_prefix: str = "ticker:v1:"
    encodings: tuple[Encoding, ...] = (Encoding.JSON,)
    instrument_channels: bool = False
    instrument_ttl_ms: int = 60_000
    heartbeat_ms: int = 1_000
    snapshot_ms: int = 500
    reprice_ms: int = 250
    smile_ms: int = 0
    depth: bool = False
    own_volatility: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PricingConfig:
    """Assumptions of the option model; ages decide which quotes may still speak for the market.

    ``price_age_ms_max`` is how old a trade or a quote may be before what it says is STALE.
    """

    rate: float = 0.0
    quote_age_ms_max: int = 30_000
    forward_age_ms_max: int = 300_000
    price_age_ms_max: int = 60_000
    leg_age_ms_max: int = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordConfig:
    """What is kept of a day, where, and how much of it.

    ``columns`` are what was published, with the rows that only a moving forward ``repriced`` or
    without. ``frames_days`` and ``columns_days`` are how many days back are kept and ``bytes_max``
    how much in all, 0 for no limit; ``free_bytes_min`` is what recording leaves of the disk for
    others. ``waiting_bytes_max`` bounds what waits for the disk, ``part_s`` how long one part of
    the columns stays open.
    """

    folder: Path
    columns: bool = True
    repriced: bool = True
    frames_days: int = 0
    columns_days: int = 0
    bytes_max: int = 0
    free_bytes_min: int = 2 << 30
    waiting_bytes_max: int = 64 << 20
    part_s: int = 900


SETTLE_MARGIN_RATIO: Final = 1.25
"""What left at the last instant is under way for as long as its answer is awaited, and needs a
moment more to show in the book: absence is looked for no sooner (reliability.md §1.7, A1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdersConfig:
    """How orders are sent and settled; seconds, settable so that tests can scale them.

    ``installation`` tells daemons of one account apart in their tags. ``send_window_s`` is how long
    after its intent was recorded an order may still leave; ``settle_after_s`` counts from the end
    of that window: orders have surfaced in Kite's book 90 s late (kite.md §5.2). ``cooldown_s`` is
    how long nothing is sent after a 429: Kite refuses everything meanwhile (kite.md §4).
    ``open_uncompared_after_s`` is how long an account whose fills and positions cannot be read
    takes cancels alone, 0 for ever. ``freeze_quantities`` and ``rules`` are what the settings
    change about ``domain.rulebook``'s.
    """

    installation: str = "T0"
    deadline_s: float = 30.0
    send_window_s: float = 5.0
    request_s_max: float = 7.0
    sends_parallel: int = 4
    waiting_max: int = 1_000
    attempts_max: int = 3
    retry_s_min: float = 0.2
    retry_s_max: float = 3.0
    cooldown_s: float = 10.0
    settle_after_s: float = 90.0
    settle_spacing_s: float = 2.0
    settle_reads_min: int = 3
    settle_poll_s: float = 1.0
    book_poll_live_s: float = 5.0
    book_poll_idle_s: float = 30.0
    audit_s: float = 45.0
    audit_again_s: float = 10.0
    open_uncompared_after_s: float = 120.0
    freeze_quantities: Mapping[str, int] = field(default_factory=dict)
    rules: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """When a broker that fails is left alone: ``failures_max`` in ``window_s``, for ``open_s``.

    Readings and the feed change nothing there and are tried again after ``read_open_s_max`` and
    ``feed_open_s_max`` at the latest.
    """

    failures_max: int = 5
    window_s: float = 30.0
    open_s: float = 10.0
    read_open_s_max: float = 3.0
    feed_open_s_max: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedAccountConfig:
    """An account whose logins may carry the feed, and the app they are for."""

    account: str
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountConfig:
    """A trading account and the app it trades through; secrets are kept out of ``repr``.

    ``source_address`` and ``proxy`` are its way out: Kite takes orders from a registered address
    only (kite.md §3.2), which ``registered_addresses`` names. ``algo_id`` goes with every new order
    if the exchange gave one.
    """

    account: str
    user_id: str
    api_key: str = field(repr=False)
    api_secret: str = field(repr=False)
    access_token: str = field(default="", repr=False)
    source_address: str = ""
    registered_addresses: tuple[str, ...] = ()
    algo_id: str = ""
    proxy: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderHalfConfig:
    """What the order half needs; there is none without accounts."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    channel_prefix: str
    rest_root: str
    route_prefix: str
    accounts: tuple[AccountConfig, ...]
    kill_switch_file: Path
    egress_probe_url: str = ""
    hears_postbacks: bool = False
    groups: tuple[AccountGroup, ...] = ()
    orders: OrdersConfig = field(default_factory=OrdersConfig)
    limits: Limits = field(default_factory=limits_of)
    risk: RiskTable = field(default_factory=risk_table)
    hours: HoursConfig = field(default_factory=HoursConfig)
    breakers: BreakerConfig = field(default_factory=BreakerConfig)
    requires_durable_storage: bool = True
    order_connections_max: int = 8
    query_connections_max: int = 4
    connection_wait_s: float = 1.0
    statement_ms: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything the engine needs to know before it starts.

    ``feed_accounts`` are those whose logins may carry the feed, in order: that of the feed's own
    app, if there is one, then those to fail over to.

    Raises:
        ConfigurationError: Numbers contradict each other; every fault is listed.
    """

    kite: KiteConfig
    redis_url: str = field(repr=False)
    feed_accounts: tuple[FeedAccountConfig, ...] = ()
    subscription: SubscriptionConfig
    flush: FlushConfig = field(default_factory=FlushConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    hours: HoursConfig = field(default_factory=HoursConfig)
    bars: BarsConfig = field(default_factory=BarsConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    pricing: PricingConfig = field(default_factory=PricingConfig)
    breakers: BreakerConfig = field(default_factory=BreakerConfig)

    def __post_init__(self) -> None:
        """Check what no single field can be checked for."""
        faults = [text for is_fault, text in self._relations() if is_fault]
        if faults:
            raise ConfigurationError("\n".join(faults))

    def _relations(self) -> list[tuple[bool, str]]:
        flush, publish, wanted = self.flush, self.publish, self.subscription
        return [
            (
                not wanted.underlyings and not wanted.instruments,
                "underlyings and instruments are both empty: there is nothing to subscribe",
            ),
            (
                flush.interval_ms >= flush.conflate_after_ms,
                (
                    f"flush_interval_ms={flush.interval_ms} must be below "
                    f"conflate_after_ms={flush.conflate_after_ms}"
                ),
            ),
            (
                flush.bytes_max > flush.backlog_bytes_max,
                (
                    f"flush_bytes_max={flush.bytes_max} must not exceed "
                    f"backlog_bytes_max={flush.backlog_bytes_max}"
                ),
            ),
            (
                publish.snapshot_ms > publish.heartbeat_ms,
                (
                    f"snapshot_ms={publish.snapshot_ms} must not exceed "
                    f"heartbeat_ms={publish.heartbeat_ms}"
                ),
            ),
        ]
