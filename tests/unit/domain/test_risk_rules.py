"""Each rule of the risk gate, and that none lets through what it cannot judge (I13)."""

from __future__ import annotations

import dataclasses
import math
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.constants import NS_PER_S
from ticker_service.domain.contracts import Contract
from ticker_service.domain.exposure import Open, OpenKey
from ticker_service.domain.order import OrderRequest, OrderType, Product, Side, TaskKind, Variety
from ticker_service.domain.risk import LatchLevel, RiskLimits
from ticker_service.domain.risk_input import (
    DayResult,
    Earlier,
    GroupOpen,
    HeldPositions,
    Holdings,
    OrderMargin,
    ReferencePrice,
    RiskInput,
)
from ticker_service.domain.risk_rules import (
    GROUP_VALUE,
    RISK_RULES,
    SPARES_REDUCING,
    Denied,
    Need,
    RiskName,
    denials,
    in_force,
    wanted,
)
from ticker_service.domain.trading_hours import Phase

NOW_NS: Final = 1_795_242_600 * NS_PER_S
NIFTY: Final = Contract(
    exchange="NFO",
    tradingsymbol="NIFTY26NOV25000CE",
    name="NIFTY",
    price_step=Decimal("0.05"),
    lot_size=75,
    is_derivative=True,
    is_index=False,
)
SYMBOL: Final = (NIFTY.exchange, NIFTY.tradingsymbol)
KEY: Final = OpenKey(*SYMBOL, "NRML", Side.BUY)
BUY: Final = OrderRequest(
    exchange="NFO",
    tradingsymbol=NIFTY.tradingsymbol,
    transaction_type=Side.BUY,
    order_type=OrderType.LIMIT,
    product=Product.NRML,
    quantity=150,
    price=Decimal(100),
)
MARKET: Final = dataclasses.replace(
    BUY, order_type=OrderType.MARKET, price=None, market_protection=Decimal(2)
)
CNC: Final = OrderRequest(
    exchange="NSE",
    tradingsymbol="INFY",
    transaction_type=Side.SELL,
    order_type=OrderType.LIMIT,
    product=Product.CNC,
    quantity=10,
    price=Decimal(1500),
)
CRUDE: Final = dataclasses.replace(
    BUY, exchange="MCX", tradingsymbol="CRUDEOIL26DECFUT", quantity=3
)
CRUDEOIL: Final = dataclasses.replace(
    NIFTY, exchange="MCX", tradingsymbol="CRUDEOIL26DECFUT", name="CRUDEOIL", lot_size=1
)
OPEN_NOW: Final = Phase(is_open=True, until_ns=NOW_NS + 3_600 * NS_PER_S, has_ended=False)
CLOSED: Final = Phase(is_open=False, until_ns=NOW_NS + 3_600 * NS_PER_S, has_ended=True)
COUNTS: Final = Open(150, Decimal(15_000))


def last(price_inr: float = 100.0, age_s: float = 0.5, **changed: Any) -> ReferencePrice:
    at_ns = NOW_NS - int(age_s * NS_PER_S)
    values: dict[str, Any] = {"price_inr": price_inr, "at_ns": at_ns, "source": "ticks"}
    return ReferencePrice(**values | {"traded_at_ns": at_ns} | changed)


def traded(age_s: float, **changed: Any) -> ReferencePrice:
    """Return a price that was told just now of a trade of so long ago."""
    return last(traded_at_ns=NOW_NS - int(age_s * NS_PER_S), **changed)


def booked(age_s: float, bid_inr: float, ask_inr: float) -> ReferencePrice:
    """Return one of an old trade with a book of so long ago."""
    book_at_ns = NOW_NS - int(age_s * NS_PER_S)
    return traded(600, book_at_ns=book_at_ns, bid_inr=bid_inr, ask_inr=ask_inr)


def held(age_s: float = 1.0, **changed: Any) -> HeldPositions:
    values: dict[str, Any] = {"net": {}, "at_ns": NOW_NS - int(age_s * NS_PER_S)}
    return HeldPositions(**values | changed)


def margin(
    total_inr: object = 15_000, available_inr: object = 15_000, age_s: float = 0.5
) -> OrderMargin:
    return OrderMargin(
        at_ns=NOW_NS - int(age_s * NS_PER_S),
        total_inr=Decimal(str(total_inr)),
        available_inr=Decimal(str(available_inr)),
    )


