"""What a caller's request means for the journal: its key, its body's digest, its deadline.

Path: order -> [admit] -> journal -> execute -> settle -> report. The same key and body give the
same task for as long as the journal keeps it, whatever the rules of the day say by then (I2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ticker_service.constants import NS_PER_S
from ticker_service.domain import rulebook
from ticker_service.domain.job import SEPARATOR
from ticker_service.domain.order import NewTask, body_sha256
from ticker_service.domain.session import ist_date
from ticker_service.errors import IdempotencyConflict, OrderRefused
from ticker_service.orders import admit

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping

    from ticker_service.config import OrdersConfig
    from ticker_service.domain.contracts import Contracts
    from ticker_service.domain.order import (
        Account,
        OrderChange,
        OrderRequest,
        OrderTask,
        TaskKind,
    )
    from ticker_service.orders.access import Access, Caller
    from ticker_service.orders.desk import AccountDesk
    from ticker_service.orders.routing import Choice
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class Answer:
    """The task a request led to, and whether this request made it."""

    task: OrderTask
    is_new: bool


class Instructions:
    """Makes instructions of requests, and submits those that the rules allow."""

    def __init__(
        self,
        access: Access,
        journal: OrderJournal,
        config: OrdersConfig,
        clock: Clock,
        *,
        new_id: Callable[[], uuid.UUID],
        contracts: Callable[[], Contracts | None],
    ) -> None:
        self.contracts = contracts
        """What is listed today; None while that is not known."""
        self._access = access
        self._journal = journal
        self._config = config
        self._clock = clock
        self._new_id = new_id

    def new(  # noqa: PLR0913 - the fields of one instruction
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
        """Return a request as an instruction for the journal.

        Raises:
            OrderRefused: A key cannot be one.
        """
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

    def about(
        self,
        kind: TaskKind,
        caller: Caller,
        target: OrderTask,
        request_id: str,
        body: Mapping[str, str],
    ) -> tuple[AccountDesk, NewTask]:
        """Return what is asked of an order, and the desk that it is asked of.

        Raises:
            OrderRefused: The order's account is none of the caller's, or a key cannot be one.
        """
        desk = self._access.desk(caller, target.account)
        return desk, self.new(
            kind,
            caller,
            desk.account,
            request_id=request_id,
            client_order_id=target.client_order_id,
            body=body,
            target_task_id=target.task_id,
        )

    async def submit(self, desk: AccountDesk, new: NewTask, check: Callable[[], None]) -> Answer:
        """Journal what the rules allow.

        Rules change with the day's instruments and with releases; what a key named before they did
        stands, and to be told no would be to be told that nothing was sent (I2).
        """
        try:
            check()
        except OrderRefused as refusal:
            known = await self.known(new, refusal)
            return Answer(known, is_new=False)
        return Answer(*await desk.submit(new))

    async def known(self, new: NewTask, refusal: OrderRefused) -> OrderTask:
        """Return what the key of a refused instruction named before.

        Raises:
            OrderRefused: Nothing; or the key was used for something else.
            JournalUnavailable: It cannot be read now.
        """
        try:
            known = await self._journal.known(new)
        except IdempotencyConflict:
            raise
        except OrderRefused:
            raise refusal from None  # what the journal cannot hold, it does not hold
        if known is None:
            raise refusal
        return known

    def check_order(self, order: OrderRequest) -> None:
        """Refuse an order that cannot be right."""
        admit.check_order(order, self.rules())
        contracts = self.contracts()
        if contracts is not None:
            admit.check_listed(order, contracts, self.freeze())

    def check_change(self, change: OrderChange, placed: OrderRequest) -> None:
        """Refuse a change that cannot be right of what was placed."""
        admit.check_change(change, placed, self.rules())
        contracts = self.contracts()
        if contracts is not None:
            admit.check_change_listed(change, placed, contracts, self.freeze())

    def rules(self) -> rulebook.Rules:
        """Return the broker's and exchanges' rules of the day."""
        return rulebook.rules_of(self._config.rules, today=ist_date(self._clock.now_ns()))

    def freeze(self) -> dict[str, int]:
        """Return the freeze quantities of the day, by name."""
        today = ist_date(self._clock.now_ns())
        return rulebook.freeze_quantities(self._config.freeze_quantities, today=today)


def unknown_order(client_order_id: str) -> OrderRefused:
    """Return what is told of an order that there is not, or that is not the caller's."""
    return OrderRefused(
        "UNKNOWN_ORDER",
        "must be one of your orders",
        field="client_order_id",
        value=client_order_id,
    )
