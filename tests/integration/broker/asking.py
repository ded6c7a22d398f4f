"""A broker adapter for the length of one scene, and the order most scenes send."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeVar

from ticker_service.adapters.kite_broker import BrokerLane, BrokerOptions, KiteBroker
from ticker_service.adapters.kite_session import Egress
from ticker_service.config import KiteConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import OrderRequest, OrderType, Product, Side
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.crash_points import never

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.ports import Reply, SendGate
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.crash_points import Reach

T = TypeVar("T")

USER: Final = "AB1234"
TOKEN: Final = "a-token-nobody-may-read"
LONG_S: Final = 15.0
SHORT_S: Final = 0.3
"""A deadline that is meant to pass."""
ORDER: Final = OrderRequest(
    exchange="NSE",
    tradingsymbol="M&M",
    transaction_type=Side.BUY,
    order_type=OrderType.LIMIT,
    product=Product.MIS,
    quantity=7,
    price=Decimal("3021.10"),
)
TAG: Final = "T0ABCDEFGHJKMNPQRSTV"


def broker_at(
    root: str,
    *,
    egress: Egress | None = None,
    options: BrokerOptions | None = None,
    clock: Clock | None = None,
    access_token: Callable[[], str] = lambda: TOKEN,
    route_prefix: str = "",
    on_full: Callable[[BrokerLane], None] = lambda _: None,
    sends: SendGate | None = None,
    reach: Reach = never,
) -> KiteBroker:
    config = KiteConfig(
        rest_root=root, ws_root="", api_key="key", access_token="", route_prefix=route_prefix
    )
    return KiteBroker(
        config,
        user_id=USER,
        clock=clock or SystemClock(),
        access_token=access_token,
        options=options or BrokerOptions(egress=egress or Egress()),
        on_full=on_full,
        sends=sends,
        reach=reach,
    )


def play(broker: KiteBroker, scene: Callable[[KiteBroker], Awaitable[T]]) -> T:
    """Run a scene; afterwards the broker's threads and connections are gone."""

    async def stage() -> T:
        try:
            async with asyncio.timeout(2 * LONG_S):
                return await scene(broker)
        finally:
            await broker.close()

    return asyncio.run(stage())


def in_s(seconds: float, clock: Clock | None = None) -> int:
    """Return a deadline."""
    return (clock or SystemClock()).monotonic_ns() + int(seconds * NS_PER_S)


def place_once(broker: KiteBroker, *, within_s: float = LONG_S) -> Reply:
    """Place one order and return what was observed."""
    return play(broker, lambda it: it.place(ORDER, tag=TAG, deadline_ns=in_s(within_s)))
