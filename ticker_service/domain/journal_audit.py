"""What a look through the order journal finds, and whether a rebuild puts it right. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

    from ticker_service.domain.order import Account

FAULTS_KEPT_MAX: Final = 1_000
"""Of more faults the first are told and all are counted."""


class FaultCode(StrEnum):
    """What is wrong in a journal."""

    SEQUENCE_GAP = "SEQUENCE_GAP"
    """A number of an account's log is missing (I9)."""
    SEQUENCE_HEAD = "SEQUENCE_HEAD"
    """The account's last number is not that of its newest event (I9)."""
    CURSOR_AHEAD = "CURSOR_AHEAD"
    """A sink has had events that the journal does not have: it lost its newest ones."""
    EPOCH_FELL = "EPOCH_FELL"
    """An intent was committed under an older writer_epoch than one before it (I6)."""
    EPOCH_AHEAD = "EPOCH_AHEAD"
    """An attempt has a writer_epoch that the account's writer never had (I6)."""
    TAG_TWICE = "TAG_TWICE"
    """Two attempts of an account have one tag (I4)."""
    UNREADABLE = "UNREADABLE"
    """An event is not of a form that this program reads."""
    TOO_NEW = "TOO_NEW"
    """An event was written by a newer program; verify with that."""
    BEGINNING = "BEGINNING"
    """A task's first event is not its admission at version 1."""
    VERSION_GAP = "VERSION_GAP"
    """A version of a task is missing or comes twice, or its numbers do not rise (I9)."""
    NOT_ITS_OWN = "NOT_ITS_OWN"
    """An event contradicts itself or says of another task's caller."""
    NO_TRANSITION = "NO_TRANSITION"
    """A step leads where no way leads (I1, I4)."""
    FILLS_FELL = "FILLS_FELL"
    """A filled quantity is less than before (I5)."""
    UNTOLD = "UNTOLD"
    """A row that is to be made anew is gone, and its events are too old to tell all of it."""
    TASK_DIFFERS = "TASK_DIFFERS"
    """A task's row is not what its events make of it (I9)."""
    TASK_MISSING = "TASK_MISSING"
    """A task that has events has no row."""
    TASK_UNEXPLAINED = "TASK_UNEXPLAINED"
    """A row of a task has no events."""
    ATTEMPT_DIFFERS = "ATTEMPT_DIFFERS"
    """An attempt's row is not what its events make of it (I9)."""
    ATTEMPT_MISSING = "ATTEMPT_MISSING"
    """An intent has no row of its attempt."""
    ATTEMPT_UNEXPLAINED = "ATTEMPT_UNEXPLAINED"
    """A row of an attempt has no intent."""


OF_TABLES: Final = frozenset(
    {
        FaultCode.TASK_DIFFERS,
        FaultCode.TASK_MISSING,
        FaultCode.TASK_UNEXPLAINED,
        FaultCode.ATTEMPT_DIFFERS,
        FaultCode.ATTEMPT_MISSING,
        FaultCode.ATTEMPT_UNEXPLAINED,
    }
)
"""What a rebuild from the events puts right; all else is wrong in the events themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFault:
    """One thing that is wrong, where, and what is told there.

    Attributes:
        code: What kind.
        account: Whose journal.
        where: The number, task, version or attempt, for people.
        task_id: The task, if it is one's.
        field: The column or field, empty if it is none's.
        told: What the events say, or what had to be, for people.
        found: What is there.
    """

    code: FaultCode
    account: Account
    where: str
    task_id: UUID | None = None
    field: str = ""
    told: str = ""
    found: str = ""


@dataclass(slots=True, kw_only=True)
class AccountAudit:
    """What was found of one account's log.

    Attributes:
        account: Whose.
        events: How many events its log has.
        last_seq: The number of its newest event.
        is_whole: Whether its log was looked at, not only tasks that have a part in it.
        writer_epoch: The newest epoch of its writer, 0 before the first, None if not looked at.
        tasks: How many tasks are its.
        fault_count: How many faults were found.
    """

    account: Account
    events: int
    last_seq: int
    is_whole: bool = False
    writer_epoch: int | None = None
    tasks: int = 0
    fault_count: int = 0


@dataclass(slots=True, kw_only=True)
class Audit:
    """What a walk through the journal came to.

    Attributes:
        accounts: Each account's part.
        faults: The first of them.
        fault_count: All of them.
        events: Events replayed.
        tasks: Rows of tasks compared.
        attempts: Rows of attempts compared.
        untold_tasks: Tasks of which the oldest events do not tell everything.
        event_fault_count: Faults of the events themselves, which no rebuild puts right.
    """

    accounts: dict[Account, AccountAudit] = field(default_factory=dict)
    faults: list[JournalFault] = field(default_factory=list)
    fault_count: int = 0
    events: int = 0
    tasks: int = 0
    attempts: int = 0
    untold_tasks: int = 0

    event_fault_count: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.fault_count == 0

    def add(self, fault: JournalFault) -> None:
        """Count a fault and keep it if there is room."""
        self.fault_count += 1
        self.event_fault_count += fault.code not in OF_TABLES
        self.of(fault.account).fault_count += 1
        if len(self.faults) < FAULTS_KEPT_MAX:
            self.faults.append(fault)

    def of(self, account: Account) -> AccountAudit:
        """Return the part of an account."""
        found = self.accounts.get(account)
        if found is None:
            found = self.accounts[account] = AccountAudit(account=account, events=0, last_seq=0)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """What making the tables anew came to.

    Attributes:
        before: What was found before.
        after: What is found now; None if nothing was done, because the events themselves are
            damaged.
        tasks_changed: Rows of tasks that were replaced, put in or taken out.
        attempts_changed: The same of attempts.
    """

    before: Audit
    after: Audit | None
    tasks_changed: int = 0
    attempts_changed: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong any more."""
        return self.after is not None and self.after.is_sound
