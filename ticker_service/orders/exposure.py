"""Keep the sums of an account's open orders true to the journal.

``domain.exposure`` has the sums. They are read whole at take-over; from then on the journal tells
of each write of this process (``follow``). Versions put the two together in whatever order they
come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid

    from ticker_service.domain.exposure import Exposure
    from ticker_service.domain.order import Account
    from ticker_service.ports import OrderJournal


async def take_over(exposure: Exposure, journal: OrderJournal, account: Account) -> None:
    """Read what is open of an account that this process has just become the writer of.

    Raises:
        JournalUnavailable: What is open is not known.
    """
    journal.follow(account, exposure)
    exposure.forget()
    await _read_open(exposure, journal, account)
    exposure.is_whole = True


async def compare(exposure: Exposure, journal: OrderJournal, account: Account) -> None:
    """Read what is open again: a process that died may have had a write under way.

    Raises:
        JournalUnavailable: Try again; until then the larger of both counts.
    """
    held = exposure.open_tasks
    for task_id in held - await _read_open(exposure, journal, account):
        task = await journal.task(task_id)
        if task is not None:
            exposure.moved(task)


async def resolve(exposure: Exposure, journal: OrderJournal, *, now_ns: int) -> None:
    """Read the tasks whose last write may or may not have happened.

    Raises:
        JournalUnavailable: Try again; until then the larger of both counts.
    """
    for task_id in exposure.doubts:
        task = await journal.task(task_id)
        if task is None:
            exposure.unknown(task_id, now_ns)
        else:
            exposure.moved(task)


async def _read_open(
    exposure: Exposure, journal: OrderJournal, account: Account
) -> frozenset[uuid.UUID]:
    """Take what the journal has open, and return of which tasks that is."""
    found = set()
    # An order that moves on between two of these is told of by its write.
    for read in (journal.unsent, journal.in_doubt, journal.live_orders, journal.changes_of_open):
        for task in await read(account):
            exposure.moved(task)
            found.add(task.task_id)
    return frozenset(found)
