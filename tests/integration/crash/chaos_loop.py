"""Daemons of one account that are killed again and again under load, and the verdict in the end.

A chapter is one account's story: in each cycle a daemon starts, callers place orders and baskets, change,
cancel and repeat themselves, the broker may misbehave, and SIGKILL comes, at a named point or at any instant,
be the daemon at work, in recovery or not yet open. What one life left in doubt the next ones have
to settle, and they may be killed over it. Then peace: the last daemon lives, everything is settled,
what rests is cancelled, and the records of all lives are judged together.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import crash_records
from crash_parts import (
    PRINCIPAL,
    DaemonGone,
    Door,
    DoorBusy,
    cancel_frame,
    door,
    limit_order,
    place_frame,
    world,
)
from exactly_once import UNRESOLVED, Told, doubled, reached_broker, unsettled, violations
from running import eventually

from ticker_service.domain.order_state import LIVE, TERMINAL
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.crash_points import POINTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from crash_parts import Daemon, Lane, Servers, World
    from exactly_once import Records, Task

CYCLES: Final = 25
"""In one chapter: long enough for doubts to outlive several daemons."""
AFRESH: Final = 0.01
"""Share of the lives that begin as under a service manager; the others are forked, which costs a
tenth (`crash_nursery`)."""
LOAD_S: Final = 0.9
"""How long a life's requests are spread over; SIGKILL comes within, or a little later."""
OPEN_S_MAX: Final = 90.0
"""Started afresh on a machine with ten times more to do than it can, a daemon takes half a minute."""
DEATH_S: Final = 2.0
"""Until it is known that a daemon has died of its point."""
QUIET_S_MAX: Final = 180.0
IDLE: Final = "idle"
IN_MID_SEND: Final = ("C3", "C4", "C5", "C6")
MID_SEND_RATIO_MIN: Final = 0.1
CYCLES_MANY: Final = 50
SETTINGS: Final[dict[str, object]] = {"order_deadline_s": 5.0, "order_settle_after_s": 1.2}
"""Beside the scaled ones of `crash_parts`: time for a loaded machine to carry what has left."""
JOBS: Final = 0.2
"""So many of the callers' wishes are baskets."""
EXITS: Final = 0.08
"""So many are a purchase and an exit of all that is held by then."""
LEGGED: Final = 0.15
"""So many of the orders are cover orders or icebergs."""
HELD: Final = ("NSE", "TCS")
"""The share that exits close. Nobody else sells it, so its position may never be below zero."""
EXIT_ALL: Final[dict[str, object]] = {"exchange": HELD[0], "tradingsymbol": HELD[1]}
GIVEN_UP: Final = frozenset({"NOTHING_HELD", "REFUSED", "CANCELLED_BY_CALLER"})
"""Why an exit may be given up here: its purchase came to nothing, the broker refused it time and
again, or its caller cancelled it."""
STOP_AWAY: Final = Decimal("0.08")
"""Of the price, so far away is a cover order's stop; nearer than the prices that orders rest at."""
LARGE: Final = 2_000
"""More than the quotes hold at one price: filled in parts."""

Wishes = dict[str, dict[str, object]]

FAULTS: Final[tuple[tuple[str, dict[str, object]], ...]] = (
    ("accept_then_timeout", {"count": 1}),
    ("accept_then_timeout", {"answer_after_s": 0.3, "count": 3}),
    ("accept_then_5xx", {"count": 1}),
    ("accept_then_reset", {"count": 1}),
    ("accept_then_400_timeout", {"count": 1, "delay_ms": 300}),
    ("garbage_200", {"count": 1}),
    ("garbage_200", {"count": 1, "accept": False}),
    ("redirect_307", {"count": 1}),
    ("dribble", {"count": 1, "interval_ms": 20}),
    ("reject_5xx_before_accept", {"count": 1}),
    ("refuse_4xx", {"count": 1}),
    ("reject_at_exchange", {"count": 1}),
    ("slow_states", {"count": 2, "delay_ms": 400}),
    ("partial_fills", {"count": 3, "part": 2}),
    ("partial_fills", {"count": 3, "part": 7}),
    ("late_in_book", {"count": 2, "delay_ms": 600}),
    ("truncated_book", {"seconds": 1.5, "keep": 1}),
    ("truncated_book", {"seconds": 0.5}),
    ("stale_book", {"seconds": 1.0}),
    ("late_request", {"count": 2, "delay_ms": 300}),
    ("late_request", {"count": 1, "delay_ms": 700}),
    ("late_updates", {"count": 10, "delay_ms": 800}),
    ("drop_updates", {"count": 10}),
    ("duplicate_updates", {"count": 10}),
    ("shuffle_updates", {"count": 10}),
)
"""What a broker does in a life; an answer of the first kind comes late, the others never."""


