"""Publishes nothing: for recording alone, and for a replay that is only counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.ports import Outgoing


class SilentPublisher:
    """A ``TickPublisher`` nobody listens to."""

    async def check(self) -> None:
        """Find nothing wrong."""

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """Hold nothing."""
        return [None] * len(keys)

    async def send(self, outgoing: Outgoing) -> None:
        """Confirm everything and keep nothing."""

    async def close(self) -> None:
        """Do nothing; there is no connection."""
