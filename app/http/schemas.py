"""The shapes of order requests and answers, for REST and WebSocket alike (DESIGN §5).

pydantic lives here and turns into domain values in one function; unknown fields are refused, floats
are refused where money is meant unless they are written exactly.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ticker_service.constants import NS_PER_US
from ticker_service.domain.job import (
    Basket,
    BasketMode,
    Leg,
    LegStatus,
    basket_of,
    has_failed,
    report,
)
from ticker_service.domain.order import (
    JOBS,
    OrderChange,
    OrderRequest,
    OrderType,
    Product,
    Side,
    Validity,
    Variety,
    to_fields,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.domain.job import LegReport
    from ticker_service.domain.order import OrderTask
    from ticker_service.orders.front import ExternalOrder

KEY_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]*$"
KEY_CHARACTERS_MAX: Final = 64
PART_KEY_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}(~[0-9]{1,2}(\.[0-9]{1,2})?)?$"
"""A key, or that of an order of a basket or of a sliced order."""
PART_KEY_CHARACTERS_MAX: Final = KEY_CHARACTERS_MAX + len("~20.10")
_DIGITS: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def _exact(value: object) -> object:
    """Take a price as its digits; numbers come as ``exact_json`` reads them, never as floats."""
    if isinstance(value, float):
        raise ValueError("must be exact")  # noqa: TRY004 - as the schemas' library wants it
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        # Decimal also reads 1_0 and the digits of other scripts, which no broker means.
        raise ValueError("must be plain digits, such as 118.40")
    return value


Key = Annotated[str, Field(min_length=1, max_length=KEY_CHARACTERS_MAX, pattern=KEY_PATTERN)]
PartKey = Annotated[
    str, Field(min_length=1, max_length=PART_KEY_CHARACTERS_MAX, pattern=PART_KEY_PATTERN)
]
Money = Annotated[Decimal, BeforeValidator(_exact), Field(max_digits=20, allow_inf_nan=False)]
Units = Annotated[int, Field(strict=True)]


class Strict(BaseModel):
    """What a caller sends: a field we do not know may be one that was meant to matter."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=256)


class OrderBody(Strict):
    """A new order in Kite's field names; prices in rupees, as numbers or strings."""

    exchange: str
    tradingsymbol: str
    transaction_type: Side
    order_type: OrderType
    product: Product
    quantity: Units
    variety: Variety = Variety.REGULAR
    validity: Validity = Validity.DAY
    price: Money | None = None
    trigger_price: Money | None = None
    disclosed_quantity: Units | None = None
    validity_ttl: Units | None = None
    market_protection: Money | None = None
    iceberg_legs: Units | None = None
    iceberg_quantity: Units | None = None
    auction_number: str | None = None

    def to_domain(self) -> OrderRequest:
        """Return the order as a value."""
        return OrderRequest(**dict(self))


class ChangeBody(Strict):
    """The fields of a live order to set; values are absolute."""

    order_type: OrderType | None = None
    quantity: Units | None = None
    price: Money | None = None
    trigger_price: Money | None = None
    validity: Validity | None = None
    disclosed_quantity: Units | None = None
    market_protection: Money | None = None

    def to_domain(self) -> OrderChange:
        """Return the change as a value."""
        return OrderChange(**dict(self))


class PlaceRequest(Strict):
    """``request_id`` is the idempotency key; it is the ``client_order_id`` unless given.

    Either ``account`` or ``group`` is given. With ``slice`` an order above the freeze quantity is
    cut; the answer is then that of a job, and it names its account.
    """

    client_order_id: Key
    account: Key | None = None
    group: Key | None = None
    order: OrderBody
    request_id: Key | None = None
    slice: bool = False


class LegBody(Strict):
    """One order of a basket; with ``slice`` it may be cut."""

    order: OrderBody
    slice: bool = False


class BasketRequest(Strict):
    """Several orders under one key; all are checked before any is journalled."""

    client_order_id: Key
    account: Key
    legs: list[LegBody]
    mode: BasketMode = BasketMode.INDEPENDENT
    buys_first: bool = False
    request_id: Key | None = None

    def to_domain(self) -> Basket:
        """Return the basket as a value."""
        return Basket(
            legs=tuple(Leg(order=leg.order.to_domain(), slice=leg.slice) for leg in self.legs),
            mode=self.mode,
            buys_first=self.buys_first,
        )


class ModifyRequest(Strict):
    """A change of the order that ``client_order_id`` names; ``request_id`` is its own key."""

    request_id: Key
    order: ChangeBody


class TaskAnswer(BaseModel):
    """An instruction as the journal has it; times in µs since 1970 UTC, prices as strings.

    What a job has filled is told where its orders are: here ``filled_quantity`` is null then.
    """

    task_id: str
    kind: str
    account: str
    client_order_id: str
    request_id: str
    state: str
    version: int
    attempt: int
    order_id: str | None
    broker_status: str | None
    filled_quantity: int | None
    average_price: str | None
    code: str | None
    reason: str | None
    order: dict[str, str]
    created_at_us: int
    updated_at_us: int
    group: str | None
    failed_over_from: str | None


class LegError(BaseModel):
    """Why a leg is not filled: the first of its orders that ended otherwise, if one did.

    Without an order our own limits refused it before it was journalled.
    """

    client_order_id: str | None
    state: str | None
    code: str | None
    reason: str | None


