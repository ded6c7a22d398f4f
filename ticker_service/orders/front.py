"""What the doors ask of the order half: place, modify, cancel, look, follow.

The doors say who asks and which accounts they may use; this decides what the request means for the
journal: its key, its body's digest, its deadline. The same key and body give the same task for as
long as the journal keeps it (I2).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ticker_service.constants import NS_PER_S
from ticker_service.domain import rulebook
from ticker_service.domain.exit import body_of as exit_body
from ticker_service.domain.job import (
    LEGS_MAX,
    PARTS_MAX,
    SEPARATOR,
    SLICES,
    Basket,
    Leg,
    body_of,
)
from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch, ScopeKind
from ticker_service.domain.order import (
    Account,
    NewTask,
    TaskKind,
    Variety,
    body_sha256,
    request_from_fields,
    to_fields,
)
from ticker_service.domain.order_legs import EXIT
from ticker_service.domain.session import ist_date
from ticker_service.domain.tag import is_ours
from ticker_service.errors import ConfigurationError, IdempotencyConflict, OrderRefused
from ticker_service.orders import admit, slices
from ticker_service.orders.dead_letters import DeadLetters
from ticker_service.orders.disconnects import Disconnects
from ticker_service.orders.failover import Failover
from ticker_service.orders.loss_watch import BY_WHOM, lift_losses
from ticker_service.orders.routing import Router

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ticker_service.accounts.kill_switches import KillSwitches
    from ticker_service.config import OrdersConfig
    from ticker_service.domain.account_group import AccountGroup
    from ticker_service.domain.contracts import Contracts
    from ticker_service.domain.exit import Exit
    from ticker_service.domain.order import (
        BrokerOrder,
        OrderChange,
        OrderEvent,
        OrderRequest,
        OrderTask,
    )
    from ticker_service.orders.desk import AccountDesk
    from ticker_service.orders.routing import Choice
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and which accounts they may use."""

    principal: str
    accounts: frozenset[str] | Literal["all"]

    def may_use(self, account: str) -> bool:
        """Return whether the caller may use an account."""
        return self.accounts == "all" or account in self.accounts


@dataclass(frozen=True, slots=True)
class Answer:
    """The task a request led to, and whether this request made it."""

    task: OrderTask
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalOrder:
    """An order at the broker that was placed elsewhere.

    ``is_orphan`` when it has a tag of ours all the same: the journal has lost it (I11).
    """

    account: Account
    row: BrokerOrder
    is_orphan: bool


