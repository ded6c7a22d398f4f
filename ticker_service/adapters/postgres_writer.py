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
import contextlib
import hashlib
from typing import TYPE_CHECKING, Final

from ticker_service.adapters.postgres_pool import limited, rows, translated
from ticker_service.errors import AccountTaken, InvariantViolatedError, JournalUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ticker_service.adapters.postgres_pool import Connection, Database
    from ticker_service.adapters.postgres_rows import Row
    from ticker_service.adapters.postgres_statements import Statements
    from ticker_service.domain.order import Account

LOCK_SPACE: Final = b"ticker-service/account-writer/"


class AccountLocks:
    """The accounts this process writes, all held by one session of its own.

    Thread/Task: belongs to one event loop; acquire and release take turns.
    """

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._sql = statements
        self._turn = asyncio.Lock()
        self._session: Connection | None = None
        self._held: set[Account] = set()
        self._lost: set[Account] = set()
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
            if self._session is None or self._session.closed:
                self._lose_all()
                self._session = await self._database.connect(self._database.options.orders)
            # Not held until the epoch is: an acquire that fails halfway leaves the lock with the
            # session, where the next one finds it, and nobody sends meanwhile.
            self._held.discard(account)
            named = {"account": account, "key": lock_key(account)}
            found = await self._ask(self._sql.lock_account, named)
            if not found[0]["taken"]:
                raise AccountTaken(f"another process writes the account, account={account}")
            epoch = int((await self._ask(self._sql.next_epoch, named))[0]["epoch"])
            self._epochs[account] = epoch
            self._held.add(account)
            self._lost.discard(account)
            return epoch

    async def release(self, account: Account) -> None:
        """Give an account's lock back; without one, do nothing."""
        async with self._turn:
            self._epochs.pop(account, None)
            self._held.discard(account)
            self._lost.discard(account)
            if self._session is not None:
                # A session that is gone took its locks with it.
                with contextlib.suppress(JournalUnavailable):
                    await self._ask(self._sql.unlock_account, {"key": lock_key(account)})

    async def heartbeat(self) -> frozenset[Account]:
        """Ask the session for a sign of life; return the accounts lost since the last call."""
        async with self._turn:
            if self._session is not None:
                with contextlib.suppress(JournalUnavailable):
                    await self._ask(b"SELECT 1", {})
            lost, self._lost = frozenset(self._lost), set()
            return lost

    async def watch(self, on_lost: Callable[[frozenset[Account]], None]) -> None:
        """Beat until cancelled and say which accounts were lost, as soon as it is known."""
        while True:
            await asyncio.sleep(self._database.options.heartbeat_s)
            if lost := await self.heartbeat():
                on_lost(lost)

    async def close(self) -> None:
        """Give all locks back by ending the session."""
        async with self._turn:
            self._held.clear()
            self._lost.clear()
            self._epochs.clear()
            if self._session is not None:
                await self._session.close()
                self._session = None

    async def _ask(self, statement: bytes, parameters: Mapping[str, object]) -> list[Row]:
        session = self._session
        if session is None:
            raise InvariantViolatedError("Invariant: the locks are asked for on a session")
        try:
            with translated(self._database):
                async with limited(self._database.options.operation_s):
                    return await rows(session, statement, parameters)
        finally:
            if session.closed:
                self._lose_all()

    def _lose_all(self) -> None:
        self._session = None
        self._lost |= self._held
        self._held.clear()


def lock_key(account: Account) -> int:
    """Return the account's lock number, the same in every process and release: 64 bits, signed."""
    digest = hashlib.sha256(LOCK_SPACE + account.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
