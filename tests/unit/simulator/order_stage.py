"""An exchange under full control: a clock that stands, quotes set by hand, updates kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.constants import NS_PER_MS
from ticker_service.simulator.exchange import Exchange
from ticker_service.simulator.ledger import EntryKind, Ledger
from ticker_service.simulator.market import Changes
from ticker_service.simulator.order_rules import OrderRules

if TYPE_CHECKING:
    from ticker_service.runtime.clock import ManualClock
    from ticker_service.simulator.market import Market
    from ticker_service.simulator.options import SimulatorOptions
    from ticker_service.simulator.order import Order

ASHA: Final = "AB1234"
STATE_MS: Final = 10
"""Time in each interim state here; three of them lead to OPEN."""
BID: Final = (99_95, 99_90, 99_85, 99_80, 99_75)
ASK: Final = (100_05, 100_10, 100_15, 100_20, 100_25)
LEVEL_QUANTITY: Final = 10


class OrderStage:
    """INFY quoted 99.95 / 100.05 with ten shares a level, and yesterday's close at 100."""

    def __init__(self, market: Market, clock: ManualClock, options: SimulatorOptions) -> None:
        self.market = market
        self.clock = clock
        self.ledger = Ledger(clock)
        self.rules = OrderRules(market, options)
        self.updates: list[tuple[str, dict[str, object]]] = []
        self.exchange = Exchange(
            market,
            clock,
            self.ledger,
            options,
            lambda user, data: self.updates.append((user, data)),
        )
        self.row = market.catalogue.row_by_key["NSE:INFY"]
        market.board.close_raw[self.row] = 100_00
        self.quote()

    def quote(
        self,
        *,
        ltp: int = 100_00,
        bid: tuple[int, ...] = BID,
        ask: tuple[int, ...] = ASK,
        quantity: int = LEVEL_QUANTITY,
    ) -> None:
        """Quote INFY anew, in paise, and let the exchange see it."""
        board = self.market.board
        board.ltp_raw[self.row] = ltp
        board.bid_raw[self.row], board.ask_raw[self.row] = bid, ask
        board.bid_quantity[self.row] = board.ask_quantity[self.row] = quantity
        self.exchange.note(
            Changes(rows=np.array([self.row], np.intp), least_mode=np.array([1], np.uint8))
        )

    def move_ask(self, best: int, **changed: int) -> None:
        """Quote the best offer at ``best`` paise and the others above it."""
        self.quote(ask=tuple(best + 5 * level for level in range(5)), **changed)

    def place(self, user_id: str = ASHA, **fields: object) -> Order:
        """Place an order through the rules; a resting purchase of one share unless told."""
        variety = str(fields.pop("variety", "regular"))
        return self.exchange.place(user_id, self.rules.placed(variety, form(**fields)))

    def modify(self, order: Order, **fields: object) -> None:
        """Change an order through the rules."""
        changed = {name: str(value) for name, value in fields.items()}
        self.exchange.modify(order, self.rules.modified(order.asked, changed))

    def wait(self, states: int = 3) -> None:
        """Let so many interim states pass."""
        self.clock.advance(states * STATE_MS * NS_PER_MS)
        self.exchange.advance()

    def rest(self, **fields: object) -> Order:
        """Place an order and let it come to rest."""
        order = self.place(**fields)
        self.wait()
        return order

    def update_statuses(self) -> list[str]:
        """Return the statuses of the updates so far."""
        return [str(data["status"]) for _, data in self.updates]

    def ledger_facts(self, kind: EntryKind, *names: str) -> list[tuple[object, ...]]:
        """Return some facts of the ledger's entries of one kind."""
        return [tuple(each[name] for name in names) for each in self.ledger.of_kind(kind)]


def form(**changed: object) -> dict[str, str]:
    """Return the form of a resting purchase, with changes; None leaves a field out."""
    fields: dict[str, object] = {
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "order_type": "LIMIT",
        "quantity": 1,
        "product": "CNC",
        "price": "99.00",
        **changed,
    }
    return {name: str(value) for name, value in fields.items() if value is not None}


def statuses(order: Order) -> list[str]:
    """Return an order's history as statuses."""
    return [str(row["status"]) for row in order.history]
