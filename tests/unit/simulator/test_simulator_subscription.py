"""What a client's frames do to its subscription."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.domain.tick import Mode
from ticker_service.simulator.market import Changes
from ticker_service.simulator.subscription import TOKENS_MAX, BadRequestError, Subscription

ROW_BY_TOKEN = {100 + row: row for row in range(4_000)}


@pytest.fixture
def subscription() -> Subscription:
    return Subscription(ROW_BY_TOKEN)


def _send(subscription: Subscription, action: str, value: object) -> None:
    subscription.apply(json.dumps({"a": action, "v": value}))


def _news(subscription: Subscription) -> list[tuple[int, Mode]]:
    rows, mode = subscription.take_news()
    return [(int(row), Mode(each)) for row, each in zip(rows, mode, strict=True)]


def _changes(rows: list[int], least_mode: Mode) -> Changes:
    return Changes(rows=np.array(rows), least_mode=np.full(len(rows), least_mode, np.uint8))


def test_a_bare_subscription_is_in_quote_mode_and_gets_the_cached_tick(
    subscription: Subscription,
) -> None:
    _send(subscription, "subscribe", [100, 102])

    assert _news(subscription) == [(0, Mode.QUOTE), (2, Mode.QUOTE)]
    assert _news(subscription) == []


def test_mode_on_an_unsubscribed_token_subscribes_it(subscription: Subscription) -> None:
    _send(subscription, "mode", ["full", [101]])

    assert len(subscription) == 1
    assert _news(subscription) == [(1, Mode.FULL)]


def test_subscribing_again_keeps_the_mode(subscription: Subscription) -> None:
    _send(subscription, "mode", ["ltp", [101]])
    _send(subscription, "subscribe", [101])

    assert _news(subscription) == [(1, Mode.LTP)]
    assert len(subscription) == 1


def test_an_unsubscribed_token_has_no_news(subscription: Subscription) -> None:
    _send(subscription, "subscribe", [100, 101])
    _send(subscription, "unsubscribe", [100, 999_999])

    assert not subscription.note(_changes([0], Mode.LTP))
    assert _news(subscription) == [(1, Mode.QUOTE)]
    assert len(subscription) == 1


def test_a_change_is_news_only_in_modes_that_show_it(subscription: Subscription) -> None:
    _send(subscription, "mode", ["ltp", [100]])
    _send(subscription, "mode", ["quote", [101]])
    _send(subscription, "mode", ["full", [102]])
    _news(subscription)

    assert subscription.note(_changes([0, 1, 2, 3], Mode.QUOTE))

    assert _news(subscription) == [(1, Mode.QUOTE), (2, Mode.FULL)]


def test_changes_a_slow_reader_missed_are_sent_once(subscription: Subscription) -> None:
    _send(subscription, "subscribe", [100])
    for _ in range(1_000):
        subscription.note(_changes([0], Mode.LTP))

    assert _news(subscription) == [(0, Mode.QUOTE)]


def test_tokens_beyond_the_limit_are_refused_and_the_rest_stay(subscription: Subscription) -> None:
    with pytest.raises(BadRequestError, match="3000 instruments exceeded: 10 ignored"):
        _send(subscription, "subscribe", list(range(100, 100 + TOKENS_MAX + 10)))

    assert len(subscription) == TOKENS_MAX
    assert len(_news(subscription)) == TOKENS_MAX
    _send(subscription, "unsubscribe", [100])
    _send(subscription, "subscribe", [100 + TOKENS_MAX])
    assert len(subscription) == TOKENS_MAX


def test_tokens_without_ticks_count_too_and_cannot_grow_without_limit(
    subscription: Subscription,
) -> None:
    with pytest.raises(BadRequestError, match="exceeded"):
        _send(subscription, "subscribe", list(range(1_000_000, 1_000_000 + 5_000)))

    assert len(subscription) == TOKENS_MAX


@pytest.mark.parametrize("token", ["100", 100.0, True, None, -1, 1 << 40, [100]])
def test_what_is_no_integer_token_silently_gives_nothing(
    subscription: Subscription, token: object
) -> None:
    _send(subscription, "subscribe", [token])

    assert len(subscription) == 0


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x01",
        "",
        "subscribe",
        "[]",
        "7",
        "{}",
        '{"a":"dance","v":[1]}',
        '{"a":"subscribe"}',
        '{"a":"subscribe","v":{"100":1}}',
        '{"a":"mode","v":[]}',
        '{"a":"mode","v":["deep",[100]]}',
        '{"a":"mode","v":[["full"],[100]]}',
        '{"a":"mode","v":"full"}',
        '{"a":"mode","v":["full",100]}',
        "[" * 100_000,
    ],
)
def test_a_bad_request_is_answered_in_words_and_changes_nothing(
    subscription: Subscription, frame: str | bytes
) -> None:
    with pytest.raises(BadRequestError) as refused:
        subscription.apply(frame)

    assert 0 < len(str(refused.value)) < 200
    assert len(subscription) == 0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "v", "x"]), inner),
)


@given(frame=st.text() | st.binary() | _JSON.map(json.dumps))
def test_any_frame_is_obeyed_or_refused(frame: str | bytes) -> None:
    subscription = Subscription(ROW_BY_TOKEN)

    with contextlib.suppress(BadRequestError):
        subscription.apply(frame)

    assert len(subscription) <= TOKENS_MAX