def asked(
    order: OrderRequest = BUY, limits: dict[str, Any] | None = None, **more: Any
) -> RiskInput:
    """Return an input that every rule passes, with the changes."""
    values: dict[str, Any] = {
        "kind": TaskKind.PLACE,
        "account": "MAIN",
        "key": "mine",
        "order": order,
        "limits": RiskLimits(**limits or {}),
        "now_ns": NOW_NS,
        "contract": NIFTY,
        "reference": last(lower_circuit_inr=50.0, upper_circuit_inr=200.0),
        "counts": COUNTS,
        "positions": held(names={SYMBOL: "NIFTY"}),
        "holdings": Holdings(at_ns=NOW_NS, free={("NSE", "INFY"): 10}),
        "phase": OPEN_NOW,
        "orders_of_minute": 0,
        "day": DayResult(at_ns=NOW_NS, result_inr=0.0, best_inr=0.0),
        "margin": margin(),
    }
    return RiskInput(**values | more)


def only(found: list[Denied]) -> Denied:
    assert len(found) == 1, found
    return found[0]


def sell(order: OrderRequest) -> OrderRequest:
    return dataclasses.replace(order, transaction_type=Side.SELL)


CO = {KEY: Open(300, Decimal(30_000))}

# rule, what is on, an order that passes, one that does not, the field it is told of
ROWS: Final[list[tuple[RiskName, dict[str, Any], RiskInput, RiskInput, str]]] = []


def row(
    name: RiskName,
    limits: dict[str, Any],
    passes: dict[str, Any],
    denied: dict[str, Any],
    field: str,
) -> None:
    made = [asked(limits=limits, **each) for each in (passes, denied)]
    ROWS.append((name, limits, made[0], made[1], field))


