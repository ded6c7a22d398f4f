"""One run: orders, a kill -9 at a named point, a restart, and the verdict once all is quiet.

What a run does follows from its case alone: how many orders, which sides, marketable or resting,
when cancels come, whether a cancel rather than an order meets the point first, who comes back.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any, Final

import crash_records
import crash_verdict as verdict
import exactly_once
from crash_parts import (
    PRINCIPAL,
    DaemonGone,
    Door,
    cancel_frame,
    door,
    limit_order,
    place_frame,
    world,
)
from exactly_once import Told
from running import eventually

if TYPE_CHECKING:
    from crash_parts import Daemon, Lane, Servers, World

POINTS: Final = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C7")
AT_RANDOM: Final = "random"
"""Killed from outside, at an instant within ``RANDOM_S_MAX`` of the first frame."""
BEHAVIOURS: Final = ("normal", "accept_then_timeout", "accept_then_5xx")
ORDERS_MAX: Final = 5
RANDOM_S_MAX: Final = 0.3
DEATH_S_MAX: Final = 6.0
QUIET_S_MAX: Final = 25.0
UNDER_WAY: Final = frozenset({"RECEIVED", "READY", "SENDING"})
LARGE: Final = 2_000
"""More than the quotes hold at one price: filled in parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What decides a run."""

    point: str
    behaviour: str
    seed: int
    number: int

    def chance(self) -> Random:
        return Random(f"{self.seed}/{self.point}/{self.behaviour}/{self.number}")  # noqa: S311


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of a run."""

    case: Case
    orders: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    duplicates: int = 0
    lost: int = 0
    quiet_s: float = 0.0
    died_of_point: bool = False
    log: str = ""


@dataclass(slots=True, kw_only=True)
class Wish:
    """One order a caller wants, and what of it is to be cancelled when."""

    key: str
    body: dict[str, object]
    cancel: str
    comes_back: bool

    @property
    def cancel_key(self) -> str:
        return f"{self.key}-cancel"


def play(case: Case, shared: Servers, one_lane: Lane) -> Report:
    """Carry one run out and judge it."""
    report = Report(case=case)
    with world(shared, one_lane) as own:
        run = _Run(case, own, report)
        try:
            run.through()
        except (DaemonGone, AssertionError) as error:
            report.violations.append(f"{type(error).__name__}: {error}")
        finally:
            one_lane.lift_faults()
            run.end()
    return report


