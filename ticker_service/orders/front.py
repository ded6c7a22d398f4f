"""What the doors ask of the order half: place, modify, cancel, look, follow.

Path: order -> [admit] -> journal -> execute -> settle -> report. The doors say who asks;
`orders.access` knows what is theirs, and `orders.instructions` what a request means for the
journal. Jobs are asked for in `orders.job_requests`, and people stop things in `orders.controls`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ticker_service.domain.order import (
    Account,
    NewTask,
    TaskKind,
    Variety,
    request_from_fields,
    to_fields,
)
from ticker_service.domain.order_legs import EXIT
from ticker_service.domain.tag import is_ours
from ticker_service.errors import OrderRefused
from ticker_service.orders import admit
from ticker_service.orders.access import Access, Caller
from ticker_service.orders.controls import Controls
from ticker_service.orders.dead_letters import DeadLetters
from ticker_service.orders.disconnects import Disconnects
from ticker_service.orders.failover import Failover
from ticker_service.orders.instructions import Answer, Instructions, unknown_order
from ticker_service.orders.job_requests import JobRequests
from ticker_service.orders.routing import Router

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ticker_service.accounts.kill_switches import KillSwitches
    from ticker_service.config import OrdersConfig
    from ticker_service.domain.account_group import AccountGroup
    from ticker_service.domain.contracts import Contracts
    from ticker_service.domain.order import (
        BrokerOrder,
        OrderChange,
        OrderEvent,
        OrderRequest,
        OrderTask,
    )
    from ticker_service.orders.desk import AccountDesk
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock


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
        self._installation = config.installation
        self.router = Router(groups, desks)
        self.access = Access(desks, self.router.groups)
        """What is whose."""
        self._instructions = Instructions(
            self.access, journal, config, clock, new_id=new_id, contracts=contracts
        )
        self.jobs = JobRequests(self.access, self._instructions, journal)
        """Baskets, orders that are cut, exits."""
        self.controls = Controls(self.access, switches, journal, clock, new_id=new_id)
        """Kill switches and risk limits."""
        self.dead_letters = DeadLetters(self, journal, config, clock)
        """What may need a person."""
        self.disconnects = Disconnects(desks, journal, clock, self._cancel_for)
        """Whose orders are cancelled when they are lost."""
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
                caller, self.access.group(caller, group), client_order_id, request_id, order, facts
            )
        desk = self.access.desk(caller, account or "")
        new = self._instructions.new(
            TaskKind.PLACE,
            caller,
            desk.account,
            request_id=request_id,
            client_order_id=client_order_id,
            body=to_fields(order),
        )
        new = replace(new, facts=facts)
        return await self._instructions.submit(
            desk, new, lambda: self._instructions.check_order(order)
        )

    async def order_or_job(
        self, caller: Caller, client_order_id: str
    ) -> OrderTask | tuple[OrderTask, list[OrderTask]]:
        """Return what a caller calls so: an order, or a job and its children; as :meth:`order`."""
        try:
            return await self.order(caller, client_order_id)
        except OrderRefused:
            return await self.jobs.job(caller, client_order_id)

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
        new = self._instructions.new(
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
            return Answer(await self._instructions.known(new, choice.refusal()), is_new=False)

        def check() -> None:
            self._instructions.check_order(order)
            admit.check_in_group(order)

        return await self._instructions.submit(self.desks[choice.account], new, check)

    async def modify(
        self, caller: Caller, *, client_order_id: str, request_id: str, change: OrderChange
    ) -> Answer:
        """Journal a change of an order; raises as :meth:`place`."""
        target = await self.order(caller, client_order_id)
        desk, new = self._instructions.about(
            TaskKind.MODIFY, caller, target, request_id, to_fields(change)
        )
        placed = request_from_fields(target.body)

        def check() -> None:
            self._instructions.check_change(change, placed)
            if target.job_id is not None and change.quantity is not None:
                # What was asked of the job is the sum of its orders (I13).
                raise OrderRefused(
                    "INVALID_FIELD",
                    "must be left out: it is an order of a basket or of a sliced order",
                    field="order.quantity",
                    value=change.quantity,
                )

        return await self._instructions.submit(desk, new, check)

    async def cancel(
        self, caller: Caller, *, client_order_id: str, request_id: str, closes: bool = False
    ) -> Answer:
        """Journal the cancel of an order, or of all of a job; raises as :meth:`place`.

        With ``closes`` the second leg of a cover order is meant: Kite closes the position then.
        """
        target = await self._named(caller, client_order_id)
        if closes and target.body.get("variety") != Variety.CO:
            raise OrderRefused(
                "INVALID_FIELD", "must be left out for any variety but co", field="exit", value=True
            )
        body = {EXIT: "true"} if closes else {}
        desk, new = self._instructions.about(TaskKind.CANCEL, caller, target, request_id, body)
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
        desk = self.access.desk(caller, old.account)
        new = self._instructions.new(
            TaskKind.PLACE,
            replace(caller, principal=old.principal),
            desk.account,
            request_id=request_id,
            client_order_id=client_order_id,
            body=old.body,
        )
        order = request_from_fields(old.body)
        return await self._instructions.submit(
            desk, replace(new, facts=facts), lambda: self._instructions.check_order(order)
        )

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
        new = self._instructions.new(
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
        desk, new = self._instructions.about(TaskKind.CANCEL, caller, target, request_id, {})
        return Answer(*await desk.submit(new))

    async def order(self, caller: Caller, client_order_id: str) -> OrderTask:
        """Return an order as the journal has it.

        Raises:
            OrderRefused: There is none the caller may see.
            JournalUnavailable: It cannot be read now.
        """
        task = await self._journal.task_of_order(caller.principal, client_order_id)
        if task is None or not caller.may_use(task.account):
            raise unknown_order(client_order_id)
        return task

    async def orders(
        self, caller: Caller, account: str | None, *, limit: int, only_open: bool = False
    ) -> list[OrderTask]:
        """Return the caller's newest instructions, on one account or on all they may use."""
        accounts = [desk.account for desk in self.access.desks_of(caller, account)]
        return await self._journal.tasks_of(
            caller.principal, accounts, limit=limit, only_open=only_open
        )

    async def changes(self, caller: Caller, client_order_id: str, *, limit: int) -> list[OrderTask]:
        """Return the newest changes and cancels of an order or a job; raises as :meth:`order`."""
        target = await self._named(caller, client_order_id)
        return await self._journal.changes_of(target.task_id, limit=limit)

    async def _named(self, caller: Caller, client_order_id: str) -> OrderTask:
        """Return the order or the job that a caller calls so; as :meth:`order`."""
        found = await self.order_or_job(caller, client_order_id)
        return found[0] if isinstance(found, tuple) else found

    def external(self, caller: Caller, account: str | None) -> list[ExternalOrder]:
        """Return the orders of the newest books that no instruction of this daemon placed.

        Of one account or of all the caller may use; empty while an account is not written here.
        """
        return [
            ExternalOrder(
                account=desk.account,
                row=row,
                is_orphan=any(is_ours(tag, self._installation) for tag in row.tags),
            )
            for desk in self.access.desks_of(caller, account)
            for row in desk.audit.external()
        ]

    async def events(
        self, caller: Caller, account: str, *, after: int, limit: int, follows: bool = False
    ) -> Sequence[OrderEvent]:
        """Return an account's events after a number, in order; empty when there are none.

        Who ``follows`` asks again, and may get fewer than there are.
        """
        desk = self.access.desk(caller, account)
        if follows:
            return await desk.events.after(after, limit=limit)
        return await self._journal.events_after(desk.account, after, limit=limit)

    async def last_seq(self, caller: Caller, account: str) -> int:
        """Return the number of the account's newest event."""
        return await self._journal.last_seq(self.access.desk(caller, account).account)

    def news_of(self, caller: Caller, account: str) -> asyncio.Event:
        """Return what is set when the account may have new events; take it before looking."""
        return self.access.desk(caller, account).news.listen()
