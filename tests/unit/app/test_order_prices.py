"""A price in a string is the digits everybody reads, or it is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from app.http.schemas import ChangeBody


@pytest.mark.parametrize("written", ["118.40", "5", "-1", "0.05"])
def test_plain_digits_are_the_price(written: str) -> None:
    assert ChangeBody.model_validate({"price": written}).price == Decimal(written)


@pytest.mark.parametrize("written", ["1_0", "٥", "1e5", " 5", "5\n", "+5", ".5", "5.", "", "NaN"])  # noqa: RUF001
def test_what_only_python_reads_as_a_number_is_no_price(written: str) -> None:
    with pytest.raises(ValidationError, match="plain digits"):
        ChangeBody.model_validate({"price": written})
