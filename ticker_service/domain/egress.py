"""From which address an account's orders leave, and whether that is a registered one. Pure.

SEBI's rule `registered_address` (`domain.rulebook`): the broker takes orders, changes and cancels
from at most two registered static addresses. Source: kite.md §3.2.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_US
from ticker_service.domain.rulebook import NEWEST, RuleName
from ticker_service.domain.session import from_instant_ns, instant_ns

if TYPE_CHECKING:
    from ticker_service.domain.order import Account

LOOK_AT: Final = dt.time(8, 45)
"""IST; so that a person has time before 09:00, when the pre-open session begins."""
ADDRESS_CHARACTERS_MAX: Final = 64


class EgressVerdict(StrEnum):
    """What the last look came to."""

    REGISTERED = "registered"
    """Orders leave from a registered address."""
    WRONG = "wrong"
    """They leave from another: the broker will refuse them."""
    UNCOMPARED = "uncompared"
    """They leave from the address shown; which are registered is not set."""
    UNKNOWN = "unknown"
    """The probe did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressLook:
    """One look; ``why`` says why there is no address, and ``at_ns`` is ns since the Unix epoch."""

    account: Account
    verdict: EgressVerdict
    at_ns: int
    address: str = ""
    why: str = ""
    registered: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What it came to and what to do, for people."""
        match self.verdict:
            case EgressVerdict.REGISTERED:
                return f"orders leave from {self.address}, which is registered"
            case EgressVerdict.UNCOMPARED:
                return f"orders leave from {self.address}; set registered_addresses to compare it"
            case EgressVerdict.UNKNOWN:
                return f"from where orders leave is not known: {self.why}"
            case EgressVerdict.WRONG:
                names = " and ".join(self.registered)
                rule = NEWEST[RuleName.REGISTERED_ADDRESS].told
                return f"orders leave from {self.address}, registered is {names}: {rule}"


def look_message(look: EgressLook) -> dict[str, object]:
    """Return a look as `/health/ready` shows it."""
    return {
        "account": look.account,
        "verdict": look.verdict,
        "address": look.address or None,
        "checked_at_us": look.at_ns // NS_PER_US,
        "told": look.told,
    }


def read_address(text: str) -> str:
    """Return an address as it is compared, an IPv4 one in IPv6 clothes as the former.

    Raises:
        ValueError: It is none.
    """
    if len(text) > ADDRESS_CHARACTERS_MAX:
        raise ValueError("an address is shorter")
    address = ipaddress.ip_address(text.strip())
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def compared(
    account: Account, address: str, registered: tuple[str, ...], *, at_ns: int
) -> EgressLook:
    """Return what an address comes to; both sides as :func:`read_address` writes them."""
    verdict = EgressVerdict.UNCOMPARED
    if registered:
        verdict = EgressVerdict.REGISTERED if address in registered else EgressVerdict.WRONG
    return EgressLook(
        account=account, verdict=verdict, at_ns=at_ns, address=address, registered=registered
    )


def next_look_ns(now_ns: int) -> int:
    """Return when the next daily look is due, ns since the Unix epoch."""
    now = from_instant_ns(now_ns)
    due = now.replace(
        hour=LOOK_AT.hour, minute=LOOK_AT.minute, second=LOOK_AT.second, microsecond=0
    )
    if due <= now:
        due += dt.timedelta(days=1)
    return instant_ns(due)
