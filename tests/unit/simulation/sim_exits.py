"""Exits in a play: what callers ask, who else trades the same positions, and what that did to them.

The other hand is somebody in the broker's own app: it closes, turns round or adds to what is held,
now and then at the very instant at which the intent of an exit's order has become durable. What it
did before an order's last look must be seen by that look; what it does after it cannot be.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from sim_broker import FUTURE_KEY, SHARE_KEY

from ticker_service.domain.exit import Exit
from ticker_service.domain.order import BrokerOrder, OrderType, TaskKind
from ticker_service.domain.order_state import JOB_OPEN
from ticker_service.domain.risk_input import ReferencePrice

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping

    from sim_broker import SimBroker
    from sim_play import Play
    from sim_world import World

    from ticker_service.domain.order import OrderTask
    from ticker_service.domain.portfolio import PositionKey

LOTS: Final = {SHARE_KEY: 1, FUTURE_KEY: 5}
PAUSE_S: Final = 2.5
"""From one trade of the other hand to the next, on average."""
LAST_PRICE_INR: Final = 100.0
CIRCUIT_INR: Final = (80.0, 120.0)


def wish(chance: random.Random) -> Exit:
    """Return an exit that somebody may ask for."""
    key = chance.choice((SHARE_KEY, SHARE_KEY, FUTURE_KEY, None))
    names = {} if key is None else {"exchange": key.exchange, "tradingsymbol": key.tradingsymbol}
    if key is not None and chance.random() < 0.7:
        names["product"] = key.product
    return Exit(
        **names,
        order_type=OrderType.LIMIT if chance.random() < 0.25 else OrderType.MARKET,
        cancel_resting=chance.random() < 0.4,
        within_s=chance.randint(10, 60),
    )


class Quotes:
    """Last prices that move a little, and are not to be had now and then."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def fresh(
        self,
        symbols: Collection[tuple[str, str]],
        *,
        within_s: float,  # noqa: ARG002 - every one is of this instant
        with_circuit: bool = False,  # noqa: ARG002 - they always have it
    ) -> Mapping[tuple[str, str], ReferencePrice]:
        """Return the last prices that are to be had."""
        chance = self._world.chance
        return {
            symbol: ReferencePrice(
                price_inr=LAST_PRICE_INR + chance.randint(-20, 20) / 20,
                at_ns=self._world.clock.now_ns(),
                source="play",
                lower_circuit_inr=CIRCUIT_INR[0],
                upper_circuit_inr=CIRCUIT_INR[1],
            )
            for symbol in sorted(symbols)
            if chance.random() < 0.9
        }


@dataclass(slots=True, kw_only=True)
class OtherHand:
    """Somebody who trades the same positions in the broker's own app while an exit is under way."""

    play: Play
    is_there: bool

    async def trade(self) -> None:
        """Trade now and then until cancelled."""
        while True:
            await asyncio.sleep(self.play.world.chance.expovariate(1 / PAUSE_S))
            if self.is_there and self._open_exits():
                self._trades()

    def hears_of(self, intended: OrderTask) -> None:
        """Trade, perhaps, at the instant at which an intent has become durable."""
        if self.is_there and self.play.is_of_an_exit(intended) and self.play.world.happens(0.15):
            self.play.world.met["another_hand_at_an_intent"] += 1
            self._trades()

    def _open_exits(self) -> bool:
        return any(
            task.kind is TaskKind.EXIT and task.state in JOB_OPEN
            for task in self.play.journal.tasks.values()
        )

    def _trades(self) -> None:
        chance, broker = self.play.world.chance, self.play.broker
        key = chance.choice(list(LOTS))
        held, lot = broker.held(key), LOTS[key]
        closes = chance.random() < 0.75 and held != 0
        is_sale = (held > 0) is closes
        most = max(abs(held) // lot, 1) if closes else 12
        quantity = lot * (most if closes and chance.random() < 0.4 else chance.randint(1, most))
        self.play.world.met["another_hand_closed" if closes else "another_hand_opened"] += 1
        rests = chance.random() < 0.25
        trade_elsewhere(broker, key, "SELL" if is_sale else "BUY", quantity, rests=rests)


def trade_elsewhere(
    broker: SimBroker, key: PositionKey, side: str, quantity: int, *, rests: bool
) -> None:
    """Have an order of another app in the book: filled at once, or at rest for some seconds."""
    order_id = f"{len(broker.book) + 1:015d}"
    broker.book[order_id] = BrokerOrder(
        order_id=order_id,
        status="OPEN",
        tags=(),
        exchange=key.exchange,
        tradingsymbol=key.tradingsymbol,
        transaction_type=side,
        order_type="LIMIT",
        product=key.product,
        variety="regular",
        quantity=quantity,
        price=Decimal(100),
        trigger_price=Decimal(0),
        filled_quantity=0,
        average_price=Decimal(0),
        user_id=broker.user_id,
        order_timestamp="",
        exchange_update_timestamp="",
        status_message="",
        parent_order_id="",
    )
    broker.world.tell("app", f"{side} {quantity} {key.tradingsymbol}, rests={rests}")
    broker.visible_at_ns[order_id] = 0
    _another_hand(broker)
    if rests:
        broker.world.apart(lambda: _rest(broker, order_id))
    else:
        broker.fill(order_id, quantity)


def _another_hand(broker: SimBroker) -> None:
    broker.hands = replace(broker.hands, elsewhere=broker.hands.elsewhere + 1)


async def _rest(broker: SimBroker, order_id: str) -> None:
    await asyncio.sleep(broker.world.random_s(0.0, 6.0))
    _another_hand(broker)
    broker.fill(order_id, broker.world.chance.randint(1, broker.book[order_id].quantity))
    await asyncio.sleep(broker.world.random_s(0.0, 3.0))
    if broker.book[order_id].status == "OPEN":
        broker.updated(broker.change(order_id, status="CANCELLED"))
