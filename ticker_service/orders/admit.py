"""Refuse what cannot be right before it is journalled; the error names field, value and rule.

Path: order -> [admit] -> journal -> execute -> settle -> report. Pure. Source of the rules:
kite.md §2.3 and §3.2. What only the broker knows (margin, circuits) is left to the broker.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.domain.contracts import IN_UNITS
from ticker_service.domain.exit import WITHIN_S_MAX, WITHIN_S_MIN
from ticker_service.domain.order import (
    OrderChange,
    OrderRequest,
    OrderType,
    Product,
    Side,
    Validity,
    Variety,
)
from ticker_service.domain.rulebook import NEWEST, RuleName
from ticker_service.errors import OrderRefused
from ticker_service.orders.varieties import (
    SHARES,
    check_change_of_variety,
    check_variety,
    invalid_field,
    leg_quantity,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.domain.contracts import Contract, Contracts
    from ticker_service.domain.exit import Exit
    from ticker_service.domain.rulebook import Rules

EXCHANGES: Final = frozenset({"NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX", "NCO"})
QUANTITY_MAX: Final = 10_000_000
PRICE_MAX: Final = Decimal(10000000)
PRICE_DECIMALS_MAX: Final = 4
SYMBOL_CHARACTERS_MAX: Final = 64
TTL_MINUTES_MAX: Final = 24 * 60
AUTOMATIC_PROTECTION: Final = -1
_PROTECTED: Final = frozenset({OrderType.MARKET, OrderType.SL_M})
_PRICED: Final = frozenset({OrderType.LIMIT, OrderType.SL})
_TRIGGERED: Final = frozenset({OrderType.SL, OrderType.SL_M})
_DELIVERED: Final = frozenset({Product.CNC, Product.MTF})


def check_order(order: OrderRequest, rules: Rules = NEWEST) -> None:
    """Check a new order, under the rules of Kite, SEBI and the exchanges that hold now.

    Raises:
        OrderRefused: With the first rule it breaks.
    """
    if order.exchange not in EXCHANGES:
        raise invalid_field("exchange", order.exchange, f"one of {sorted(EXCHANGES)}")
    symbol = order.tradingsymbol
    if not (0 < len(symbol) <= SYMBOL_CHARACTERS_MAX and symbol.isprintable()):
        raise invalid_field("tradingsymbol", symbol, "a symbol of the instruments dump")
    check_variety(order)
    if order.product in _DELIVERED and order.exchange not in SHARES:
        rule = f"NRML or MIS on {order.exchange}: CNC and MTF are for shares on NSE and BSE"
        raise invalid_field("product", order.product, rule)
    _check_quantity(order.quantity)
    _check_presence(order)
    _check_price("price", order.price)
    _check_price("trigger_price", order.trigger_price)
    _check_protection(order.order_type, order.market_protection, rules)
    disclosed = order.disclosed_quantity
    if disclosed is not None and not 0 <= disclosed <= order.quantity:
        raise invalid_field("disclosed_quantity", disclosed, f"0 to quantity={order.quantity}")
    _check_disclosed(disclosed, order.exchange)
    if (order.validity is Validity.TTL) != (order.validity_ttl is not None):
        raise invalid_field(
            "validity_ttl", order.validity_ttl, "given with validity TTL, in minutes"
        )
    if order.validity_ttl is not None and not 0 < order.validity_ttl <= TTL_MINUTES_MAX:
        raise invalid_field("validity_ttl", order.validity_ttl, f"1 to {TTL_MINUTES_MAX} minutes")
    _check_validity(order.validity, order.exchange, rules)


def check_in_group(order: OrderRequest) -> None:
    """Check that an order may go to whichever account of a group.

    Raises:
        OrderRefused: It belongs to one of them.
    """
    if order.transaction_type is Side.SELL and order.product is Product.CNC:
        rule = "an order that names its account: holdings are sold where they are"
        raise invalid_field("product", order.product, rule)


def check_change(change: OrderChange, placed: OrderRequest, rules: Rules = NEWEST) -> None:
    """Check a change of a live order, which was placed as ``placed``.

    Raises:
        OrderRefused: With the first rule it breaks.
    """
    if change == OrderChange():
        raise OrderRefused("INVALID_FIELD", "must set at least one field", field="order", value={})
    check_change_of_variety(change, placed)
    if change.quantity is not None:
        _check_quantity(change.quantity)
    _check_price("price", change.price)
    _check_price("trigger_price", change.trigger_price)
    disclosed, whole = change.disclosed_quantity, change.quantity or QUANTITY_MAX
    if disclosed is not None and not 0 <= disclosed <= whole:
        raise invalid_field("disclosed_quantity", disclosed, f"0 to quantity={whole}")
    _check_disclosed(disclosed, placed.exchange)
    if change.validity is Validity.TTL and placed.validity is not Validity.TTL:
        # Kite's change of an order has no minutes to give (kite.md §2.3).
        raise invalid_field("validity", change.validity, "DAY or IOC: TTL is given when placing")
    if change.validity is not None:
        _check_validity(change.validity, placed.exchange, rules)
    if change.order_type is not None:
        _check_protection(change.order_type, change.market_protection, rules)
    elif change.market_protection is not None:
        _check_percentage(change.market_protection, rules)


def check_listed(order: OrderRequest, contracts: Contracts, freeze: Mapping[str, int]) -> None:
    """Check a new order against the day's instruments.

    Args:
        order: One that :func:`check_order` let through.
        contracts: All of the day.
        freeze: The largest quantity of one order in derivatives of a name.

    Raises:
        OrderRefused: With the first rule it breaks.
    """
    contract = contracts.find(order.exchange, order.tradingsymbol)
    if contract is None:
        rule = f"one of the {len(contracts)} instruments of {contracts.day}, on {order.exchange}"
        raise invalid_field("tradingsymbol", order.tradingsymbol, rule)
    if contract.is_index:
        raise invalid_field(
            "tradingsymbol", order.tradingsymbol, "what can be traded; this is an index"
        )
    _check_lots(leg_quantity(order), contract, freeze)
    _check_step("price", order.price, contract)
    _check_step("trigger_price", order.trigger_price, contract)


def check_change_listed(
    change: OrderChange, placed: OrderRequest, contracts: Contracts, freeze: Mapping[str, int]
) -> None:
    """Check a change likewise; an order that the broker has may name what the dump does not."""
    contract = contracts.find(placed.exchange, placed.tradingsymbol)
    if contract is None:
        return
    if change.quantity is not None:
        _check_lots(change.quantity, contract, freeze)
    _check_step("price", change.price, contract)
    _check_step("trigger_price", change.trigger_price, contract)


def _check_lots(quantity: int, contract: Contract, freeze: Mapping[str, int]) -> None:
    if contract.exchange not in IN_UNITS:
        return
    lot_size = contract.lot_size
    if lot_size > 1 and quantity % lot_size:
        rule = f"whole lots of {lot_size}: {_beside(quantity, lot_size)}"
        raise invalid_field("quantity", quantity, rule)
    largest = freeze_quantity(contract, freeze)
    if largest is not None and quantity > largest:
        told = NEWEST[RuleName.FREEZE_QUANTITY].told
        rule = f"at most {largest}, the freeze quantity of {contract.name}: {told}"
        raise invalid_field("quantity", quantity, f"{rule}; a new order is cut with `slice`: true")


def freeze_quantity(contract: Contract, freeze: Mapping[str, int]) -> int | None:
    """Return the most that one order of a contract may have, None if that is not known."""
    return freeze.get(contract.name) if contract.exchange in IN_UNITS else None


def _check_step(field: str, value: Decimal | None, contract: Contract) -> None:
    step = contract.price_step
    if value is not None and step > 0 and value % step:
        rule = f"a multiple of the price step {step:f}: {_beside(value, step)}"
        raise invalid_field(field, value, rule)


def _beside(value: Decimal | int, step: Decimal | int) -> str:
    """Return the two nearest values that are right, or the one above the first step."""
    below = value // step * step
    nearest = [each for each in (below, below + step) if each > 0]
    return " or ".join(f"{each:f}" if isinstance(each, Decimal) else str(each) for each in nearest)


def _check_disclosed(disclosed: int | None, exchange: str) -> None:
    if disclosed and exchange not in SHARES:
        raise invalid_field(
            "disclosed_quantity", disclosed, "0 or left out: it is for NSE and BSE only"
        )


def _check_validity(validity: Validity, exchange: str, rules: Rules) -> None:
    rule = rules.get(RuleName.NO_IOC_ON_MCX)
    if rule is not None and exchange == "MCX" and validity is Validity.IOC:
        raise invalid_field("validity", validity, f"DAY on MCX: {rule.told}")


def _check_quantity(quantity: int) -> None:
    if not 0 < quantity <= QUANTITY_MAX:
        raise invalid_field("quantity", quantity, f"1 to {QUANTITY_MAX}")


def _check_presence(order: OrderRequest) -> None:
    """A price belongs to LIMIT and SL, a trigger to SL and SL-M, and neither to the others."""
    if (order.order_type in _PRICED) != (order.price is not None):
        raise invalid_field("price", order.price, "given for LIMIT and SL, and only for them")
    if order.variety is Variety.CO:
        return  # its trigger is the second leg's
    if (order.order_type in _TRIGGERED) != (order.trigger_price is not None):
        raise invalid_field(
            "trigger_price", order.trigger_price, "given for SL and SL-M, and only them"
        )


def _check_price(field: str, value: Decimal | None) -> None:
    if value is None:
        return
    if not (value.is_finite() and 0 < value <= PRICE_MAX):
        raise invalid_field(field, value, f"above 0 and at most {PRICE_MAX}")
    exponent = value.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -PRICE_DECIMALS_MAX:
        raise invalid_field(field, value, f"exact to at most {PRICE_DECIMALS_MAX} decimals")


def check_exit(wanted: Exit, rules: Rules = NEWEST) -> None:
    """Check what is asked of an exit; its orders follow from the positions.

    Raises:
        OrderRefused: With the first rule it breaks.
    """
    try:
        _check_exit(wanted, rules)
    except OrderRefused as refused:
        field = (refused.field or "").removeprefix("order.")  # its fields are not in an order
        raise OrderRefused(refused.code, refused.rule, field=field, value=refused.value) from None


def _check_exit(wanted: Exit, rules: Rules) -> None:
    names_one = bool(wanted.exchange or wanted.tradingsymbol or wanted.product)
    if names_one and wanted.exchange not in EXCHANGES:
        raise invalid_field("exchange", wanted.exchange, f"one of {sorted(EXCHANGES)}")
    symbol = wanted.tradingsymbol
    is_symbol = 0 < len(symbol) <= SYMBOL_CHARACTERS_MAX and symbol.isprintable()
    if names_one and not is_symbol:
        raise invalid_field("tradingsymbol", symbol, "a symbol of the instruments dump")
    if wanted.product and wanted.product not in set(Product):
        raise invalid_field("product", wanted.product, f"one of {sorted(Product)}")
    _check_percentage(wanted.market_protection, rules)
    if wanted.order_type not in {OrderType.MARKET, OrderType.LIMIT}:
        raise invalid_field("order_type", wanted.order_type, "MARKET or LIMIT")
    if not WITHIN_S_MIN <= wanted.within_s <= WITHIN_S_MAX:
        rule = f"{WITHIN_S_MIN} to {WITHIN_S_MAX} seconds"
        raise invalid_field("within_s", wanted.within_s, rule)


def _check_protection(order_type: OrderType, protection: Decimal | None, rules: Rules) -> None:
    if order_type not in _PROTECTED:
        if protection is not None:
            raise invalid_field("market_protection", protection, "given for MARKET and SL-M only")
        return
    if protection is not None or RuleName.MARKET_PROTECTION in rules:
        _check_percentage(protection, rules)


def _check_percentage(protection: Decimal | None, rules: Rules) -> None:
    rule = rules.get(RuleName.MARKET_PROTECTION)
    largest = NEWEST[RuleName.MARKET_PROTECTION].number if rule is None else rule.number
    # Finite before anything else: a signalling NaN raises where it is compared.
    is_allowed = (
        protection is not None
        and protection.is_finite()
        and (protection == AUTOMATIC_PROTECTION or 0 < protection <= (largest or 0))
    )
    if not is_allowed:
        must = f"-1 or a percentage above 0 up to {largest}"
        raise invalid_field(
            "market_protection", protection, f"{must}: {rule.told}" if rule else must
        )