class FrontDesk:
    """All accounts of this process, as callers see them."""

    def __init__(  # noqa: PLR0913 - the parts of the order half
        self,
        desks: Mapping[Account, AccountDesk],
        journal: OrderJournal,
        config: OrdersConfig,
        clock: Clock,
        *,
        switches: KillSwitches,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
        contracts: Callable[[], Contracts | None] = lambda: None,
        groups: Iterable[AccountGroup] = (),
    ) -> None:
        self.desks = desks
        self._journal = journal
        self._config = config
        self._clock = clock
        self._switches = switches
        self._new_id = new_id
        self._contracts = contracts
        self.dead_letters = DeadLetters(self, journal, config, clock)
        """What may need a person."""
        self.disconnects = Disconnects(desks, journal, clock, self._cancel_for)
        """Whose orders are cancelled when they are lost."""
        self.router = Router(groups, desks)
        failover = Failover(self.router, desks, journal, clock, new_id=new_id)
        for desk in desks.values():
            desk.join(failover)

    async def place(  # noqa: PLR0913 - the fields of one request
        self,
        caller: Caller,
        *,
        account: str | None = None,
        group: str | None = None,
        client_order_id: str,
        request_id: str,
        order: OrderRequest,
        facts: Mapping[str, object] | None = None,
    ) -> Answer:
        """Journal a new order and return once that is durable.

        Args:
            caller: Who asks.
            account: Whose order; either this or a group is given.
            group: A declared group, one of whose accounts takes it.
            client_order_id: What the caller calls it.
            request_id: Its idempotency key.
            order: What is asked.
            facts: Ours, which go with it, such as the session it is placed in.

        Raises:
            OrderRefused: It cannot be carried out, or the key says something else already.
            JournalUnavailable: It is not durable; nothing will be sent.
        """
        if (account is None) is (group is None):
            given = None if account is None else [account, group]
            raise OrderRefused(
                "INVALID_FIELD", "give either an account or a group", field="account", value=given
            )
        if group is not None:
            return await self._place_in_group(
                caller, self._group(caller, group), client_order_id, request_id, order, facts
            )
        desk = self._desk(caller, account or "")
        new = self._new(
            TaskKind.PLACE,
            caller,
            desk.account,
            request_id=request_id,
            client_order_id=client_order_id,
            body=to_fields(order),
        )
        new = replace(new, facts=facts)
        return await self._submit(desk, new, lambda: self._check_order(order))

    async def place_sliced(
        self,
        caller: Caller,
        *,
        account: str | None = None,
        group: str | None = None,
        client_order_id: str,
        request_id: str,
        order: OrderRequest,
    ) -> Answer:
        """Journal an order that is cut if it is above the freeze quantity; as :meth:`place`.

        Like every job it is of no session: what of it is open outlives its caller.
        """
        if account is None or group is not None:
            raise OrderRefused(
                "INVALID_FIELD",
                "must be left out: give an account, the orders of one that is cut stay together",
                field="group",
                value=group,
            )
        basket = Basket(legs=(Leg(order=order, slice=True),))
        return await self._submit_job(
            TaskKind.SLICES,
            caller,
            account,
            basket,
            client_order_id=client_order_id,
            request_id=request_id,
        )

    async def basket(
        self,
        caller: Caller,
        *,
        account: str,
        client_order_id: str,
        request_id: str,
        basket: Basket,
    ) -> Answer:
        """Journal several orders as one job; all of them are checked before it; as :meth:`place`.

        Its orders follow, each with a key, a task and an end of its own.
        """
        return await self._submit_job(
            TaskKind.BASKET,
            caller,
            account,
            basket,
            client_order_id=client_order_id,
            request_id=request_id,
        )

    async def exit(
        self,
        caller: Caller,
        *,
        account: str,
        client_order_id: str,
        request_id: str,
        wanted: Exit,
    ) -> Answer:
        """Journal an exit, whose orders follow from what the broker says is held; as `place`."""
        desk = self._desk(caller, account)
        wanted = replace(wanted, tradingsymbol=wanted.tradingsymbol.strip().upper())
        new = self._new(
            TaskKind.EXIT,
            caller,
            desk.account,
            request_id=request_id,
            client_order_id=client_order_id,
            body=exit_body(wanted),
        )
        return await self._submit(desk, new, lambda: admit.check_exit(wanted, self._rules()))

    def accounts_of(self, caller: Caller, account: str) -> list[Account]:
        """Return one account of a caller's, or all of them for ``all``.

        Raises:
            OrderRefused: It is none.
        """
        if account != ScopeKind.ALL.value:
            return [self._desk(caller, account).account]
        return [name for name in self.desks if caller.may_use(name)]

    async def close_to_new(self, caller: Caller, account: str, why: str) -> tuple[KillSwitch, bool]:
        """Let nothing but what reduces a position through, on one account or on ``all``.

        Returns and raises as :meth:`throw_kill_switch`.
        """
        kind = ScopeKind.ALL if account == ScopeKind.ALL.value else ScopeKind.ACCOUNT
        scope = KillScope(kind, "" if kind is ScopeKind.ALL else account)
        return await self.throw_kill_switch(caller, scope, KillLevel.REDUCE_ONLY, why or "flatten")

    async def job(self, caller: Caller, client_order_id: str) -> tuple[OrderTask, list[OrderTask]]:
        """Return a job as the journal has it, and all that was asked in its name.

        Raises:
            OrderRefused: There is none the caller may see.
            JournalUnavailable: It cannot be read now.
        """
        job = await self._journal.job_of(caller.principal, client_order_id)
        if job is None or not caller.may_use(job.account):
            raise _unknown(client_order_id)
        return job, await self.children_of(job)

    async def children_of(self, job: OrderTask) -> list[OrderTask]:
        """Return all that was asked in the name of a job of the caller's."""
        return await self._journal.children_of([job.task_id])

    async def order_or_job(
        self, caller: Caller, client_order_id: str
    ) -> OrderTask | tuple[OrderTask, list[OrderTask]]:
        """Return what a caller calls so: an order, or a job and its children; as :meth:`order`."""
        try:
            return await self.order(caller, client_order_id)
        except OrderRefused:
            return await self.job(caller, client_order_id)

    async def _place_in_group(
        self,
        caller: Caller,
        group: AccountGroup,
        client_order_id: str,
        request_id: str,
        order: OrderRequest,
        facts: Mapping[str, object] | None,
    ) -> Answer:
        """Journal a new order for the account of a group that can take it."""
        body = to_fields(order)
        choice = self.router.choose(group, body)
        new = self._new(
            TaskKind.PLACE,
            caller,
            choice.account or group.members[0],
            request_id=request_id,
            client_order_id=client_order_id,
            body=body,
            group=choice,
        )
        new = replace(new, facts={**(facts or {}), "route": choice.facts})
        if choice.account is None:
            return Answer(await self._known(new, choice.refusal()), is_new=False)

        def check() -> None:
            self._check_order(order)
            admit.check_in_group(order)

        return await self._submit(self.desks[choice.account], new, check)

    async def modify(
        self, caller: Caller, *, client_order_id: str, request_id: str, change: OrderChange
    ) -> Answer:
        """Journal a change of an order; raises as :meth:`place`."""
        target = await self.order(caller, client_order_id)
        desk, new = self._about(TaskKind.MODIFY, caller, target, request_id, to_fields(change))
        placed = request_from_fields(target.body)

        def check() -> None:
            self._check_change(change, placed)
            if target.job_id is not None and change.quantity is not None:
                # What was asked of the job is the sum of its orders (I13).
                raise OrderRefused(
                    "INVALID_FIELD",
                    "must be left out: it is an order of a basket or of a sliced order",
                    field="order.quantity",
                    value=change.quantity,
                )

        return await self._submit(desk, new, check)

    async def cancel(
        self, caller: Caller, *, client_order_id: str, request_id: str, closes: bool = False
    ) -> Answer:
        """Journal the cancel of an order, or of all of a job; raises as :meth:`place`.

        With ``closes`` the second leg of a cover order is meant: Kite closes the position then.
        """
        found = await self.order_or_job(caller, client_order_id)
        target = found[0] if isinstance(found, tuple) else found
        if closes and target.body.get("variety") != Variety.CO:
            raise OrderRefused(
                "INVALID_FIELD", "must be left out for any variety but co", field="exit", value=True
            )
        body = {EXIT: "true"} if closes else {}
        desk, new = self._about(TaskKind.CANCEL, caller, target, request_id, body)
        return Answer(*await desk.submit(new))

    async def place_again(
        self,
        caller: Caller,
        old: OrderTask,
        *,
        request_id: str,
        client_order_id: str,
        facts: Mapping[str, object],
    ) -> Answer:
        """Journal once more what an order asked for, for its principal; raises as :meth:`place`.

        ``facts`` say who asks and why; they go with the first event of the new order.
        """
        desk = self._desk(caller, old.account)
        new = self._new(
            TaskKind.PLACE,
            replace(caller, principal=old.principal),
            desk.account,
            request_id=request_id,
            client_order_id=client_order_id,
            body=old.body,
        )
        order = request_from_fields(old.body)
        return await self._submit(desk, replace(new, facts=facts), lambda: self._check_order(order))

    def to_adopt(
        self,
        caller: Caller,
        account: Account,
        order: OrderRequest,
        *,
        request_id: str,
        client_order_id: str,
        facts: Mapping[str, object],
    ) -> NewTask:
        """Return an order that is at the broker already as an instruction of a caller."""
        new = self._new(
            TaskKind.PLACE,
            caller,
            account,
            request_id=request_id,
            client_order_id=client_order_id,
            body=to_fields(order),
        )
        return replace(new, facts=facts)

    async def _cancel_for(self, target: OrderTask, request_id: str) -> Answer:
        """Journal the cancel of a lost caller's order in its name; raises as :meth:`place`."""
        caller = Caller(principal=target.principal, accounts="all")
        desk, new = self._about(TaskKind.CANCEL, caller, target, request_id, {})
        return Answer(*await desk.submit(new))

    async def order(self, caller: Caller, client_order_id: str) -> OrderTask:
        """Return an order as the journal has it.

        Raises:
            OrderRefused: There is none the caller may see.
            JournalUnavailable: It cannot be read now.
        """
        task = await self._journal.task_of_order(caller.principal, client_order_id)
        if task is None or not caller.may_use(task.account):
            raise _unknown(client_order_id)
        return task

    async def orders(
        self, caller: Caller, account: str | None, *, limit: int, only_open: bool = False
    ) -> list[OrderTask]:
        """Return the caller's newest instructions, on one account or on all they may use."""
        accounts = [desk.account for desk in self.desks_of(caller, account)]
        return await self._journal.tasks_of(
            caller.principal, accounts, limit=limit, only_open=only_open
        )

    async def changes(self, caller: Caller, client_order_id: str, *, limit: int) -> list[OrderTask]:
        """Return the newest changes and cancels of an order; raises as :meth:`order`."""
        order = await self.order(caller, client_order_id)
        return await self._journal.changes_of(order.task_id, limit=limit)

    def external(self, caller: Caller, account: str | None) -> list[ExternalOrder]:
        """Return the orders of the newest books that no instruction of this daemon placed.

        Of one account or of all the caller may use; empty while an account is not written here.
        """
        return [
            ExternalOrder(
                account=desk.account,
                row=row,
                is_orphan=any(is_ours(tag, self._config.installation) for tag in row.tags),
            )
            for desk in self.desks_of(caller, account)
            for row in desk.audit.external()
        ]

    async def events(
        self, caller: Caller, account: str, *, after: int, limit: int
    ) -> Sequence[OrderEvent]:
        """Return an account's events after a number, in order; empty when there are none."""
        return await self._journal.events_after(
            self._desk(caller, account).account, after, limit=limit
        )

    async def last_seq(self, caller: Caller, account: str) -> int:
        """Return the number of the account's newest event."""
        return await self._journal.last_seq(self._desk(caller, account).account)

    def news_of(self, caller: Caller, account: str) -> asyncio.Event:
        """Return what is set when the account may have new events; take it before looking."""
        return self._desk(caller, account).news.listen()

    def kill_switches(self, caller: Caller) -> list[KillSwitch]:
        """Return the kill switches that stand and concern an account of the caller."""
        mine = [account for account in self.desks if caller.may_use(account)]
        return self._switches.concerning(mine)

    async def throw_kill_switch(
        self, caller: Caller, scope: KillScope, level: KillLevel, why: str
    ) -> tuple[KillSwitch, bool]:
        """Stop a scope from now on; return the switch and whether it is on disk.

        Raises:
            OrderRefused: The scope is not the caller's to stop.
        """
        self._check_scope(caller, scope)
        switch = KillSwitch(
            switch_id=self._new_id(),
            scope=scope,
            level=level,
            why=why,
            by_whom=caller.principal,
            since_ns=self._clock.now_ns(),
        )
        return switch, await self._switches.throw(switch)

    async def release_kill_switches(self, caller: Caller, scope: KillScope) -> list[KillSwitch]:
        """Release every switch of a scope and return them.

        Raises:
            OrderRefused: The scope is not the caller's to stop.
            JournalUnavailable: Nothing is released.
            ConfigurationError: The file cannot be written; what it holds stands.
        """
        self._check_scope(caller, scope, releases=True)
        return await self._switches.release(
            scope, self._journal, by_whom=caller.principal, now_ns=self._clock.now_ns()
        )

    def risk(self, caller: Caller, account: str | None = None) -> list[dict[str, object]]:
        """Return the risk limits in force and what of them is in use, of the caller's accounts."""
        if account is not None:
            desks = [self._desk(caller, account)]
        else:
            desks = [desk for name, desk in self.desks.items() if caller.may_use(name)]
        standing = self._switches.standing()
        return [
            {
                **desk.risk.shown(),
                "latches": [
                    str(each)
                    for each in standing
                    if each.by_whom == BY_WHOM and each.scope.name == desk.account
                ],
            }
            for desk in desks
        ]

    async def lift_losses(self, caller: Caller, account: str) -> list[KillSwitch]:
        """Release what losses have stopped an account by, and return it.

        Raises:
            OrderRefused: The account is not the caller's, or a person's switch stands as well.
            JournalUnavailable: Nothing is released.
        """
        desk = self._desk(caller, account)
        try:
            return await lift_losses(
                self._switches,
                self._journal,
                desk.account,
                by_whom=caller.principal,
                now_ns=self._clock.now_ns(),
            )
        except ConfigurationError as error:
            raise OrderRefused("KILL_SWITCH", str(error), field="account", value=account) from error

    def _check_scope(self, caller: Caller, scope: KillScope, *, releases: bool = False) -> None:
        """Refuse a scope that reaches beyond the accounts of the caller, or means none.

        A switch on a group that is not known stops every account, so who has all may release it.
        """
        if scope.kind is ScopeKind.ACCOUNT:
            self._desk(caller, scope.name)
        elif scope.kind is ScopeKind.GROUP and not (releases and caller.accounts == "all"):
            self._group(caller, scope.name)
        elif caller.accounts != "all":
            raise OrderRefused(
                "FORBIDDEN",
                "must be account:NAME or group:NAME for a token that is not good for all accounts",
                field="scope",
                value=str(scope),
            )

    async def _submit(self, desk: AccountDesk, new: NewTask, check: Callable[[], None]) -> Answer:
        """Journal what the rules allow.

        Rules change with the day's instruments and with releases; what a key named before they did
        stands, and to be told no would be to be told that nothing was sent (I2).
        """
        try:
            check()
        except OrderRefused as refusal:
            known = await self._known(new, refusal)
            return Answer(known, is_new=False)
        return Answer(*await desk.submit(new))

    async def _submit_job(
        self,
        kind: TaskKind,
        caller: Caller,
        account: str,
        basket: Basket,
        *,
        client_order_id: str,
        request_id: str,
    ) -> Answer:
        desk = self._desk(caller, account)
        new = self._new(
            kind,
            caller,
            desk.account,
            request_id=request_id,
            client_order_id=client_order_id,
            body=body_of(basket),
        )
        try:
            cuts = (
                self._cut(basket) if kind is TaskKind.BASKET else {1: self._cut_leg(*basket.legs)}
            )
        except OrderRefused as refusal:
            return Answer(await self._known(new, refusal), is_new=False)
        plan = {SLICES: {str(leg): parts for leg, parts in cuts.items() if len(parts) > 1}}
        return Answer(*await desk.submit(replace(new, facts=plan)))

    def _cut(self, basket: Basket) -> dict[int, list[int]]:
        """Check every leg of a job and return how each is cut.

        Raises:
            OrderRefused: With the first rule a leg breaks, and which leg.
        """
        if not 0 < len(basket.legs) <= LEGS_MAX:
            rule = f"must be 1 to {LEGS_MAX} orders"
            raise OrderRefused("INVALID_FIELD", rule, field="legs", value=len(basket.legs))
        cuts: dict[int, list[int]] = {}
        for number, leg in enumerate(basket.legs, 1):
            try:
                cuts[number] = self._cut_leg(leg)
            except OrderRefused as refusal:
                field = f"legs.{number}.{refusal.field}"
                raise OrderRefused(
                    refusal.code, refusal.rule, field=field, value=refusal.value
                ) from None
        parts = sum(map(len, cuts.values()))
        if parts > PARTS_MAX:
            rule = f"must come to at most {PARTS_MAX} orders, slices counted"
            raise OrderRefused("INVALID_FIELD", rule, field="legs", value=parts)
        return cuts

    def _cut_leg(self, leg: Leg) -> list[int]:
        if not leg.slice:
            self._check_order(leg.order)
            return [leg.order.quantity]
        admit.check_order(leg.order, self._rules())
        if leg.order.disclosed_quantity:
            raise OrderRefused(
                "INVALID_FIELD",
                "must be left out of an order that may be cut",
                field="order.disclosed_quantity",
                value=leg.order.disclosed_quantity,
            )
        return slices.cut(leg.order, self._contracts(), self._freeze(), self._rules())

    def _check_order(self, order: OrderRequest) -> None:
        admit.check_order(order, self._rules())
        contracts = self._contracts()
        if contracts is not None:
            admit.check_listed(order, contracts, self._freeze())

    def _check_change(self, change: OrderChange, placed: OrderRequest) -> None:
        admit.check_change(change, placed, self._rules())
        contracts = self._contracts()
        if contracts is not None:
            admit.check_change_listed(change, placed, contracts, self._freeze())

    def _rules(self) -> rulebook.Rules:
        return rulebook.rules_of(self._config.rules, today=ist_date(self._clock.now_ns()))

    def _freeze(self) -> dict[str, int]:
        today = ist_date(self._clock.now_ns())
        return rulebook.freeze_quantities(self._config.freeze_quantities, today=today)

    async def _known(self, new: NewTask, refusal: OrderRefused) -> OrderTask:
        try:
            known = await self._journal.known(new)
        except IdempotencyConflict:
            raise
        except OrderRefused:
            raise refusal from None  # what the journal cannot hold, it does not hold
        if known is None:
            raise refusal
        return known

    def _about(
        self,
        kind: TaskKind,
        caller: Caller,
        target: OrderTask,
        request_id: str,
        body: Mapping[str, str],
    ) -> tuple[AccountDesk, NewTask]:
        desk = self._desk(caller, target.account)
        return desk, self._new(
            kind,
            caller,
            desk.account,
            request_id=request_id,
            client_order_id=target.client_order_id,
            body=body,
            target_task_id=target.task_id,
        )

    def _new(  # noqa: PLR0913 - the fields of one instruction
        self,
        kind: TaskKind,
        caller: Caller,
        account: Account,
        *,
        request_id: str,
        client_order_id: str,
        body: Mapping[str, str],
        target_task_id: uuid.UUID | None = None,
        group: Choice | None = None,
    ) -> NewTask:
        for field, key in (("request_id", request_id), ("client_order_id", client_order_id)):
            # The keys of a job's orders are made of it and this; nobody else's may look like one.
            if SEPARATOR in key and (field == "request_id" or target_task_id is None):
                rule = f"must be without {SEPARATOR}, which is in the keys of a job's orders"
                raise OrderRefused("INVALID_FIELD", rule, field=field, value=key)
        now_ns = self._clock.now_ns()
        whose = {"account": account} if group is None else {"group": group.group.name}
        says = {"kind": kind, **whose, "client_order_id": client_order_id, "body": body}
        return NewTask(
            task_id=self._new_id(),
            kind=kind,
            account=account,
            principal=caller.principal,
            request_id=request_id,
            client_order_id=client_order_id,
            body=body,
            body_sha256=body_sha256(says),
            deadline_ns=now_ns + int(self._config.deadline_s * NS_PER_S),
            received_at_ns=now_ns,
            target_task_id=target_task_id,
            account_group=None if group is None else group.group.name,
        )

    def desks_of(self, caller: Caller, account: str | None) -> list[AccountDesk]:
        """Return the desk of one account, or of all that the caller may use.

        Raises:
            OrderRefused: The account is none of the caller's.
        """
        if account is not None:
            return [self._desk(caller, account)]
        return [desk for name, desk in self.desks.items() if caller.may_use(name)]

    def _group(self, caller: Caller, name: str) -> AccountGroup:
        group = self.router.groups.get(name)
        # Wherever the order is now, it may go on on any of them.
        if group is None or not all(map(caller.may_use, group.members)):
            raise OrderRefused(
                "UNKNOWN_GROUP",
                "must be a group of accounts that are all yours",
                field="group",
                value=name,
            )
        return group

    def _desk(self, caller: Caller, account: str) -> AccountDesk:
        desk = self.desks.get(Account(account))
        if desk is None or not caller.may_use(account):
            # The same answer for both: who may not use an account need not know it exists (I14).
            raise OrderRefused(
                "UNKNOWN_ACCOUNT", "must be an account of yours", field="account", value=account
            )
        return desk


def _unknown(client_order_id: str) -> OrderRefused:
    return OrderRefused(
        "UNKNOWN_ORDER",
        "must be one of your orders",
        field="client_order_id",
        value=client_order_id,
    )
