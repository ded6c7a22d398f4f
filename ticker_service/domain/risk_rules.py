"""The rules of the risk gate: one row each, pure, over one frozen input. They fail closed (I13).

A rule that is on and lacks what it needs, or finds it stale or not a finite number, denies: no
answer is no leave. An order that strictly reduces the broker's net position is let through by the
rules that say so, never by those of size, lots, hours and duplicates. Source: reliability.md
§6, peers.md §3.
"""

from __future__ import annotations

import math
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from ticker_service.constants import NS_PER_S
from ticker_service.domain.exit_price import AUTOMATIC_PROTECTION
from ticker_service.domain.exposure import NOTHING_OPEN, OpenKey
from ticker_service.domain.order import OrderType, Product, Side, TaskKind, Variety
from ticker_service.domain.risk import LatchLevel
from ticker_service.domain.risk_input import (
    IN_LOTS,
    Unusable,
    check_age,
    check_counted,
    finite,
    last_price,
    own_price,
    value_of,
)
from ticker_service.domain.trading_hours import SHARE_EXCHANGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ticker_service.domain.exposure import Open
    from ticker_service.domain.risk import RiskLimits
    from ticker_service.domain.risk_input import DayResult, RiskInput

OWN_BAND_PERCENT_MAX: Final = Decimal(5)
"""Round the last price; Kite chooses its own band, for market_protection -1, up to this."""
PRE_OPEN_NS: Final = 15 * 60 * NS_PER_S
"""Shares take orders for the opening auction so long before continuous trading."""
_HUNDRED: Final = Decimal(100)
MARGIN_AGE_S_MAX: Final = Decimal(5)
"""How old the broker's word on the margin may be; each order asks anew."""
_NS_PER_MINUTE: Final = 60 * NS_PER_S


class RiskName(StrEnum):
    """The rules; a refusal's code is ``RISK_`` and this."""

    BANNED = "BANNED"
    TRADING_HOURS = "TRADING_HOURS"
    ABSURD_VALUE = "ABSURD_VALUE"
    ORDER_VALUE = "ORDER_VALUE"
    ORDER_QUANTITY = "ORDER_QUANTITY"
    ORDER_LOTS = "ORDER_LOTS"
    CIRCUIT = "CIRCUIT"
    PRICE_COLLAR = "PRICE_COLLAR"
    DUPLICATE = "DUPLICATE"
    ORDER_RATE = "ORDER_RATE"
    OPEN_VALUE = "OPEN_VALUE"
    GROUP_VALUE = "GROUP_VALUE"
    POSITION = "POSITION"
    UNDERLYING = "UNDERLYING"
    HOLDINGS = "HOLDINGS"
    SQUARE_OFF = "SQUARE_OFF"
    LOSS = "LOSS"
    MARGIN = "MARGIN"


SPARES_REDUCING: Final = frozenset(
    {
        RiskName.BANNED,
        RiskName.ORDER_VALUE,
        RiskName.CIRCUIT,
        RiskName.PRICE_COLLAR,
        RiskName.ORDER_RATE,
        RiskName.OPEN_VALUE,
        RiskName.GROUP_VALUE,
        RiskName.POSITION,
        RiskName.UNDERLYING,
        RiskName.SQUARE_OFF,
        RiskName.LOSS,
        RiskName.MARGIN,
    }
)
"""Rules of bans, prices, exposure, loss and margin: they let through what strictly reduces."""


class Need(StrEnum):
    """What has to be fetched for a rule."""

    LAST_PRICE = "last_price"
    UNPRICED = "unpriced"
    """The last price, of an order without one of its own."""
    QUOTE = "quote"
    """A quote, for the day's circuit limits."""
    OPEN_PRICES = "open_prices"
    """The last prices of all that is open without one."""
    POSITIONS = "positions"
    HOLDINGS = "holdings"
    DAY = "day"
    MARGIN = "margin"
    """What the broker says that the order needs, and has free."""


class Finding(NamedTuple):
    """Why a rule denies: which field, what it held, the limit, what to do, the numbers used."""

    field: str
    value: object
    limit: object
    must: str
    numbers: Mapping[str, object] = {}


