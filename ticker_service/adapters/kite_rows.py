"""Kite's rows of orders, fills and positions, and its order updates, as domain values.

Pure. Strict about books, tolerant of updates: a book decides whether an order exists (I6), so one
row that cannot be read, or that is another user's, spoils the whole of it. Source: kite.md §2.2,
§2.4 and §2.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from ticker_service.domain.order import BrokerOrder, IcebergLeg
from ticker_service.domain.portfolio import BrokerPosition, BrokerTrade, PositionKey
from ticker_service.domain.risk_input import ReferencePrice
from ticker_service.domain.session import read_kite_time
from ticker_service.domain.trading_hours import COMMODITY_EXCHANGES

CHARACTERS_MAX: Final = 40
"""How much of a wrong value an error quotes."""
QUANTITY_MAX: Final = 10**12
PRICE_MAX: Final = Decimal(10) ** 12
"""Beyond these a number is no order's, and more than the journal's columns take."""
PRICE_EXPONENT_MIN: Final = -50
"""Nor has a price so many decimals; the shortest text of a double that is one has fewer than 20."""


class RowMalformed(ValueError):  # noqa: N818 - says what the row is
    """A row that is not an order of this user."""


class RowOfAnother(RowMalformed):
    """A row that is readable and another user's."""


def book(data: object, *, user_id: str) -> list[BrokerOrder]:
    """Return a whole book.

    Args:
        data: The ``data`` of Kite's answer.
        user_id: Whose book it must be.

    Raises:
        RowMalformed: It is no list, or one of its rows is not an order of this user.
    """
    if not isinstance(data, list):
        raise RowMalformed(f"an order book is a list, this is {type(data).__name__}")
    return [order(row, user_id=user_id) for row in data]


def order(row: object, *, user_id: str) -> BrokerOrder:
    """Return one row or update; raises as :func:`book`."""
    if not isinstance(row, Mapping):
        raise RowMalformed(f"an order row is an object, this is {type(row).__name__}")
    # Not by ``placed_by``, which for a square-off names the broker's risk desk.
    owner = _text(row, "account_id") or _text(row, "user_id")
    if owner and user_id and owner != user_id:
        order_id = _words(row.get("order_id"))
        raise RowOfAnother(f"{order_id=} is another user's")
    return BrokerOrder(
        order_id=_needed(row, "order_id"),
        status=_needed(row, "status"),
        tags=_tags(row),
        exchange=_text(row, "exchange"),
        tradingsymbol=_text(row, "tradingsymbol"),
        transaction_type=_text(row, "transaction_type"),
        order_type=_text(row, "order_type"),
        product=_text(row, "product"),
        variety=_text(row, "variety"),
        quantity=_quantity(row, "quantity"),
        price=_price(row, "price"),
        trigger_price=_price(row, "trigger_price"),
        filled_quantity=_quantity(row, "filled_quantity"),
        average_price=_price(row, "average_price"),
        user_id=owner or _text(row, "placed_by"),
        order_timestamp=_text(row, "order_timestamp"),
        exchange_update_timestamp=_text(row, "exchange_update_timestamp"),
        status_message=_text(row, "status_message"),
        parent_order_id=_text(row, "parent_order_id"),
        iceberg=_iceberg(row),
    )


def _iceberg(row: Mapping[object, object]) -> IcebergLeg | None:
    """Return which leg of an iceberg a row is.

    ``meta`` may hold anything, and no book is spoiled by it: a row that does not say which leg it
    is is taken for none, and so for an order of its own.
    """
    meta = row.get("meta")
    said = meta.get("iceberg") if isinstance(meta, Mapping) else None
    if not isinstance(said, Mapping):
        return None
    leg, legs, total = (said.get(name) for name in ("leg", "legs", "total_quantity"))
    numbers = [each for each in (leg, legs, total) if isinstance(each, int)]
    if len(numbers) != len(IcebergLeg.__slots__) or not 1 <= numbers[0] <= numbers[1]:
        return None
    return IcebergLeg(leg=numbers[0], legs=numbers[1], total_quantity=numbers[2])


def trades(data: object) -> list[BrokerTrade]:
    """Return the day's fills, each once; ids of fills are unique within an order.

    Args:
        data: The ``data`` of Kite's answer.

    Raises:
        RowMalformed: It is no list, or one of its rows is no fill.
    """
    if not isinstance(data, list):
        raise RowMalformed(f"a trade book is a list, this is {type(data).__name__}")
    found = [_trade(row) for row in data]
    return list({(each.order_id, each.trade_id): each for each in found}.values())


