"""From where orders leave: looked at in time, alarmed about, and nothing stopped by it."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from typing import TYPE_CHECKING

import pytest
from virtual_time import LoopClock, run

from ticker_service.accounts.egress_watch import EgressWatch
from ticker_service.domain import session
from ticker_service.domain.egress import (
    EgressVerdict,
    compared,
    look_message,
    next_look_ns,
    read_address,
)
from ticker_service.domain.order import Account
from ticker_service.errors import AddressUnknown
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from ticker_service.domain.egress import EgressLook

MAIN = Account("MAIN")
OURS = "203.0.113.7"
OTHER = "203.0.113.8"
SIX_O_CLOCK = session.instant_ns(dt.datetime(2026, 11, 23, 6, 0, tzinfo=session.IST))


class Probe:
    """A probe that answers as it is told."""

    def __init__(self, address: str) -> None:
        self.says = address
        self.asked_ns: list[int] = []
        self.clock = LoopClock(SIX_O_CLOCK)

    async def address(self) -> str:
        self.asked_ns.append(self.clock.now_ns())
        if not self.says:
            raise AddressUnknown("told to be silent")
        return self.says


class Watched:
    """One watch under virtual time, with what it told."""

    def __init__(self, says: str, *registered: str) -> None:
        self.probe = Probe(says)
        self.looks: list[EgressLook] = []
        chance = random.Random(1)  # noqa: S311 - jitter
        surroundings = Surroundings(clock=self.probe.clock, chance=chance, telemetry=Telemetry())
        self.watch = EgressWatch(
            MAIN, self.probe, surroundings, registered=registered, on_look=self.looks.append
        )

    async def for_s(self, seconds: float) -> None:
        """Let the watch run for so long."""
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.watch.run())
            await asyncio.sleep(seconds)
            running.cancel()

    def asked_at(self) -> list[str]:
        return [f"{session.from_instant_ns(at):%a %H:%M}" for at in self.probe.asked_ns]


def test_the_address_is_looked_at_when_starting_and_every_morning_before_nine() -> None:
    watched = Watched(OURS, OURS)
    run(watched.for_s(2.5 * 86_400))

    assert watched.asked_at() == ["Mon 06:00", "Mon 08:45", "Tue 08:45", "Wed 08:45"]
    assert {look.verdict for look in watched.looks} == {EgressVerdict.REGISTERED}


@pytest.mark.parametrize(
    ("says", "verdict"), [(OTHER, EgressVerdict.WRONG), ("", EgressVerdict.UNKNOWN)]
)
def test_while_it_is_wrong_or_not_known_it_is_asked_again_within_minutes(
    says: str, verdict: EgressVerdict
) -> None:
    watched = Watched(says, OURS)
    run(watched.for_s(3_600))

    gaps = [b - a for a, b in zip(watched.probe.asked_ns, watched.probe.asked_ns[1:], strict=False)]
    assert max(gaps) <= 331 * 10**9
    assert min(gaps) >= 10 * 10**9
    assert {look.verdict for look in watched.looks} == {verdict}


def test_a_refusal_that_names_the_address_has_it_looked_at_once() -> None:
    watched = Watched(OURS, OURS)

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(watched.watch.run())
            await asyncio.sleep(60)
            watched.probe.says = OTHER
            for _ in range(20):  # as many orders were under way
                watched.watch.want()
            await asyncio.sleep(5)
            running.cancel()

    run(story())
    assert [look.verdict for look in watched.looks] == [
        EgressVerdict.REGISTERED,
        EgressVerdict.WRONG,
    ]


def test_an_alarm_names_both_addresses_the_rule_and_what_to_do() -> None:
    look = compared(MAIN, OTHER, (OURS,), at_ns=SIX_O_CLOCK)

    told = str(look_message(look)["told"])
    for part in (OTHER, OURS, "SEBI's rule registered_address", "Register the machine's address"):
        assert part in told


def test_without_registered_addresses_nothing_is_compared_and_the_address_is_shown() -> None:
    look = compared(MAIN, OURS, (), at_ns=SIX_O_CLOCK)
    assert look.verdict is EgressVerdict.UNCOMPARED
    assert OURS in look.told


def test_one_address_is_written_one_way() -> None:
    assert read_address(" ::ffff:203.0.113.7\n") == OURS
    assert read_address("2001:DB8:0:0::1") == "2001:db8::1"
    for text in ("", "203.0.113", "http://x", "1" * 100, "203.0.113.7, 203.0.113.8"):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says of an address
            read_address(text)


def test_the_next_look_is_the_next_quarter_to_nine_in_india() -> None:
    for hour, minute, ahead_h in ((6, 0, 2.75), (8, 45, 24.0), (9, 0, 23.75)):
        now = dt.datetime(2026, 11, 23, hour, minute, tzinfo=session.IST)
        now_ns = session.instant_ns(now)
        assert next_look_ns(now_ns) - now_ns == int(ahead_h * 3_600) * 10**9