@dataclass(slots=True, kw_only=True)
class Chapter:
    """What became of one account.

    Attributes:
        seed: What it was played from.
        log: The last daemon's log, if a promise was broken.
        story: Journal and ledger as they were left, if a promise was broken.
    """

    seed: str = ""
    cycles: int = 0
    afresh: int = 0
    orders: int = 0
    reached: int = 0
    doubled: int = 0
    lost: int = 0
    unknown_left: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    settle_ms: list[float] = field(default_factory=list)
    recovery_ms: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    log: str = ""
    story: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(
            {each.name: getattr(self, each.name) for each in fields(self)}, default=str
        )

    @classmethod
    def from_json(cls, line: str) -> Chapter:
        """Return what :meth:`to_json` wrote."""
        read = json.loads(line)
        for name in ("kinds", "ends", "kills"):
            read[name] = Counter(read.get(name, {}))
        return cls(**read)


def play(chance: Random, shared: Servers, one_lane: Lane, *, cycles: int = CYCLES) -> Chapter:
    """Play one chapter and judge it."""
    chapter = Chapter()
    with world(shared, one_lane) as own:
        story = _Story(chance, own, chapter)
        try:
            for _ in range(cycles):
                story.cycle()
                chapter.cycles += 1
            story.peace()
        except (DaemonGone, DoorBusy, AssertionError) as error:
            chapter.violations.append(f"{type(error).__name__}: {error}")
        finally:
            one_lane.lift_faults()
        if chapter.violations and own.daemons:
            chapter.log = "\n".join(each.log()[-20_000:] for each in own.daemons)
            chapter.story = {"told": [asdict(told) for told in story.told], **own.everything()}
    return chapter