class _Run:
    def __init__(self, case: Case, own: World, report: Report) -> None:
        self._case = case
        self._own = own
        self._report = report
        self._chance = case.chance()
        self._told: list[Told] = []
        self._acknowledged: set[str] = set()
        self._wishes = self._wish()
        self._everything = list(self._wishes)
        self._cancel_first = case.point not in {"C0", "C7"} and self._chance.random() < 0.25

    def through(self) -> None:
        self._report.orders = len(self._wishes)
        resting: list[Wish] = []
        if self._cancel_first:
            resting = [self._resting()]
            self._everything += resting
            self._place_calmly(resting[0])
        self._strike()
        doomed = self._own.start(
            **({} if self._case.point == AT_RANDOM else {"kill_at": self._case.point})
        )
        self._ask_until_dead(doomed, resting)
        began = time.monotonic()
        survivor = self._own.start()
        if not survivor.opens(self._own.account):
            raise AssertionError(f"the account did not open again: {survivor.log()[-1500:]}")
        with door(self._own, survivor) as calls:
            self._come_back(calls)
            self._cancel_late(calls)
        eventually(self._is_quiet, within_s=QUIET_S_MAX)
        self._report.quiet_s = time.monotonic() - began
        if not survivor.is_running():
            self._report.violations.append(f"the daemon ended: {survivor.log()[-1500:]}")
        self._judge(survivor)

    def end(self) -> None:
        """Keep the last daemon's log if something was wrong."""
        if self._report.violations and self._own.daemons:
            self._report.log = self._own.daemons[-1].log()[-4000:]

    # --- what is asked for ----------------------------------------------------------------------

    def _wish(self) -> list[Wish]:
        quote = self._own.quote()["depth"]
        count = self._chance.randint(1, ORDERS_MAX)
        return [self._one_wish(f"k{n}", quote) for n in range(count)]

    def _one_wish(self, key: str, quote: dict[str, Any]) -> Wish:
        chance = self._chance
        side = chance.choice(("BUY", "SELL"))
        is_marketable = chance.random() < 0.5
        quantity = LARGE if chance.random() < 0.15 else chance.randint(1, 20)
        return Wish(
            key=key,
            body=limit_order(side, quantity, _price(quote, side, is_marketable=is_marketable)),
            cancel=chance.choice(("never", "early", "late")),
            comes_back=chance.random() < 0.8,
        )

    def _resting(self) -> Wish:
        quote = self._own.quote()["depth"]
        body = limit_order("BUY", 3, _price(quote, "BUY", is_marketable=False))
        return Wish(key="rests", body=body, cancel="early", comes_back=True)

    # --- the parts of the play ------------------------------------------------------------------

    def _strike(self) -> None:
        if self._case.behaviour == "normal":
            return
        only_places = {"method": "place"} if self._chance.random() < 0.5 else {}
        self._own.strike(self._case.behaviour, **only_places)

    def _place_calmly(self, wish: Wish) -> None:
        """Have an order rest at the broker before the point is armed: a cancel will meet it."""
        calm = self._own.start()
        calm.opens(self._own.account)
        with door(self._own, calm) as calls:
            self._hear(calls, [place_frame(wish.key, self._own.account, wish.body)])
        eventually(lambda: [task["state"] for task in self._own.tasks()] == ["WORKING"])
        calm.kill()

    def _ask_until_dead(self, doomed: Daemon, resting: list[Wish]) -> None:
        frames = [cancel_frame(each.key) for each in resting]
        for wish in self._wishes:
            frames.append(place_frame(wish.key, self._own.account, wish.body))
            if wish.cancel == "early":
                frames.append(cancel_frame(wish.key))
        if doomed.opens(self._own.account):
            try:
                with door(self._own, doomed) as calls:
                    if self._case.point == AT_RANDOM:
                        self._kill_at_random(doomed, calls, frames)
                    else:
                        self._hear(calls, frames)
            except DaemonGone:
                pass  # it died between opening and the socket
        eventually(
            lambda: not doomed.is_running() or self._is_nothing_under_way(), within_s=DEATH_S_MAX
        )
        # An answer that never comes is never read: there C5 is not reached, and we kill it.
        died = doomed.wait(0.2) == -signal.SIGKILL
        self._report.died_of_point = died and self._case.point != AT_RANDOM
        doomed.kill()

    def _kill_at_random(self, doomed: Daemon, calls: Door, frames: list[dict[str, object]]) -> None:
        for frame in frames:
            calls.say(frame)
        calls.hear(
            [_key_of(frame) for frame in frames],
            within_s=self._chance.uniform(0.0, RANDOM_S_MAX),
        )
        doomed.kill()
        self._note(calls)

    def _come_back(self, calls: Door) -> None:
        """Repeat what got no answer, and some of what did: the same key is the same task."""
        frames = []
        for wish in self._wishes:
            is_known = wish.key in self._acknowledged
            if self._chance.random() < 0.4 if is_known else wish.comes_back:
                frames.append(place_frame(wish.key, self._own.account, wish.body))
            if wish.cancel == "early" and wish.comes_back:
                frames.append(cancel_frame(wish.key))
        if self._cancel_first:
            frames.append(cancel_frame("rests"))
        self._hear(calls, frames)
        unanswered = [_key_of(f) for f in frames if _key_of(f) not in calls.answers]
        if unanswered:
            self._report.violations.append(f"no answer after the restart to {unanswered}")

    def _cancel_late(self, calls: Door) -> None:
        late = [wish for wish in self._wishes if wish.cancel == "late"]
        if not late:
            return
        eventually(
            lambda: (
                not {"UNKNOWN", *UNDER_WAY}
                & {task["state"] for task in self._own.tasks() if task["kind"] == "PLACE"}
            ),
            within_s=QUIET_S_MAX,
        )
        self._hear(calls, [cancel_frame(wish.key) for wish in late])

    def _judge(self, survivor: Daemon) -> None:
        own, report = self._own, self._report
        records = verdict.at_rest(own, self._told, survivor, within_s=QUIET_S_MAX)
        found = exactly_once.violations(records)
        report.duplicates = len(exactly_once.doubled(records))
        report.lost = sum(sentence.startswith(("I3", "I5")) for sentence in found)
        report.violations += found + verdict.sinks_agree(own, survivor)
        report.ends = exactly_once.states(records.kinds("PLACE"))

    # --- small steps ----------------------------------------------------------------------------

    def _hear(self, calls: Door, frames: list[dict[str, object]]) -> None:
        for frame in frames:
            calls.say(frame)
        calls.hear([_key_of(frame) for frame in frames])
        self._note(calls)

    def _note(self, calls: Door) -> None:
        """Remember what was told about each request."""
        bodies = {wish.key: crash_records.says(wish.body) for wish in self._everything}
        for key, answer in calls.answers.items():
            is_ack = answer["op"] == "ack"
            if is_ack:
                self._acknowledged.add(key)
            elif answer["code"] != "UNKNOWN_ORDER":
                self._report.violations.append(f"{key} was refused: {answer}")
            self._told.append(
                Told(
                    principal=PRINCIPAL,
                    request_id=key,
                    body=bodies.get(key, ""),
                    task_id=answer["task_id"] if is_ack else "",
                    code="" if is_ack else answer["code"],
                )
            )

    def _is_nothing_under_way(self) -> bool:
        return not UNDER_WAY & {task["state"] for task in self._own.tasks()}

    def _is_quiet(self) -> bool:
        return not verdict.unsettled(self._own)


def _key_of(frame: dict[str, object]) -> str:
    return str(frame.get("request_id") or frame["client_order_id"])


def _price(quote: dict[str, Any], side: str, *, is_marketable: bool) -> str:
    """Return a price well across the quotes or well away from them, on a step of half a rupee."""
    is_buy = side == "BUY"
    best = Decimal(str(quote["sell" if is_buy == is_marketable else "buy"][0]["price"]))
    offset = Decimal("0.02") if is_marketable else Decimal("-0.10")
    wanted = best * (1 + (offset if is_buy else -offset))
    return f"{round(wanted * 2) / Decimal(2):.2f}"
