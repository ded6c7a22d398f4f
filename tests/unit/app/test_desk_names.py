"""The name that the desk proposes for an order that is sent again is one that the doors take."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from app.http.desk import name_again
from app.http.schemas import Key, PartKey


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("entry-4", "entry-4-again"),
        ("entry-4-again", "entry-4-again-again"),
        ("k~1", "k.1-again"),
        ("k~20.10", "k.20.10-again"),
        ("x" * 64, "x" * 58 + "-again"),
        ("x" * 64 + "~20.10", "x" * 58 + "-again"),
    ],
)
def test_a_name_that_an_order_may_have_leads_to_one_that_a_caller_may_use(
    name: str, proposed: str
) -> None:
    assert TypeAdapter(PartKey).validate_python(name) == name
    assert TypeAdapter(Key).validate_python(name_again(name)) == proposed
