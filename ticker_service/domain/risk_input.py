"""What a decision of the risk gate is made of, and how a rule reads it: fresh and finite, or not.

Pure. Instants are wall time, ns since the Unix epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.exposure import NOTHING_OPEN
from ticker_service.domain.order import Variety
from ticker_service.domain.trading_hours import COMMODITY_EXCHANGES, CURRENCY_EXCHANGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.domain.contracts import Contract
    from ticker_service.domain.exposure import Open, OpenKey
    from ticker_service.domain.order import Account, OrderRequest, TaskKind
    from ticker_service.domain.risk import LatchLevel, RiskLimits
    from ticker_service.domain.trading_hours import Phase

BOOK_WIDTH_PERCENT_MAX: Final = 10
"""A book wider than this, of the last price, confirms no price."""
IN_LOTS: Final = COMMODITY_EXCHANGES | CURRENCY_EXCHANGES
"""Where Kite counts lots and the dump does not say how many units one is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePrice:
    """What an instrument last traded at; ``at_ns`` is when we were told, by our wall clock.

    Circuit limits are None where the source does not tell them, as ticks do not. The instants of
    the exchange are whole seconds, 0 where they are not told; the best bid and ask are 0 where
    there is none.
    """

    price_inr: float
    at_ns: int
    source: str
    traded_at_ns: int = 0
    """When that trade was, by the exchange's clock."""
    book_at_ns: int = 0
    """Of when bid and ask are, by the exchange's clock."""
    bid_inr: float = 0.0
    ask_inr: float = 0.0
    lower_circuit_inr: float | None = None
    upper_circuit_inr: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPositions:
    """The broker's net positions and what may have changed since; ``at_ns`` is when asked for.

    ``filled`` is what of each key was filled since: it may be in the positions or not.
    """

    at_ns: int
    net: Mapping[tuple[str, str], int]
    """By exchange and symbol, all products together."""
    names: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The underlying of each, where the day's instruments tell it."""
    filled: Mapping[OpenKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Shares that may be sold for delivery, by exchange and symbol; ``at_ns`` is when asked for.

    ``filled`` is what of each key was filled since, which may be in it or not.
    """

    at_ns: int
    free: Mapping[tuple[str, str], int]
    filled: Mapping[OpenKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderMargin:
    """What the broker says that an order needs and the account has free, rupees.

    ``at_ns`` is when it was asked for.
    """

    at_ns: int
    total_inr: Decimal
    available_inr: Decimal


@dataclass(frozen=True, slots=True)
class Earlier:
    """The same order under another key, and how long ago it was taken."""

    key: str
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DayResult:
    """What the day has brought by the broker's own marks, rupees; ``at_ns`` is when asked for.

    ``best_inr`` is the best of it that was seen, ``lifted`` the levels that a person has lifted
    today: they do not come back on the same day.
    """

    at_ns: int
    result_inr: float | Decimal
    best_inr: float | Decimal
    lifted: frozenset[LatchLevel] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOpen:
    """What is open on all accounts of a group, or the account of which that is not known."""

    name: str
    value_inr_max: Decimal
    open: Mapping[OpenKey, Open] | Account


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskInput:
    """Everything a decision is made of.

    ``order`` is a new one, or an open one as the change would leave it. ``counted`` is what that
    order counts for in ``open`` now, ``counts`` what it would; of a change whose order is not known
    to be open (not ``is_counted``) neither is known. Instants are wall time, ns since the
    Unix epoch; what is None was not to be had.
    """

    kind: TaskKind
    account: str
    key: str
    order: OrderRequest
    limits: RiskLimits
    now_ns: int
    contract: Contract | None = None
    reference: ReferencePrice | None = None
    counted: Open = NOTHING_OPEN
    counts: Open = NOTHING_OPEN
    is_counted: bool = True
    open: Mapping[OpenKey, Open] = field(default_factory=dict)
    references: Mapping[tuple[str, str], ReferencePrice] = field(default_factory=dict)
    names: Mapping[tuple[str, str], str] = field(default_factory=dict)
    positions: HeldPositions | None = None
    holdings: Holdings | None = None
    phase: Phase | None = None
    earlier: Earlier | None = None
    orders_of_minute: int | None = None
    day: DayResult | None = None
    groups: tuple[GroupOpen, ...] = ()
    margin: OrderMargin | None = None

    @property
    def symbol(self) -> tuple[str, str]:
        """Exchange and symbol as the exchanges spell it."""
        return self.order.exchange, self.order.tradingsymbol.strip().upper()


class Unusable(Exception):  # noqa: N818 - says what the input is
    """What a rule needs is missing, stale, or no finite number."""

    def __init__(self, what: str, why: str, numbers: Mapping[str, object] | None = None) -> None:
        super().__init__(f"{what} {why}")
        self.what, self.numbers = what, numbers or {}


def check_counted(given: RiskInput) -> None:
    """Raise ``Unusable`` if what the order counts for is not known."""
    if not given.is_counted:
        raise Unusable("order", "is not known to be open")


def finite(what: str, value: float | Decimal) -> Decimal:
    """Return a number as exact; raises ``Unusable`` if it is none."""
    # A signalling NaN raises where it is compared, so it is asked before anything else.
    is_finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
    if not is_finite:
        raise Unusable(what, f"is {value}, which is no finite number")
    return value if isinstance(value, Decimal) else Decimal(repr(value))


def check_age(what: str, at_ns: int, now_ns: int, limit_s: Decimal) -> float:
    """Return the age of what was told at an instant, seconds; raises ``Unusable`` if too old."""
    age_s = (now_ns - at_ns) / NS_PER_S
    if not 0 <= age_s <= limit_s:
        why = f"is {age_s:.3f} s old, at most {limit_s} s may it be"
        raise Unusable(what, why, {"age_s": round(age_s, 3), "limit_s": str(limit_s)})
    return age_s


def is_current(reference: ReferencePrice, *, now_ns: int, limit_s: float | Decimal) -> bool:
    """Return whether a price is one of now, whenever it was told.

    Its trade is young enough, or bid and ask are, have it between them and lie close together:
    then it could trade there still. What is told of a time to come beyond the limit is neither.
    """
    limit_ns = limit_s * NS_PER_S
    if abs(now_ns - reference.traded_at_ns) <= limit_ns:
        return True
    price, bid, ask = reference.price_inr, reference.bid_inr, reference.ask_inr
    return (
        abs(now_ns - reference.book_at_ns) <= limit_ns
        and 0 < bid <= price <= ask
        and (ask - bid) * 100 <= BOOK_WIDTH_PERCENT_MAX * price
    )


def last_price(
    given: RiskInput, reference: ReferencePrice | None
) -> tuple[Decimal, dict[str, object]]:
    """Return a last price and its numbers for the record; raises ``Unusable`` as it is not."""
    if reference is None:
        raise Unusable("reference_price", "is missing")
    limit_s = given.limits.reference_age_s_max
    age_s = check_age("reference_price", reference.at_ns, given.now_ns, limit_s)
    price = finite("reference_price", reference.price_inr)
    if price <= 0:
        raise Unusable("reference_price", f"is {price}")
    told: dict[str, object] = {
        "reference_inr": f"{price:f}",
        "reference_age_s": round(age_s, 3),
        "reference_source": reference.source,
        "trade_age_s": _trade_age_s(given, reference),
    }
    if not (is_current(reference, now_ns=given.now_ns, limit_s=limit_s) or _rests(given)):
        numbers = {**told, "bid_inr": reference.bid_inr, "ask_inr": reference.ask_inr}
        trade = "of no known trade time"
        if reference.traded_at_ns:
            trade = f"of a trade {told['trade_age_s']} s ago, at most {limit_s} s may it be,"
        why = f"is {trade} and no young bid and ask have it between them"
        raise Unusable("reference_price", why, numbers)
    return price, told


def _trade_age_s(given: RiskInput, reference: ReferencePrice) -> float | None:
    if not reference.traded_at_ns:
        return None
    return round((given.now_ns - reference.traded_at_ns) / NS_PER_S, 3)


def _rests(given: RiskInput) -> bool:
    """Return whether an order is for the next session while nothing newer can have traded."""
    is_closed = given.phase is not None and not given.phase.is_open
    return given.order.variety is Variety.AMO and is_closed


def own_price(order: OrderRequest) -> Decimal | None:
    """Return the price an order names, its trigger's where that is the only one."""
    price = order.price if order.price is not None else order.trigger_price
    return None if price is None else finite("order.price", price)


def units_of(given: RiskInput) -> int:
    """Return how many units one of the order's quantity is; raises ``Unusable`` if unknown."""
    if given.order.exchange not in IN_LOTS:
        return 1
    if given.contract is None:
        raise Unusable("contract", "is not among the day's instruments")
    units = given.limits.contract_units.get(given.contract.name)
    if units is None:
        name = given.contract.name
        raise Unusable("contract_units", f"has no {name}: the broker counts lots of it")
    return units


def value_of(given: RiskInput) -> tuple[Decimal, dict[str, object]]:
    """Return what the order comes to, by its own price or the last one, and the numbers."""
    price, told = own_price(given.order), dict[str, object]()
    if price is None:
        price, told = last_price(given, given.reference)
    value = price * given.order.quantity * units_of(given)
    return value, {**told, "price_inr": f"{price:f}", "value_inr": f"{value:f}"}
