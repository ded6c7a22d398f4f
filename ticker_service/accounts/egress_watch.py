"""Look in time whether orders leave from a registered address.

Every morning before the market, at the start, and whenever the broker has refused for the address.
What it finds is an alarm and stops nothing: the probe is somebody else's and may be wrong, and who
takes orders from where is the broker's word alone (`HaltCode.WRONG_IP`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.egress import (
    EgressLook,
    EgressVerdict,
    compared,
    next_look_ns,
)
from ticker_service.errors import AddressUnknown
from ticker_service.runtime.bell import Bell
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.domain.order import Account
    from ticker_service.ports import AddressProbe
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

RETRY: Final = Backoff(delay_s_min=30.0, delay_s_max=300.0)
"""Until the address is a registered one, or at least known."""
SPACING_S: Final = 10.0
"""Refusals may come in bunches; the probe is asked once in so long."""
WAKE_S: Final = 30.0
"""A wall clock that is set, or a machine that slept, is noticed within this."""


def _unheard(_: EgressLook) -> None:
    return


class EgressWatch:
    """One account's way out."""

    def __init__(
        self,
        account: Account,
        probe: AddressProbe,
        surroundings: Surroundings,
        *,
        registered: tuple[str, ...] = (),
        on_look: Callable[[EgressLook], None] = _unheard,
    ) -> None:
        """Know nothing yet.

        Args:
            account: Whose.
            probe: Tells the address, asked the way that the account's orders go.
            surroundings: Time and chance.
            registered: As ``read_address`` writes them; none are compared if there are none.
            on_look: Told of every look.
        """
        self.account = account
        self.newest: EgressLook | None = None
        self._probe = probe
        self._clock = surroundings.clock
        self._chance = surroundings.chance
        self._registered = registered
        self._on_look = on_look
        self._wanted = Bell()

    def want(self) -> None:
        """Look soon: the broker has refused for the address."""
        self._wanted.ring()

    async def look(self) -> EgressLook:
        """Look once, and tell."""
        at_ns = self._clock.now_ns()
        try:
            address = await self._probe.address()
        except AddressUnknown as error:
            look = EgressLook(
                account=self.account,
                verdict=EgressVerdict.UNKNOWN,
                at_ns=at_ns,
                why=str(error),
                registered=self._registered,
            )
        else:
            look = compared(self.account, address, self._registered, at_ns=at_ns)
        self._tell(look)
        return look

    async def run(self) -> None:
        """Look at the start, every morning, when wanted, and again while something is wrong."""
        attempt = 0
        while True:
            ring = self._wanted.listen()
            look = await self.look()
            is_good = look.verdict in {EgressVerdict.REGISTERED, EgressVerdict.UNCOMPARED}
            attempt = 0 if is_good else attempt + 1
            due_ns = next_look_ns(self._clock.now_ns())
            if not is_good:
                delay_s = RETRY.delay_s(attempt, self._chance)
                due_ns = min(due_ns, self._clock.now_ns() + int(delay_s * NS_PER_S))
            await asyncio.sleep(SPACING_S)
            while not ring.is_set() and self._clock.now_ns() < due_ns:
                left_s = (due_ns - self._clock.now_ns()) / NS_PER_S
                try:
                    async with asyncio.timeout(min(left_s, WAKE_S)):
                        await ring.wait()
                except TimeoutError:
                    continue

    def _tell(self, look: EgressLook) -> None:
        before, self.newest = self.newest, look
        self._on_look(look)
        is_news = before is None or (before.verdict, before.address) != (look.verdict, look.address)
        if look.verdict is EgressVerdict.WRONG:
            # Said each time: it is the alarm of before the market, too.
            log.error("egress_address_wrong", account=self.account, told=look.told)
        elif look.verdict is EgressVerdict.UNKNOWN:
            log.warning("egress_address_unknown", account=self.account, told=look.told)
        elif is_news:
            log.info("egress_address", account=self.account, told=look.told)
