"""Step the exits of one account: what is sent next to close its positions, and when it is over.

Path of a job: admit -> journal -> [step] -> its orders. The plan is `domain.exit`; here it is given
the broker's position as it stands, with everything under way. Nothing is kept in memory that an
exit needs: whoever takes the account goes on from the journal and the broker's books. An exit's
orders are held against the position once more before their first byte (`orders.holds`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.closing import key_of
from ticker_service.domain.contracts import IN_UNITS
from ticker_service.domain.exit import (
    LegMoves,
    LegView,
    ending_moves,
    evidence,
    exit_of,
    leg_moves,
    market_was_refused,
    order_for,
    repricing,
)
from ticker_service.domain.job import (
    EXHAUSTED,
    EXIT_LEGS,
    HELD_BEFORE,
    KILLED,
    REPORT,
    Moves,
    Part,
    part_key,
    refused_parts,
)
from ticker_service.domain.order import OrderType, Product, TaskKind, TaskUpdate
from ticker_service.domain.order_state import IN_DOUBT, TERMINAL, TaskState, state_of
from ticker_service.domain.portfolio import PositionKey
from ticker_service.domain.risk import RiskLimits
from ticker_service.errors import BrokerUnavailable, LoginRequired
from ticker_service.orders import exit_prices
from ticker_service.orders.admit import freeze_quantity
from ticker_service.orders.positions import FRESH_S
from ticker_service.orders.varieties import SHARES

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence

    from ticker_service.domain.contracts import Contract, Contracts
    from ticker_service.domain.exit import Exit
    from ticker_service.domain.order import Account, OrderChange, OrderTask
    from ticker_service.domain.risk_input import ReferencePrice
    from ticker_service.errors import OrderRefused
    from ticker_service.orders.positions import Look, Positions
    from ticker_service.ports import LastPrices
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

LEGS_MAX: Final = 200
BLIND_S_MAX: Final = 60.0
"""So long after its time an exit waits for positions that cannot be read."""
UNWANTED_S_MAX: Final = 10.0
"""What an exit wants cancelled is forgotten if nobody steps it for so long."""
SURE_S: Final = 2.0
"""A position that seems to be closed is looked at again when its reading is older."""
_PRODUCTS: Final = frozenset(Product)
CODE_TIMED_OUT: Final = "EXIT_TIMED_OUT"
CODE_NOT_CLOSABLE: Final = "NOT_CLOSABLE"
CODE_POSITION_UNKNOWN: Final = "POSITION_UNKNOWN"
CODE_DENIED: Final = "DENIED"
CODE_BAND_EXHAUSTED: Final = "BAND_EXHAUSTED"
CODE_KILL_SWITCH: Final = "KILL_SWITCH"
_STOPS: Final = {KILLED: CODE_KILL_SWITCH, EXHAUSTED: CODE_BAND_EXHAUSTED}
"""What is kept of a position for which nothing more is sent, and the exit's code for it."""
CODE_NOT_FLAT: Final = "NOT_FLAT"
CODE_NOTHING_HELD: Final = "NOTHING_HELD"
NAMES_TOLD_MAX: Final = 10


