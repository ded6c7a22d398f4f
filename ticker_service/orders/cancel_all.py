"""Cancel whatever is open at the broker, while a switch says CANCEL_ALL or an exit wants it gone.

Beside the path of an order: it works from the broker's book alone, so that it does so with the
journal down, and for orders that were placed elsewhere. A cancel that was sent twice does no harm.
What it did is in the book, and comes into the journal from there. It goes on looking while the
switch stands: an order that was on its way when it was thrown surfaces later (kite.md §5.2).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import routed_variety_of
from ticker_service.domain.order_state import TERMINAL, state_of
from ticker_service.errors import BrokerUnavailable, LoginRequired

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ticker_service.accounts.kill_switches import KillSwitches
    from ticker_service.accounts.limits import Pacer
    from ticker_service.config import OrdersConfig
    from ticker_service.domain.kill_switch import KillScope
    from ticker_service.domain.order import Account, BrokerOrder
    from ticker_service.ports import BrokerGateway
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

LOOK_S: Final = 0.25
"""A switch that was thrown is acted on within this."""
ASK_AGAIN_S: Final = 5.0
"""What is still open so long after its cancel is cancelled again."""
PASS_S_MAX: Final = 10.0


class CancelAll:
    """Cancels what is open on one account."""

    def __init__(  # noqa: PLR0913 - the parts of one account's
        self,
        account: Account,
        *,
        gateway: BrokerGateway,
        switches: KillSwitches,
        pacer: Pacer,
        config: OrdersConfig,
        clock: Clock,
        unwanted: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._account = account
        self._gateway = gateway
        self._switches = switches
        self._pacer = pacer
        self._config = config
        self._clock = clock
        self.unwanted = unwanted
        """The ids of orders that exits want out of their way."""
        self._asked_ns: dict[str, int] = {}
        self._skipped: frozenset[tuple[str, str]] = frozenset()
        """Orders that are open and that we cannot cancel, with the variety they are of."""
        self._slots = asyncio.Semaphore(config.sends_parallel)
        """So few wait for a turn at once: callers' cancels are let through between them."""

    async def run(self, is_ours: Callable[[], bool]) -> None:
        """Work until cancelled, whenever a switch asks for it.

        Args:
            is_ours: Whether no other daemon has the account; that one would do it.
        """
        failed = ""
        while True:
            scopes = self._switches.cancels(self._account)
            if not (scopes or self.unwanted()) or not is_ours():
                self._asked_ns.clear()
                await asyncio.sleep(LOOK_S)
                continue
            try:
                await self._pass(scopes)
            except (BrokerUnavailable, LoginRequired) as error:
                if str(error) != failed:
                    log.warning("cancel_all_waits", account=self._account, error=str(error))
                failed = str(error)
            else:
                failed = ""
            await asyncio.sleep(self._config.settle_poll_s)

    async def _pass(self, scopes: Sequence[KillScope]) -> None:
        rows = [row for row in await self._gateway.orders() if self._is_meant(row, scopes)]
        now_ns = self._clock.monotonic_ns()
        until_ns = now_ns + int(PASS_S_MAX * NS_PER_S)
        self._tell_skipped(rows)
        still_open = {row.order_id for row in rows}
        self._asked_ns = {k: at for k, at in self._asked_ns.items() if k in still_open}
        async with asyncio.TaskGroup() as tasks:
            for row in rows:
                asked_ns = self._asked_ns.get(row.order_id)
                if asked_ns is None or now_ns - asked_ns >= ASK_AGAIN_S * NS_PER_S:
                    tasks.create_task(self._cancel(row, until_ns), name=f"cancel-{row.order_id}")

    def _is_meant(self, row: BrokerOrder, scopes: Sequence[KillScope]) -> bool:
        if row.parent_order_id:
            # A cover order's stop: to cancel it is to close the position, which is not asked.
            return False
        symbol = f"{row.exchange}:{row.tradingsymbol}"
        if state_of(row) in TERMINAL:
            return False
        is_in_scope = any(scope.covers(self._account, symbol) for scope in scopes)
        return is_in_scope or row.order_id in self.unwanted()

    def _tell_skipped(self, rows: Sequence[BrokerOrder]) -> None:
        """Say once of an order that there is no way by which we could cancel it."""
        skipped = frozenset(
            (row.order_id, row.variety) for row in rows if routed_variety_of(row) is None
        )
        for order_id, variety in sorted(skipped - self._skipped):
            log.error("cancel_all_skips", account=self._account, order_id=order_id, variety=variety)
        self._skipped = skipped

    async def _cancel(self, row: BrokerOrder, until_ns: int) -> None:
        variety = routed_variety_of(row)
        if variety is None:
            return
        async with self._slots:
            if not await self._pacer.admit("cancel", deadline_ns=until_ns):
                return  # the next pass has it
            deadline_ns = self._clock.monotonic_ns() + int(self._config.request_s_max * NS_PER_S)
            reply = await self._gateway.cancel(row.order_id, variety, deadline_ns=deadline_ns)
        self._asked_ns[row.order_id] = self._clock.monotonic_ns()
        log.warning(
            "cancel_all_sent",
            account=self._account,
            order_id=row.order_id,
            tradingsymbol=row.tradingsymbol,
            http_status=reply.http_status,
            failure=reply.failure,
        )
