"""One writer per account: a lock that a database session has, and a number that only rises.

Goal: two processes never send for one account. A lease that expires does not do, because a paused
holder wakes up and sends. So the lock is PostgreSQL's advisory lock on one session of ours: it ends
when we die (measured: 4 ms after SIGKILL) and stays while we are paused. A session that is lost
means stop sending at once; the heartbeat notices. What is still open: a pause between the last
check and the first byte, which the deadline of the send bounds. Guarded by
``tests/integration/journal/test_journal_writer.py``.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final

from ticker_service.adapters.postgres_pool import limited, rows, translated
from ticker_service.errors import AccountTaken, InvariantViolatedError, JournalUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.adapters.postgres_pool import Connection, Database
    from ticker_service.adapters.postgres_statements import Statements
    from ticker_service.domain.order import Account

LOCK_SPACE: Final = b"ticker-service/account-writer/"


class AccountLocks:
    """The accounts this process writes, all held by one session of its own.

    Thread/Task: belongs to one event loop; acquire and release take turns.
    """

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._statements = statements
        self._turn = asyncio.Lock()
        self._session: Connection | None = None
        self._held: set[Account] = set()
        self._epochs: dict[Account, int] = {}

    def is_writer(self, account: Account) -> bool:
        """Return whether the account's lock is ours, as far as the last sign of life tells."""
        return account in self._held and self._session is not None and not self._session.closed

    def epoch(self, account: Account) -> int | None:
        """Return the newest epoch we had, also after its lock was lost; None after a release."""
        return self._epochs.get(account)

    async def acquire(self, account: Account) -> int:
        """Take an account's lock and begin a new epoch.

        Raises:
            AccountTaken: Another session has it.
            JournalUnavailable: The database did not confirm; the lock is not ours.
        """
        async with self._turn:
            try:
                return await self._acquire(account)
            except JournalUnavailable:
                await self._lose()
                raise

    async def release(self, account: Account) -> None:
        """Give an account's lock back; without one, do nothing."""
        async with self._turn:
            self._epochs.pop(account, None)
            if account not in self._held:
                return
            self._held.discard(account)
            try:
                await self._ask(self._statements.unlock_account, {"key": lock_key(account)})
            except JournalUnavailable:
                # The session is gone, and all its locks with it.
                await self._lose()

    async def heartbeat(self) -> frozenset[Account]:
        """Ask the session for a sign of life; return the accounts whose lock is lost with it."""
        async with self._turn:
            if self._session is None:
                return frozenset()
            held = frozenset(self._held)
            try:
                await self._ask(b"SELECT 1", {})
            except JournalUnavailable:
                await self._lose()
                return held
            return frozenset()

    async def watch(self, on_lost: Callable[[frozenset[Account]], None]) -> None:
        """Beat until cancelled and say which accounts were lost, as soon as it is known."""
        while True:
            await asyncio.sleep(self._database.options.heartbeat_s)
            if lost := await self.heartbeat():
                on_lost(lost)

    async def close(self) -> None:
        """Give all locks back by ending the session."""
        async with self._turn:
            await self._lose()
            self._epochs.clear()

    async def _acquire(self, account: Account) -> int:
        if self._session is None or self._session.closed:
            self._held.clear()
            self._session = await self._database.connect(self._database.options.orders)
        if account not in self._held:
            # PostgreSQL counts how often a session took a lock; once is enough.
            found = await self._ask(self._statements.lock_account, {"key": lock_key(account)})
            if not found[0]["taken"]:
                raise AccountTaken(f"another process writes the account, account={account}")
        numbered = await self._ask(self._statements.next_epoch, {"account": account})
        epoch = numbered[0]["epoch"]
        if not isinstance(epoch, int):
            raise InvariantViolatedError(f"Invariant: an epoch is a number, epoch={epoch!r}")
        self._held.add(account)
        self._epochs[account] = epoch
        return epoch

    async def _ask(
        self, statement: bytes, parameters: dict[str, object]
    ) -> list[dict[str, object]]:
        if self._session is None:
            raise JournalUnavailable("the session of the account locks is gone")
        with translated(self._database):
            async with limited(self._database.options.operation_s):
                return await rows(self._session, statement, parameters)

    async def _lose(self) -> None:
        self._held.clear()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def lock_key(account: Account) -> int:
    """Return the account's lock number, the same in every process and release: 64 bits, signed."""
    digest = hashlib.sha256(LOCK_SPACE + account.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
