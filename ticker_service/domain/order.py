"""Orders as values: what a caller asks for, in Kite's words, exact to the paisa.

Prices are ``Decimal``: a float is not a price you send (DESIGN D16). Pure. Source of the words:
kite.md §2.3 and §2.4.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType

from ticker_service.constants import NS_PER_US

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping

    from ticker_service.domain.order_state import TaskState

Account = NewType("Account", str)
"""A configured account's name; what events, locks and channels are keyed by."""
_DECIMALS: Final = frozenset({"price", "trigger_price", "market_protection"})
_AT_EXCHANGE_STATUS: Final = frozenset({"OPEN PENDING", "OPEN", "TRIGGER PENDING"})


class Side(StrEnum):
    """Kite's ``transaction_type``."""

    BUY = "BUY"
    SELL = "SELL"


class OrderType(StrEnum):
    """Kite's ``order_type``."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    SL = "SL"
    SL_M = "SL-M"


class Product(StrEnum):
    """Kite's ``product``."""

    CNC = "CNC"
    NRML = "NRML"
    MIS = "MIS"
    MTF = "MTF"


class Validity(StrEnum):
    """Kite's ``validity``."""

    DAY = "DAY"
    IOC = "IOC"
    TTL = "TTL"


class Variety(StrEnum):
    """Kite's order variety, which is part of the route."""

    REGULAR = "regular"
    AMO = "amo"
    CO = "co"
    ICEBERG = "iceberg"
    AUCTION = "auction"


class TaskKind(StrEnum):
    """What one instruction of a caller asks for.

    The first three are each one request to the broker. The others are jobs: they ask the broker for
    nothing themselves, and are carried out by children of the first three kinds.
    """

    PLACE = "PLACE"
    MODIFY = "MODIFY"
    CANCEL = "CANCEL"
    BASKET = "BASKET"
    SLICES = "SLICES"
    EXIT = "EXIT"


JOBS: Final = frozenset({TaskKind.BASKET, TaskKind.SLICES, TaskKind.EXIT})
"""Kinds that have children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """A new order; prices in rupees, quantity in units as Kite counts them.

    ``market_protection`` is percent, -1 for Kite's own choice; mandatory for MARKET and SL-M.
    """

    exchange: str
    tradingsymbol: str
    transaction_type: Side
    order_type: OrderType
    product: Product
    quantity: int
    variety: Variety = Variety.REGULAR
    validity: Validity = Validity.DAY
    price: Decimal | None = None
    trigger_price: Decimal | None = None
    disclosed_quantity: int | None = None
    validity_ttl: int | None = None
    market_protection: Decimal | None = None
    iceberg_legs: int | None = None
    iceberg_quantity: int | None = None
    auction_number: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderChange:
    """The fields of a live order to set; ``None`` leaves one as it is. Values are absolute."""

    order_type: OrderType | None = None
    quantity: int | None = None
    price: Decimal | None = None
    trigger_price: Decimal | None = None
    validity: Validity | None = None
    disclosed_quantity: int | None = None
    market_protection: Decimal | None = None


def to_fields(values: OrderRequest | OrderChange) -> dict[str, str]:
    """Return the given fields as Kite's form wants them, decimals without an exponent."""
    form = {}
    for field in fields(values):
        value = getattr(values, field.name)
        if value is not None:
            form[field.name] = f"{value:f}" if isinstance(value, Decimal) else str(value)
    return form


def request_from_fields(form: Mapping[str, str]) -> OrderRequest:
    """Return the order that :func:`to_fields` wrote; for reading the journal back."""
    return OrderRequest(
        exchange=form["exchange"],
        tradingsymbol=form["tradingsymbol"],
        transaction_type=Side(form["transaction_type"]),
        order_type=OrderType(form["order_type"]),
        product=Product(form["product"]),
        quantity=int(form["quantity"]),
        variety=Variety(form["variety"]),
        validity=Validity(form["validity"]),
        price=_decimal(form, "price"),
        trigger_price=_decimal(form, "trigger_price"),
        disclosed_quantity=_integer(form, "disclosed_quantity"),
        validity_ttl=_integer(form, "validity_ttl"),
        market_protection=_decimal(form, "market_protection"),
        iceberg_legs=_integer(form, "iceberg_legs"),
        iceberg_quantity=_integer(form, "iceberg_quantity"),
        auction_number=form.get("auction_number"),
    )


def change_from_fields(form: Mapping[str, str]) -> OrderChange:
    """Return the change that :func:`to_fields` wrote; for reading the journal back."""
    return OrderChange(
        order_type=OrderType(form["order_type"]) if "order_type" in form else None,
        quantity=_integer(form, "quantity"),
        price=_decimal(form, "price"),
        trigger_price=_decimal(form, "trigger_price"),
        validity=Validity(form["validity"]) if "validity" in form else None,
        disclosed_quantity=_integer(form, "disclosed_quantity"),
        market_protection=_decimal(form, "market_protection"),
    )


