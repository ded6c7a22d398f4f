"""A broker that misbehaves by chance, and the line to it: what is sent, what has effect, what is told.

The book is a `ScriptedBroker`, shared by all processes. Each request draws a mood: how long it is
on its way, whether it has its effect, what is answered and when. What the daemon's proof of absence
rests on is kept: an order is in the book, with or without its tag, at the latest `SURFACES` of
``settle_after_s`` after it left; and a book that lacks rows lacks one that the daemon has seen.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from exactly_once import Held, Post
from sim_callers import FUTURE, body_text

from ticker_service.constants import NS_PER_S
from ticker_service.domain.kill_switch import KillLevel
from ticker_service.domain.order import BrokerOrder, TaskKind, to_fields
from ticker_service.domain.portfolio import BrokerPosition, PositionKey
from ticker_service.errors import BrokerUnavailable
from ticker_service.ports import NO_TURN, Reply, Withheld
from ticker_service.testing import Answer, ScriptedBroker, Sent, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sim_world import Process, World

    from ticker_service.domain.kill_switch import KillSwitch
    from ticker_service.domain.order import OrderChange, OrderRequest, Variety
    from ticker_service.domain.portfolio import BrokerTrade
    from ticker_service.domain.risk_input import OrderMargin

SURFACES: Final = 0.8
OVERNIGHT: Final = 150
"""Held before the first order of the one instrument that everybody trades."""
SHARE_KEY: Final = PositionKey("NSE", "INFY", "MIS")
FUTURE_KEY: Final = PositionKey("NFO", FUTURE, "MIS")
KEYS: Final = {key.tradingsymbol: key for key in (SHARE_KEY, FUTURE_KEY)}
ENDED: Final = frozenset({"COMPLETE", "CANCELLED", "REJECTED"})
NEVER_NS: Final = 1 << 62


NOTHING: Final = Held(at_ns=0, order_id="", quantity=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """How often somebody traded in another app, and how often an order of no exit left here."""

    elsewhere: int = 0
    here: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Whether a request is an exit's, and what had happened when its intent was durable.

    Its sender looks at the positions after that, and sees all that was before.
    """

    is_exit: bool = False
    hands: Hands = Hands()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood:
    """What becomes of one request; ``reply`` of None is the plain yes or no."""

    name: str
    there_s: float = 0.005
    back_s: float = 0.005
    leaves: bool = True
    takes_effect: bool = True
    reply: Reply | None = None
    is_answered: bool = True
    answers_first: bool = False
    """Answered at once, and taken later."""


