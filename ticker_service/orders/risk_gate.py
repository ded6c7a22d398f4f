"""Hold an order against its account's risk limits, and reserve what it may come to (I13).

Path: order -> [admit] -> journal -> execute -> settle -> report. What the rules need is fetched
first (``risk_fetch``); then, without anything between, the rules are asked and the order is
reserved: of two at once that each fit alone, one is denied. An order is judged by one version of
the limits: where they change while something is fetched, it begins anew. The rules themselves are
pure (``domain.risk_rules``).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.exposure import NOTHING_OPEN
from ticker_service.domain.order import (
    TaskKind,
    change_from_fields,
    request_from_fields,
)
from ticker_service.domain.risk_input import IN_LOTS, RiskInput
from ticker_service.domain.risk_rules import (
    GROUP_VALUE,
    SPARES_REDUCING,
    Denied,
    Need,
    RiskName,
    denials,
    in_force,
    wanted,
)
from ticker_service.domain.session import from_instant_ns
from ticker_service.domain.trading_hours import (
    COMMODITY_EXCHANGES,
    CURRENCY_EXCHANGES,
    SHARE_EXCHANGES,
    Venue,
    VenueKind,
)
from ticker_service.errors import (
    InvariantViolatedError,
    OrderRefused,
    RiskDenied,
)
from ticker_service.orders.recent_orders import RecentOrders, looks_back_s
from ticker_service.orders.risk_fetch import Fetched, RiskFetch, RiskSources

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable, Mapping

    from ticker_service.domain.exposure import Exposure, Open, OpenKey
    from ticker_service.domain.order import Account, NewTask, OrderRequest, OrderTask
    from ticker_service.domain.risk import RiskLimits, RiskTable
    from ticker_service.domain.risk_input import (
        DayResult,
        GroupOpen,
    )
    from ticker_service.domain.risk_rules import RiskRule
    from ticker_service.domain.trading_hours import Phase
    from ticker_service.orders.positions import Positions
    from ticker_service.orders.risk_tables import RiskTables
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

CODE: Final = "RISK_"
DENIALS_KEPT: Final = 100
SHOWN_MAX: Final = 50
"""So many instruments with open orders are listed, those of the greatest value."""


class Judged(NamedTuple):
    """A decision; ``may_reduce`` says that only rules deny which spare what strictly reduces."""

    refusal: RiskDenied | None
    may_reduce: bool = False
    facts: Mapping[str, object] | None = None

    def because_it_may_not(self, why: str) -> Judged:
        """Return the refusal with why the order does not strictly reduce a position."""
        refusal = self.refusal
        if refusal is None:
            return self
        said = RiskDenied(
            refusal.code,
            f"{refusal.rule}; it would pass if it strictly reduced a position: {why}",
            field=refusal.field,
            value=refusal.value,
            limit=refusal.limit,
            numbers=refusal.numbers,
            version=refusal.version,
        )
        return Judged(said)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a version of the limits asks of an account."""

    table: RiskTable
    group: str
    limits: RiskLimits
    rules: tuple[RiskRule, ...]
    needs: frozenset[Need]
    knows_contracts: bool
    looks_back_s: float


