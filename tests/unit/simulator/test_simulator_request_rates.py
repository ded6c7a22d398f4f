"""Kite's request rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.request_rates import Bucket, RequestRates

if TYPE_CHECKING:
    from ticker_service.runtime.clock import ManualClock


@pytest.mark.parametrize(("bucket", "per_s"), [(Bucket.QUOTE, 1), (Bucket.OTHER, 10)])
def test_the_request_beyond_the_rate_is_throttled(
    clock: ManualClock, bucket: Bucket, per_s: int
) -> None:
    rates = RequestRates(clock, enforced=True)
    for _ in range(per_s):
        rates.admit("key", bucket)

    with pytest.raises(KiteError, match="Too many requests") as refused:
        rates.admit("key", bucket)
    assert (refused.value.status_code, refused.value.error_type) == (429, "NetworkException")


def test_a_second_later_there_is_room_again(clock: ManualClock) -> None:
    rates = RequestRates(clock, enforced=True)
    rates.admit("key", Bucket.QUOTE)
    clock.advance(NS_PER_S - NS_PER_MS)
    with pytest.raises(KiteError):
        rates.admit("key", Bucket.QUOTE)

    clock.advance(NS_PER_MS)

    rates.admit("key", Bucket.QUOTE)


def test_applications_and_buckets_do_not_share_a_rate(clock: ManualClock) -> None:
    rates = RequestRates(clock, enforced=True)

    rates.admit("one", Bucket.QUOTE)
    rates.admit("two", Bucket.QUOTE)
    rates.admit("one", Bucket.OTHER)


def test_rates_can_be_switched_off(clock: ManualClock) -> None:
    rates = RequestRates(clock, enforced=False)

    for _ in range(100):
        rates.admit("key", Bucket.QUOTE)


def test_invented_keys_do_not_pile_up(clock: ManualClock) -> None:
    rates = RequestRates(clock, enforced=True)

    for number in range(5_000):
        rates.admit(str(number), Bucket.QUOTE)

    assert len(rates._accepted) <= 1_001