class RiskRule(NamedTuple):
    """One row: when it is on, what it asks for, and whom it lets through."""

    name: RiskName
    is_on: Callable[[RiskLimits], bool]
    judge: Callable[[RiskInput], Finding | None]
    needs: frozenset[Need] = frozenset()


class Denied(NamedTuple):
    """A rule that denies an order, and why."""

    rule: RiskRule
    finding: Finding


def in_force(limits: RiskLimits) -> tuple[RiskRule, ...]:
    """Return the rules that are on, in the order of the table."""
    return tuple(rule for rule in RISK_RULES if rule.is_on(limits))


def denials(given: RiskInput, rules: Iterable[RiskRule] | None = None) -> list[Denied]:
    """Return every rule that denies, in the order of the table; empty if all pass.

    Args:
        given: What is decided on.
        rules: Those that its limits have in force (:func:`in_force`), where they are at hand.
    """
    found = []
    for rule in in_force(given.limits) if rules is None else rules:
        finding = _judged(rule, given)
        if finding is not None:
            found.append(Denied(rule, finding))
    return found


def wanted(rules: Iterable[RiskRule]) -> frozenset[Need]:
    """Return what has to be fetched for some rules."""
    return frozenset(need for rule in rules for need in rule.needs)


def _judged(rule: RiskRule, given: RiskInput) -> Finding | None:
    try:
        return rule.judge(given)
    except Unusable as error:
        must = f"judged by it, and {error}; no order is let through on what is not known"
        return Finding(error.what, None, None, must, error.numbers)
    except ArithmeticError:
        return Finding("order", None, None, "made of finite numbers")


# --- the rules ----------------------------------------------------------------------------------


def _banned(given: RiskInput) -> Finding | None:
    exchange, symbol = given.symbol
    names = set(given.limits.banned_symbols)
    told = f"{exchange}:{symbol}"
    if told in names:
        return Finding("order.tradingsymbol", told, told, "no banned symbol")
    underlyings = {each for each in names if ":" not in each}
    if not underlyings:
        return None
    if given.contract is None:
        raise Unusable("contract", "is not among the day's instruments, and underlyings are banned")
    if given.contract.name in underlyings or symbol in underlyings:
        banned = given.contract.name if given.contract.name in underlyings else symbol
        return Finding("order.tradingsymbol", told, banned, f"of no banned underlying ({banned})")
    return None


def _trading_hours(given: RiskInput) -> Finding | None:
    if given.order.variety is Variety.AMO:
        return None
    phase = given.phase
    if phase is None:
        raise Unusable("trading_hours", "are not known")
    is_soon = (
        given.order.exchange in SHARE_EXCHANGES
        and not phase.is_open
        and 0 < phase.until_ns - given.now_ns <= PRE_OPEN_NS
    )
    if phase.is_open or is_soon:
        return None
    must = f"sent while {given.order.exchange} trades, or be of variety amo"
    return Finding("order.exchange", given.order.exchange, "open", must)


def _absurd_value(given: RiskInput) -> Finding | None:
    """By the order's own price, in Kite's own count: it needs nothing that could be missing."""
    price = own_price(given.order)
    most = given.limits.absurd_value_inr
    if price is None or most is None:
        return None
    value = price * given.order.quantity
    return None if value <= most else _above("order", "value", value, most)


def _order_value(given: RiskInput) -> Finding | None:
    most = given.limits.order_value_inr_max
    value, told = value_of(given)
    return None if most is None or value <= most else _above("order", "value", value, most, told)


def _order_quantity(given: RiskInput) -> Finding | None:
    most, quantity = given.limits.order_quantity_max, given.order.quantity
    if most is None or quantity <= most:
        return None
    return Finding("order.quantity", quantity, most, f"at most {most}")