class Exits:
    """One account's; stepped by `orders.jobs`."""

    def __init__(
        self,
        account: Account,
        positions: Positions,
        *,
        contracts: Callable[[], Contracts | None],
        freeze: Callable[[], Mapping[str, int]],
        clock: Clock,
        prices: LastPrices | None = None,
    ) -> None:
        """Take the parts.

        Args:
            account: Whose.
            positions: What is held, and what is under way.
            contracts: The day's instruments, None while they are not known.
            freeze: The largest quantity of one order in derivatives of a name.
            clock: Tells how old a word of an exit is.
            prices: What instruments last traded at; None where that is not to be had, and then an
                exit sends MARKET alone.
        """
        self._account = account
        self._positions = positions
        self._contracts = contracts
        self._freeze = freeze
        self._clock = clock
        self._prices = prices
        self.limits: Callable[[], RiskLimits] = RiskLimits
        """The risk limits in force; orders are cut so that they pass."""
        self.stopped: Callable[[str], OrderRefused | None] = _not_stopped
        """Why a symbol's orders, or with none the account's, do not leave even if they only reduce
        a position: a halt, or a kill switch, until a person releases it."""
        self._unwanted: dict[uuid.UUID, tuple[int, frozenset[str]]] = {}
        """By exit, and when it was said, monotonic ns: one that another daemon ended is silent."""
        self._stepped: set[uuid.UUID] = set()
        """The exits that are open; no order of one is another's to cancel."""

    def is_open(self, job_id: uuid.UUID | None) -> bool:
        """Return whether a job is an exit that is being stepped."""
        return job_id in self._stepped

    def unwanted(self) -> frozenset[str]:
        """Return the broker's ids of the orders that open exits want cancelled."""
        since_ns = self._clock.monotonic_ns() - _ns(UNWANTED_S_MAX)
        said = (ids for said_ns, ids in self._unwanted.values() if said_ns >= since_ns)
        return frozenset().union(*said)

    async def step(self, job: OrderTask, children: Sequence[OrderTask], now_ns: int) -> Moves:
        """Return what is to be done about an exit now."""
        self._stepped.add(job.task_id)
        moves = await self._decided(job, children, now_ns)
        if _ends(moves):
            # What was read a moment ago may be older than what it is to tell of.
            moves = await self._decided(job, children, now_ns, than_s=0.0)
        if moves.update is not None and _ends(moves):
            self._stepped.discard(job.task_id)
            self._unwanted.pop(job.task_id, None)
            if moves.update.state is TaskState.ESCALATED:
                self._alarm(job, moves.update)
        return moves

    async def _decided(
        self,
        job: OrderTask,
        children: Sequence[OrderTask],
        now_ns: int,
        *,
        than_s: float | None = None,
    ) -> Moves:
        wanted = exit_of(job.body)
        late_ns = now_ns - job.created_at_ns - wanted.within_s * NS_PER_S
        halts = self._halts(job, wanted, late_ns)
        if halts is not None:
            return Moves(update=halts)
        by_limit = self._by_limit(job, wanted, children)
        # Read before the position: what is sent is held against that, and it must not be older.
        references = await exit_prices.read(self._prices, list(by_limit.values()))
        if than_s is None:
            is_closing = any(child.state not in TERMINAL for child in children)
            than_s = FRESH_S if is_closing else SURE_S
        try:
            look = await self._positions.look(than_s=than_s if legs_of(job) else 0.0)
        except (BrokerUnavailable, LoginRequired) as error:
            return _blind(job, children, now_ns, why=str(error), is_late=late_ns > _ns(BLIND_S_MAX))
        legs = legs_of(job)
        if job.state is TaskState.RUNNING:
            more = [
                key
                for key in look.open_keys
                if wanted.means(*key) and key not in legs.values() and _is_a_position(key, look)
            ]
            if more and len(legs) < LEGS_MAX:
                return Moves(update=_planned(job, legs, more[: LEGS_MAX - len(legs)], look))
            if not legs and wanted.tradingsymbol and not _is_known(wanted, look):
                return Moves(update=_nothing_held(job, wanted, look))
        views = {}
        for number, key in legs.items():
            own = [child for child in children if child.leg == number]
            views[number] = self._view(key, look, own)
        for number, key in by_limit.items():
            views[number] = self._limited(views[number], key, wanted, references)
        others = self._others(wanted, legs, children, look)
        self._unwanted[job.task_id] = (self._clock.monotonic_ns(), others)
        moves = _moves(job, wanted, views, children, now_ns)
        is_running = job.state is TaskState.RUNNING
        if _ends(moves) and is_running and (others or _may_surface(wanted, job, look)):
            return Moves()  # flat, and something rests or may yet that opens a position again
        return moves

    def _halts(self, job: OrderTask, wanted: Exit, late_ns: int) -> TaskUpdate | None:
        """Return the step that stops an exit, or some of its positions; None if none is due."""
        if job.state is not TaskState.RUNNING:
            return None
        stopped = self.stopped("")
        if stopped is not None:
            return _stops(stopped.code, stopped.rule)
        if late_ns >= 0:
            return _stops(CODE_TIMED_OUT, f"not over after {wanted.within_s} s")
        killed = {}
        for number, key in legs_of(job).items():
            refused = self.stopped(f"{key.exchange}:{key.tradingsymbol}")
            if refused is not None and str(number) not in _kept(job, KILLED):
                killed[str(number)] = refused.rule
        return _keeps(job, "leg_stopped", KILLED, killed) if killed else None

    def _by_limit(
        self, job: OrderTask, wanted: Exit, children: Sequence[OrderTask]
    ) -> dict[int, PositionKey]:
        """Return the positions that are closed by LIMIT: all if asked, else where it is needed."""
        if job.state is not TaskState.RUNNING:
            return {}
        if wanted.order_type is OrderType.LIMIT:
            return legs_of(job)
        if self._prices is None:
            return {}
        return {
            number: key
            for number, key in legs_of(job).items()
            if market_was_refused([child for child in children if child.leg == number])
        }

    def _limited(
        self,
        view: LegView,
        key: PositionKey,
        wanted: Exit,
        references: Mapping[tuple[str, str], ReferencePrice],
    ) -> LegView:
        reference = references.get((key.exchange, key.tradingsymbol))
        side, contract = view.closing.side, self._contract(key)
        edge = exit_prices.edge(reference, contract, side, wanted.market_protection)
        return dataclasses.replace(view, by_limit=True, edge=edge)

    def _contract(self, key: PositionKey) -> Contract | None:
        contracts = self._contracts()
        return contracts.find(key.exchange, key.tradingsymbol) if contracts else None

    def _view(self, key: PositionKey, look: Look, children: Sequence[OrderTask]) -> LegView:
        contract = self._contract(key)
        return LegView(
            closing=look.closing(key),
            is_flat=look.is_flat(key),
            lot_size=contract.lot_size if contract and key.exchange in IN_UNITS else 1,
            largest=self._largest(key, contract),
            is_beyond=look.is_beyond(key, children),
        )

    def _largest(self, key: PositionKey, contract: Contract | None) -> int | None:
        """Return the most of one order: by the exchange, and by the risk limits of the account."""
        limits = self.limits()
        bounds = [freeze_quantity(contract, self._freeze()) if contract else None]
        bounds.append(limits.order_quantity_max)
        if limits.order_lots_max is not None and key.exchange not in SHARES:
            lot_size = contract.lot_size if contract and key.exchange in IN_UNITS else 1
            bounds.append(limits.order_lots_max * lot_size)
        return min((bound for bound in bounds if bound is not None), default=None)

    def _others(
        self,
        wanted: Exit,
        legs: Mapping[int, PositionKey],
        children: Sequence[OrderTask],
        look: Look,
    ) -> frozenset[str]:
        """Return the orders that rest on an exit's positions and are of no exit."""
        if not wanted.cancel_resting:
            return frozenset()
        exits = [*children, *(task for task in look.tasks if task.job_id in self._stepped)]
        ids = {task.broker_order_id for task in exits}
        tags = {task.tag for task in exits}
        keys = set(legs.values())
        return frozenset(
            row.order_id
            for row in look.rows.values()
            if state_of(row) not in TERMINAL
            and (
                not wanted.tradingsymbol
                or PositionKey(row.exchange, row.tradingsymbol, row.product) in keys
            )
            and row.order_id not in ids
            and not tags.intersection(row.tags)
        )

    def _alarm(self, job: OrderTask, update: TaskUpdate) -> None:
        log.error(
            "exit_needs_a_person",
            account=self._account,
            client_order_id=job.client_order_id,
            code=update.reason_code,
            reason=update.reason,
        )


