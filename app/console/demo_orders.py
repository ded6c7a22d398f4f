"""The demo's trader: buys and sells the option at the money over the daemon's own order door."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ticker_service.client import OrderClient, OrderDoorClosed, OrderError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.console.chain import ChainView

PLACE_EVERY_S: Final = 2.0
LOOK_EVERY_S: Final = 0.2
STEPS_INSIDE: Final = 4
"""How many price steps beyond the other side an order goes, so that it fills at once."""
FINAL_STATES: Final = frozenset(
    {
        "FILLED",
        "CANCELLED",
        "REJECTED",
        "REJECTED_LOCAL",
        "EXPIRED",
        "CANCELLED_LOCAL",
        "NOT_PLACED",
        "MANUAL",
    }
)
SHOWN: Final = 3
NOT_YET: Final = frozenset({"ACCOUNT_NOT_OPEN", "JOURNAL_UNAVAILABLE", "INTERNAL"})
"""Answers after which the same order is sent again under its key, as anybody should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where the demo's orders go, for whom, and what sets this run's orders apart."""

    url: str
    token: str = field(repr=False)
    account: str
    run: str


@dataclass(slots=True)
class Trades:
    """Every order of the demo with the state it was last known in."""

    states: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Return how many orders ended in which state; live ones are not counted."""
        return dict(Counter(s for s in self.states.values() if s in FINAL_STATES))

    def lines(self) -> list[str]:
        """Return the newest orders for the screen, newest first."""
        newest = list(self.states)[-SHOWN:][::-1]
        return [f"order {self.told[each]} -> {self.states[each]}" for each in newest]

    def take(self, event: Mapping[str, Any]) -> None:
        """Apply an event of the account."""
        if event["client_order_id"] in self.told:
            self.states[event["client_order_id"]] = event["state"]


async def trade(door: Door, view: ChainView, trades: Trades) -> None:
    """Place an order every other second and follow them all, until cancelled."""
    try:
        async with OrderClient(door.url, door.token) as client, asyncio.TaskGroup() as tasks:
            await client.subscribe({door.account: 0})
            tasks.create_task(_follow(client, trades))
            number = 0
            while True:
                order = _next_order(view, "BUY" if number % 2 == 0 else "SELL")
                if order is None:
                    await asyncio.sleep(LOOK_EVERY_S)
                    continue
                number += 1
                await _place(client, door, f"demo-{door.run}-{number}", order, trades)
                await asyncio.sleep(PLACE_EVERY_S)
    except OrderDoorClosed:
        return  # the daemon ends; the demo says so elsewhere


async def _place(
    client: OrderClient,
    door: Door,
    client_order_id: str,
    order: Mapping[str, object],
    trades: Trades,
) -> None:
    trades.told[client_order_id] = (
        f"{client_order_id} {order['transaction_type']} {order['quantity']} "
        f"{order['tradingsymbol']} at {order['price']}"
    )
    while True:
        try:
            task = await client.place(client_order_id, door.account, order)
        except OrderError as error:
            if error.answer["code"] in NOT_YET:
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            trades.states[client_order_id] = "REJECTED_LOCAL"
            trades.told[client_order_id] += f" ({error})"
        else:
            trades.states.setdefault(client_order_id, task["state"])
        return


async def _follow(client: OrderClient, trades: Trades) -> None:
    async for event in client.events():
        trades.take(event)


def _next_order(view: ChainView, side: str) -> dict[str, object] | None:
    """Return a limit order for the call at the money that crosses the quote, if there is one."""
    found = view.at_the_money_call()
    if found is None:
        return None
    fact, row = found
    quote, sign = (row["ask"], 1) if side == "BUY" else (row["bid"], -1)
    if quote is None:
        return None
    step = fact["price_step"]
    price = round((quote + sign * STEPS_INSIDE * step) / step) * step
    return {
        "exchange": fact["exchange"],
        "tradingsymbol": fact["tradingsymbol"],
        "transaction_type": side,
        "order_type": "LIMIT",
        "product": "NRML",
        "quantity": fact["lot_size"],
        "price": f"{max(price, step):.2f}",
    }