class _Story:
    def __init__(self, chance: Random, own: World, chapter: Chapter) -> None:
        self._chance = chance
        self._own = own
        self._chapter = chapter
        self._wishes: Wishes = {}
        self.told: list[Told] = []
        self._task_ids: dict[str, str] = {}
        self._follow_ups: dict[str, dict[str, object]] = {}
        self._seen_sending: set[tuple[object, int]] = set()
        self._quote = own.quote()["depth"]
        self._ask_inr = Decimal(str(own.quote(HELD)["depth"]["sell"][0]["price"]))

    # --- one life -------------------------------------------------------------------------------

    def cycle(self) -> None:
        """Start a daemon, use it, and kill it."""
        chance = self._chance
        point = chance.choice((*POINTS, *("",) * (len(POINTS) + 2)))
        self._own.lane.lift_faults()
        if chance.random() < 0.6:
            fault, fields = chance.choice(FAULTS)
            self._own.strike(fault, **fields)
        is_afresh = chance.random() < AFRESH
        self._chapter.afresh += is_afresh
        daemon = self._start(is_afresh=is_afresh, kill_at=point)
        # Some are killed before they are open: over the recovery of the life before.
        within_s = chance.uniform(0.3, 1.0) if chance.random() < 0.1 else OPEN_S_MAX
        said: list[str] = []
        if self._opens(daemon, within_s=within_s):
            said = self._use(daemon, has_point=bool(point))
        elif within_s == OPEN_S_MAX and daemon.wait(DEATH_S) is None:
            raise AssertionError(f"the account did not open: {daemon.log()[-1500:]}")
        killed_ns = SystemClock().now_ns()
        status = daemon.wait(0.001)
        if status not in {None, -signal.SIGKILL}:
            raise AssertionError(f"the daemon ended with {status}: {daemon.log()[-1500:]}")
        daemon.kill()
        where = self._where(said, killed_ns) if status is None else point
        self._chapter.kills[where] += 1

    def _start(self, *, is_afresh: bool = False, **more: object) -> Daemon:
        self._began_s = time.monotonic()
        return self._own.start(is_afresh=is_afresh, **SETTINGS, **more)

    def _opens(self, daemon: Daemon, *, within_s: float) -> bool:
        try:
            is_open = daemon.opens(self._own.account, within_s=within_s)
        except DaemonGone:
            return False
        if is_open:
            self._chapter.recovery_ms.append(1e3 * (time.monotonic() - self._began_s))
        return is_open

    def _use(self, daemon: Daemon, *, has_point: bool) -> list[str]:
        """Send a life's requests until its time is over; return the keys that were sent."""
        frames = self._frames()
        said: list[str] = []
        try:
            with door(self._own, daemon) as calls:
                # One with a point dies of it, if it is reached at all; the others at any instant.
                lasts_s = 2 * LOAD_S if has_point else self._chance.uniform(0.0, LOAD_S)
                ends_s = time.monotonic() + lasts_s
                while time.monotonic() < ends_s and daemon.is_running():
                    frame = next(frames, None)
                    if frame is None:
                        calls.hear([*said], within_s=min(0.1, ends_s - time.monotonic()))
                        continue
                    said.append(self._say(calls, frame))
                self._note(calls, said)
        except (DaemonGone, DoorBusy):
            pass
        return said

    def _say(self, calls: Door, frame: dict[str, object]) -> str:
        key = _key_of(frame)
        calls.say(frame)
        calls.hear([key], within_s=self._chance.choice((0.001, 0.001, 0.02, 0.1)))
        return key

    def _frames(self) -> Any:
        """Yield what is asked for in one life: new orders, what follows of them, repeats."""
        chance = self._chance
        for _ in range(chance.randint(2, 6)):
            if chance.random() < 0.4:
                yield from self._repeats()
            if chance.random() < EXITS:
                yield self._wish(self._purchase())
                yield self._wish(EXIT_ALL)
                continue
            key = f"k{len(self._wishes)}"
            yield self._wish(self._job() if chance.random() < JOBS else self._order())
            if chance.random() < 0.3:
                yield self._follow_up(key, "modify")
            if self._is_cover(key) and chance.random() < 0.6:
                yield self._follow_up(key, "exit")
            if chance.random() < 0.4:
                yield self._follow_up(chance.choice(list(self._wishes)), "cancel")

    def _wish(self, wish: dict[str, object]) -> dict[str, object]:
        """Take a new wish and return the frame that asks for it."""
        key = f"k{len(self._wishes)}"
        self._wishes[key] = wish
        return self._place(key)

    def _is_cover(self, key: str) -> bool:
        return self._wishes[key].get("variety") == "co"

    def _repeats(self) -> list[dict[str, object]]:
        """Ask again what got no answer, and now and then what did; or misuse a key."""
        chance = self._chance
        answered = [key for key in self._wishes if key in self._task_ids]
        silent = [key for key in self._wishes if key not in self._task_ids]
        frames = [self._place(key) for key in chance.sample(silent, min(2, len(silent)))]
        if answered:
            frames.append(self._place(chance.choice(answered)))
        return frames

    def _place(self, key: str) -> dict[str, object]:
        wish = self._wishes[key]
        if "transaction_type" in wish:
            return place_frame(key, self._own.account, wish)
        op = "basket" if "legs" in wish else "exit"
        whose = {"client_order_id": key, "request_id": key, "account": self._own.account}
        return {"op": op, **whose, **wish}

    def _follow_up(self, key: str, op: str) -> dict[str, object]:
        frame = cancel_frame(key)
        name = f"{key}-{op}-{len(self._follow_ups)}"
        if op == "exit":
            frame = {**frame, "request_id": name, "exit": True}
        elif op == "modify":
            change = {"price": self._price("BUY", is_marketable=False)}
            if self._is_cover(key) and self._chance.random() < 0.5:
                side = str(self._wishes[key]["transaction_type"])
                change = {"trigger_price": self._stop(side, STOP_AWAY / 2)}
            frame = {**frame, "op": op, "request_id": name, "order": change}
        self._follow_ups[_key_of(frame)] = frame
        return frame

    def _order(self) -> dict[str, object]:
        """Return an order: a plain one, now and then a cover order or an iceberg."""
        order = self._plain()
        if self._chance.random() >= LEGGED:
            return order
        if self._chance.random() < 0.5:
            stop = self._stop(str(order["transaction_type"]), STOP_AWAY)
            return order | {"variety": "co", "trigger_price": stop}
        each, legs = self._chance.randint(1, 20), self._chance.randint(2, 4)
        cut = {"iceberg_legs": legs, "iceberg_quantity": each, "quantity": legs * each}
        return order | {"variety": "iceberg", **cut}

    def _purchase(self) -> dict[str, object]:
        """Return an order to buy what exits close."""
        price = round(self._ask_inr * Decimal("1.03"))
        return limit_order("BUY", self._chance.randint(1, 20), f"{price}.00", HELD)

    def _stop(self, side: str, away: Decimal) -> str:
        """Return a trigger for a cover order of a side, far enough away not to be reached."""
        best = Decimal(str(self._quote["buy" if side == "BUY" else "sell"][0]["price"]))
        factor = 1 - away if side == "BUY" else 1 + away
        return f"{round(best * factor * 2) / Decimal(2):.2f}"

    def _plain(self) -> dict[str, object]:
        chance = self._chance
        side = chance.choice(("BUY", "SELL"))
        quantity = LARGE if chance.random() < 0.05 else chance.randint(1, 20)
        return limit_order(side, quantity, self._price(side, is_marketable=chance.random() < 0.5))

    def _job(self) -> dict[str, object]:
        """Return a basket, some legs of it sliced orders."""
        chance = self._chance
        legs = [
            {"order": self._plain(), "slice": chance.random() < 0.3}
            for _ in range(chance.randint(2, 4))
        ]
        mode = chance.choice(("independent", "all_or_compensate"))
        return {"legs": legs, "mode": mode, "buys_first": chance.random() < 0.4}

    def _price(self, side: str, *, is_marketable: bool) -> str:
        """Return a price well across the quotes or well away, on a step of half a rupee."""
        is_buy = side == "BUY"
        best = Decimal(str(self._quote["sell" if is_buy == is_marketable else "buy"][0]["price"]))
        offset = Decimal(self._chance.choice(("0.02", "0.03")))
        away = offset if is_buy == is_marketable else -offset
        return f"{round(best * (1 + away) * 2) / Decimal(2):.2f}"

    def _note(self, calls: Door, said: list[str]) -> None:
        """Write down what was told about each request; nothing, where no answer came."""
        for key in dict.fromkeys(said):
            answer = calls.answers.get(key, {})
            is_ack = answer.get("op") == "ack"
            if is_ack:
                self._task_ids[key] = answer["task_id"]
            asked = self._wishes.get(key) or self._follow_ups[key].get("order") or {}
            self.told.append(
                Told(
                    principal=PRINCIPAL,
                    request_id=key,
                    body=crash_records.says(asked),
                    task_id=answer["task_id"] if is_ack else "",
                    code="" if is_ack else answer.get("code", ""),
                )
            )

    # --- where it died --------------------------------------------------------------------------

    def _where(self, said: list[str], killed_ns: int) -> str:
        """Return the point that the furthest instruction under way had reached.

        Without the daemon's help: from the journal and the ledger. C5 and C6, an answer that was
        read and one that was judged, look the same from here and are called C5.
        """
        tasks = self._own.tasks()
        sending = [task for task in tasks if task["state"] == "SENDING"]
        new = [
            task for task in sending if (task["task_id"], task["version"]) not in self._seen_sending
        ]
        self._seen_sending |= {(task["task_id"], task["version"]) for task in sending}
        if new:
            return max(self._how_far(task, killed_ns) for task in new)
        states = {task["state"] for task in tasks}
        known = {task["request_id"] for task in tasks}
        for state, point in (("READY", "C2"), ("RECEIVED", "C1")):
            if state in states:
                return point
        if set(said) - known - set(self._told_keys()):
            return "C0"
        return "C7" if len(self._own.stream()) < self._own.last_seq() else IDLE

    def _told_keys(self) -> list[str]:
        return [told.request_id for told in self.told if told.task_id or told.code]

    def _how_far(self, task: dict[str, Any], killed_ns: int) -> str:
        entries = self._own.ledger()
        mine = [
            entry
            for entry in entries
            if entry["kind"] == "received"
            and entry["method"] == task["kind"].lower()
            and (entry["tag"] == task["tag"] or self._is_target(task, entry["order_id"]))
            and entry["at_us"] * 1_000 >= task["intent_at"].timestamp() * 1e9 - 1_000
        ]
        if not mine:
            return "C3"
        answers = {entry["request"]: entry for entry in entries if entry["kind"] == "answered"}
        answer = answers.get(mine[-1]["number"])
        was_told = answer is not None and not answer["withheld"]
        return "C5" if was_told and answer["at_us"] * 1_000 < killed_ns else "C4"

    def _is_target(self, task: dict[str, Any], order_id: str | None) -> bool:
        if order_id is None or task["target_task_id"] is None:
            return False
        order_id = crash_records.first_legs(self._own.ledger()).get(order_id, order_id)
        (target,) = self._own.rows(
            "SELECT broker_order_id FROM order_task WHERE task_id = %s", task["target_task_id"]
        )
        return bool(target["broker_order_id"] == order_id)

    # --- the end --------------------------------------------------------------------------------

    def peace(self) -> None:
        """Let the last daemon settle everything, end what rests, and judge all of it."""
        own = self._own
        own.lane.lift_faults()
        daemon = self._start()
        if not self._opens(daemon, within_s=QUIET_S_MAX):
            raise AssertionError(f"the account did not open again: {daemon.log()[-1500:]}")
        # Three of four callers without an answer come back for one.
        silent = [key for key in self._wishes if key not in self._task_ids]
        self._ask_all(daemon, [self._place(k) for k in silent if self._chance.random() < 0.75])
        self._wait(lambda: self._is_settled() and not self._left())
        self._wait(lambda: self._ends_what_rests(daemon))
        self._wait(lambda: self._is_closed(daemon))
        self._wait(lambda: len(own.stream()) == own.last_seq())
        if not daemon.is_running():
            raise AssertionError(f"the daemon ended: {daemon.log()[-1500:]}")
        self._judge(crash_records.read(own, self.told, daemon))

    def _ends_what_rests(self, daemon: Daemon) -> bool:
        """Cancel it, and say whether nothing rests any more.

        Many cancels at once may wait beyond their deadline on a crowded machine, and are not sent.
        """
        resting = [
            task["client_order_id"]
            for task in self._own.tasks()
            if task["kind"] == "PLACE" and task["state"] in LIVE
        ]
        at = len(self._follow_ups)
        frames = [
            # The sign in the keys of a basket's orders is in no caller's own.
            {**cancel_frame(key), "request_id": f"{key.replace('~', '.')}-end-{at}"}
            for key in resting
        ]
        self._follow_ups |= {_key_of(frame): frame for frame in frames}
        self._ask_all(daemon, frames)
        self._wait(lambda: self._is_settled() and not self._left())
        return not self._unended()

    def _is_closed(self, daemon: Daemon) -> bool:
        """Close what cover orders and purchases have left open, and say whether nothing is."""
        stands = self._stands()
        covers = [
            task["client_order_id"]
            for task in self._own.tasks()
            if task["broker_order_id"] in stands
        ]
        frames = [self._follow_up(key, "exit") for key in covers]
        if self._net()[-1:] not in ([], [0]):
            frames.append(self._wish(EXIT_ALL))
        self._ask_all(daemon, frames)
        self._wait(lambda: self._is_settled() and not self._unended() and not self._left())
        return not self._stands() and self._net()[-1:] in ([], [0])

    def _stands(self) -> set[str]:
        """Return the cover orders of which a stop stands, by their order ids."""
        found = crash_records.orders(self._own.ledger()).values()
        return {
            each.parent_order_id for each in found if each.parent_order_id and each.state in LIVE
        }

    def _net(self) -> list[int]:
        return crash_records.net_after_each_trade(self._own.ledger(), HELD[1])

    def _ask_all(self, daemon: Daemon, frames: list[dict[str, object]]) -> None:
        with door(self._own, daemon) as calls:
            for frame in frames:
                calls.say(frame)
            calls.hear([_key_of(frame) for frame in frames])
            self._note(calls, [_key_of(frame) for frame in frames])

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait for it; if it does not come, the verdict says what is missing."""
        eventually(condition, within_s=QUIET_S_MAX)

    def _is_settled(self) -> bool:
        """Whether it is worth while to read all there is."""
        return not UNRESOLVED & {task["state"] for task in self._own.tasks()}

    def _left(self) -> list[str]:
        return unsettled(crash_records.read(self._own, self.told))

    def _unended(self) -> bool:
        return any(
            task["kind"] in {"PLACE", "BASKET", "EXIT"} and task["state"] not in TERMINAL
            for task in self._own.tasks()
        )

    def _judge(self, records: Records) -> None:
        chapter = self._chapter
        placed = records.kinds("PLACE")
        left = [f"I3: {task.name} is {task.state}" for task in placed if task.state in LIVE]
        chapter.violations += violations(records) + left + self._closed()
        chapter.orders = len(placed)
        chapter.reached = reached_broker(records)
        chapter.doubled = len(doubled(records))
        chapter.lost = sum(sentence.startswith(("I3", "I5")) for sentence in chapter.violations)
        chapter.unknown_left = sum(task.state in UNRESOLVED for task in records.tasks)
        chapter.ends = Counter(task.state.value for task in placed)
        chapter.kinds = Counter(_kind_of(task) for task in records.tasks)
        chapter.settle_ms = [
            1e3 * float(row["settled_s"])
            for row in self._own.rows(_DOUBTS, self._own.account)
            if row["settled_s"] is not None
        ]

    def _closed(self) -> list[str]:
        """I19: no exit sold more than was held, each ended with a reason, and nothing is left."""
        given_up = [
            f"I19: the exit {task['client_order_id']} was given up: {task['reason_code']}"
            for task in self._own.tasks()
            if task["kind"] == "EXIT"
            and task["state"] == "ESCALATED"
            and task["reason_code"] not in GIVEN_UP
        ]
        net = self._net()
        flipped = [f"I19: {HELD[1]} went to {min(net)}"] if min(net, default=0) < 0 else []
        left = [f"I19: {net[-1]} of {HELD[1]} are left"] if net and net[-1] else []
        return (
            given_up + flipped + left + [f"I19: a stop of {each} stands" for each in self._stands()]
        )


_DOUBTS: Final = """
    SELECT extract(epoch FROM after.at - doubt.at) AS settled_s
    FROM order_event AS doubt
    LEFT JOIN order_event AS after
        ON after.task_id = doubt.task_id AND after.version = doubt.version + 1
    WHERE doubt.account = %s AND doubt.state = 'UNKNOWN'
