"""Whatever clients and the market do, the exchange's books stay true to each other."""

from __future__ import annotations

import contextlib
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from order_stage import ASHA, OrderStage, statuses

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.runtime.clock import ManualClock
from ticker_service.simulator import margins
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.ledger import EntryKind
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.simulator.order import TERMINAL

NOW_NS = 1_795_240_800 * NS_PER_S
OPTIONS = SimulatorOptions(seed=7, order_state_ms=10)
MARKET = Market(OPTIONS, now_ns=NOW_NS)
PRICES = st.integers(99_50 // 5, 100_50 // 5).map(lambda steps: steps * 5)

SIGN = {"BUY": 1, "SELL": -1}

PLACE = st.fixed_dictionaries(
    {
        "transaction_type": st.sampled_from(["BUY", "SELL"]),
        "quantity": st.integers(1, 30),
        "price": PRICES.map(lambda paise: f"{paise / 100:.2f}"),
        "validity": st.sampled_from(["DAY", "IOC"]),
        "product": st.sampled_from(["MIS", "CNC"]),
    }
)
ACTIONS = st.one_of(
    st.tuples(st.just("place"), PLACE),
    st.tuples(st.just("modify"), st.tuples(st.integers(0, 9), st.integers(1, 40))),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("quote"), PRICES),
    st.tuples(st.just("wait"), st.integers(1, 45)),
)


def _play(stage: OrderStage, action: str, given_: object) -> None:
    orders = list(stage.exchange.account(ASHA).orders.values())
    match action, given_:
        case "place", dict() as fields:
            stage.place(**fields)
        case "modify", (int(at), int(quantity)) if at < len(orders):
            stage.modify(orders[at], quantity=quantity)
        case "cancel", int(at) if at < len(orders):
            stage.exchange.cancel(orders[at])
        case "quote", int(ask):
            bid = tuple(ask - 10 - 5 * level for level in range(5))
            stage.quote(ltp=ask - 5, bid=bid, ask=tuple(ask + 5 * level for level in range(5)))
        case "wait", int(milliseconds):
            stage.clock.advance(milliseconds * NS_PER_MS)
            stage.exchange.advance()
        case _:
            pass


@settings(deadline=None, max_examples=60)
@given(st.lists(ACTIONS, max_size=40))
def test_books_positions_margins_and_ledger_agree(actions: list[tuple[str, object]]) -> None:
    stage = OrderStage(MARKET, ManualClock(NOW_NS), OPTIONS)
    for action, given_ in actions:
        with contextlib.suppress(KiteError):
            _play(stage, action, given_)

    account = stage.exchange.account(ASHA)
    for order in account.orders.values():
        row = order.history[-1]
        traded = sum(trade.quantity for trade in order.trades)
        assert order.filled_quantity == traded <= order.terms.quantity
        assert (order.status == "COMPLETE") == (traded == order.terms.quantity)
        assert (order.order_id in account.working) == (order.status not in TERMINAL)
        # The last state is the end, and there is only one end.
        assert not set(statuses(order)[:-1]) & TERMINAL
        pending, cancelled = row["pending_quantity"], row["cancelled_quantity"]
        assert isinstance(pending, int)
        assert isinstance(cancelled, int)
        assert traded + pending + cancelled == order.terms.quantity
        limit = order.terms.price_raw  # Changes here are of quantity alone.
        worse = [t for t in order.trades if (t.price_raw - limit) * SIGN[order.terms.side] > 0]
        assert not worse
    net = sum(t.quantity if t.side == "BUY" else -t.quantity for t in account.trades)
    assert net == sum(position.quantity for position in account.positions.values())
    assert len(account.trades) == len(stage.ledger_facts(EntryKind.TRADE, "trade_id"))
    total = sum((account.blocked_by(each) for each in account.orders), Decimal(0))
    assert account.blocked_inr == total
    for order in account.working.values():
        blocked = account.blocked_by(order.order_id)
        margins.block(MARKET, account, order)
        assert blocked == account.blocked_by(order.order_id)