N = RiskName
row(N.BANNED, {"banned_symbols": ("NSE:INFY",)}, {}, {"order": CNC}, "order.tradingsymbol")
row(
    N.BANNED,
    {"banned_symbols": ("NIFTY",)},
    {"order": CRUDE, "contract": CRUDEOIL},
    {},
    "order.tradingsymbol",
)
row(
    N.BANNED,
    {"banned_symbols": ("NSE:INFY",)},
    {},
    {"order": dataclasses.replace(CNC, tradingsymbol=" infy ")},
    "order.tradingsymbol",
)
row(N.TRADING_HOURS, {"trading_hours": True}, {}, {"phase": CLOSED}, "order.exchange")
row(
    N.TRADING_HOURS,
    {"trading_hours": True},
    {"phase": CLOSED, "order": dataclasses.replace(CNC, variety=Variety.AMO)},
    {"phase": CLOSED, "order": CNC},
    "order.exchange",
)
row(
    N.TRADING_HOURS,
    {"trading_hours": True},
    {"phase": dataclasses.replace(CLOSED, until_ns=NOW_NS + 600 * NS_PER_S), "order": CNC},
    {"phase": dataclasses.replace(CLOSED, until_ns=NOW_NS + 600 * NS_PER_S)},
    "order.exchange",
)
row(
    N.ABSURD_VALUE,
    {"absurd_value_inr": Decimal(15_000)},
    {},
    {"order": dataclasses.replace(BUY, quantity=151)},
    "order",
)
row(
    N.ORDER_QUANTITY,
    {"order_quantity_max": 150},
    {},
    {"order": dataclasses.replace(BUY, quantity=225)},
    "order.quantity",
)
row(
    N.ORDER_LOTS,
    {"order_lots_max": 2},
    {},
    {"order": dataclasses.replace(BUY, quantity=225)},
    "order.quantity",
)
row(
    N.ORDER_LOTS,
    {"order_lots_max": 2},
    {"order": dataclasses.replace(CRUDE, quantity=2), "contract": CRUDEOIL},
    {"order": CRUDE, "contract": CRUDEOIL},
    "order.quantity",
)
row(
    N.ORDER_VALUE,
    {"order_value_inr_max": Decimal(15_000)},
    {"order": MARKET},
    {"order": MARKET, "reference": last(100.05)},
    "order",
)
row(
    N.ORDER_VALUE,
    {"order_value_inr_max": Decimal(30_000), "contract_units": {"CRUDEOIL": 100}},
    {"order": CRUDE, "contract": CRUDEOIL},
    {"order": dataclasses.replace(CRUDE, quantity=4), "contract": CRUDEOIL},
    "order",
)
CIRCUIT = last(lower_circuit_inr=99.0, upper_circuit_inr=100.0)
row(
    N.CIRCUIT,
    {"circuit_limits": True},
    {"reference": CIRCUIT},
    {"reference": CIRCUIT, "order": dataclasses.replace(BUY, price=Decimal("100.05"))},
    "order.price",
)
row(
    N.PRICE_COLLAR,
    {"price_collar_percent": Decimal(5)},
    {"reference": last(105.0)},
    {"reference": last(106.0)},
    "order.price",
)
row(
    N.PRICE_COLLAR,
    {"price_collar_percent": Decimal(5)},
    {"reference": booked(1, 99.0, 101.0)},
    {"reference": traded(3.1)},
    "reference_price",
)
row(
    N.PRICE_COLLAR,
    {"price_collar_percent": Decimal(5)},
    {"reference": booked(1, 100.0, 110.0)},
    {"reference": booked(1, 100.0, 110.1)},
    "reference_price",
)
row(
    N.ORDER_VALUE,
    {"order_value_inr_max": Decimal(15_000)},
    {"order": MARKET, "reference": traded(3.0)},
    {"order": MARKET, "reference": traded(-3.1)},
    "reference_price",
)
row(
    N.PRICE_COLLAR,
    {"price_collar_percent": Decimal(5)},
    {
        "reference": traded(40_000),
        "order": dataclasses.replace(BUY, variety=Variety.AMO),
        "phase": CLOSED,
    },
    {"reference": traded(40_000), "order": dataclasses.replace(BUY, variety=Variety.AMO)},
    "reference_price",
)
row(
    N.PRICE_COLLAR,
    {"price_collar_percent": Decimal(2)},
    {"order": MARKET},
    {"order": dataclasses.replace(MARKET, market_protection=Decimal(3))},
    "order.market_protection",
)
row(
    N.PRICE_COLLAR,
    {"price_collar_percent": Decimal("4.9")},
    {"order": MARKET},
    {"order": dataclasses.replace(MARKET, market_protection=Decimal(-1))},
    "order.market_protection",
)
row(
    N.DUPLICATE,
    {"duplicate_window_s": Decimal(2)},
    {"earlier": Earlier("theirs", 2.5)},
    {"earlier": Earlier("theirs", 1.5)},
    "client_order_id",
)
row(
    N.ORDER_RATE,
    {"orders_per_minute_max": 3},
    {"orders_of_minute": 2},
    {"orders_of_minute": 3},
    "principal",
)
row(
    N.OPEN_VALUE,
    {"open_value_inr_max": Decimal(45_000)},
    {"open": CO},
    {"open": CO, "counts": Open(150, Decimal(15_001))},
    "order",
)
row(
    N.OPEN_VALUE,
    {"open_value_inr_max": Decimal(45_000)},
    {"open": {KEY: Open(300, Decimal(0), 300)}},
    {"open": {KEY: Open(300, Decimal(0), 300)}, "reference": last(100.05)},
    "order",
)
row(
    N.POSITION,
    {"position_quantity_max": 500},
    {"open": CO, "positions": held(net={SYMBOL: 50})},
    {"open": CO, "positions": held(net={SYMBOL: 51})},
    "order.quantity",
)
row(
    N.POSITION,
    {"position_quantity_max": 500},
    {"order": sell(BUY), "positions": held(net={SYMBOL: -350})},
    {"order": sell(BUY), "positions": held(net={SYMBOL: -351})},
    "order.quantity",
)
row(
    N.POSITION,
    {"position_quantity_max": 500},
    {"positions": held(net={SYMBOL: 300}, filled={KEY: 50})},
    {"positions": held(net={SYMBOL: 300}, filled={KEY: 51})},
    "order.quantity",
)
OTHER = ("NFO", "NIFTY26NOV25000PE")
NAMES = {SYMBOL: "NIFTY", OTHER: "NIFTY"}
row(
    N.UNDERLYING,
    {"underlying_quantity_max": 500},
    {"positions": held(net={OTHER: 350, SYMBOL: -75}, names=NAMES)},
    {"positions": held(net={OTHER: 351, SYMBOL: -75}, names=NAMES)},
    "order.quantity",
)
row(
    N.HOLDINGS,
    {"sell_only_holdings": True},
    {"order": CNC, "counts": Open(10, Decimal(15_000))},
    {"order": CNC, "counts": Open(11, Decimal(15_000))},
    "order.quantity",
)
SOON = dataclasses.replace(OPEN_NOW, until_ns=NOW_NS + 600 * NS_PER_S)
MIS = dataclasses.replace(BUY, product=Product.MIS)
row(
    N.SQUARE_OFF,
    {"mis_last_minutes": 15},
    {"phase": SOON},
    {"phase": SOON, "order": MIS},
    "order.product",
)