class RiskGate:
    """One account's; belongs to one event loop."""

    def __init__(  # noqa: PLR0913 - the parts of one decision
        self,
        account: Account,
        tables: RiskTables,
        exposure: Exposure,
        positions: Positions,
        journal: OrderJournal,
        clock: Clock,
        *,
        sources: RiskSources | None = None,
        day: Callable[[], DayResult | None] = lambda: None,
    ) -> None:
        """Take the parts.

        Args:
            account: Whose.
            tables: The limits in force.
            exposure: What is open; what passes is reserved in it.
            positions: What is held.
            journal: Knows the orders of before.
            clock: Time.
            sources: Where the rest comes from.
            day: What the day has brought, as it was last seen.
        """
        self.on_denial: Callable[[NewTask, RiskDenied], None] = _unheard
        self.tables = tables
        self._account = account
        self._exposure = exposure
        self._day = day
        self._journal = journal
        self._clock = clock
        self._sources = sources or RiskSources()
        self._recent = RecentOrders()
        self._plan: _Plan | None = None
        self._denials: deque[dict[str, object]] = deque(maxlen=DENIALS_KEPT)
        self._reading = asyncio.Lock()
        self._from = RiskFetch(account, exposure, positions, clock, sources=self._sources, day=day)

    # --- what the desk asks -------------------------------------------------------------------

    def forget(self) -> None:
        """Know no orders of before: the account may have been another daemon's meanwhile."""
        self._recent.doubt()

    async def judge(
        self,
        new: NewTask,
        target: OrderTask | None,
        *,
        is_reducing: bool = False,
        instead_of: uuid.UUID | None = None,
    ) -> Judged:
        """Decide on a new order or a change, and reserve it if it passes.

        Args:
            new: Neither a cancel nor a job.
            target: The order that a change is about.
            is_reducing: Whether it is known to do nothing but reduce a position.
            instead_of: The order of another account that it goes on for, which ends with that.

        Raises:
            JournalUnavailable: What an order's positions are cannot be told, or which orders there
                were before.
        """
        order = _order_of(new, target)
        while True:
            plan = self._plan_now()
            if new.kind is TaskKind.PLACE and plan.looks_back_s > self._recent.read_back_s:
                await self._read_recent(plan)
            groups = self._groups(plan, instead_of)
            fetched = Fetched()
            if plan.needs:
                asks = Need.OPEN_PRICES in plan.needs
                open_ = self._open_everywhere(groups) if asks else []
                fetched = await self._from.fetch(plan.needs, plan.limits, order, open_)
            # What reduces waits for no word of the broker on money.
            if Need.MARGIN in plan.needs and not is_reducing:
                fetched.margin = await self._from.margin(new, order)
            if self._plan_now() is plan:
                break
        # From here to the reservation nothing waits: two orders at once are judged one by one.
        groups = self._groups(plan, instead_of)
        given = self._input(plan, new, order, fetched, groups)
        found = denials(given, plan.rules)
        if is_reducing:
            found = [each for each in found if each.rule.name not in SPARES_REDUCING]
        if not found:
            facts = _facts(given, plan.table, is_reducing=is_reducing)
            self._reserve(new)
            return Judged(None, facts=facts)
        may_reduce = all(each.rule.name in SPARES_REDUCING for each in found)
        return Judged(_refusal(found[0], plan.table.version), may_reduce=may_reduce)

    def release(self, new: NewTask) -> None:
        """Take back the reservation of what was not taken."""
        self._exposure.release(new)
        self._recent.forget(new)

    def record(self, new: NewTask, refusal: OrderRefused) -> None:
        """Tell of a denial; of a key that was known before there is none."""
        if isinstance(refusal, RiskDenied):
            log.warning(
                "risk_denied",
                account=self._account,
                principal=new.principal,
                client_order_id=new.client_order_id,
                kind=new.kind,
                code=refusal.code,
                field=refusal.field,
                limit=str(refusal.limit),
                version=refusal.version,
                **{f"used_{name}": value for name, value in refusal.numbers.items()},
            )
            self._denials.append(
                {
                    "at": from_instant_ns(self._clock.now_ns()).isoformat(timespec="milliseconds"),
                    "principal": new.principal,
                    "client_order_id": new.client_order_id,
                    "code": refusal.code,
                    "message": str(refusal),
                    "limit": str(refusal.limit),
                    "numbers": {name: str(value) for name, value in refusal.numbers.items()},
                    "version": refusal.version,
                }
            )
            self.on_denial(new, refusal)

    def holds_back(self, body: Mapping[str, str]) -> str:
        """Return why what was admitted must not leave now after all, empty if it may.

        Only what may have changed since and needs nothing fetched: a symbol that was banned. Who
        asks lets through all the same what strictly reduces a position. Losses stop an account by
        a kill switch.
        """
        plan = self._plan_now()
        banned = [rule for rule in plan.rules if rule.name is RiskName.BANNED]
        if not banned or "exchange" not in body:
            return ""
        order = request_from_fields(body)
        given = RiskInput(
            kind=TaskKind.PLACE,
            account=self._account,
            key="",
            order=order,
            limits=plan.limits,
            now_ns=self._clock.now_ns(),
            contract=self._from.contract(order),
        )
        found = denials(given, banned)
        return found[0].finding.must if found else ""

    def shown(self) -> dict[str, object]:
        """Return the limits in force, what of them is in use, and the newest denials, as JSON."""
        plan, day, now_ns = self._plan_now(), self._day(), self._clock.now_ns()
        total = self._exposure.total
        largest = sorted(
            self._exposure.by_key().items(), key=lambda item: item[1].value_inr, reverse=True
        )
        return {
            "account": self._account,
            "version": plan.table.version,
            "limits": plan.limits.told(),
            "in_use": {
                "open_inr": f"{total.value_inr:f}",
                "open_quantity": total.quantity,
                "unpriced_quantity": total.unpriced_quantity,
                "open": [
                    {
                        **key._asdict(),
                        "side": key.side.value,
                        "quantity": each.quantity,
                        "value_inr": f"{each.value_inr:f}",
                        "unpriced_quantity": each.unpriced_quantity,
                    }
                    for key, each in largest[:SHOWN_MAX]
                ],
                "day": day
                and {
                    "result_inr": f"{day.result_inr}",
                    "best_inr": f"{day.best_inr}",
                    "age_s": round((now_ns - day.at_ns) / NS_PER_S, 3),
                    "lifted": sorted(day.lifted),
                },
            },
            "denials": list(self._denials),
        }

    @property
    def limits(self) -> RiskLimits:
        """The limits of the account that are in force."""
        return self._plan_now().limits

    # --- inside -------------------------------------------------------------------------------

    def _plan_now(self) -> _Plan:
        table, group = self.tables.current, self._sources.group()
        known = self._plan
        if known is None or known.table is not table or known.group != group:
            limits = table.of(self._account, group)
            rules = in_force(limits)
            if self._sources.groups is not None and self._sources.groups.limited(
                self._account, table
            ):
                rules = (*rules, GROUP_VALUE)
            bare = all(rule.name is RiskName.ABSURD_VALUE for rule in rules)
            known = _Plan(
                table, group, limits, rules, wanted(rules), not bare, looks_back_s(limits)
            )
            self._plan = known
        return known

    async def _read_recent(self, plan: _Plan) -> None:
        """Read the orders of before once, as far back as the rules look."""
        async with self._reading:
            if plan.looks_back_s > self._recent.read_back_s:
                await self._recent.read(
                    plan.looks_back_s, self._journal, self._account, self._clock
                )

    def _reserve(self, new: NewTask) -> None:
        self._exposure.reserve(new)
        if new.kind is TaskKind.PLACE:
            self._recent.take(new, monotonic_ns=self._clock.monotonic_ns())

    def _groups(self, plan: _Plan, without: uuid.UUID | None) -> tuple[GroupOpen, ...]:
        if GROUP_VALUE not in plan.rules or self._sources.groups is None:
            return ()
        return self._sources.groups.limited(self._account, plan.table, without=without)

    def _open_everywhere(self, groups: Iterable[GroupOpen]) -> list[tuple[OpenKey, Open]]:
        """Return what is open here and on the accounts of some groups; a key may come again."""
        sums = [each.open for each in groups if not isinstance(each.open, str)]
        return [item for each in (self._exposure.by_key(), *sums) for item in each.items()]

    def _input(
        self,
        plan: _Plan,
        new: NewTask,
        order: OrderRequest,
        fetched: Fetched,
        groups: tuple[GroupOpen, ...],
    ) -> RiskInput:
        both = self._exposure.with_(new)
        counted, counts = both or (NOTHING_OPEN, NOTHING_OPEN)
        limits, now_ns = plan.limits, self._clock.now_ns()
        monotonic_ns = self._clock.monotonic_ns()
        contract = self._from.contract(order) if plan.knows_contracts else None
        if not plan.knows_contracts:
            return RiskInput(
                kind=new.kind,
                account=self._account,
                key=new.client_order_id,
                order=order,
                limits=limits,
                now_ns=now_ns,
                counted=counted,
                counts=counts,
            )
        window_s = limits.duplicate_window_s
        earlier = None
        # The slices of one order are alike because they were asked for so.
        if window_s is not None and new.job_id is None:
            earlier = self._recent.like(new, within_s=float(window_s), monotonic_ns=monotonic_ns)
        return RiskInput(
            kind=new.kind,
            account=self._account,
            key=new.client_order_id,
            order=order,
            limits=limits,
            now_ns=now_ns,
            contract=contract,
            reference=fetched.reference,
            references=fetched.references,
            counted=counted,
            counts=counts,
            is_counted=both is not None,
            open=self._exposure.by_key(),
            names=self._names(plan, self._open_everywhere(groups)),
            positions=self._from.positions(fetched),
            holdings=self._from.holdings(fetched),
            phase=self._phase(order, now_ns),
            earlier=earlier,
            orders_of_minute=self._recent.of_minute(new.principal, monotonic_ns=monotonic_ns),
            day=fetched.day,
            groups=groups,
            margin=fetched.margin,
        )

    def _names(
        self, plan: _Plan, open_: Iterable[tuple[OpenKey, Open]]
    ) -> dict[tuple[str, str], str]:
        """Return the underlyings of what is open, where a rule asks for them."""
        asks = plan.limits.underlying_quantity_max is not None
        found = {}
        for key, _ in open_:
            if asks or key.exchange in IN_LOTS:
                name = self._from.name(key.exchange, key.tradingsymbol)
                if name:
                    found[key.exchange, key.tradingsymbol] = name
        return found

    def _phase(self, order: OrderRequest, now_ns: int) -> Phase | None:
        calendar = self._sources.calendar
        if calendar is None:
            return None
        kind = VenueKind.SHARE_DERIVATIVE
        if order.exchange in SHARE_EXCHANGES:
            kind = VenueKind.SHARE
        elif order.exchange in CURRENCY_EXCHANGES:
            kind = VenueKind.CURRENCY
        elif order.exchange in COMMODITY_EXCHANGES:
            kind = VenueKind.COMMODITY
        return calendar.phase(Venue(order.exchange, kind), now_ns)