def _trade(row: object) -> BrokerTrade:
    if not isinstance(row, Mapping):
        raise RowMalformed(f"a trade is an object, this is {type(row).__name__}")
    side = _needed(row, "transaction_type")
    if side not in {"BUY", "SELL"}:
        raise _wrong(row, "transaction_type", "BUY or SELL")
    return BrokerTrade(
        trade_id=_needed(row, "trade_id"),
        order_id=_needed(row, "order_id"),
        key=_key(row),
        transaction_type=side,
        quantity=_quantity(row, "quantity"),
        average_price=_price(row, "average_price"),
    )


def positions(data: object) -> list[BrokerPosition]:
    """Return the net positions.

    Args:
        data: The ``data`` of Kite's answer, with ``net`` and ``day``.

    Raises:
        RowMalformed: There is no list of net positions, or one of its rows is none.
    """
    rows = data.get("net") if isinstance(data, Mapping) else None
    if not isinstance(rows, list):
        raise RowMalformed("positions are an object with a list `net`")
    return [_position(row) for row in rows]


def quotes(data: object, *, at_ns: int) -> dict[tuple[str, str], ReferencePrice]:
    """Return the last prices of full quotes, when they traded, bid and ask, and circuit limits.

    Args:
        data: The ``data`` of Kite's answer, by ``EXCHANGE:TRADINGSYMBOL``.
        at_ns: When they were asked for, ns since the Unix epoch.

    Raises:
        RowMalformed: It is no such object, or a quote has no last price.
    """
    if not isinstance(data, Mapping):
        raise RowMalformed("quotes are an object by instrument")
    found = {}
    for key, row in data.items():
        exchange, _, symbol = _words(key).partition(":")
        if not isinstance(row, Mapping):
            raise RowMalformed(f"a quote is an object, this is {type(row).__name__}")
        limits = [
            None if row.get(name) is None else float(_price(row, name))
            for name in ("lower_circuit_limit", "upper_circuit_limit")
        ]
        if row.get("last_price") is None:
            raise _wrong(row, "last_price", "a price")
        found[exchange, symbol] = ReferencePrice(
            price_inr=float(_price(row, "last_price")),
            at_ns=at_ns,
            source="quote",
            lower_circuit_inr=limits[0],
            upper_circuit_inr=limits[1],
            traded_at_ns=_instant_ns(row, "last_trade_time"),
            book_at_ns=_instant_ns(row, "timestamp"),
            bid_inr=_best(row, "buy"),
            ask_inr=_best(row, "sell"),
        )
    return found


def _instant_ns(row: Mapping[object, object], name: str) -> int:
    """Return one of Kite's times, 0 for none; the caller does without."""
    value = row.get(name)
    return (read_kite_time(value) if isinstance(value, str) else None) or 0


def _best(row: Mapping[object, object], side: str) -> float:
    """Return the best price of a side of the depth, 0 for none; the caller does without."""
    depth = row.get("depth")
    levels = depth.get(side) if isinstance(depth, Mapping) else None
    if not isinstance(levels, list) or not levels or not isinstance(levels[0], Mapping):
        return 0.0
    return float(_price(levels[0], "price")) if levels[0].get("quantity") else 0.0


def held_shares(data: object) -> dict[tuple[str, str], int]:
    """Return how many shares may be sold out of the holdings: settled and of yesterday.

    What was sold today is out of ``quantity`` already.

    Raises:
        RowMalformed: It is no list, or one of its rows is no holding.
    """
    if not isinstance(data, list):
        raise RowMalformed(f"holdings are a list, this is {type(data).__name__}")
    found: dict[tuple[str, str], int] = {}
    for row in data:
        if not isinstance(row, Mapping):
            raise RowMalformed(f"a holding is an object, this is {type(row).__name__}")
        symbol = _needed(row, "exchange"), _needed(row, "tradingsymbol")
        quantity = _signed(row, "quantity") + _quantity(row, "t1_quantity")
        found[symbol] = found.get(symbol, 0) + quantity
    return found


