"""An order as the simulated broker keeps it: its terms, its states, its trades.

Prices are integers in the instrument's wire units, so that they are exact.
Source: kite.md §2.3-2.5.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from decimal import Decimal


class Side(StrEnum):
    """What Kite calls transaction_type."""

    BUY = "BUY"
    SELL = "SELL"


class OrderType(StrEnum):
    """How the price is meant."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    SL = "SL"
    SL_M = "SL-M"


class Product(StrEnum):
    """What the position is held as."""

    CNC = "CNC"
    NRML = "NRML"
    MIS = "MIS"
    MTF = "MTF"
    CO = "CO"
    """That of a cover order's position; nobody asks for it."""


class Validity(StrEnum):
    """How long an order may rest."""

    DAY = "DAY"
    IOC = "IOC"
    TTL = "TTL"


class Variety(StrEnum):
    """How an order is handled; part of its routes."""

    REGULAR = "regular"
    AMO = "amo"
    CO = "co"
    ICEBERG = "iceberg"
    AUCTION = "auction"


class Status(StrEnum):
    """Kite's states, and UPDATE, which only order updates carry."""

    RECEIVED = "PUT ORDER REQ RECEIVED"
    VALIDATION_PENDING = "VALIDATION PENDING"
    AMO_RECEIVED = "AMO REQ RECEIVED"
    OPEN_PENDING = "OPEN PENDING"
    OPEN = "OPEN"
    TRIGGER_PENDING = "TRIGGER PENDING"
    MODIFY_VALIDATION_PENDING = "MODIFY VALIDATION PENDING"
    MODIFY_PENDING = "MODIFY PENDING"
    MODIFIED = "MODIFIED"
    CANCEL_PENDING = "CANCEL PENDING"
    COMPLETE = "COMPLETE"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"
    UPDATE = "UPDATE"


TERMINAL: Final = frozenset({Status.COMPLETE, Status.CANCELLED, Status.REJECTED})
STOP_TYPES: Final = frozenset({OrderType.SL, OrderType.SL_M})


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTerms:
    """What the client asked for, checked.

    Attributes:
        row: The instrument's row in the catalogue.
        price_raw: Limit price; 0 for a stop without one.
        trigger_raw: Trigger price; 0 without one.
        validity_ttl: Minutes that it may rest with validity TTL.
        protection_percent: The band of a stop that has no limit price of its own.
        tags: The client's tag first, then the broker's own.
        stop_raw: Where a cover order's second leg will have its trigger.
        leg: Which of an iceberg's ``legs`` this is; ``quantity`` is then one leg's.
    """

    row: int
    side: Side
    order_type: OrderType
    product: Product
    validity: Validity
    quantity: int
    price_raw: int
    trigger_raw: int = 0
    disclosed_quantity: int = 0
    variety: Variety = Variety.REGULAR
    validity_ttl: int = 0
    auction_number: str | None = None
    protection_percent: Decimal | None = None
    tag: str | None = None
    tags: tuple[str, ...] = ()
    stop_raw: int = 0
    leg: int = 1
    legs: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """How the broker and the exchange treat one order; the default is their best.

    Attributes:
        start_after_ns: The order exists only after so long.
        visible_after_ns: The order book shows it only after so long.
        state_ns: Time in each interim state, None for the usual.
        refusal: The exchange rejects it with this message.
        part: At most so much is filled each time that quotes reach it, None for all they hold.
        fill_after_cancel_ns: So long after it was cancelled the rest is filled all the same.
    """

    start_after_ns: int = 0
    visible_after_ns: int = 0
    state_ns: int | None = None
    refusal: str | None = None
    part: int | None = None
    fill_after_cancel_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One fill."""

    trade_id: str
    order_id: str
    exchange_order_id: str
    row: int
    side: Side
    product: Product
    price_raw: int
    quantity: int
    ordered_ns: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Modify:
    """A change of terms that waits for its turn."""

    terms: OrderTerms


@dataclass(frozen=True, slots=True)
class Cancel:
    """A cancellation that waits for its turn."""


@dataclass(slots=True, kw_only=True)
class Order:
    """One order, written to by the exchange alone.

    Attributes:
        asked: The terms of the latest accepted request; ``terms`` are those in force.
        is_busy: A chain of interim states is under way.
        awaits_session: It is kept for the next session; only then is it the exchange's.
        waiting: Requests accepted meanwhile, in order.
        visible_at_ns: From this monotonic instant the order book shows it.
        parent_order_id: The first leg, if this is a cover order's second.
        second_leg: The second leg, if this is a cover order's first and was filled.
        history: A row of the order book per state, oldest first.
    """

    user_id: str
    order_id: str
    guid: str
    terms: OrderTerms
    asked: OrderTerms
    placed_ns: int
    visible_at_ns: int
    state_ns: int
    refusal: str | None = None
    part: int | None = None
    fill_after_cancel_ns: int | None = None
    status: Status | None = None
    status_message: str | None = None
    exchange_order_id: str | None = None
    exchange_ns: int = 0
    exchange_update_ns: int = 0
    filled_quantity: int = 0
    filled_value_raw: int = 0
    cancelled_quantity: int = 0
    modifications: int = 0
    is_modified: bool = False
    is_busy: bool = True
    is_triggered: bool = False
    awaits_session: bool = False
    parent_order_id: str | None = None
    second_leg: Order | None = None
    waiting: deque[Modify | Cancel] = field(default_factory=deque)
    history: list[dict[str, object]] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.status in TERMINAL

    @property
    def open_quantity(self) -> int:
        """What is neither filled nor given up; 0 once terminal."""
        return 0 if self.is_terminal else self.terms.quantity - self.filled_quantity

    @property
    def route(self) -> Variety:
        """The variety in the route by which it is changed or cancelled now (kite.md §2.3)."""
        is_sent = self.terms.variety is Variety.AMO and not self.awaits_session
        return Variety.REGULAR if is_sent else self.terms.variety

    @property
    def awaits_trigger(self) -> bool:
        """Whether it is a stop whose price has not been reached."""
        return self.terms.order_type in STOP_TYPES and not self.is_triggered
