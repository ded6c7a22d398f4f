"""Order updates as HTTP postbacks: sent once, with Kite's checksum, and forgotten.

Source: kite.md §2.6.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final

import httpx
import orjson

if TYPE_CHECKING:
    from ticker_service.simulator.options import SimulatorOptions

WAITING_MAX: Final = 1_000
SEND_S_MAX: Final = 5.0


class OrderPostbacks:
    """Posts each update to one address, in order, while one is set.

    Attributes:
        url: Where to; nowhere when empty.
        sent: How many were answered with 2xx.
        lost: How many were not, or found no room.
    """

    def __init__(self, options: SimulatorOptions) -> None:
        self.url = options.postback_url
        self.sent = 0
        self.lost = 0
        self._secret = options.api_secret
        self._waiting: asyncio.Queue[dict[str, object]] = asyncio.Queue(WAITING_MAX)

    def publish(self, data: dict[str, object]) -> None:
        """Take one update; the newest is lost when too many wait."""
        if not self.url:
            return
        try:
            self._waiting.put_nowait(data)
        except asyncio.QueueFull:
            self.lost += 1

    async def run(self) -> None:
        """Send until cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=SEND_S_MAX) as http:
            while True:
                data = await self._waiting.get()
                body = orjson.dumps({**data, "checksum": self.checksum(data)})
                try:
                    answer = await http.post(
                        self.url, content=body, headers={"content-type": "application/json"}
                    )
                except (httpx.HTTPError, httpx.InvalidURL):
                    self.lost += 1
                else:
                    self.sent += answer.is_success
                    self.lost += not answer.is_success

    def checksum(self, data: dict[str, object]) -> str:
        """Return what tells that an update is the broker's."""
        text = f"{data['order_id']}{data['order_timestamp']}{self._secret}"
        return hashlib.sha256(text.encode()).hexdigest()