def _not_stopped(_: str) -> OrderRefused | None:
    return None


def _may_surface(wanted: Exit, job: OrderTask, look: Look) -> bool:
    """Return whether an order that is to be cancelled is still in doubt."""
    return wanted.cancel_resting and any(
        task.kind is TaskKind.PLACE
        and task.state in IN_DOUBT
        and task.job_id != job.task_id
        and wanted.means(*key_of(task.body))
        for task in look.tasks
    )


def _ends(moves: Moves) -> bool:
    return moves.update is not None and moves.update.state in TERMINAL


def legs_of(job: OrderTask) -> dict[int, PositionKey]:
    """Return the positions of an exit by the number of their leg."""
    told: Any = (job.facts or {}).get(EXIT_LEGS, {})
    return {int(number): PositionKey(*name) for number, name in told.items()}


def _moves(
    job: OrderTask,
    wanted: Exit,
    views: Mapping[int, LegView],
    children: Sequence[OrderTask],
    now_ns: int,
) -> Moves:
    place: list[Part] = []
    change: list[tuple[OrderTask, OrderChange]] = []
    cancel: list[OrderTask] = []
    stops: list[LegMoves] = []
    is_over = True
    for number, view in views.items():
        own = [child for child in children if child.leg == number]
        moves = _leg(job, number, view, own, now_ns)
        if moves.stop_code == CODE_BAND_EXHAUSTED and str(number) not in _kept(job, EXHAUSTED):
            # Kept first: once the order is cancelled nothing else would tell that it stood there.
            found = {str(number): moves.stop}
            return Moves(update=_keeps(job, "band_exhausted", EXHAUSTED, found))
        if moves.stop:
            stops.append(moves)
            moves = ending_moves(own, now_ns)
            moves = dataclasses.replace(moves, is_over=moves.is_over or bool(moves.stop))
        is_over = is_over and moves.is_over
        change += [(order, repricing(view, wanted.market_protection)) for order in moves.change]
        cancel += moves.cancel
        first = 1 + max((child.slice or 0 for child in own), default=0)
        for position, quantity in enumerate(moves.place, first):
            order = order_for(view, quantity, wanted.market_protection)
            key = part_key(job.client_order_id, number, position)
            place.append(Part(leg=number, slice=position, key=key, order=order))
    if is_over:
        return Moves(update=_ended(job, views, children, stops))
    return Moves(place=tuple(place), change=tuple(change), cancel=tuple(cancel))


