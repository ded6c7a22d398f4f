"""Order rates per account, the ledger's numbering, and how faults are armed and used up."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from ticker_service.constants import NS_PER_S, SECONDS_PER_DAY
from ticker_service.simulator import ledger as ledger_of
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.feed import Feed
from ticker_service.simulator.ledger import EntryKind, Ledger
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.simulator.order_faults import (
    ANSWER_KINDS,
    BOOK_KINDS,
    Method,
    OrderFaults,
    use,
)
from ticker_service.simulator.order_rates import OrderRates
from ticker_service.simulator.updates import OrderUpdates

if TYPE_CHECKING:
    from ticker_service.runtime.clock import ManualClock

ASHA, CHETAN = "AB1234", "CD5678"


class KeptFeed(Feed):
    """A feed that keeps what it would send."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    def broadcast_text(self, kind: str, data: object, *, user_id: str | None = None) -> int:
        assert (kind, user_id) == ("order", ASHA)
        self.sent.append(data)
        return 1


def _admitted(rates: OrderRates, user_id: str, attempts: int, *, places: bool = True) -> int:
    admitted = 0
    for _ in range(attempts):
        with contextlib.suppress(KiteError):
            rates.admit(user_id, places=places)
            admitted += 1
    return admitted


def test_ten_order_requests_a_second_are_admitted_per_account(clock: ManualClock) -> None:
    rates = OrderRates(clock, SimulatorOptions())

    assert _admitted(rates, ASHA, 10) == 10
    with pytest.raises(KiteError, match="Too many requests") as caught:
        rates.admit(ASHA, places=False)
    assert (caught.value.status_code, caught.value.error_type) == (429, "NetworkException")
    assert _admitted(rates, CHETAN, 12, places=False) == 10


def test_the_limits_of_a_second_and_a_minute_can_be_others(clock: ManualClock) -> None:
    options = SimulatorOptions(orders_per_second_max=3, orders_per_minute_max=5)
    rates = OrderRates(clock, options)
    assert _admitted(rates, ASHA, 12) == 3
    clock.advance(NS_PER_S)
    assert _admitted(rates, ASHA, 12) == 2


def test_a_leg_counts_for_the_day_and_not_for_the_second(clock: ManualClock) -> None:
    rates = OrderRates(clock, SimulatorOptions(orders_per_day_max=4))
    assert _admitted(rates, ASHA, 1) == 1
    for _ in range(2):
        rates.count_leg(ASHA)
    assert _admitted(rates, ASHA, 9) == 1
    assert _admitted(rates, ASHA, 3, places=False) == 3


def test_a_second_is_one_of_the_servers_clock(clock: ManualClock) -> None:
    rates = OrderRates(clock, SimulatorOptions())
    clock.advance(NS_PER_S - 1)
    assert _admitted(rates, ASHA, 12) == 10

    clock.advance(1)

    assert _admitted(rates, ASHA, 12) == 10


def test_four_hundred_order_requests_a_minute_are_admitted(clock: ManualClock) -> None:
    rates = OrderRates(clock, SimulatorOptions())
    admitted = 0
    for _ in range(50):
        admitted += _admitted(rates, ASHA, 10)
        clock.advance(NS_PER_S)

    assert admitted == 400


def test_a_cooldown_follows_an_excess_when_asked_for(clock: ManualClock) -> None:
    rates = OrderRates(clock, SimulatorOptions(order_cooldown_s=10))
    assert _admitted(rates, ASHA, 11) == 10
    clock.advance(9 * NS_PER_S)
    assert _admitted(rates, ASHA, 1) == 0

    clock.advance(10 * NS_PER_S)

    assert _admitted(rates, ASHA, 1) == 1


def test_the_day_ends_after_so_many_placements_but_not_for_cancellations(
    clock: ManualClock,
) -> None:
    rates = OrderRates(clock, SimulatorOptions(orders_per_day_max=2))
    assert _admitted(rates, ASHA, 2) == 2
    with pytest.raises(KiteError, match="Maximum allowed order requests exceeded") as caught:
        rates.admit(ASHA, places=True)
    assert (caught.value.status_code, caught.value.error_type) == (400, "NetworkException")
    rates.admit(ASHA, places=False)

    clock.advance(SECONDS_PER_DAY * NS_PER_S)

    rates.admit(ASHA, places=True)