class SimBroker(ScriptedBroker):
    """The broker's own side: its book, the life of each order, and what it wrote down."""

    def __init__(self, world: World, *, surfaces_s: float, user_id: str = "AB1234") -> None:
        super().__init__(world.clock, user_id=user_id)
        self.world = world
        self.user_id = user_id
        self.posts: list[Post] = []
        self.is_moody = True
        self.surfaces_s = surfaces_s
        self.visible_at_ns: dict[str, int] = {}
        self.known: Callable[[str], bool] = lambda _: True
        """Whether the daemon's journal has an order id."""
        self.updated: Callable[[BrokerOrder], None] = lambda _: None
        self.stopped_by: Callable[[], Sequence[KillSwitch]] = tuple
        """The kill switches that stand."""
        self.travelling: dict[object, tuple[TaskKind, str, dict[str, str]]] = {}
        """What has left and has not come: kind, tag or order id, and form."""
        self.breaches: list[str] = []
        """What left against somebody's word."""
        self.nulled_tags = False
        self.is_short = False
        """The book lacks what it lacked before, and what is new."""
        self._lacks: set[str] = set()
        self.shown: dict[str, list[BrokerOrder]] = {}
        """Every state of each order, by its tag; those of another app have none."""
        self.hands = Hands()
        """How often somebody else has traded, and how often what is of no exit has left."""
        self.looked: Callable[[TaskKind, str], Looked] = lambda *_: Looked()
        """What a request's sender can know, by its kind and its tag or order id."""
        self.holdings: dict[str, list[Held]] = {
            ":".join(SHARE_KEY): [Held(at_ns=0, order_id="", quantity=OVERNIGHT)]
        }
        """What was held of each position, with every fill that changed it."""
        self.on_sent = self._took_effect

    def change(self, order_id: str, **fields: object) -> BrokerOrder:
        """Change an order's row, and remember that it was so."""
        before = self.book[order_id].filled_quantity
        row = super().change(order_id, **fields)
        for tag in row.tags:
            self.shown.setdefault(tag, []).append(row)
        if row.filled_quantity > before:
            self._count(row, row.filled_quantity - before)
        return row

    def held(self, key: PositionKey) -> int:
        """Return what is held of a position now."""
        return self.holdings.get(":".join(key), [NOTHING])[-1].quantity

    def _count(self, row: BrokerOrder, quantity: int) -> None:
        key = PositionKey(row.exchange, row.tradingsymbol, row.product)
        more = quantity if row.transaction_type == "BUY" else -quantity
        held = Held(
            at_ns=self.world.clock.monotonic_ns(),
            order_id=row.order_id,
            quantity=self.held(key) + more,
        )
        self.holdings.setdefault(":".join(key), [NOTHING]).append(held)

    # --- requests ---------------------------------------------------------------------------

    async def serve(
        self,
        kind: TaskKind,
        what: str,
        body: str,
        mood: Mood,
        left_ns: int,
        ask: Callable[[ScriptedBroker], Awaitable[Reply]],
    ) -> Reply:
        """Take one request as its mood says, and write it down."""
        before = len(self.book)
        was_live = self._was_live = self._is_live(what)
        self.answers.clear()  # a refused token left the last one unused
        self.answers.append(Answer(reply=mood.reply, takes_effect=mood.takes_effect))
        reply = await ask(self)
        is_place = kind is TaskKind.PLACE
        is_order = len(self.book) > before
        post = Post(
            kind=kind,
            at_ns=self.world.clock.monotonic_ns(),
            took_effect=is_order if is_place else was_live and self._last.takes_effect,
            tag=what if is_place else "",
            target="" if is_place else what,
            order_id=next(reversed(self.book)) if is_order else "",
            body=body,
            left_at_ns=left_ns,
        )
        self.posts.append(post)
        self.world.tell("broker", f"{kind} {what} {mood.name}: effect={post.took_effect}")
        return reply

    def watch_leaving(self, kind: TaskKind, what: str, form: dict[str, str]) -> None:
        """Write down what leaves against a kill switch's word (I12), or an exit's (I19)."""
        if kind is TaskKind.CANCEL:
            return
        levels = {each.level for each in self.stopped_by()}
        looked = self.looked(kind, what)
        is_seen = looked.hands.elsewhere == self.hands.elsewhere
        if not looked.is_exit:
            self.hands = replace(self.hands, here=self.hands.here + 1)
        elif looked.hands != self.hands:
            self.world.met["exit_overtaken"] += 1  # what no look could see, as docs/exits.md says
        elif not self._only_reduces(kind, what, form):
            self.breaches.append(f"I19: {kind} {what} left and could turn its position round")
        else:
            self.world.met["exit_reduces"] += 1
        if kind is TaskKind.MODIFY:
            levels -= {KillLevel.BLOCK_NEW}
        if not levels:
            return
        if not levels <= {KillLevel.BLOCK_NEW, KillLevel.REDUCE_ONLY}:
            self.breaches.append(f"I12: {kind} {what} left while a kill switch stood")
        elif is_seen and not self._only_reduces(kind, what, form):
            self.breaches.append(f"I12: {kind} {what} left and could do more than reduce")
        else:
            self.world.met["reduced_under_a_switch"] += 1

    def _only_reduces(self, kind: TaskKind, what: str, form: dict[str, str]) -> bool:
        """Return whether the position keeps its sign, whatever of this and of all else fills.

        By what the broker itself knows at this moment, and what has left and is to come to it.
        """
        if kind is TaskKind.MODIFY:
            row = self.book[what]
            if row.status in ENDED:
                return True  # it can do nothing any more, and neither can a change of it
            if set(form) == {"quantity"} and int(form["quantity"]) < row.quantity:
                return True
            symbol, side = row.tradingsymbol, row.transaction_type
        else:
            symbol, side = form["tradingsymbol"], form["transaction_type"]
        rows = [row for row in self.book.values() if row.tradingsymbol == symbol]
        held = self.held(KEYS[symbol])
        sizes = {row.order_id: row.quantity for row in rows if row.status not in ENDED}
        sides = {row.order_id: row.transaction_type for row in rows}
        filled = {row.order_id: row.filled_quantity for row in rows}
        for each, about, asked in [*self.travelling.values(), (kind, what, form)]:
            if each is TaskKind.PLACE and asked["tradingsymbol"] == symbol:
                sizes[about], sides[about] = int(asked["quantity"]), asked["transaction_type"]
            elif each is TaskKind.MODIFY and about in sizes and "quantity" in asked:
                sizes[about] = max(sizes[about], int(asked["quantity"]))
        under_way = sum(
            max(size - filled.get(order, 0), 0)
            for order, size in sizes.items()
            if sides[order] == side
        )
        return (side == "SELL") == (held > 0) and under_way <= abs(held)

    async def positions(self) -> Sequence[BrokerPosition]:
        """Return what was carried into the day with what the fills made of it."""
        carried = SHARE_KEY
        traded = {each.key: each for each in await super().positions()}
        quantity = OVERNIGHT + (traded[carried].quantity if carried in traded else 0)
        held = BrokerPosition(key=carried, quantity=quantity, overnight_quantity=OVERNIGHT)
        return [*(traded | {carried: held}).values()]

    async def _took_effect(self, sent: Sent) -> None:
        """Give the order that was just placed, changed or cancelled its interim state and life."""
        if not self._last.takes_effect:
            return
        if sent.kind is TaskKind.PLACE:
            order_id = next(reversed(self.book))
            self.change(order_id, status="PUT ORDER REQ RECEIVED")
            hidden_s = self._hidden_s()
            self.visible_at_ns[order_id] = self.world.clock.monotonic_ns() + int(
                hidden_s * NS_PER_S
            )
            self.world.apart(lambda: self._live(order_id))
        elif self._was_live:
            self._be_changed(sent)

    def _be_changed(self, sent: Sent) -> None:
        row = self.book[sent.what]
        if sent.kind is TaskKind.MODIFY:
            if row.filled_quantity >= row.quantity:
                row = self.change(sent.what, status="COMPLETE")
            else:
                is_market = row.order_type == "MARKET"
                row = self.change(sent.what, **(self._as_limit() if is_market else {}))
                self.world.apart(lambda: self._trade(sent.what))
            self.updated(row)
            return
        self.change(sent.what, status="CANCEL PENDING")
        self.world.apart(lambda: self._cancel(sent.what))

    _last = Answer()
    _was_live = False

    def _answer(self) -> Answer:
        self._last = super()._answer()
        return self._last

    # --- the life of an order -----------------------------------------------------------------

    async def _live(self, order_id: str) -> None:
        chance, calm = self.world.chance, not self.is_moody
        slow = 0.02 if calm or chance.random() < 0.7 else 2.0
        for status in ("VALIDATION PENDING", "OPEN PENDING"):
            await asyncio.sleep(chance.uniform(0.0, slow))
            self._turn(order_id, status)
        await asyncio.sleep(chance.uniform(0.0, slow))
        if chance.random() < 0.1:
            self._turn(order_id, "REJECTED", status_message="16387 : not allowed to trade")
            return
        is_market = self.book[order_id].order_type == "MARKET"
        self._turn(order_id, "OPEN", **(self._as_limit() if is_market else {}))
        await self._trade(order_id)

    async def _trade(self, order_id: str) -> None:
        chance = self.world.chance
        for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
            await asyncio.sleep(chance.uniform(0.0, 4.0))
            self.fill(order_id, chance.randint(1, 60))

    def _as_limit(self) -> dict[str, object]:
        """Return what Kite makes of MARKET: a LIMIT at the end of its band (kite.md §2.3)."""
        return {
            "order_type": "LIMIT",
            "price": Decimal(self.world.chance.randint(1_980, 2_020)) / 20,
        }

    def _turn(self, order_id: str, status: str, **more: object) -> None:
        row = self.book[order_id]
        if row.status in ENDED or row.status == "CANCEL PENDING":
            return
        row = self.change(order_id, status=status, **more)
        if status in ENDED:
            self.updated(row)

    def fill(self, order_id: str, quantity: int) -> None:
        """Fill so much of an order, or what is left of it, if it has not ended."""
        row = self.book[order_id]
        if row.status in ENDED:
            return
        filled = min(row.filled_quantity + quantity, row.quantity)
        is_whole = filled >= row.quantity
        if filled <= row.filled_quantity and not is_whole:
            return
        price = Decimal(100) + Decimal(filled) / 20
        row = self.change(
            order_id,
            filled_quantity=max(filled, row.filled_quantity),
            average_price=price if filled > row.filled_quantity else row.average_price,
            status="COMPLETE" if is_whole else row.status,
        )
        shown = row if is_whole else replace(row, status="UPDATE")
        self.updated(shown)

    async def _cancel(self, order_id: str) -> None:
        await asyncio.sleep(self.world.chance.uniform(0.0, 1.5 if self.is_moody else 0.05))
        row = self.book[order_id]
        if row.status not in ENDED:
            self.updated(self.change(order_id, status="CANCELLED"))

    # --- the book -----------------------------------------------------------------------------

    async def read_book(self) -> Sequence[BrokerOrder]:
        """Return the book as it may come: late, short, without tags, or not at all."""
        chance = self.world.chance
        now_ns = self.world.clock.monotonic_ns()
        rows = [
            row
            for row in await self.orders()
            if not self.is_moody or self.visible_at_ns[row.order_id] <= now_ns
        ]
        if not self.is_moody:
            return rows
        drawn = chance.random()
        if drawn < 0.05:
            self.world.met["book_unavailable"] += 1
            raise BrokerUnavailable("told to be down")
        if rows and (self.is_short or drawn < 0.2):
            rows = self._shortened(rows)
        if drawn > 0.94 and rows:
            self.world.met["book_null_tags"] += 1
            self.nulled_tags = True
            rows = [replace(row, tags=()) for row in rows]
        if chance.random() < 0.2:
            self.world.met["book_late"] += 1
            await asyncio.sleep(chance.uniform(0.0, 1.0))
        return rows

    def _shortened(self, rows: Sequence[BrokerOrder]) -> list[BrokerOrder]:
        chance = self.world.chance
        if not self.is_short or not self._lacks:
            share = chance.choice((0.5, 1.0, 1.0))
            self._lacks = {row.order_id for row in rows if chance.random() < share}
        newest = max(self._lacks, default="")
        kept = [row for row in rows if row.order_id not in self._lacks and row.order_id <= newest]
        # Without a row that the journal knows, nobody could tell it from a whole one.
        if all(row in kept or not self.known(row.order_id) for row in rows):
            return list(rows)
        self.world.met["book_truncated"] += 1
        return kept

    def mood(self, kind: TaskKind, request_s: float) -> Mood:
        """Draw what becomes of the next request."""
        if not self.is_moody or self.world.happens(0.35):
            return Mood(name="acks")
        drawn = self.world.chance.choice(MOODS)
        self.world.met[f"mood_{drawn.__name__.strip('_')}"] += 1
        return drawn(self.world.chance.uniform(0.0, 1.0), request_s, self._late_s(kind))

    def _late_s(self, kind: TaskKind) -> float:
        # A change or cancel that is on its way for longer than the answer is waited for would be
        # one whose absence no book can prove; orders surface late, changes of them were never seen.
        return self.surfaces_s * (0.5 if kind is TaskKind.PLACE else 0.3)

    def _hidden_s(self) -> float:
        if not self.is_moody or self.world.happens(0.8):
            return 0.0
        self.world.met["late_in_book"] += 1
        return self.world.chance.uniform(0.0, self.surfaces_s * 0.5)


