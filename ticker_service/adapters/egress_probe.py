"""Ask an address on the web from where we come, by the way that orders go. Port ``AddressProbe``.

The session is that of the orders: the same source address or proxy, certificates verified, nothing
followed, a total deadline. What it answers is somebody else's text: an address, or JSON that has
one, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from ticker_service.adapters.kite_session import (
    Answered,
    Egress,
    Exchange,
    KiteSession,
    performing,
)
from ticker_service.constants import NS_PER_S
from ticker_service.domain.egress import read_address
from ticker_service.errors import AddressUnknown

if TYPE_CHECKING:
    from ticker_service.runtime.clock import Clock

ASK_S_MAX: Final = 5.0
ANSWER_BYTES_MAX: Final = 4_096
HTTP_OK: Final = 200
NAMES: Final = ("ip", "address", "origin", "query")
"""Under which those who answer in JSON tell it."""


class EgressProbe:
    """One account's way out, asked at one address."""

    def __init__(self, url: str, egress: Egress, clock: Clock) -> None:
        """Open nothing yet."""
        self._url = url
        self._egress = egress
        self._clock = clock

    async def address(self) -> str:
        """Return the address from which the probe was asked, as ``read_address`` writes it.

        Raises:
            AddressUnknown: It did not answer, or not with an address.
        """
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> str:
        deadline_ns = self._clock.monotonic_ns() + int(ASK_S_MAX * NS_PER_S)
        exchange = Exchange(deadline_ns=deadline_ns, clock=self._clock, bytes_max=ANSWER_BYTES_MAX)
        session = KiteSession(self._egress, connections_max=1)
        try:
            with performing(exchange):
                session.get(self._url)
        except Answered:
            status, body = exchange.answer()
        except Exception as error:  # noqa: BLE001 - as below
            # As in `kite_broker`: whatever the client raises means that nobody answered.
            raise AddressUnknown(f"no answer from {self._url}: {type(error).__name__}") from None
        finally:
            session.close()
        if status != HTTP_OK:
            raise AddressUnknown(f"{self._url} answered HTTP {status}")
        return _address_in(self._url, body)


def _address_in(url: str, body: bytes) -> str:
    text = body.decode("ascii", errors="replace").strip()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = text
    if isinstance(said, dict):
        said = next((said[name] for name in NAMES if name in said), None)
    try:
        return read_address(said if isinstance(said, str) else "")
    except ValueError:
        raise AddressUnknown(f"{url} answered with no address") from None
