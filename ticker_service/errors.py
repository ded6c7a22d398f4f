"""Every error the engine raises, grouped by what the caller must do about it.

    TickerServiceError
    ├── ConfigurationError        stop at start; the message lists every fault at once
    │   ├── MigrationsPending     run `ticker-service migrate`
    │   ├── LimitsRefused         risk limits that are none; those before stay in force
    │   └── UnknownAccount        name one that the journal has
    ├── FeedError                 the feed cannot go on as it is
    │   ├── FeedDisconnected      reconnect
    │   └── LoginRequired         log in again; retrying with the same token is useless
    ├── CatalogError              the instruments dump is not usable
    ├── CandleError               candles that cannot be priced as they are: mend them
    ├── PublishError              Redis did not take a message; the publisher tries again
    ├── RecordingError            a recording cannot be written or read; the feed goes on
    ├── BrokerUnavailable         nothing was sent, or a read failed: safe to try again
    │   └── BrokerThrottled       asked too often: later
    ├── AddressUnknown            from where orders leave could not be told: an alarm, no more
    ├── OrderRefused              a known no: nothing was and nothing will be sent
    │   ├── IdempotencyConflict   the key was used with another body
    │   └── RiskDenied            a limit of the risk gate
    ├── OrderOutcomeUnknown       maybe sent: never retry, reconcile
    ├── JournalError              the database side of orders
    │   ├── JournalUnavailable    not confirmed: read again before deciding
    │   ├── TaskMoved             the task changed meanwhile: read again and merge again
    │   └── AccountTaken          another process writes this account
    └── InvariantViolatedError    our bug: crash

Messages that blame the caller begin with ``Condition failed:``, ours with ``Invariant:``.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class TickerServiceError(Exception):
    """Root of all errors of this project."""


class ConfigurationError(TickerServiceError):
    """The settings cannot be right; the process stops before it does anything."""


class MigrationsPending(ConfigurationError):  # noqa: N818 - says what there is to do
    """The journal's database is older than this program."""


class Fault(NamedTuple):
    """What is wrong with one setting: its whole name, what it holds, what it must be."""

    field: str
    value: object
    rule: str

    def __str__(self) -> str:
        """Return it for people."""
        named = self.field if self.value is None else f"{self.field}={self.value!r}"
        return f"{named}: {self.rule}"


class LimitsRefused(ConfigurationError):  # noqa: N818 - says what happened
    """Risk limits that are none; ``faults`` has each."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


class UnknownAccount(ConfigurationError):  # noqa: N818 - says what was named
    """The journal has no event of an account of this name."""


class FeedError(TickerServiceError):
    """The market data feed cannot go on as it is."""


class FeedDisconnected(FeedError):  # noqa: N818 - a state of the feed, named as operators name it
    """The socket is gone or silent; reconnect and announce a gap."""


class LoginRequired(FeedError):  # noqa: N818 - names what the operator has to do
    """The broker refused the access token; only a new login helps."""


class CatalogError(TickerServiceError):
    """The instruments dump is missing, malformed, or lacks what the settings ask for."""


class CandleError(TickerServiceError):
    """Candles that cannot be priced as they are.

    Attributes:
        rule: What is wrong, or what they should have been.
        table: The file, or which of the tables; empty if it is none of them.
        column: The column at fault, empty if it is not one.
        row: The row at fault, from 0; None if it is not one. The message counts from 1.
    """

    def __init__(
        self, rule: str, *, table: str = "", column: str = "", row: int | None = None
    ) -> None:
        places = [table] if table else []
        places += [f"column {column}"] if column else []
        places += [f"row {row + 1}"] if row is not None else []
        where = ", ".join(places)
        # What stands in a file may be made to break a line or to command a terminal.
        super().__init__(_printable(f"{where}: {rule}" if where else rule))
        self.rule = rule
        self.table = table
        self.column = column
        self.row = row


class PublishError(TickerServiceError):
    """Redis did not confirm a message; whether subscribers saw it is unknown."""


class RecordingError(TickerServiceError):
    """A recording cannot be written or read; the tick path does not depend on it."""


class BrokerUnavailable(TickerServiceError):  # noqa: N818 - names the broker's state
    """The broker could not be asked; nothing was changed there, so asking again is safe."""


class BrokerThrottled(BrokerUnavailable):
    """The broker was asked too often (HTTP 429); it is well, and wants to be left alone."""


class AddressUnknown(TickerServiceError):  # noqa: N818 - says what is not known
    """The probe of our own address did not tell it; orders go on."""


class OrderRefused(TickerServiceError):  # noqa: N818 - the answer the caller gets
    """A request that cannot be carried out; nothing was sent.

    Attributes:
        code: Stable word for programs, such as ``INVALID_FIELD``.
        field: The field at fault, if it is one.
        value: What it held.
        rule: What it should have been.
    """

    def __init__(self, code: str, rule: str, *, field: str = "", value: object = None) -> None:
        # As the caller wrote it: without Python's names for kinds of numbers and words.
        bare = str(value) if isinstance(value, Decimal | str) else value
        where = f"{field}={bare!r}: " if field else ""
        super().__init__(f"{code}: {where}{rule}")
        self.code = code
        self.field = field
        self.value = value
        self.rule = rule


class IdempotencyConflict(OrderRefused):
    """The key was used before with another body; nothing was done."""


class RiskDenied(OrderRefused):
    """A limit of the risk gate denies it, or cannot be judged; see docs/risk.md.

    Attributes:
        limit: The limit, as people write it.
        numbers: What the decision was made of.
        version: That of the limits in force.
    """

    def __init__(  # noqa: PLR0913 - the parts of one decision
        self,
        code: str,
        rule: str,
        *,
        field: str,
        value: object,
        limit: object,
        numbers: Mapping[str, object],
        version: str,
    ) -> None:
        super().__init__(code, rule, field=field, value=value)
        self.limit, self.numbers, self.version = limit, numbers, version


class OrderOutcomeUnknown(TickerServiceError):  # noqa: N818 - names the state of the order
    """The order may be at the broker; never retry, reconcile."""


class JournalError(TickerServiceError):
    """The journal did not do what was asked."""


class JournalUnavailable(JournalError):  # noqa: N818 - names the state of the database
    """The database did not confirm; the write may or may not have happened."""


class TaskMoved(JournalError):  # noqa: N818 - says what happened
    """The task is no longer at the version the caller knew."""


class AccountTaken(JournalError):  # noqa: N818 - says what happened
    """Another process is this account's writer."""


class InvariantViolatedError(TickerServiceError):
    """Something that cannot happen has happened: a bug of ours."""


def _printable(text: str) -> str:
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