def order_margin(data: object, *, exchange: str, tradingsymbol: str) -> Decimal:
    """Return what one order needs, rupees, of Kite's answer to a list of just that order.

    Raises:
        RowMalformed: It is not that order's margin, or tells no total.
    """
    if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], Mapping):
        raise RowMalformed("the margin of one order is a list of one object")
    (row,) = data
    told = _needed(row, "exchange"), _needed(row, "tradingsymbol")
    if told != (exchange, tradingsymbol.strip().upper()):
        raise RowMalformed(f"the margin is of {_words(':'.join(told))}, which was not asked for")
    if row.get("total") is None:
        raise _wrong(row, "total", "an amount")
    return _price(row, "total")


def free_margin(data: object, *, exchange: str) -> Decimal:
    """Return the live balance of the segment that an exchange's orders draw on, rupees.

    Neither ``cash``, of which what is in use is not taken off, nor ``net`` stands in for it.

    Raises:
        RowMalformed: The segment is missing or not enabled, or tells no live balance.
    """
    # Funds have two segments; all other exchanges draw on ``equity``.
    segment = "commodity" if exchange in COMMODITY_EXCHANGES else "equity"
    row = data.get(segment) if isinstance(data, Mapping) else None
    if not isinstance(row, Mapping) or row.get("enabled") is not True:
        raise RowMalformed(f"funds have no enabled segment {segment}")
    available = row.get("available")
    if not isinstance(available, Mapping) or available.get("live_balance") is None:
        raise RowMalformed(f"funds of {segment} tell no live_balance")
    return _price(available, "live_balance")


def _position(row: object) -> BrokerPosition:
    if not isinstance(row, Mapping):
        raise RowMalformed(f"a position is an object, this is {type(row).__name__}")
    return BrokerPosition(
        key=_key(row),
        quantity=_signed(row, "quantity"),
        overnight_quantity=_signed(row, "overnight_quantity"),
        day_result_inr=None if row.get("m2m") is None else _price(row, "m2m"),
    )


def _key(row: Mapping[object, object]) -> PositionKey:
    return PositionKey(
        exchange=_needed(row, "exchange"),
        tradingsymbol=_needed(row, "tradingsymbol"),
        product=_needed(row, "product"),
    )


def _needed(row: Mapping[object, object], name: str) -> str:
    value = _text(row, name)
    if not value:
        raise _wrong(row, name, "a text")
    return value


def _text(row: Mapping[object, object], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(row, name, "a text or null")
    return value


def _tags(row: Mapping[object, object]) -> tuple[str, ...]:
    """Return the tag and the tags, each once; either may be null."""
    several = row.get("tags")
    if several is not None and not isinstance(several, list):
        raise _wrong(row, "tags", "a list or null")
    tags = [row.get("tag"), *(several or ())]
    if not all(tag is None or isinstance(tag, str) for tag in tags):
        raise _wrong(row, "tags", "made of texts")
    return tuple(dict.fromkeys(tag for tag in tags if isinstance(tag, str) and tag))


def _quantity(row: Mapping[object, object], name: str) -> int:
    value = row.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= QUANTITY_MAX:
        raise _wrong(row, name, "a whole number")
    return value


def _signed(row: Mapping[object, object], name: str) -> int:
    """Return a quantity that may be short; one that is not given is not taken for 0."""
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > QUANTITY_MAX:
        raise _wrong(row, name, "a whole number")
    return value


def _price(row: Mapping[object, object], name: str) -> Decimal:
    """Return an exact price; the shortest text of a float is what Kite wrote."""
    value = row.get(name)
    if value is None:
        return Decimal(0)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        price = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
        exponent = price.as_tuple().exponent
        is_short = isinstance(exponent, int) and exponent >= PRICE_EXPONENT_MIN
        if is_short and abs(price) <= PRICE_MAX:
            return price
    raise _wrong(row, name, "a price")


def _wrong(row: Mapping[object, object], name: str, rule: str) -> RowMalformed:
    whose = "order_id" if "order_id" in row else "tradingsymbol"
    which, value = (_words(row.get(key)) for key in (whose, name))
    return RowMalformed(f"{whose}={which!r}: {name}={value!r} is not {rule}")


def _words(value: object) -> str:
    """Return the beginning of a value; Python does not spell whole numbers of 4,301 digits."""
    try:
        return str(value)[:CHARACTERS_MAX]
    except ValueError:
        return "a number of thousands of digits"
