"""What callers ask for as a whole: baskets, orders that are cut, exits.

Path: order -> [admit] -> journal -> execute -> settle -> report. All of a job is checked before it
is journalled; its orders follow, each with a key of its own (`orders.jobs`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ticker_service.domain.exit import body_of as exit_body
from ticker_service.domain.job import LEGS_MAX, PARTS_MAX, SLICES, Basket, Leg, body_of
from ticker_service.domain.order import TaskKind
from ticker_service.errors import OrderRefused
from ticker_service.orders import admit, slices
from ticker_service.orders.instructions import Answer, unknown_order

if TYPE_CHECKING:
    from ticker_service.domain.exit import Exit
    from ticker_service.domain.order import OrderRequest, OrderTask
    from ticker_service.orders.access import Access, Caller
    from ticker_service.orders.instructions import Instructions
    from ticker_service.ports import OrderJournal


class JobRequests:
    """The jobs of all accounts of this process, as callers see them."""

    def __init__(self, access: Access, instructions: Instructions, journal: OrderJournal) -> None:
        self._access = access
        self._instructions = instructions
        self._journal = journal

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
        """Journal an order that is cut if it is above the freeze quantity; as `FrontDesk.place`.

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
        """Journal several orders as one job, all of them checked before it; as `FrontDesk.place`.

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
        desk = self._access.desk(caller, account)
        wanted = replace(wanted, tradingsymbol=wanted.tradingsymbol.strip().upper())
        new = self._instructions.new(
            TaskKind.EXIT,
            caller,
            desk.account,
            request_id=request_id,
            client_order_id=client_order_id,
            body=exit_body(wanted),
        )
        return await self._instructions.submit(
            desk, new, lambda: admit.check_exit(wanted, self._instructions.rules())
        )

    async def job(self, caller: Caller, client_order_id: str) -> tuple[OrderTask, list[OrderTask]]:
        """Return a job as the journal has it, and all that was asked in its name.

        Raises:
            OrderRefused: There is none the caller may see.
            JournalUnavailable: It cannot be read now.
        """
        job = await self._journal.job_of(caller.principal, client_order_id)
        if job is None or not caller.may_use(job.account):
            raise unknown_order(client_order_id)
        return job, await self.children_of(job)

    async def children_of(self, job: OrderTask) -> list[OrderTask]:
        """Return all that was asked in the name of a job of the caller's."""
        return await self._journal.children_of([job.task_id])

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
        desk = self._access.desk(caller, account)
        new = self._instructions.new(
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
            return Answer(await self._instructions.known(new, refusal), is_new=False)
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
            self._instructions.check_order(leg.order)
            return [leg.order.quantity]
        admit.check_order(leg.order, self._instructions.rules())
        if leg.order.disclosed_quantity:
            raise OrderRefused(
                "INVALID_FIELD",
                "must be left out of an order that may be cut",
                field="order.disclosed_quantity",
                value=leg.order.disclosed_quantity,
            )
        return slices.cut(
            leg.order,
            self._instructions.contracts(),
            self._instructions.freeze(),
            self._instructions.rules(),
        )
