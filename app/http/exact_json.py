"""JSON as callers write it, numbers by their digits: what is asked for is what is journalled.

The usual readers turn 118.40000000000000001 into the nearest double, 118.4, and an order would go
out at a price nobody wrote. Here a number with a fraction or an exponent is a ``Decimal`` of its
own digits. ``NaN``, ``Infinity`` and numbers beyond any use are read, so that the refusal can name
the field they stand in. Of two values of one name nobody knows which was meant: no JSON of ours.

Pure. Used by the REST and the WebSocket door alike.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, Final

INTEGER_DIGITS_MAX: Final = 40
"""Twice what the journal holds; Python counts digits and gives up at 4,300, with another error."""

_KINDS: Final = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    Decimal: "number",
    str: "string",
    list: "array",
}


def read(raw: str | bytes) -> object:
    """Return what a text says.

    Raises:
        json.JSONDecodeError: It is no JSON, or JSON that can be understood in two ways.
    """
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("is no UTF-8", "", error.start) from None
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise json.JSONDecodeError("is nested too deeply", "", 0) from None


def read_object(raw: str | bytes) -> dict[str, Any]:
    """Return what a text says that is one object.

    Raises:
        json.JSONDecodeError: It is no JSON, can be understood in two ways, or is no object.
    """
    value = read(raw)
    if not isinstance(value, dict):
        # The library would look for the fields of an order on a list or a number as on an object.
        raise json.JSONDecodeError(f"is a JSON {_KINDS.get(type(value), 'value')}", "", 0)
    return value


def _number(text: str) -> Decimal:
    """Return a number by its digits; zeros at the end of a fraction say nothing."""
    if "." in text and "e" not in text.lower():
        text = text.rstrip("0").rstrip(".")
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return Decimal("-Infinity" if text.startswith("-") else "Infinity")


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= INTEGER_DIGITS_MAX else Decimal(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise json.JSONDecodeError(f"says {twice[:64]!a} twice", "", 0)
    return dict(pairs)


_DECODER: Final = json.JSONDecoder(
    parse_float=_number, parse_int=_integer, parse_constant=Decimal, object_pairs_hook=_object
)