"""


def _kind_of(task: Task) -> str:
    """Return what a task is: of an order its variety, a part of a job apart; else its kind."""
    if task.kind != "PLACE":
        return task.asks
    return "part" if task.job_id else task.form["variety"]


def _key_of(frame: dict[str, object]) -> str:
    return str(frame.get("request_id") or frame["client_order_id"])


def totals(chapters: Sequence[Chapter]) -> dict[str, Any]:
    """Return the figures of many chapters."""
    kills = sum((chapter.kills for chapter in chapters), Counter[str]())
    kinds = sum((chapter.kinds for chapter in chapters), Counter[str]())
    ends = sum((chapter.ends for chapter in chapters), Counter[str]())
    in_mid_send = sum(kills[point] for point in IN_MID_SEND)
    return {
        "cycles": sum(chapter.cycles for chapter in chapters),
        "afresh": sum(chapter.afresh for chapter in chapters),
        "orders": sum(chapter.orders for chapter in chapters),
        "reached_broker": sum(chapter.reached for chapter in chapters),
        "doubled": sum(chapter.doubled for chapter in chapters),
        "lost": sum(chapter.lost for chapter in chapters),
        "unknown_left": sum(chapter.unknown_left for chapter in chapters),
        "violations": sum(len(chapter.violations) for chapter in chapters),
        "not_placed": ends["NOT_PLACED"],
        "expired": ends["EXPIRED"],
        "kinds": dict(kinds.most_common()),
        "ends": dict(ends.most_common()),
        "kills_per_point": dict(sorted(kills.items())),
        "kills_in_mid_send_ratio": round(in_mid_send / max(kills.total(), 1), 3),
        **_spread("settle_ms", [each for chapter in chapters for each in chapter.settle_ms]),
        **_spread("recovery_ms", [each for chapter in chapters for each in chapter.recovery_ms]),
    }


def is_proof(figures: dict[str, Any]) -> bool:
    """Return whether no promise was broken, in a run that tried them.

    At least half of the orders must have reached the broker, and a tenth of the kills must have come
    between intent and outcome; few cycles are not asked for that, as chance may have it otherwise.
    """
    kept = not any(figures[name] for name in ("doubled", "lost", "unknown_left", "violations"))
    is_many = figures["cycles"] >= CYCLES_MANY
    tried = (
        2 * figures["reached_broker"] >= figures["orders"]
        and figures["kills_in_mid_send_ratio"] >= MID_SEND_RATIO_MIN
    )
    return bool(figures["cycles"]) and kept and (tried or not is_many)


def _spread(name: str, values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    ranks = {"p50": 0.5, "p99": 0.99}
    return {
        f"{name}_{label}": round(ordered[min(int(rank * len(ordered)), len(ordered) - 1)], 1)
        for label, rank in ranks.items()
    }