def test_without_enforcement_nothing_is_refused(clock: ManualClock) -> None:
    rates = OrderRates(clock, SimulatorOptions(enforce_rate_limits=False, orders_per_day_max=1))

    assert _admitted(rates, ASHA, 50) == 50


def test_the_ledger_is_numbered_from_one_and_read_from_any_number(clock: ManualClock) -> None:
    ledger = Ledger(clock)
    for tag in "ABC":
        ledger.append(EntryKind.RECEIVED, user_id=ASHA, tag=tag, method="place")

    assert [each["number"] for each in ledger.after()] == [1, 2, 3]
    assert [each["tag"] for each in ledger.after(1)] == ["B", "C"]
    assert ledger.after(3) == ledger.after(99) == []
    assert ledger.after()[0]["at_us"] == clock.now_ns() // 1_000


def test_a_ledger_that_overflows_keeps_its_numbers(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_of, "BYTES_MAX", 20_000)
    ledger = Ledger(clock)
    fields = {"tradingsymbol": "N" * 100, "quantity": 65}
    for _ in range(100):
        ledger.append(EntryKind.RECEIVED, user_id=ASHA, fields=fields)

    kept = [each["number"] for each in ledger.after()]
    assert 5 < len(kept) < 40
    assert kept == list(range(kept[0], 101))
    assert [each["number"] for each in ledger.after(99)] == [100]
    assert ledger.last_number == 100


def test_a_ledger_is_bounded_by_what_its_entries_take_not_by_their_count(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_of, "BYTES_MAX", 1_000_000)
    ledger = Ledger(clock)
    for number in range(200):
        ledger.append(EntryKind.RECEIVED, user_id=ASHA, fields={"tag": f"{number}" + "x" * 50_000})
        assert sum(len(str(each["fields"])) for each in ledger.after()) <= 1_000_000


def test_a_fault_is_used_up_by_its_count(clock: ManualClock) -> None:
    faults = OrderFaults(clock)
    faults.arm({"fault": "null_tags", "count": 2}, None)

    assert [bool(faults.take(BOOK_KINDS, ASHA)) for _ in range(3)] == [True, True, False]
    assert faults.active() == []


def test_a_fault_ends_with_its_seconds(clock: ManualClock) -> None:
    faults = OrderFaults(clock)
    faults.arm({"fault": "null_tags", "seconds": 2}, None)
    clock.advance(2 * NS_PER_S - 1)
    assert faults.take(BOOK_KINDS, ASHA)

    clock.advance(1)

    assert faults.take(BOOK_KINDS, ASHA) is None


def test_a_fault_strikes_its_user_and_method_only(clock: ManualClock) -> None:
    faults = OrderFaults(clock)
    faults.arm({"fault": "http_429", "method": "cancel"}, ASHA)

    assert faults.find(ANSWER_KINDS, ASHA, Method.CANCEL)
    assert faults.find(ANSWER_KINDS, ASHA, Method.PLACE) is None
    assert faults.find(ANSWER_KINDS, CHETAN, Method.CANCEL) is None


def test_answers_to_reads_break_only_when_asked_for(clock: ManualClock) -> None:
    faults = OrderFaults(clock)
    faults.arm({"fault": "accept_then_5xx"}, None)
    assert faults.find(ANSWER_KINDS, ASHA, Method.READ) is None

    faults.arm({"fault": "accept_then_5xx", "method": "read"}, None)

    assert faults.find(ANSWER_KINDS, ASHA, Method.READ)