def day(result_inr: float, best_inr: float | Decimal = 0.0, **changed: Any) -> DayResult:
    values: dict[str, Any] = {"at_ns": NOW_NS, "result_inr": result_inr, "best_inr": best_inr}
    return DayResult(**values | changed)


LOSSES = {"loss_block_new_inr": Decimal(100), "loss_halt_inr": Decimal(300)}
row(N.LOSS, LOSSES, {"day": day(-99.5)}, {"day": day(-100.0)}, "account")
row(
    N.LOSS,
    LOSSES,
    {"day": day(-100.0), "kind": TaskKind.MODIFY},
    {"day": day(-300.0), "kind": TaskKind.MODIFY},
    "account",
)
row(
    N.LOSS,
    {"drawdown_reduce_only_inr": Decimal(50)},
    {"day": day(51.0, 100.0)},
    {"day": day(50.0, 100.0)},
    "account",
)
LIFTED = frozenset({LatchLevel.BLOCK_NEW})
row(
    N.LOSS,
    LOSSES,
    {"day": day(-200.0, lifted=LIFTED)},
    {"day": day(-300.0, lifted=LIFTED)},
    "account",
)


FREE = {"broker_margin": True}
row(N.MARGIN, FREE, {}, {"margin": margin("15000.01")}, "order")
row(N.MARGIN, FREE, {"margin": margin(0, 0)}, {"margin": margin(0, "-0.01")}, "order")
row(N.MARGIN, FREE, {}, {"margin": margin(-1)}, "order_margin")
# A change is held against it once it asks for more than is counted.
row(
    N.MARGIN,
    FREE,
    {"kind": TaskKind.MODIFY, "counted": COUNTS, "margin": None},
    {"kind": TaskKind.MODIFY, "counted": Open(75, Decimal(7_500)), "margin": margin(15_001)},
    "order",
)
row(
    N.MARGIN,
    FREE,
    {"kind": TaskKind.MODIFY, "counted": COUNTS, "margin": None},
    {"kind": TaskKind.MODIFY, "counted": COUNTS, "is_counted": False, "margin": None},
    "order_margin",
)


@pytest.mark.parametrize(
    ("name", "limits", "passes", "denied", "field"),
    ROWS,
    ids=[f"{at}-{each[0]}" for at, each in enumerate(ROWS)],
)
def test_a_rule_lets_through_up_to_its_limit_and_denies_beyond(
    name: RiskName, limits: dict[str, Any], passes: RiskInput, denied: RiskInput, field: str
) -> None:
    assert denials(passes) == []
    found = only(denials(denied))
    assert (found.rule.name, found.finding.field) == (name, field)
    assert found.finding.must
    off = dataclasses.replace(denied, limits=RiskLimits(absurd_value_inr=None))
    assert limits
    assert denials(off) == []


def test_every_rule_has_a_row_that_it_passes_and_one_that_it_denies() -> None:
    of_limits = set(RiskName) - {GROUP_VALUE.name}
    assert {each[0] for each in ROWS} == of_limits == {rule.name for rule in RISK_RULES}


@pytest.mark.parametrize(
    ("room", "open_", "field"),
    [
        (22_500, {KEY: Open(75, Decimal(7_500))}, None),
        (22_499, {KEY: Open(75, Decimal(7_500))}, "order"),
        (22_500, {KEY: Open(75, Decimal(0), 75)}, None),
        (22_499, {KEY: Open(75, Decimal(0), 75)}, "order"),
        (10**9, "SPARE", "group"),
    ],
)
def test_open_orders_of_all_accounts_of_a_group_count_together_and_unknown_ones_deny(
    room: int, open_: Any, field: str | None
) -> None:
    other = GroupOpen(name="WIDE", value_inr_max=Decimal(10**9), open={})
    tight = GroupOpen(name="PAIR", value_inr_max=Decimal(room), open=open_)
    found = denials(asked(groups=(other, tight)), [GROUP_VALUE])
    assert [each.finding.field for each in found] == ([] if field is None else [field])
    # What makes nothing more of it goes, such as a lower price.
    fewer = asked(groups=(other, tight), counted=COUNTS)
    assert denials(fewer, [GROUP_VALUE]) == []


