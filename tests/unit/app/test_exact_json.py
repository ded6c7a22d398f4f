"""What a caller writes is what is read, to the last digit, or it is refused."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from app.http import exact_json


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("118.4", "118.4"),
        ("118.40", "118.4"),
        ("118.40000000000000001", "118.40000000000000001"),
        ("0.1", "0.1"),
        ("100.00", "100"),
        ("-0.050", "-0.05"),
        ("1.184e2", "118.4"),
    ],
)
def test_a_number_is_its_digits(written: str, meant: str) -> None:
    read = exact_json.read(f'{{"price": {written}}}')["price"]
    assert isinstance(read, Decimal)
    assert f"{read:f}" == meant


def test_an_integer_stays_one() -> None:
    assert exact_json.read("[0, -7, 9223372036854775808]") == [0, -7, 2**63]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("1e400", "1E+400"),
        ("1e99999999999999999999", "Infinity"),
        ("-1e99999999999999999999", "-Infinity"),
        ("9" * 5_000, "9" * 5_000),
    ],
)
def test_what_is_no_use_as_a_number_is_read_so_that_its_field_can_be_named(
    written: str, read: str
) -> None:
    assert str(exact_json.read(f"[{written}]")[0]) == read


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("{} {}", "Extra data"),
        ('{"price": 1, "price": 2}', "'price' twice"),
        ('{"order": {"price": 1, "price": 1}}', "'price' twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe{}", "no UTF-8"),
    ],
    ids=range(8),
)
def test_what_is_no_json_is_refused_in_one_way(raw: str | bytes, why: str) -> None:
    with pytest.raises(json.JSONDecodeError, match=why):
        exact_json.read(raw)