def test_finding_a_fault_does_not_use_it(clock: ManualClock) -> None:
    faults = OrderFaults(clock)
    faults.arm({"fault": "http_429", "count": 1}, None)
    found = faults.find(ANSWER_KINDS, ASHA, Method.PLACE)
    assert found is faults.find(ANSWER_KINDS, ASHA, Method.PLACE)
    assert found is not None

    use(found)

    assert faults.find(ANSWER_KINDS, ASHA, Method.PLACE) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"fault": "http_429", "count": 0},
        {"fault": "http_429", "count": True},
        {"fault": "http_429", "seconds": -1},
        {"fault": "http_429", "seconds": float("inf")},
        {"fault": "http_429", "method": "pray"},
        {"fault": "http_429", "delay_ms": 5},
        {"fault": "null_tags", "method": "read"},
        {"fault": "late_in_book", "delay_ms": -1},
        {"fault": "accept_then_5xx", "status_code": 404},
        {"fault": "accept_then_5xx", "status_code": True},
        {"fault": "accept_then_5xx", "body": "xml"},
        {"fault": "garbage_200", "accept": "yes"},
        {"fault": "redirect_307", "location": "http://x\r\nSet-Cookie: a=b"},
        {"fault": "truncated_book", "keep": -1},
        {"fault": "shuffle_updates", "group": 1},
        {"fault": "late_updates", "method": "place"},
        {"fault": "late_request", "delay_ms": 3_600_001},
        {"fault": "stale_book", "keep": 1},
    ],
)
def test_an_unclear_fault_is_refused_and_not_armed(
    clock: ManualClock, fields: dict[str, object]
) -> None:
    faults = OrderFaults(clock)

    with pytest.raises(KiteError):
        faults.arm(fields, None)

    assert faults.active() == []


def _published(clock: ManualClock, count: int, *armed: dict[str, object]) -> KeptFeed:
    feed, faults = KeptFeed(), OrderFaults(clock)
    for fields in armed:
        faults.arm(fields, None)
    updates = OrderUpdates(feed, faults, clock)
    for number in range(1, count + 1):
        updates.publish(ASHA, {"number": number})
    return feed


def _numbers(feed: KeptFeed) -> list[int]:
    return [each["number"] for each in feed.sent if isinstance(each, dict)]


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"fault": "duplicate_updates", "count": 1}, [1, 1, 2, 3, 4]),
        ({"fault": "drop_updates", "count": 2}, [3, 4]),
        ({"fault": "shuffle_updates", "count": 3}, [3, 2, 1, 4]),
        ({"fault": "shuffle_updates", "count": 1}, [2, 1, 3, 4]),
        ({"fault": "shuffle_updates", "group": 2}, [2, 1, 4, 3]),
    ],
)
def test_updates_come_twice_not_at_all_or_out_of_order(
    clock: ManualClock, fields: dict[str, object], numbers: list[int]
) -> None:
    assert _numbers(_published(clock, 4, fields)) == numbers


def test_what_a_shuffle_keeps_back_comes_when_it_is_lifted(clock: ManualClock) -> None:
    feed, faults = KeptFeed(), OrderFaults(clock)
    updates = OrderUpdates(feed, faults, clock)
    faults.arm({"fault": "shuffle_updates"}, None)
    updates.publish(ASHA, {"number": 1})
    updates.publish(ASHA, {"number": 2})
    assert feed.sent == []

    faults.lift_all()
    updates.release()

    assert _numbers(feed) == [2, 1]


def test_late_updates_come_in_their_time_and_others_overtake_them(clock: ManualClock) -> None:
    feed, faults = KeptFeed(), OrderFaults(clock)
    updates = OrderUpdates(feed, faults, clock)
    faults.arm({"fault": "late_updates", "count": 2, "delay_ms": 50}, None)
    for number in (1, 2, 3):
        updates.publish(ASHA, {"number": number})
    assert _numbers(feed) == [3]
    assert updates.next_due_ns() == clock.monotonic_ns() + 50_000_000

    clock.advance(49_000_000)
    updates.advance()
    assert _numbers(feed) == [3]
    clock.advance(1_000_000)
    updates.advance()

    assert _numbers(feed) == [3, 1, 2]
    assert updates.next_due_ns() is None


def test_late_updates_come_at_once_when_all_faults_are_lifted(clock: ManualClock) -> None:
    feed, faults = KeptFeed(), OrderFaults(clock)
    updates = OrderUpdates(feed, faults, clock)
    faults.arm({"fault": "late_updates"}, None)
    updates.publish(ASHA, {"number": 1})
    updates.publish(ASHA, {"number": 2})

    faults.lift_all()
    updates.release()

    assert _numbers(feed) == [1, 2]
    assert updates.next_due_ns() is None