def _leg(
    job: OrderTask, number: int, view: LegView, children: Sequence[OrderTask], now_ns: int
) -> LegMoves:
    if job.state is TaskState.STOPPING:
        moves = ending_moves(children, now_ns)
        return dataclasses.replace(moves, is_over=True) if moves.stop else moves
    if view.closing.key.product not in _PRODUCTS and not view.is_flat:
        name = ":".join(view.closing.key)
        why = f"{name} is closed by ending the order that holds it, not by another one"
        return LegMoves(stop=why, stop_code=CODE_NOT_CLOSABLE)
    of_leg = part_key(job.client_order_id, number) + "."
    for key, why in refused_parts(job).items():
        if f"{key}.".startswith(of_leg):
            return LegMoves(stop=why, stop_code=CODE_DENIED)
    for fact, code in _STOPS.items():
        kept = _kept(job, fact).get(str(number))
        if kept and not view.is_flat:
            return LegMoves(stop=kept, stop_code=code)
    return leg_moves(view, children, now_ns)


def _kept(job: OrderTask, fact: str) -> dict[str, str]:
    """Return for which positions, by number, a fact is kept, and why."""
    told: Any = (job.facts or {}).get(fact, {})
    return dict(told)


def _keeps(job: OrderTask, event: str, fact: str, found: Mapping[str, str]) -> TaskUpdate:
    """Return the step that keeps for some positions why nothing more is sent for them."""
    facts = {**(job.facts or {}), fact: {**_kept(job, fact), **found}}
    return TaskUpdate(state=job.state, event=event, facts=facts)


