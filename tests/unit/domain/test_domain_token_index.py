"""Tokens are found by hashing as a search would find them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.domain.token_index import ABSENT, TokenIndex

token = st.integers(0, 2**32 - 1)


def column(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, np.uint32)


@given(st.lists(token, unique=True, max_size=200), st.lists(token, max_size=50))
def test_every_token_has_its_own_row_and_others_have_none(
    known: list[int], others: list[int]
) -> None:
    index = TokenIndex(column(known))
    assert index.rows_of(column(known)).tolist() == list(range(len(known)))
    row = {each: place for place, each in enumerate(known)}
    assert index.rows_of(column(others)).tolist() == [row.get(each, ABSENT) for each in others]


def test_the_token_zero_is_a_token_like_others() -> None:
    assert TokenIndex(column([])).rows_of(column([0])).tolist() == [ABSENT]
    assert TokenIndex(column([5])).rows_of(column([0])).tolist() == [ABSENT]
    assert TokenIndex(column([5, 0])).rows_of(column([0, 5])).tolist() == [1, 0]


@pytest.mark.parametrize("step", [1, 256, 1 << 16])
def test_tokens_at_any_distance_are_found(step: int) -> None:
    tokens = np.arange(10_000, dtype=np.uint32) * np.uint32(step)
    tokens = np.unique(tokens)
    index = TokenIndex(tokens)
    shuffled = np.random.default_rng(1).permutation(len(tokens))
    assert np.array_equal(index.rows_of(tokens[shuffled]), shuffled)


def test_a_repeated_token_has_one_of_its_rows() -> None:
    assert TokenIndex(column([9, 9, 9])).rows_of(column([9]))[0] in {0, 1, 2}