class LegAnswer(BaseModel):
    """How one leg of a job stands; ``cancels`` is what was done to end its orders."""

    leg: int
    status: LegStatus
    order: dict[str, str]
    filled_quantity: int
    average_price: str | None
    error: LegError | None
    orders: list[TaskAnswer]
    cancels: list[TaskAnswer]


class JobAnswer(BaseModel):
    """A basket or a sliced order as the journal has it, leg by leg."""

    task_id: str
    kind: str
    account: str
    client_order_id: str
    request_id: str
    state: str
    version: int
    mode: BasketMode
    buys_first: bool
    code: str | None
    reason: str | None
    filled_quantity: int
    legs: list[LegAnswer]
    created_at_us: int
    updated_at_us: int


class ExternalAnswer(BaseModel):
    """An order at the broker that was placed elsewhere; ``orphan`` when it has a tag of ours."""

    account: str
    order_id: str
    orphan: bool
    status: str
    exchange: str
    tradingsymbol: str
    transaction_type: str
    order_type: str
    product: str
    variety: str
    quantity: int
    price: str
    trigger_price: str
    filled_quantity: int
    average_price: str
    order_timestamp: str
    status_message: str
    tags: list[str]


class OrdersAnswer(BaseModel):
    """The caller's instructions, and if asked for the orders that were placed elsewhere."""

    orders: list[TaskAnswer]
    external: list[ExternalAnswer] | None = None


class ErrorAnswer(BaseModel):
    """Why not: a stable ``code``, and the field, its value and the rule where one was broken."""

    code: str
    message: str
    field: str | None = None
    value: Any = None
    rule: str | None = None
    request_id: str | None = None


def external_answer(order: ExternalOrder) -> ExternalAnswer:
    """Return an order that was placed elsewhere as callers see it, in Kite's words."""
    row = order.row
    return ExternalAnswer(
        account=order.account,
        order_id=row.order_id,
        orphan=order.is_orphan,
        status=row.status,
        exchange=row.exchange,
        tradingsymbol=row.tradingsymbol,
        transaction_type=row.transaction_type,
        order_type=row.order_type,
        product=row.product,
        variety=row.variety,
        quantity=row.quantity,
        price=f"{row.price:f}",
        trigger_price=f"{row.trigger_price:f}",
        filled_quantity=row.filled_quantity,
        average_price=f"{row.average_price:f}",
        order_timestamp=row.order_timestamp,
        status_message=row.status_message,
        tags=list(row.tags),
    )


def task_answer(task: OrderTask) -> dict[str, Any]:
    """Return a task as callers see it."""
    return TaskAnswer(
        task_id=str(task.task_id),
        kind=task.kind,
        account=task.account,
        client_order_id=task.client_order_id,
        request_id=task.request_id,
        state=task.state,
        version=task.version,
        attempt=task.attempt,
        order_id=task.broker_order_id,
        broker_status=task.broker_status,
        filled_quantity=None if task.kind in JOBS else task.filled_quantity,
        average_price=None if task.average_price is None else f"{task.average_price:f}",
        code=task.reason_code or None,
        reason=task.reason or None,
        order=dict(task.body),
        created_at_us=task.created_at_ns // NS_PER_US,
        updated_at_us=task.updated_at_ns // NS_PER_US,
        group=task.account_group,
        failed_over_from=None if task.origin_task_id is None else str(task.origin_task_id),
    ).model_dump()


def job_answer(job: OrderTask, children: Sequence[OrderTask]) -> dict[str, Any]:
    """Return a job as callers see it."""
    basket = basket_of(job.body)
    legs = [_leg_answer(leg) for leg in report(job, children)]
    return JobAnswer(
        task_id=str(job.task_id),
        kind=job.kind,
        account=job.account,
        client_order_id=job.client_order_id,
        request_id=job.request_id,
        state=job.state,
        version=job.version,
        mode=basket.mode,
        buys_first=basket.buys_first,
        code=job.reason_code or None,
        reason=job.reason or None,
        filled_quantity=sum(leg.filled_quantity for leg in legs),
        legs=legs,
        created_at_us=job.created_at_ns // NS_PER_US,
        updated_at_us=job.updated_at_ns // NS_PER_US,
    ).model_dump()


def _leg_answer(leg: LegReport) -> LegAnswer:
    return LegAnswer(
        leg=leg.leg,
        status=leg.status,
        order=to_fields(leg.order),
        filled_quantity=leg.filled_quantity,
        average_price=None if leg.average_price is None else f"{leg.average_price:f}",
        error=_leg_error(leg),
        orders=[TaskAnswer(**task_answer(each)) for each in leg.orders],
        cancels=[TaskAnswer(**task_answer(each)) for each in leg.cancels],
    )


def _leg_error(leg: LegReport) -> LegError | None:
    failed = next((each for each in leg.orders if has_failed(each)), None)
    if failed is not None:
        return LegError(
            client_order_id=failed.client_order_id,
            state=failed.state,
            code=failed.reason_code or None,
            reason=failed.reason or None,
        )
    if not leg.refused:
        return None
    code, _, reason = leg.refused.partition(": ")
    return LegError(client_order_id=None, state=None, code=code, reason=reason)
