"""The broker's postbacks: a word that something of an order has changed, and no more than that.

The checksum of a postback is a hash over the order's id, its time and the app's secret. Status,
quantity and price are not in it, it is good for ever, and an order that lives on has the same one
each time. So nothing is taken from a postback but that it came: the broker's book is read, with our
own token, and merged. Source: kite.md §2.6; reliability.md §5.9.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from ticker_service.errors import OrderRefused
from ticker_service.runtime.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ticker_service.domain.order import Account

SPACING_S: Final = 1.0
"""However many come, an account's book is read for them once in so long."""
SEEN_MAX: Final = 1_000
FIELD_CHARACTERS_MAX: Final = 64
_NOBODYS_KEY: Final = "of a user that is none"
_NAMES: Final = ("order_id", "order_timestamp", "checksum", "user_id")


class Postbacks:
    """Takes postbacks for the accounts of this daemon; belongs to one event loop.

    Attributes:
        taken: How many were good, by account.
        repeated: How many of those had come before, by the byte.
        refused: How many were not.
    """

    def __init__(
        self,
        secrets: Mapping[str, tuple[Account, str]],
        want_book: Mapping[Account, Callable[[], None]],
    ) -> None:
        """Have none yet.

        Args:
            secrets: By the broker's user id, the account and its app's ``api_secret``.
            want_book: By account, asks for its book to be read soon.
        """
        self.taken = dict.fromkeys(want_book, 0)
        self.repeated = 0
        self.refused = 0
        self._secrets = dict(secrets)
        self._want_book = dict(want_book)
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._changed: set[Account] = set()
        self._news = Bell()

    def take(self, body: bytes, said: object) -> None:
        """Take one postback.

        Args:
            body: As it came.
            said: What it says as JSON.

        Raises:
            OrderRefused: It is no postback of an account here, or not from the broker.
        """
        try:
            account = self._checked(said)
        except OrderRefused:
            self.refused += 1
            raise
        self.taken[account] += 1
        digest = hashlib.sha256(body).digest()
        if digest in self._seen:
            self._seen.move_to_end(digest)
            self.repeated += 1
            return
        self._seen[digest] = None
        while len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        self._changed.add(account)
        self._news.ring()

    async def run(self) -> None:
        """Have the books read that postbacks speak of, until cancelled."""
        while True:
            ring = self._news.listen()
            changed, self._changed = self._changed, set()
            for account in changed:
                self._want_book[account]()
            await asyncio.sleep(SPACING_S)
            await ring.wait()

    def _checked(self, said: object) -> Account:
        """Return the account of a postback that the broker has sent."""
        if not isinstance(said, dict):
            raise OrderRefused("INVALID_REQUEST", "a postback is a JSON object")
        for name in _NAMES:
            value = said.get(name)
            is_word = isinstance(value, str) and 0 < len(value) <= FIELD_CHARACTERS_MAX
            if not is_word:
                rule = f"must be a text of at most {FIELD_CHARACTERS_MAX} characters"
                raise OrderRefused("INVALID_REQUEST", rule, field=name)
        order_id, timestamp, checksum, user_id = (str(said[name]) for name in _NAMES)
        account, secret = self._secrets.get(user_id, (None, _NOBODYS_KEY))
        # Half a surrogate is a text to JSON and has no bytes; whoever is named takes as long.
        signed = f"{order_id}{timestamp}{secret}".encode(errors="replace")
        expected = hashlib.sha256(signed).hexdigest()
        is_good = hmac.compare_digest(expected.encode(), checksum.encode(errors="replace"))
        if account is None or not is_good:
            raise OrderRefused("FORBIDDEN", "the checksum is not that of an account here")
        return account