def body_sha256(body: Mapping[str, object]) -> bytes:
    """Return the digest of what a request says, as it was written."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).digest()


def _decimal(form: Mapping[str, str], name: str) -> Decimal | None:
    return Decimal(form[name]) if name in form else None


def _integer(form: Mapping[str, str], name: str) -> int | None:
    return int(form[name]) if name in form else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """An instruction that passed the door, about to be journalled.

    ``body`` is the form of :func:`to_fields`, empty for a cancel; ``target_task_id`` is the PLACE
    task that a MODIFY or CANCEL speaks of. Times are ns since the Unix epoch. A child names its job
    and which part of it it is, both counted from 1. ``facts`` are ours and no part of what the
    caller asked: how a job is cut, or who asked in the caller's name. ``risk`` is what the risk
    gate let it through by; None where nobody set a limit.

    ``account_group`` is whom the caller named instead of an account. What goes on for another that
    ended as FAILED_OVER has its key, and is ``hop`` accounts away from ``origin_task_id``, the
    first.
    """

    task_id: uuid.UUID
    kind: TaskKind
    account: Account
    principal: str
    request_id: str
    client_order_id: str
    body: Mapping[str, str]
    body_sha256: bytes
    deadline_ns: int
    received_at_ns: int
    target_task_id: uuid.UUID | None = None
    job_id: uuid.UUID | None = None
    leg: int | None = None
    slice: int | None = None
    account_group: str | None = None
    origin_task_id: uuid.UUID | None = None
    hop: int = 0
    facts: Mapping[str, object] | None = None
    risk: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTask:
    """The present state of one instruction, as the journal holds it."""

    task_id: uuid.UUID
    kind: TaskKind
    account: Account
    principal: str
    request_id: str
    client_order_id: str
    body: Mapping[str, str]
    body_sha256: bytes
    state: TaskState
    version: int
    attempt: int
    tag: str | None
    writer_epoch: int | None
    deadline_ns: int
    send_not_after_ns: int | None
    intent_at_ns: int | None
    broker_order_id: str | None
    broker_status: str | None
    filled_quantity: int
    average_price: Decimal | None
    reason_code: str | None
    reason: str | None
    target_task_id: uuid.UUID | None
    created_at_ns: int
    updated_at_ns: int
    job_id: uuid.UUID | None = None
    leg: int | None = None
    slice: int | None = None
    facts: Mapping[str, object] | None = None
    """What we know of a job beside its state, or why this account of a group; None for all else."""
    account_group: str | None = None
    origin_task_id: uuid.UUID | None = None
    hop: int = 0

    @property
    def lineage_id(self) -> uuid.UUID:
        """The first task of this instruction, on whatever account it began."""
        return self.origin_task_id or self.task_id


def routed_variety(task: OrderTask) -> Variety:
    """Return the variety in the route by which a placed order is changed or cancelled now.

    An after-market order that has gone to the exchange is a ``regular`` one from then on, although
    Kite's book goes on calling it ``amo`` (kite.md §2.3).
    """
    variety = Variety(task.body["variety"])
    return _route(variety, task.broker_status or "", task.filled_quantity)


def routed_variety_of(row: BrokerOrder) -> Variety | None:
    """Return the same for a row of the book; None where it names no variety that we know."""
    if row.variety not in set(Variety):
        return None
    return _route(Variety(row.variety), row.status, row.filled_quantity)


def _route(variety: Variety, status: str, filled_quantity: int) -> Variety:
    is_at_exchange = status.upper() in _AT_EXCHANGE_STATUS or filled_quantity > 0
    return Variety.REGULAR if variety is Variety.AMO and is_at_exchange else variety


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderAttempt:
    """One physical send of a task, as the journal holds it; the outcome is None until it ended."""

    task_id: uuid.UUID
    attempt: int
    account: Account
    tag: str
    writer_epoch: int | None
    body_sha256: bytes
    intent_at_ns: int
    send_not_after_ns: int | None
    outcome: str | None = None
    http_status: int | None = None
    finished_at_ns: int | None = None


def successor_of(
    task: OrderTask,
    *,
    task_id: uuid.UUID,
    account: Account,
    target_task_id: uuid.UUID | None,
    facts: Mapping[str, object],
    now_ns: int,
) -> NewTask:
    """Return what goes on for a task on another account: all that was asked is the former's.

    Args:
        task: The former.
        task_id: Its own.
        account: Where it goes on.
        target_task_id: What a MODIFY or CANCEL speaks of there.
        facts: Why there.
        now_ns: Wall time.
    """
    return NewTask(
        task_id=task_id,
        kind=task.kind,
        account=account,
        principal=task.principal,
        request_id=task.request_id,
        client_order_id=task.client_order_id,
        body=task.body,
        body_sha256=task.body_sha256,
        deadline_ns=task.deadline_ns,
        received_at_ns=now_ns,
        target_task_id=target_task_id,
        account_group=task.account_group,
        origin_task_id=task.lineage_id,
        hop=task.hop + 1,
        facts=facts,
    )


def says_the_same(known: OrderTask, new: NewTask) -> bool:
    """Return whether a request with a known key asks for what the journal holds (I2).

    A price goes by its value: 100.4 is 100.40. The digest keeps what was written. Where the caller
    left the account open it is no part of what was asked, nor is it of a change or a cancel: that
    goes where its order is, which the ``client_order_id`` names.

    Args:
        known: The first task of the key.
        new: What is asked now.
    """
    return (
        (known.kind, known.client_order_id, _asked_of(known))
        == (new.kind, new.client_order_id, _asked_of(new))
    ) and (known.body_sha256 == new.body_sha256 or _by_value(known.body) == _by_value(new.body))


def _asked_of(task: OrderTask | NewTask) -> tuple[str | None, Account | None]:
    """Return the group or the account that a new order names."""
    if task.kind in {TaskKind.MODIFY, TaskKind.CANCEL}:
        return None, None
    return task.account_group, None if task.account_group else task.account


def _by_value(body: Mapping[str, str]) -> dict[str, str | Decimal]:
    """Return a body with its prices as numbers; those of a job's legs are ``legs.1.price``."""
    return {
        name: Decimal(text) if name.rpartition(".")[2] in _DECIMALS else text
        for name, text in body.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUpdate:
    """What one step changes about a task; ``None`` leaves a field as it is.

    ``event`` names the fact for the journal, such as ``intent_recorded``; ``facts`` go with it.
    ``outcome`` and ``http_status`` are kept with the attempt when the step ends one.
    """

    state: TaskState
    event: str
    broker_order_id: str | None = None
    broker_status: str | None = None
    filled_quantity: int | None = None
    average_price: Decimal | None = None
    reason_code: str | None = None
    reason: str | None = None
    outcome: str | None = None
    http_status: int | None = None
    facts: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEvent:
    """One fact of the journal; ``account_seq`` is gap-free per account, ``version`` per task."""

    event_id: uuid.UUID
    account: Account
    account_seq: int
    task_id: uuid.UUID
    version: int
    event: str
    event_version: int
    at_ns: int
    principal: str
    client_order_id: str
    state: TaskState
    data: Mapping[str, object]


_OF_ACCOUNTS: Final = frozenset({"from_account", "to_account"})
"""Facts whose value is the name of an account; ``passed_over`` has names for keys."""


def event_message(event: OrderEvent, *, may_use: Callable[[str], bool]) -> dict[str, object]:
    """Return an event as callers and subscribers get it, on every channel the same.

    Args:
        event: As the journal has it.
        may_use: Whether who reads it may use an account. The facts of an order of a group name
            other accounts, which a reader of this one may not know (I14).
    """
    return {
        "v": 1,
        "event_id": str(event.event_id),
        "account": event.account,
        "account_seq": event.account_seq,
        "task_id": str(event.task_id),
        "version": event.version,
        "event": event.event,
        "at_us": event.at_ns // NS_PER_US,
        "client_order_id": event.client_order_id,
        "state": event.state,
        "data": _told_of(event.data, may_use),
    }


def _told_of(data: Mapping[str, object], may_use: Callable[[str], bool]) -> dict[str, object]:
    """Return what an event tells without the names of accounts that a reader may not use."""
    facts = data.get("facts")
    if not isinstance(facts, dict):
        return dict(data)
    told = _without_others(facts, may_use)
    if isinstance(facts.get("route"), dict):
        told["route"] = _without_others(facts["route"], may_use)
    return {**data, "facts": told}


def _without_others(
    facts: Mapping[str, object], may_use: Callable[[str], bool]
) -> dict[str, object]:
    told = {
        name: value
        for name, value in facts.items()
        if name not in _OF_ACCOUNTS or may_use(str(value))
    }
    passed_over = facts.get("passed_over")
    if isinstance(passed_over, dict):
        told["passed_over"] = {name: why for name, why in passed_over.items() if may_use(name)}
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class IcebergLeg:
    """Which part of an iceberg a row of the book is; legs count from 1 (kite.md §2.4)."""

    leg: int
    legs: int
    total_quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOrder:
    """One row of the broker's order book, or one order update, as far as we use it."""

    order_id: str
    status: str
    tags: tuple[str, ...]
    exchange: str
    tradingsymbol: str
    transaction_type: str
    order_type: str
    product: str
    variety: str
    quantity: int
    price: Decimal
    trigger_price: Decimal
    filled_quantity: int
    average_price: Decimal
    user_id: str
    order_timestamp: str
    exchange_update_timestamp: str
    status_message: str
    parent_order_id: str
    iceberg: IcebergLeg | None = None
