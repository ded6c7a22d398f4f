"""Hold an account's new orders back after a refusal that every further one would meet.

A halt is in force the moment it begins and durable soon after, so that a restart does not lift it.
Cancels are never held back. It ends by itself where time helps, and by a person where it does not;
the journal is asked while one stands, so that `ticker-service account resume` reaches a running
daemon. A reply that comes after a halt was lifted begins it anew: it is news.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain.halt import Halt, HaltCode, new_halt
from ticker_service.errors import JournalUnavailable, OrderRefused
from ticker_service.runtime.bell import Bell, ring_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.domain.order import Account
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""While a halt stands, one that was lifted elsewhere is noticed within this."""
LOOK_S_IDLE: Final = 30.0
REASON_CHARACTERS_MAX: Final = 500


def _unheard(_: HaltCode) -> None:
    return


class Halts:
    """What halts one account; belongs to one event loop."""

    def __init__(
        self,
        account: Account,
        *,
        clock: Clock,
        on_change: Callable[[Halt, bool], None] | None = None,
    ) -> None:
        """Begin with none.

        Args:
            account: Whose.
            clock: Tells when one is over.
            on_change: Told of each halt, with True when it begins and False when it has ended.
        """
        self.account = account
        self.news = Bell()
        """Rung when one has begun and is to be made durable."""
        self.on_cause: Callable[[HaltCode], None] = _unheard
        """Told of every refusal that halts, also while its halt stands."""
        self._clock = clock
        self._on_change = on_change
        self._standing: dict[HaltCode, Halt] = {}
        self._unsaved: list[Halt] = []
        self._lifted_at_ns: dict[HaltCode, int] = {}

    def begin(self, code: HaltCode, reason: str, *, fact_ns: int | None = None) -> None:
        """Halt the account now; a halt of the same kind that stands is left as it is.

        Args:
            code: Why.
            reason: In words.
            fact_ns: When what the book tells happened, by wall time. What is older than the last
                time a person lifted a halt of this kind was looked at then.
        """
        self.on_cause(code)
        now_ns = self._clock.now_ns()
        standing = self._standing.get(code)
        if standing is not None and standing.stands(now_ns):
            return
        if fact_ns is not None and fact_ns < self._lifted_at_ns.get(code, 0):
            return
        halt = new_halt(self.account, code, reason[:REASON_CHARACTERS_MAX], now_ns=now_ns)
        self._standing[code] = halt
        self._unsaved.append(halt)
        self._say(halt, begins=True)
        self.news.ring()

    def standing(self) -> tuple[Halt, ...]:
        """Return what halts the account now, in the order in which it began.

        Thread/Task: any thread may call.
        """
        now_ns = self._clock.now_ns()
        # Copied in one step: threads that send ask as well.
        held = [halt for halt in tuple(self._standing.values()) if halt.stands(now_ns)]
        return tuple(sorted(held, key=lambda halt: halt.since_ns))

    @property
    def look_s(self) -> float:
        """How soon the journal is to be asked again, seconds."""
        return LOOK_S if self._standing or self._unsaved else LOOK_S_IDLE

    def refusal(self) -> OrderRefused | None:
        """Return what a new order is told, None when nothing halts the account."""
        held = self.standing()
        if not held:
            return None
        first = held[0]
        rule = f"halted by {first.code} ({first.reason}); {first.advice}"
        return OrderRefused("ACCOUNT_HALTED", rule, field="account", value=self.account)

    async def settle(self, journal: OrderJournal) -> None:
        """Make what began durable, take what the journal has, and let go what is over.

        Raises:
            JournalUnavailable: Try again; what stands, stands.
        """
        while self._unsaved:
            await journal.halt(self._unsaved[0])
            del self._unsaved[0]
        found = {halt.code: halt for halt in await journal.halts(self.account)}
        self._lifted_at_ns |= {
            code: halt.lifted_at_ns for code, halt in found.items() if halt.lifted_at_ns is not None
        }
        # What began while the journal was asked is not in its answer.
        found |= {halt.code: halt for halt in self._unsaved}
        now_ns = self._clock.now_ns()
        before, self._standing = (
            self._standing,
            {code: halt for code, halt in found.items() if halt.stands(now_ns)},
        )
        for code, halt in before.items():
            if code not in self._standing:
                self._say(halt, begins=False)
        for code, halt in self._standing.items():
            if code not in before:
                self._say(halt, begins=True)

    async def keep(self, journal: OrderJournal, *, over: Callable[[], None]) -> None:
        """Settle again and again until cancelled; ``over`` is told when nothing halts any more."""
        while True:
            ring = self.news.listen()
            before = self.standing()
            try:
                await self.settle(journal)
            except JournalUnavailable as error:
                log.warning("halts_not_settled", account=self.account, error=str(error))
            if before and not self.standing():
                over()
            await ring_within(self.look_s, ring)

    def _say(self, halt: Halt, *, begins: bool) -> None:
        log.warning(
            "account_halted" if begins else "account_resumed",
            account=halt.account,
            code=halt.code,
            reason=halt.reason,
            advice=halt.advice,
        )
        if self._on_change is not None:
            self._on_change(halt, begins)