def _order_lots(given: RiskInput) -> Finding | None:
    most, contract = given.limits.order_lots_max, given.contract
    if given.order.exchange in SHARE_EXCHANGES:
        return None
    if contract is None:
        raise Unusable("contract", "is not among the day's instruments")
    lot_size = 1 if given.order.exchange in IN_LOTS else contract.lot_size
    if lot_size < 1:
        raise Unusable("contract", f"has a lot of {lot_size}")
    lots = -(-given.order.quantity // lot_size)
    if most is None or lots <= most:
        return None
    numbers = {"lots": lots, "lot_size": lot_size}
    return Finding("order.quantity", given.order.quantity, most, f"at most {most} lots", numbers)


def _circuit(given: RiskInput) -> Finding | None:
    reference = given.reference
    if reference is None or reference.lower_circuit_inr is None:
        raise Unusable("circuit_limits", "are missing")
    check_age("circuit_limits", reference.at_ns, given.now_ns, given.limits.reference_age_s_max)
    lower = finite("circuit_limits", reference.lower_circuit_inr)
    upper = finite("circuit_limits", reference.upper_circuit_inr or math.nan)
    if not 0 <= lower < upper:
        raise Unusable("circuit_limits", f"are {lower} to {upper}")
    for name in ("price", "trigger_price"):
        price = getattr(given.order, name)
        if price is not None and not lower <= finite(f"order.{name}", price) <= upper:
            must = f"within the day's circuit limits, {lower:f} to {upper:f}"
            return Finding(f"order.{name}", price, f"{lower:f}..{upper:f}", must)
    return None


def _collar(given: RiskInput) -> Finding | None:
    percent = given.limits.price_collar_percent
    if percent is None:
        return None
    last, told = last_price(given, given.reference)
    for name in ("price", "trigger_price"):
        price = getattr(given.order, name)
        if price is None:
            continue
        away = abs(finite(f"order.{name}", price) - last) * _HUNDRED / last
        if away > percent:
            must = f"within {percent} % of the last price {last:f}; it is {away:.2f} % away"
            numbers = {**told, "away_percent": f"{away:.4f}"}
            return Finding(f"order.{name}", price, f"{percent:f} %", must, numbers)
    if given.order.order_type in {OrderType.MARKET, OrderType.SL_M}:
        protection = given.order.market_protection
        # Kite's own band depends on the instrument and is not told: the widest it may be counts.
        widest = OWN_BAND_PERCENT_MAX if protection == AUTOMATIC_PROTECTION else protection
        if widest is not None and finite("order.market_protection", widest) > percent:
            must = f"at most {percent} %, the collar; {AUTOMATIC_PROTECTION} is up to "
            must += f"{OWN_BAND_PERCENT_MAX} %"
            return Finding("order.market_protection", protection, f"{percent:f} %", must, told)
    return None


def _duplicate(given: RiskInput) -> Finding | None:
    window_s = given.limits.duplicate_window_s
    if given.kind is not TaskKind.PLACE or given.earlier is None or window_s is None:
        return None
    age_s = float(finite("earlier_order", given.earlier.age_s))
    if age_s > window_s:
        return None
    must = (
        f"another order than {given.earlier.key!r}, taken {age_s:.3f} s ago; if it is meant, send "
        f"it {window_s} s after that one"
    )
    numbers = {"earlier": given.earlier.key, "age_s": round(age_s, 3)}
    return Finding("client_order_id", given.key, f"{window_s:f} s", must, numbers)


def _order_rate(given: RiskInput) -> Finding | None:
    most = given.limits.orders_per_minute_max
    if given.kind is not TaskKind.PLACE or most is None:
        return None
    if given.orders_of_minute is None:
        raise Unusable("orders_of_minute", "is not known")
    if given.orders_of_minute < most:
        return None
    must = f"one of at most {most} new orders of yours in 60 s"
    return Finding("principal", given.orders_of_minute + 1, most, must)


def _open_value(given: RiskInput) -> Finding | None:
    most = given.limits.open_value_inr_max
    if most is None:
        return None
    return _beyond(given, given.open, most, "open orders")


def _group_value(given: RiskInput) -> Finding | None:
    """By all accounts of each group: an order that goes on elsewhere finds no room of its own."""
    if _more_inr(given) <= 0:
        return None
    for group in given.groups:
        if isinstance(group.open, str):
            # Which account it is is not said: who asks may have no right to it.
            why = f"{group.name}: it is not known what all of its accounts have open"
            raise Unusable("group", why)
        what = f"open orders of group {group.name}"
        finding = _beyond(given, group.open, group.value_inr_max, what)
        if finding is not None:
            return finding
    return None


def _beyond(
    given: RiskInput, open_: Mapping[OpenKey, Open], most: Decimal, what: str
) -> Finding | None:
    more = _more_inr(given)
    if more <= 0:
        return None
    held = sum(
        (_worth(given, (key.exchange, key.tradingsymbol), each) for key, each in open_.items()),
        Decimal(0),
    )
    if held + more <= most:
        return None
    must = f"within {most:f} rupees of {what}: {held:f} are open, this is {more:f} more"
    numbers = {"open_inr": f"{held:f}", "more_inr": f"{more:f}"}
    return Finding("order", f"{held + more:f}", f"{most:f}", must, numbers)


def _more_inr(given: RiskInput) -> Decimal:
    check_counted(given)
    return _worth(given, given.symbol, given.counts) - _worth(given, given.symbol, given.counted)


def _worth(given: RiskInput, symbol: tuple[str, str], each: Open) -> Decimal:
    """Return what open orders of a symbol come to; those without a price by the last one."""
    units = 1
    if symbol[0] in IN_LOTS and each.quantity:
        name = given.names.get(symbol)
        found = None if name is None else given.limits.contract_units.get(name)
        if found is None:
            raise Unusable("contract_units", f"are not known of {':'.join(symbol)}")
        units = found
    value = each.value_inr * units
    if not each.unpriced_quantity:
        return value
    reference = given.references.get(symbol)
    if reference is None and symbol == given.symbol:
        reference = given.reference
    price, _ = last_price(given, reference)
    return value + price * each.unpriced_quantity * units


def _position(given: RiskInput) -> Finding | None:
    most = given.limits.position_quantity_max
    if most is None:
        return None
    return _reached(given, most, lambda symbol: symbol == given.symbol, "symbol")


def _underlying(given: RiskInput) -> Finding | None:
    most = given.limits.underlying_quantity_max
    if most is None:
        return None
    if given.contract is None:
        raise Unusable("contract", "is not among the day's instruments")
    name = given.contract.name or given.symbol[1]
    if given.positions is None:
        raise Unusable("positions", "are missing")
    names = {**given.positions.names, **given.names, given.symbol: name}
    mentioned = {*given.positions.net, *((key.exchange, key.tradingsymbol) for key in given.open)}
    unknown = sorted(mentioned - names.keys())
    if unknown:
        raise Unusable("underlying", f"of {':'.join(unknown[0])} is not known")
    return _reached(given, most, lambda symbol: names.get(symbol) == name, name)


def _reached(
    given: RiskInput, most: int, is_meant: Callable[[tuple[str, str]], bool], what: str
) -> Finding | None:
    """Deny what could carry positions beyond a limit if everything open on its side filled."""
    check_counted(given)
    side, more = given.order.transaction_type, given.counts.quantity - given.counted.quantity
    if more <= 0:
        return None
    if given.positions is None:
        raise Unusable("positions", "are missing")
    check_age("positions", given.positions.at_ns, given.now_ns, given.limits.positions_age_s_max)
    sign = 1 if side is Side.BUY else -1
    nets = [held for symbol, held in given.positions.net.items() if is_meant(symbol)]
    # Of several instruments each counts by its own side: a long one does not make a short room.
    held = nets[0] * sign if len(nets) == 1 else sum(max(each * sign, 0) for each in nets)
    open_quantity = sum(
        each.quantity
        for key, each in given.open.items()
        if key.side is side and is_meant((key.exchange, key.tradingsymbol))
    )
    filled = sum(
        quantity
        for key, quantity in given.positions.filled.items()
        if key.side is side and is_meant((key.exchange, key.tradingsymbol))
    )
    reached = held + filled + open_quantity + more
    if reached <= most:
        return None
    must = (
        f"within {most} of the {what}: {held} held, {filled} filled since that was asked, "
        f"{open_quantity} open, this is {more} more"
    )
    numbers = {"held": held, "filled_since": filled, "open": open_quantity, "more": more}
    return Finding("order.quantity", given.order.quantity, most, must, numbers)


def _holdings(given: RiskInput) -> Finding | None:
    order = given.order
    if order.product is not Product.CNC or order.transaction_type is not Side.SELL:
        return None
    check_counted(given)
    if given.holdings is None:
        raise Unusable("holdings", "are missing")
    check_age("holdings", given.holdings.at_ns, given.now_ns, given.limits.positions_age_s_max)
    key = OpenKey(*given.symbol, Product.CNC, Side.SELL)
    free = given.holdings.free.get(given.symbol, 0) - given.holdings.filled.get(key, 0)
    selling = given.open.get(key, NOTHING_OPEN).quantity - given.counted.quantity
    if selling + given.counts.quantity <= free:
        return None
    must = f"at most the {max(free - selling, 0)} shares that are held and not being sold"
    numbers = {"held": free, "being_sold": selling}
    return Finding("order.quantity", order.quantity, free, must, numbers)


def _square_off(given: RiskInput) -> Finding | None:
    minutes = given.limits.mis_last_minutes
    if given.order.product is not Product.MIS or minutes is None:
        return None
    phase = given.phase
    if phase is None:
        raise Unusable("trading_hours", "are not known")
    left_ns = phase.until_ns - given.now_ns
    if not phase.is_open or not phase.until_ns or left_ns > minutes * _NS_PER_MINUTE:
        return None
    must = f"another product than MIS in the last {minutes} minutes before {phase_end(left_ns)}"
    return Finding("order.product", given.order.product, minutes, must)


def phase_end(left_ns: int) -> str:
    """Return how long a market still trades, for people."""
    return f"the close in {max(left_ns, 0) / _NS_PER_MINUTE:.1f} minutes"


def _loss(given: RiskInput) -> Finding | None:
    day = given.day
    if day is None:
        raise Unusable("days_result", "is missing")
    check_age("days_result", day.at_ns, given.now_ns, given.limits.positions_age_s_max)
    reached = loss_reached(given.limits, day)
    if reached is None or (reached.level is LatchLevel.BLOCK_NEW and given.kind is TaskKind.MODIFY):
        return None
    must = (
        f"strictly reducing the broker's net position: {reached.told}; "
        f"`ticker-service risk lift {given.account}` lifts it"
    )
    return Finding("account", given.account, f"{reached.limit:f}", must, reached.numbers)


def _margin(given: RiskInput) -> Finding | None:
    """By the broker's own words; a change of an open order counts whole unless it asks no more."""
    if given.kind is TaskKind.MODIFY and given.is_counted and given.counts == given.counted:
        return None
    margin = given.margin
    if margin is None:
        raise Unusable("order_margin", "is missing")
    age_s = check_age("order_margin", margin.at_ns, given.now_ns, MARGIN_AGE_S_MAX)
    total = finite("order_margin", margin.total_inr)
    available = finite("available_margin", margin.available_inr)
    if total < 0:
        raise Unusable("order_margin", f"is {total}")
    if total <= available:
        return None
    must = f"within the free margin of {available:f} rupees; the broker says it needs {total:f}"
    numbers = {
        "margin_inr": f"{total:f}",
        "available_inr": f"{available:f}",
        "margin_age_s": round(age_s, 3),
    }
    return Finding("order", f"{total:f}", f"{available:f}", must, numbers)


class Reached(NamedTuple):
    """The strictest level that a loss or a fall from the day's best has come to."""

    level: LatchLevel
    limit: Decimal
    told: str
    numbers: Mapping[str, object]


def loss_reached(limits: RiskLimits, day: DayResult) -> Reached | None:
    """Return it, None if there is none that a person has not lifted.

    Raises:
        Unusable: The day's result is no finite number.
    """
    result, best = finite("days_result", day.result_inr), finite("days_best", day.best_inr)
    numbers = {"result_inr": f"{result:f}", "best_inr": f"{best:f}"}
    for level in reversed(LatchLevel):
        if level in day.lifted:
            continue
        for what, lost in (("loss", -result), ("drawdown", best - result)):
            limit = getattr(limits, f"{what}_{level.value.lower()}_inr")
            if limit is not None and lost >= limit:
                told = f"{level} at a {what} of {lost:f} rupees, from {limit:f} on"
                return Reached(level, limit, told, {**numbers, what: f"{lost:f}"})
    return None


def watches_loss(limits: RiskLimits) -> bool:
    """Return whether a loss or a fall from the day's best is limited."""
    return any(
        getattr(limits, f"{what}_{level.value.lower()}_inr") is not None
        for what in ("loss", "drawdown")
        for level in LatchLevel
    )


def _above(
    field_: str, what: str, value: Decimal, most: Decimal, told: Mapping[str, object] | None = None
) -> Finding:
    must = f"of a {what} of at most {most:f} rupees; this comes to {value:f}"
    return Finding(
        field_, f"{value:f}", f"{most:f}", must, {**(told or {}), "value_inr": f"{value:f}"}
    )


_OWN, _LAST = frozenset({Need.UNPRICED}), frozenset({Need.LAST_PRICE})
_QUOTE, _ALL = frozenset({Need.QUOTE}), frozenset({Need.OPEN_PRICES})
_HELD, _OWNED = frozenset({Need.POSITIONS}), frozenset({Need.HOLDINGS})
_DAY, _FREE = frozenset({Need.DAY}), frozenset({Need.MARGIN})
_N = RiskName
RISK_RULES: Final = (
    RiskRule(_N.BANNED, lambda it: bool(it.banned_symbols), _banned),
    RiskRule(_N.TRADING_HOURS, lambda it: it.trading_hours, _trading_hours),
    RiskRule(_N.ABSURD_VALUE, lambda it: it.absurd_value_inr is not None, _absurd_value),
    RiskRule(_N.ORDER_QUANTITY, lambda it: it.order_quantity_max is not None, _order_quantity),
    RiskRule(_N.ORDER_LOTS, lambda it: it.order_lots_max is not None, _order_lots),
    RiskRule(_N.ORDER_VALUE, lambda it: it.order_value_inr_max is not None, _order_value, _OWN),
    RiskRule(_N.CIRCUIT, lambda it: it.circuit_limits, _circuit, _QUOTE),
    RiskRule(_N.PRICE_COLLAR, lambda it: it.price_collar_percent is not None, _collar, _LAST),
    RiskRule(_N.DUPLICATE, lambda it: it.duplicate_window_s is not None, _duplicate),
    RiskRule(_N.ORDER_RATE, lambda it: it.orders_per_minute_max is not None, _order_rate),
    RiskRule(_N.OPEN_VALUE, lambda it: it.open_value_inr_max is not None, _open_value, _ALL),
    RiskRule(_N.POSITION, lambda it: it.position_quantity_max is not None, _position, _HELD),
    RiskRule(_N.UNDERLYING, lambda it: it.underlying_quantity_max is not None, _underlying, _HELD),
    RiskRule(_N.HOLDINGS, lambda it: it.sell_only_holdings, _holdings, _OWNED),
    RiskRule(_N.SQUARE_OFF, lambda it: it.mis_last_minutes is not None, _square_off),
    RiskRule(_N.LOSS, watches_loss, _loss, _DAY),
    RiskRule(_N.MARGIN, lambda it: it.broker_margin, _margin, _FREE),
)
"""The table, in the order in which an order is told of the first that denies it.

What may not be traded at all comes first, then size, price, what is open and held, loss, and the
broker's own word.
"""

GROUP_VALUE: Final = RiskRule(_N.GROUP_VALUE, lambda _: True, _group_value, _ALL)
"""On for an account of whose groups any has a limit of its own; judged after the table."""
