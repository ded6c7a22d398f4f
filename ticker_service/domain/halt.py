"""Why an account sends no new orders although it is logged in, and when it may again. Pure.

Some refusals speak of the account and not of the order: every further one would meet the same, and
each counts against the broker's daily limit. Source: kite.md §3.2 and §4; reliability.md §1.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.domain.rulebook import NEWEST, RuleName
from ticker_service.domain.session import token_expires_ns

if TYPE_CHECKING:
    from ticker_service.domain.order import Account


class HaltCode(StrEnum):
    """What stopped an account."""

    WRONG_IP = "WRONG_IP"
    """The broker takes orders from registered addresses only, and ours is none."""
    BROKER_ORDER_LIMIT = "BROKER_ORDER_LIMIT"
    """The broker's own number of orders a day is used up, over all apps of the account."""
    DUPLICATE_ORDER = "DUPLICATE_ORDER"
    """The book holds two orders of one request, which must not be."""
    UNSENT_AT_BROKER = "UNSENT_AT_BROKER"
    """The book holds an order of a try that we held for unsent, which must not be."""
    ORPHAN_ORDER = "ORPHAN_ORDER"
    """The book holds an order with our tag that the journal does not know."""
    JOURNAL_FAULT = "JOURNAL_FAULT"
    """The journal's newest events do not make what its tables hold."""
    MORE_THAN_ASKED = "MORE_THAN_ASKED"
    """The orders of a job would have come to more than its caller asked for, which must not be."""


_ADVICE: Final = {
    HaltCode.WRONG_IP: (
        NEWEST[RuleName.REGISTERED_ADDRESS].told
        + "; then `ticker-service account resume {account}`"
    ),
    HaltCode.BROKER_ORDER_LIMIT: (
        "the broker takes no more orders of the account today, exits included: call it if you must "
        "trade; opens by itself at 06:00 IST"
    ),
    HaltCode.DUPLICATE_ORDER: (
        "look at both orders in the broker's book and end the one that is too many; then "
        "`ticker-service account resume {account}`"
    ),
    HaltCode.UNSENT_AT_BROKER: (
        "the broker took what it had refused or what had not left us: look at the order in its "
        "book, end it there if you do not want it; then `ticker-service account resume {account}`"
    ),
    HaltCode.ORPHAN_ORDER: (
        "the journal has lost what was sent (was an older copy of the database put back?), or "
        "another daemon with another database has the same `installation`: look at the order and "
        "take it in with `ticker-service desk adopt-orphan`, or leave it with "
        "`ticker-service account resume {account}`"
    ),
    HaltCode.JOURNAL_FAULT: (
        "what was sent may not be what the journal says: run `ticker-service journal verify`, then "
        "`journal rebuild` if only tables differ; then `ticker-service account resume {account}`"
    ),
    HaltCode.MORE_THAN_ASKED: (
        "a bug of ours: the order that would have been too much did not leave. Look at the job and "
        "its orders in the broker's book; then `ticker-service account resume {account}`"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """One reason an account is halted; times are ns since the Unix epoch.

    ``until_ns`` is None when only a person lifts it, ``lifted_at_ns`` when none has yet.
    """

    account: Account
    code: HaltCode
    reason: str
    since_ns: int
    until_ns: int | None
    lifted_at_ns: int | None = None

    @property
    def advice(self) -> str:
        """What to do about it."""
        return _ADVICE[self.code].format(account=self.account)

    def stands(self, now_ns: int) -> bool:
        """Return whether it still holds the account."""
        return self.lifted_at_ns is None and (self.until_ns is None or now_ns < self.until_ns)


def new_halt(account: Account, code: HaltCode, reason: str, *, now_ns: int) -> Halt:
    """Return a halt that begins now, with the end that its reason has by itself."""
    # The broker's day ends with its access tokens; that it counts anew at midnight already is
    # not documented, and an order too early would only be refused once more.
    until_ns = token_expires_ns(now_ns) if code is HaltCode.BROKER_ORDER_LIMIT else None
    return Halt(account=account, code=code, reason=reason, since_ns=now_ns, until_ns=until_ns)