class Line:
    """A ``BrokerGateway`` of one process: what it writes travels on when the process dies."""

    def __init__(self, process: Process, broker: SimBroker, *, request_s: float) -> None:
        self._process = process
        self._world = process.world
        self._broker = broker
        self._request_s = request_s

    async def place(
        self,
        request: OrderRequest,
        *,
        tag: str,
        deadline_ns: int,
        leave_by_ns: int | None = None,  # noqa: ARG002 - what leaves here leaves at once
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one new order."""
        return await self._send(
            TaskKind.PLACE,
            tag,
            to_fields(request),
            deadline_ns,
            may_leave,
            lambda broker: broker.place(request, tag=tag, deadline_ns=NEVER_NS),
        )

    async def modify(
        self,
        order_id: str,
        variety: Variety,
        change: OrderChange,
        *,
        parent_order_id: str | None = None,  # noqa: ARG002 - no legs here
        deadline_ns: int,
        leave_by_ns: int | None = None,  # noqa: ARG002 - what leaves here leaves at once
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one change."""
        return await self._send(
            TaskKind.MODIFY,
            order_id,
            to_fields(change),
            deadline_ns,
            may_leave,
            lambda broker: broker.modify(order_id, variety, change, deadline_ns=NEVER_NS),
        )

    async def cancel(
        self,
        order_id: str,
        variety: Variety,
        *,
        parent_order_id: str | None = None,  # noqa: ARG002 - no legs here
        deadline_ns: int,
        leave_by_ns: int | None = None,  # noqa: ARG002 - what leaves here leaves at once
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one cancel."""
        return await self._send(
            TaskKind.CANCEL,
            order_id,
            {},
            deadline_ns,
            may_leave,
            lambda broker: broker.cancel(order_id, variety, deadline_ns=NEVER_NS),
        )

    async def orders(self) -> Sequence[BrokerOrder]:
        """Read the day's book."""
        self._process.step("book asked")
        rows = await self._broker.read_book()
        self._process.step("book read")
        return rows

    async def order_history(self, order_id: str) -> Sequence[BrokerOrder]:
        """Return the one state of an order that is kept."""
        return [row for row in await self.orders() if row.order_id == order_id]

    async def trades(self) -> Sequence[BrokerTrade]:
        """Read the day's fills."""
        return await self._broker.trades()

    async def positions(self) -> Sequence[BrokerPosition]:
        """Read the net positions."""
        return await self._broker.positions()

    async def order_margin(self, request: OrderRequest) -> OrderMargin:
        """Read what an order needs and what is free."""
        return await self._broker.order_margin(request)

    def order_update(self, data: object) -> BrokerOrder | None:
        """Take a row as an update of this user."""
        return self._broker.order_update(data)

    async def close(self) -> None:
        """Give nothing back."""

    async def _send(
        self,
        kind: TaskKind,
        what: str,
        form: dict[str, str],
        deadline_ns: int,
        may_leave: Callable[[], bool] | None,
        ask: Callable[[ScriptedBroker], Awaitable[Reply]],
    ) -> Reply:
        self._process.step(f"{kind} about to leave")
        mood = self._broker.mood(kind, self._request_s)
        if not mood.leaves:
            self._world.tell(self._process.name, f"{kind} {what} cannot leave")
            return Reply(withheld=Withheld.NOTHING_LEFT, failure="connection refused")
        if may_leave is not None and not may_leave():
            return Reply(withheld=Withheld.NOTHING_LEFT, failure=NO_TURN)
        self._broker.watch_leaving(kind, what, form)
        left_ns, left = self._world.clock.monotonic_ns(), object()
        self._broker.travelling[left] = (kind, what, form)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        async def travel() -> None:
            if mood.answers_first and mood.reply is not None and not answer.done():
                answer.set_result(mood.reply)
            await asyncio.sleep(mood.there_s)
            body = body_text(form) if form else ""
            reply = await self._broker.serve(kind, what, body, mood, left_ns, ask)
            self._broker.travelling.pop(left, None)
            await asyncio.sleep(mood.back_s)
            if mood.is_answered and not answer.done():
                answer.set_result(reply)

        self._world.apart(travel)
        # Told to die here, it dies with its request on the way.
        self._process.step(f"{kind} has left")
        within_s = (deadline_ns - self._world.clock.monotonic_ns()) / NS_PER_S
        try:
            async with asyncio.timeout(within_s):
                reply = await answer
        except TimeoutError:
            reply = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer in time")
        self._process.step(f"{kind} answered")
        return reply


# Each mood is drawn with a number from 0 to 1, how long an answer is waited for, and how late the
# request may come to the broker at most.


def _rejected(_: float, __: float, ___: float) -> Mood:
    reply = refusal(400, "InputException", "invalid lot size")
    return Mood(name="rejects", takes_effect=False, reply=reply)


def _refused_margin(_: float, __: float, ___: float) -> Mood:
    reply = refusal(400, "MarginException", "insufficient funds")
    return Mood(name="lacks margin", takes_effect=False, reply=reply)


def _unreachable(_: float, __: float, ___: float) -> Mood:
    return Mood(name="unreachable", leaves=False)


def _throttled(_: float, __: float, ___: float) -> Mood:
    reply = refusal(429, "NetworkException", "Too many requests")
    return Mood(name="throttles", takes_effect=False, reply=reply)


def _failed_before(_: float, __: float, ___: float) -> Mood:
    reply = refusal(503, "NetworkException", "Request failed (kitetrade-oms)")
    return Mood(name="fails before acceptance", takes_effect=False, reply=reply)


def _failed_after(_: float, __: float, ___: float) -> Mood:
    return Mood(name="fails after acceptance", reply=refusal(502, "DataException"))


def _order_exception_after(_: float, __: float, ___: float) -> Mood:
    return Mood(name="OrderException after acceptance", reply=refusal(500, "OrderException"))


def _garbled(_: float, __: float, ___: float) -> Mood:
    return Mood(name="garbles its yes", reply=Reply(http_status=200, content_type="text/html"))


def _redirected(_: float, __: float, ___: float) -> Mood:
    return Mood(name="redirects", reply=Reply(http_status=307))


def _silent_before(_: float, __: float, ___: float) -> Mood:
    return Mood(name="swallows", takes_effect=False, is_answered=False)


def _silent_after(_: float, __: float, ___: float) -> Mood:
    return Mood(name="accepts in silence", is_answered=False)


def _late_there(drawn: float, _: float, late_s: float) -> Mood:
    return Mood(name="is reached late", there_s=drawn * late_s, is_answered=drawn < 0.5)


def _late_back(drawn: float, request_s: float, _: float) -> Mood:
    return Mood(name="answers late", back_s=drawn * 1.5 * request_s)


def _timed_out_400(drawn: float, _: float, late_s: float) -> Mood:
    # The refusal comes at once and the order later: the answer is no proof.
    message = "Order request timed out. Please check the order book and confirm before placing"
    return Mood(
        name="says 400 timed out",
        there_s=drawn * late_s,
        reply=refusal(400, "InputException", message),
        answers_first=True,
    )


def _vague_400(_: float, __: float, ___: float) -> Mood:
    reply = refusal(400, "NetworkException", "Request failed (kitetrade-oms)")
    return Mood(name="is vague after acceptance", reply=reply)


MOODS: Final[tuple[Any, ...]] = (
    _rejected,
    _refused_margin,
    _unreachable,
    _throttled,
    _failed_before,
    _failed_after,
    _order_exception_after,
    _garbled,
    _redirected,
    _silent_before,
    _silent_after,
    _late_there,
    _late_back,
    _timed_out_400,
    _vague_400,
)
