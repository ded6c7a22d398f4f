"""What Kite refuses before an order exists: a form becomes ``OrderTerms`` or a ``KiteError``.

Path: [rules] → margins → exchange. Pure apart from reading the board's prices. All of these answer
HTTP 400 and leave no row in the book (kite.md §5.2). Source: kite.md §2.3.
"""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from ticker_service.domain.instrument import INDEX_SEGMENT
from ticker_service.simulator import legs, matching, quotes, requests
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.order import (
    STOP_TYPES,
    OrderTerms,
    OrderType,
    Product,
    Side,
    Validity,
    Variety,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.simulator.market import Market
    from ticker_service.simulator.options import SimulatorOptions

Choice = TypeVar("Choice", bound=StrEnum)

TTL_MINUTES_MAX: Final = 24 * 60
TAG_CHARACTERS_MAX: Final = 20
QUANTITY_MAX: Final = 2**31 - 1
EQUITY_QUANTITY_MAX: Final = 100_000
PROTECTION_PERCENT_MAX: Final = 100
DECIMAL_CHARACTERS_MAX: Final = 24
PLAIN_NUMBER: Final = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?")
NO_IOC_EXCHANGES: Final = frozenset({"MCX"})

NO_INSTRUMENT: Final = (
    "The instrument you are placing an order for has either expired or does not exist."
)
NO_PROTECTION: Final = (
    "Market orders without market protection are not allowed via API. "
    "Please set market protection or use a Limit order."
)
NO_TRADES: Final = (
    "The market order was rejected since there are no trades in this instrument. "
    "Try placing a LIMIT order."
)
OUTSIDE_CIRCUIT: Final = (
    "Price exceeds circuit limits for the instrument. Place an order within the daily range."
)
TRIGGER_PASSED: Final = {
    Side.BUY: "Trigger price for stoploss buy orders should be higher than the last traded price.",
    Side.SELL: "Trigger price for stoploss sell orders should be lower than the last traded price.",
}


class OrderRules:
    """The broker's checks on what a client sends."""

    def __init__(self, market: Market, options: SimulatorOptions) -> None:
        self._market = market
        self._freeze = dict(options.freeze_quantities)
        self._no_market = frozenset(options.no_market)

    def placed(self, variety: str, fields: Mapping[str, str]) -> OrderTerms:
        """Return the terms of a new order.

        Raises:
            KiteError: Something about it is missing, wrong or not allowed.
        """
        kind = check_variety(variety)
        exchange = requests.required(fields, "exchange")
        tradingsymbol = requests.required(fields, "tradingsymbol")
        side = _choice(Side, fields, "transaction_type")
        order_type = _choice(OrderType, fields, "order_type")
        product = _choice(Product, fields, "product")
        validity = _validity(fields, exchange)
        quantity = _whole(requests.required(fields, "quantity"), "quantity")
        tag = _tag(fields)
        row = self._row(exchange, tradingsymbol)
        self._check_product(row, product)
        count = 1
        if kind is Variety.ICEBERG:
            count = legs.iceberg_legs(fields, quantity)
            quantity //= count
        terms = OrderTerms(
            row=row,
            side=side,
            order_type=order_type,
            product=product,
            validity=validity,
            quantity=quantity,
            disclosed_quantity=self._disclosed(fields, quantity),
            variety=kind,
            validity_ttl=_minutes(fields, validity),
            auction_number=_auction_number(kind, fields),
            price_raw=0,
            tag=tag,
            tags=(tag,) if tag else (),
            legs=count,
        )
        priced = self._priced(terms, fields)
        return self._covered(priced, fields) if kind is Variety.CO else priced

    def sliced(self, variety: str, fields: Mapping[str, str]) -> list[OrderTerms]:
        """Return the terms of a new order, or of the orders into which ``autoslice`` cuts it.

        Raises:
            KiteError: As :meth:`placed`, or there would be too many.
        """
        if not _is_true(fields.get("autoslice", "")):
            return [self.placed(variety, fields)]
        row = self._row(
            requests.required(fields, "exchange"), requests.required(fields, "tradingsymbol")
        )
        quantity = _whole(requests.required(fields, "quantity"), "quantity")
        lot_size = int(self._market.catalogue.lot_size[row])
        parts = legs.slices(quantity, self._largest(row) // lot_size * lot_size)
        return [self.placed(variety, {**fields, "quantity": str(part)}) for part in parts]

    def weighed(self, asked: Mapping[str, object]) -> OrderTerms:
        """Return the terms of an order of which only the margin is asked, from JSON.

        It names no protection, legs or auction: a market order's price is then of Kite's own band,
        and an order of any variety but ``co`` is weighed as a regular one.

        Raises:
            KiteError: As :meth:`placed`.
        """
        fields = {
            name: str(value)
            for name, value in asked.items()
            if isinstance(value, str | int | float) and not isinstance(value, bool)
        }
        variety = check_variety(requests.required(fields, "variety"))
        if variety is not Variety.CO:
            variety = Variety.REGULAR
        fields.setdefault("market_protection", str(matching.AUTOMATIC))
        return self.placed(variety, fields)

    def _covered(self, terms: OrderTerms, fields: Mapping[str, str]) -> OrderTerms:
        """Check what a cover order needs for its second leg."""
        if terms.product is not Product.MIS or terms.validity is not Validity.DAY:
            raise KiteError.input("Invalid `product` or `validity` for a cover order.")
        if terms.order_type is not OrderType.LIMIT:  # which a MARKET order has become by now
            raise KiteError.input("Invalid `order_type` for a cover order.")
        return dataclasses.replace(self._stopped(terms, fields), product=Product.CO)

    def _stopped(self, terms: OrderTerms, fields: Mapping[str, str]) -> OrderTerms:
        """Return a cover order with its second leg's trigger, which must stop a loss."""
        stop_raw = self._price_raw(terms.row, fields, "trigger_price")
        against = Side.SELL if terms.side is Side.BUY else Side.BUY
        ltp_raw = int(self._market.board.ltp_raw[terms.row])
        if matching.is_triggered(against, ltp_raw=ltp_raw, trigger_raw=stop_raw):
            raise KiteError.input(TRIGGER_PASSED[against])
        return dataclasses.replace(terms, stop_raw=stop_raw)

    def modified(self, asked: OrderTerms, fields: Mapping[str, str]) -> OrderTerms:
        """Return an order's terms after a change; fields that are not sent stay as they are.

        Raises:
            KiteError: The result would be wrong or not allowed.
        """
        catalogue = self._market.catalogue
        exchange = catalogue.instruments[asked.row].exchange
        order_type = asked.order_type
        if fields.get("order_type"):
            order_type = _choice(OrderType, fields, "order_type")
        validity = asked.validity
        if fields.get("validity"):
            validity = _validity(fields, exchange)
        if validity is Validity.TTL and not asked.validity_ttl:
            raise KiteError.input("Invalid `validity_ttl`.")
        quantity = asked.quantity
        if fields.get("quantity"):
            quantity = _whole(fields["quantity"], "quantity")
        merged = dict(fields)
        for name, raw in (("price", asked.price_raw), ("trigger_price", asked.trigger_raw)):
            if not merged.get(name):
                merged[name] = str(Decimal(raw) / int(catalogue.price_scale[asked.row]))
        if not merged.get("market_protection") and asked.protection_percent is not None:
            merged["market_protection"] = str(asked.protection_percent)
        disclosed = asked.disclosed_quantity
        if fields.get("disclosed_quantity"):
            disclosed = self._disclosed(fields, quantity)
        terms = dataclasses.replace(
            asked,
            order_type=order_type,
            validity=validity,
            quantity=quantity,
            disclosed_quantity=disclosed,
            price_raw=0,
            trigger_raw=0,
            protection_percent=None,
        )
        priced = self._priced(terms, merged)
        is_first_leg = asked.variety is Variety.CO and asked.stop_raw > 0
        return (
            self._stopped(priced, fields)
            if is_first_leg and fields.get("trigger_price")
            else priced
        )

    def _priced(self, terms: OrderTerms, fields: Mapping[str, str]) -> OrderTerms:
        """Check quantity and prices, and turn a protected market order into its limit."""
        self._check_quantity(terms)
        market, row = self._market, terms.row
        ltp_raw = int(market.board.ltp_raw[row])
        if terms.order_type in STOP_TYPES:
            trigger_raw = self._price_raw(row, fields, "trigger_price")
            if matching.is_triggered(terms.side, ltp_raw=ltp_raw, trigger_raw=trigger_raw):
                raise KiteError.input(TRIGGER_PASSED[terms.side])
            terms = dataclasses.replace(terms, trigger_raw=trigger_raw)
        if terms.order_type in {OrderType.LIMIT, OrderType.SL}:
            price_raw = self._price_raw(row, fields, "price")
            _check_stop_price(terms, price_raw)
            return dataclasses.replace(terms, price_raw=price_raw)
        if terms.order_type is OrderType.MARKET and self._takes_no_market(row):
            raise KiteError.input(NO_TRADES)
        percent = self._protection(terms, fields, ltp_raw)
        if terms.order_type is OrderType.SL_M:
            return dataclasses.replace(terms, protection_percent=percent)
        band_raw = matching.band_raw(market, terms, percent)
        note = f"mktp:{percent:.2f}"
        own_tags = tuple(each for each in terms.tags if not each.startswith("mktp:"))
        return dataclasses.replace(
            terms, order_type=OrderType.LIMIT, price_raw=band_raw, tags=(*own_tags, note)
        )

    def _row(self, exchange: str, tradingsymbol: str) -> int:
        catalogue = self._market.catalogue
        if exchange not in catalogue.exchanges | NO_IOC_EXCHANGES | {"BSE", "BCD"}:
            raise KiteError.input("Invalid `exchange`.")
        row = catalogue.row_by_key.get(f"{exchange}:{tradingsymbol}")
        if row is None or catalogue.instruments[row].segment == INDEX_SEGMENT:
            raise KiteError.input(NO_INSTRUMENT)
        return row

    def _takes_no_market(self, row: int) -> bool:
        instrument = self._market.catalogue.instruments[row]
        return f"{instrument.exchange}:{instrument.tradingsymbol}" in self._no_market

    def _check_product(self, row: int, product: Product) -> None:
        is_derivative = bool(self._market.catalogue.is_derivative[row])
        unfit = {Product.CNC, Product.MTF} if is_derivative else {Product.NRML}
        unfit.add(Product.CO)
        if product in unfit:
            kind = "derivatives" if is_derivative else "equity"
            raise KiteError.input(f"Invalid `product`: {product} is not allowed for {kind}.")

    def _check_quantity(self, terms: OrderTerms) -> None:
        catalogue = self._market.catalogue
        lot_size = int(catalogue.lot_size[terms.row])
        if not 0 < terms.quantity <= QUANTITY_MAX:
            raise KiteError.input("Invalid `quantity`.")
        if terms.quantity % lot_size:
            raise KiteError.input(f"Quantity should be in multiples of lot size {lot_size}.")
        largest = self._largest(terms.row)
        if terms.quantity > largest:
            raise KiteError.input(
                f"Quantity {terms.quantity} exceeds the freeze quantity of {largest}."
            )

    def _largest(self, row: int) -> int:
        catalogue = self._market.catalogue
        if not catalogue.is_derivative[row]:
            return EQUITY_QUANTITY_MAX
        return self._freeze.get(catalogue.instruments[row].name, QUANTITY_MAX)

    def _price_raw(self, row: int, fields: Mapping[str, str], name: str) -> int:
        market = self._market
        price = _decimal(requests.required(fields, name), name)
        if price <= 0:
            raise KiteError.input(f"Invalid `{name}`.")
        raw = price * int(market.catalogue.price_scale[row])
        step_raw = int(market.catalogue.price_step_raw[row])
        if raw % step_raw:
            raise KiteError.input(_wrong_step(market, row, name))
        lower, upper = quotes.circuit_raw(market, row)
        if not lower <= raw <= upper:
            raise KiteError.input(OUTSIDE_CIRCUIT)
        return int(raw)

    def _protection(self, terms: OrderTerms, fields: Mapping[str, str], ltp_raw: int) -> Decimal:
        text = fields.get("market_protection", "")
        percent = _decimal(text, "market_protection") if text else Decimal(0)
        if percent == 0:
            raise KiteError.input(NO_PROTECTION)
        if percent == matching.AUTOMATIC:
            catalogue = self._market.catalogue
            price_inr = Decimal(ltp_raw) / int(catalogue.price_scale[terms.row])
            is_option = bool(catalogue.is_option[terms.row])
            return matching.automatic_protection(price_inr, is_option=is_option)
        if not 0 < percent <= PROTECTION_PERCENT_MAX:
            raise KiteError.input("Invalid `market_protection`.")
        return percent

    def _disclosed(self, fields: Mapping[str, str], quantity: int) -> int:
        text = fields.get("disclosed_quantity", "")
        disclosed = _whole(text, "disclosed_quantity") if text else 0
        if not 0 <= disclosed <= quantity:
            raise KiteError.input("Invalid `disclosed_quantity`.")
        return disclosed


def check_variety(variety: str) -> Variety:
    """Return a variety, or raise Kite's error for one that does not exist."""
    try:
        return Variety(variety)
    except ValueError:
        raise KiteError.input("Invalid `variety`.") from None


def _check_stop_price(terms: OrderTerms, price_raw: int) -> None:
    if terms.order_type is not OrderType.SL:
        return
    if terms.side is Side.BUY and price_raw < terms.trigger_raw:
        raise KiteError.input("Trigger price cannot be above the limit price of a buy order.")
    if terms.side is Side.SELL and price_raw > terms.trigger_raw:
        raise KiteError.input("Trigger price cannot be below the limit price of a sell order.")


def _wrong_step(market: Market, row: int, name: str) -> str:
    step = Decimal(int(market.catalogue.price_step_raw[row])) / int(
        market.catalogue.price_scale[row]
    )
    written = f"{step:.2f}" if step == round(step, 2) else f"{step.normalize():f}"
    words = name.replace("_", " ")
    return (
        f"Tick size for this script is {written}. "
        f"Kindly enter {words} in the multiple of tick size for this script"
    )


def _choice(kind: type[Choice], fields: Mapping[str, str], name: str) -> Choice:
    try:
        return kind(requests.required(fields, name))
    except ValueError:
        raise KiteError.input(f"Invalid `{name}`.") from None


def _validity(fields: Mapping[str, str], exchange: str) -> Validity:
    text = fields.get("validity") or Validity.DAY.value
    try:
        validity = Validity(text)
    except ValueError:
        raise KiteError.input("Invalid `validity`.") from None
    if validity is Validity.IOC and exchange in NO_IOC_EXCHANGES:
        raise KiteError.input(f"IOC orders are not allowed on {exchange} via API.")
    return validity


def _minutes(fields: Mapping[str, str], validity: Validity) -> int:
    if validity is not Validity.TTL:
        return 0
    minutes = _whole(requests.required(fields, "validity_ttl"), "validity_ttl")
    if not 0 < minutes <= TTL_MINUTES_MAX:
        raise KiteError.input("Invalid `validity_ttl`.")
    return minutes


def _auction_number(variety: Variety, fields: Mapping[str, str]) -> str | None:
    if variety is not Variety.AUCTION:
        return None
    number = requests.required(fields, "auction_number")
    if not (number.isascii() and number.isdecimal()):
        raise KiteError.input("Invalid `auction_number`.")
    return number


def _tag(fields: Mapping[str, str]) -> str | None:
    tag = fields.get("tag", "")
    if len(tag) > TAG_CHARACTERS_MAX:
        raise KiteError.input(
            f"Invalid `tag`. It should be at most {TAG_CHARACTERS_MAX} characters long."
        )
    return tag or None


def _is_true(text: str) -> bool:
    return text.lower() in {"true", "1"}


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > DECIMAL_CHARACTERS_MAX:
        raise KiteError.input(f"Invalid request (failed to decode {name}, expected integer)")
    return int(text)


def _decimal(text: str, name: str) -> Decimal:
    refused = KiteError.input(f"Invalid request (failed to decode {name}, expected decimal)")
    # Python also reads underscores, blanks and the digits of other scripts.
    if len(text) > DECIMAL_CHARACTERS_MAX or not PLAIN_NUMBER.fullmatch(text):
        raise refused
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise refused from None
    if not value.is_finite() or abs(value) >= QUANTITY_MAX:
        raise refused
    return value
