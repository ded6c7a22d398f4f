"""An account that holds a position, which what its orders fill moves; at virtual time."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any, Final

from order_scene import BUY, Scene

from ticker_service.domain.order import Side, TaskKind, to_fields
from ticker_service.domain.portfolio import BrokerPosition, PositionKey

KEY: Final = PositionKey(BUY.exchange, BUY.tradingsymbol, BUY.product)
SELL: Final = dataclasses.replace(BUY, transaction_type=Side.SELL, quantity=30)


class Held(Scene):
    """An account that carried 75 into the day; fills of the book move that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.overnight = 75
        self.broker.positions = self.told  # type: ignore[method-assign]

    async def told(self) -> list[BrokerPosition]:
        self.broker._check_up()
        traded = sum(
            row.filled_quantity if row.transaction_type == "BUY" else -row.filled_quantity
            for row in self.broker.book.values()
        )
        quantity = self.overnight + traded
        return [BrokerPosition(key=KEY, quantity=quantity, overnight_quantity=self.overnight)]

    async def why_not(self, quantity: int = 30, **changed: Any) -> str:
        order = dataclasses.replace(SELL, quantity=quantity, **changed)
        asked = self.new(TaskKind.PLACE, to_fields(order))
        return await self.desk.positions.not_reducing(asked)

    def fill(self, order_id: str, quantity: int, status: str = "OPEN") -> None:
        self.broker.change(
            order_id, filled_quantity=quantity, average_price=Decimal(100), status=status
        )

    @property
    def order_id(self) -> str:
        return next(iter(self.broker.book))