def _is_a_position(key: PositionKey, look: Look) -> bool:
    """Return whether there is something to close; what was sold out of the holdings is not."""
    held = look.closing(key)
    return not held.quantity or held.side is not None


def _is_known(wanted: Exit, look: Look) -> bool:
    """Return whether the broker knows the name; a misspelt one must not look like a flat one."""
    return any(wanted.means(*key) for key in look.names())


def _nothing_held(job: OrderTask, wanted: Exit, look: Look) -> TaskUpdate:
    asked = ":".join(filter(None, (wanted.exchange, wanted.tradingsymbol, wanted.product)))
    held = ", ".join(":".join(key) for key in look.open_keys[:NAMES_TOLD_MAX])
    return TaskUpdate(
        state=TaskState.ESCALATED,
        event="exit_escalated",
        reason_code=CODE_NOTHING_HELD,
        reason=f"nothing was held today under the name {asked}; held: {held or 'nothing'}",
        facts=job.facts,
    )


def _planned(
    job: OrderTask, legs: Mapping[int, PositionKey], more: Sequence[PositionKey], look: Look
) -> TaskUpdate:
    """Return the step that gives every position a number, for good."""
    numbered = dict(legs)
    for key in more:
        numbered[len(numbered) + 1] = key
    held = {str(number): look.closing(key).quantity for number, key in numbered.items()}
    before: Any = (job.facts or {}).get(HELD_BEFORE, {})
    return TaskUpdate(
        state=TaskState.RUNNING,
        event="exit_planned",
        facts={
            **(job.facts or {}),
            EXIT_LEGS: {str(number): list(key) for number, key in numbered.items()},
            HELD_BEFORE: held | before,
        },
    )


def _stops(code: str, why: str) -> TaskUpdate:
    return TaskUpdate(state=TaskState.STOPPING, event="exit_stops", reason_code=code, reason=why)


def _blind(
    job: OrderTask, children: Sequence[OrderTask], now_ns: int, *, why: str, is_late: bool
) -> Moves:
    """Return what is done while the position cannot be read: nothing but to end what is open."""
    if job.state is TaskState.RUNNING:
        stopped = {number for fact in _STOPS for number in _kept(job, fact)}
        of_them = [child for child in children if str(child.leg) in stopped]
        return Moves(cancel=ending_moves(of_them, now_ns).cancel)
    moves = ending_moves(children, now_ns)
    if not is_late or not (moves.is_over or moves.stop):
        return Moves(cancel=moves.cancel)  # whatever of it rests has to be ended first
    return Moves(
        update=TaskUpdate(
            state=TaskState.ESCALATED,
            event="exit_escalated",
            reason_code=CODE_POSITION_UNKNOWN,
            reason=f"the positions could not be read: {why}",
            facts=job.facts,
        )
    )


def _ended(
    job: OrderTask,
    views: Mapping[int, LegView],
    children: Sequence[OrderTask],
    stops: Sequence[LegMoves],
) -> TaskUpdate:
    """Return the end of an exit: flat as the broker says, or with everything that a person needs.

    Who cancels an exit that has not ended is told what is still held.
    """
    report = {
        str(number): dataclasses.asdict(
            evidence(view, [child for child in children if child.leg == number])
        )
        for number, view in views.items()
    }
    facts = {**(job.facts or {}), REPORT: report}
    if not stops and all(view.is_flat for view in views.values()):
        return TaskUpdate(state=TaskState.DONE, event="exit_done", facts=facts)
    held = [":".join(v.closing.key) for v in views.values() if not v.is_flat]
    code = stops[0].stop_code if stops else job.reason_code or CODE_NOT_FLAT
    why = stops[0].stop if stops else job.reason or "stopped"
    return TaskUpdate(
        state=TaskState.ESCALATED,
        event="exit_escalated",
        reason_code=code,
        reason=f"{why}; not flat: {', '.join(held) or 'nothing'}",
        facts=facts,
    )


def _ns(seconds: float) -> int:
    return int(seconds * NS_PER_S)