def test_without_settings_only_the_absurd_is_denied() -> None:
    bare = asked(contract=None, reference=None, positions=None, phase=None, day=None)
    assert denials(bare) == []
    assert wanted(in_force(RiskLimits())) == set()
    absurd = dataclasses.replace(BUY, quantity=9_999_975, price=Decimal(101))
    assert only(denials(asked(absurd))).rule.name is RiskName.ABSURD_VALUE


def test_rules_of_size_and_of_what_may_be_sent_at_all_spare_nobody() -> None:
    strict = {N.TRADING_HOURS, N.ABSURD_VALUE, N.ORDER_QUANTITY, N.ORDER_LOTS}
    strict |= {N.DUPLICATE, N.HOLDINGS}
    assert set(RiskName) - SPARES_REDUCING == strict


def test_a_change_that_opens_nothing_more_passes_limits_that_are_exceeded() -> None:
    limits = {"open_value_inr_max": Decimal(1), "position_quantity_max": 1}
    change = asked(limits=limits, kind=TaskKind.MODIFY, counted=COUNTS, open={KEY: COUNTS})
    assert denials(change) == []


EVERY: Final = {
    "order_value_inr_max": Decimal(10**9),
    "order_quantity_max": 10_000,
    "order_lots_max": 1_000,
    "circuit_limits": True,
    "price_collar_percent": Decimal(50),
    "duplicate_window_s": Decimal(2),
    "open_value_inr_max": Decimal(10**9),
    "position_quantity_max": 10_000,
    "underlying_quantity_max": 10_000,
    "orders_per_minute_max": 100,
    "sell_only_holdings": True,
    "trading_hours": True,
    "broker_margin": True,
    "mis_last_minutes": 5,
    "loss_halt_inr": Decimal(10**6),
    "banned_symbols": ("BANKNIFTY",),
}
NO_NUMBERS: Final = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0])
NO_DECIMALS: Final = st.sampled_from([Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity")])
STALE: Final = st.one_of(st.floats(3.001, 10**6), st.floats(-(10.0**6), -0.001))
LATE: Final = st.one_of(st.floats(5.001, 10**6), st.floats(-(10.0**6), -0.001))
OLD: Final = st.one_of(st.floats(10.001, 10**6), st.floats(-(10.0**6), -0.001))
TRADED_LONG_AGO: Final = st.one_of(st.floats(3.001, 10**6), st.floats(-(10.0**6), -3.001))
GOOD: Final = asked(limits=EVERY)


def spoilt() -> st.SearchStrategy[tuple[set[RiskName], RiskInput]]:
    """Return inputs with one thing missing, stale or no number, and the rules that need it."""
    replace = dataclasses.replace
    priced = {N.CIRCUIT, N.PRICE_COLLAR}
    whole = GOOD.reference
    assert whole is not None
    unpriced = replace(GOOD, order=MARKET, counts=Open(150, Decimal(0), 150))
    everywhere = priced | {N.ORDER_VALUE, N.OPEN_VALUE}

    def reference(value: ReferencePrice | None) -> RiskInput:
        return replace(unpriced, reference=value)

    def aged(age_s: float) -> ReferencePrice:
        return replace(whole, at_ns=NOW_NS - int(age_s * NS_PER_S))

    def selling(value: Holdings | None) -> RiskInput:
        return replace(GOOD, order=CNC, holdings=value)

    def holdings(age_s: float) -> Holdings:
        return Holdings(at_ns=NOW_NS - int(age_s * NS_PER_S), free={("NSE", "INFY"): 1_000})

    sized = {N.POSITION, N.UNDERLYING}
    listed = {N.BANNED, N.ORDER_LOTS, N.UNDERLYING}
    unknown = {("NFO", "SOMETHING26NOV1CE"): 10}
    prices = [N.ABSURD_VALUE, N.ORDER_VALUE, N.CIRCUIT, N.PRICE_COLLAR]
    return st.one_of(
        st.just((everywhere, reference(None))),
        STALE.map(lambda age_s: (everywhere, reference(aged(age_s)))),
        st.just((everywhere - {N.CIRCUIT}, reference(replace(whole, traded_at_ns=0)))),
        TRADED_LONG_AGO.map(lambda age_s: (everywhere - {N.CIRCUIT}, reference(traded(age_s)))),
        st.sampled_from(
            [
                booked(3.1, 99.0, 101.0),
                booked(1, 0.0, 101.0),
                booked(1, 99.0, 0.0),
                booked(1, 101.0, 99.0),
                booked(1, 101.0, 102.0),
                booked(1, 98.0, 99.0),
                booked(1, math.nan, 101.0),
                booked(1, 99.0, math.nan),
                booked(1, 99.0, math.inf),
            ]
        ).map(lambda given: (everywhere - {N.CIRCUIT}, reference(given))),
        NO_NUMBERS.map(
            lambda price: (everywhere - {N.CIRCUIT}, reference(replace(whole, price_inr=price)))
        ),
        NO_NUMBERS.map(
            lambda price: ({N.CIRCUIT}, reference(replace(whole, upper_circuit_inr=price)))
        ),
        st.sampled_from([math.nan, math.inf, -math.inf, -1.0]).map(
            lambda price: ({N.CIRCUIT}, reference(replace(whole, lower_circuit_inr=price)))
        ),
        st.just(({N.CIRCUIT}, reference(last(100.0)))),
        st.just((sized, replace(GOOD, positions=None))),
        OLD.map(lambda age_s: (sized, replace(GOOD, positions=held(age_s, names={SYMBOL: "N"})))),
        st.just(({N.UNDERLYING}, replace(GOOD, positions=held(net=unknown)))),
        st.just(({N.HOLDINGS}, selling(None))),
        st.just(({N.LOSS}, replace(GOOD, day=None))),
        OLD.map(
            lambda age_s: (
                {N.LOSS},
                replace(GOOD, day=day(0.0, at_ns=NOW_NS - int(age_s * NS_PER_S))),
            )
        ),
        st.sampled_from([math.nan, math.inf, -math.inf]).map(
            lambda result: ({N.LOSS}, replace(GOOD, day=day(result)))
        ),
        NO_DECIMALS.map(lambda best: ({N.LOSS}, replace(GOOD, day=day(0.0, best)))),
        st.just(({N.MARGIN}, replace(GOOD, margin=None))),
        LATE.map(lambda age_s: ({N.MARGIN}, replace(GOOD, margin=margin(age_s=age_s)))),
        NO_DECIMALS.map(lambda told: ({N.MARGIN}, replace(GOOD, margin=margin(told)))),
        NO_DECIMALS.map(lambda told: ({N.MARGIN}, replace(GOOD, margin=margin(0, told)))),
        OLD.map(lambda age_s: ({N.HOLDINGS}, selling(holdings(age_s)))),
        st.just((listed, replace(GOOD, contract=None))),
        st.just(({N.TRADING_HOURS, N.SQUARE_OFF}, replace(GOOD, order=MIS, phase=None))),
        st.just(({N.ORDER_RATE}, replace(GOOD, orders_of_minute=None))),
        st.sampled_from([math.nan, math.inf]).map(
            lambda age: ({N.DUPLICATE}, replace(GOOD, earlier=Earlier("theirs", age)))
        ),
        NO_DECIMALS.map(
            lambda price: (set(prices), replace(GOOD, order=replace(BUY, price=price)))
        ),
        st.just(
            (
                {N.ORDER_VALUE, N.OPEN_VALUE},
                replace(
                    GOOD,
                    order=CRUDE,
                    contract=CRUDEOIL,
                    names={("MCX", CRUDE.tradingsymbol): "CRUDEOIL"},
                ),
            )
        ),
    )


def test_the_input_that_is_spoilt_passes_whole() -> None:
    assert denials(GOOD) == []


@given(spoilt())
def test_what_is_missing_stale_or_no_number_denies(case: tuple[set[RiskName], RiskInput]) -> None:
    names, given_ = case
    assert names <= {each.rule.name for each in denials(given_)}


def test_each_rule_that_has_something_fetched_is_among_those_that_deny_without_it() -> None:
    fetched = {
        Need.LAST_PRICE: {"reference": None},
        Need.UNPRICED: {"reference": None, "order": MARKET},
        Need.QUOTE: {"reference": None},
        Need.OPEN_PRICES: {"reference": None, "counts": Open(150, Decimal(0), 150)},
        Need.POSITIONS: {"positions": None},
        Need.HOLDINGS: {"holdings": None, "order": CNC},
        Need.DAY: {"day": None},
        Need.MARGIN: {"margin": None},
    }
    for rule in RISK_RULES:
        for need in rule.needs:
            without = dataclasses.replace(GOOD, **fetched[need])
            assert rule.name in {each.rule.name for each in denials(without)}, (rule.name, need)