def _order_of(new: NewTask, target: OrderTask | None) -> OrderRequest:
    """Return the order that an instruction asks for: a new one, or one as a change leaves it."""
    if new.kind is not TaskKind.MODIFY:
        return request_from_fields(new.body)
    if target is None:
        raise InvariantViolatedError(f"Invariant: a change has an order, task_id={new.task_id}")
    change, placed = change_from_fields(new.body), request_from_fields(target.body)
    said = {
        field.name: value
        for field in dataclasses.fields(change)
        if (value := getattr(change, field.name)) is not None
    }
    return dataclasses.replace(placed, **said)


def _refusal(denied: Denied, version: str) -> RiskDenied:
    finding = denied.finding
    return RiskDenied(
        f"{CODE}{denied.rule.name}",
        f"must be {finding.must}",
        field=finding.field,
        value=finding.value,
        limit=finding.limit,
        numbers=finding.numbers,
        version=version,
    )


def _facts(given: RiskInput, table: RiskTable, *, is_reducing: bool) -> dict[str, object] | None:
    """Return what a pass was made of, for the journal; None where nobody set a limit."""
    if not table.said:
        return None
    facts: dict[str, object] = {"limits": table.version}
    if is_reducing:
        facts["is_reducing"] = True
    if given.reference is not None:
        facts["reference_inr"] = given.reference.price_inr
        facts["reference_age_s"] = round((given.now_ns - given.reference.at_ns) / NS_PER_S, 3)
        facts["reference_source"] = given.reference.source
    if given.counts != NOTHING_OPEN:
        facts["counts_inr"] = f"{given.counts.value_inr:f}"
        held = sum((each.value_inr for each in given.open.values()), Decimal(0))
        facts["open_inr"] = f"{held:f}"
    if given.positions is not None:
        facts["held"] = given.positions.net.get(given.symbol, 0)
    if given.day is not None:
        facts["result_inr"] = str(given.day.result_inr)
    if given.margin is not None:
        facts["margin_inr"] = f"{given.margin.total_inr:f}"
        facts["available_inr"] = f"{given.margin.available_inr:f}"
    return facts


def _unheard(_: NewTask, __: RiskDenied) -> None:
    return
