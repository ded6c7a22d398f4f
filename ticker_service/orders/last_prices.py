"""What instruments last traded at, for the risk gate: by this process's ticks, else by a quote.

Ticks cost nothing. A quote costs one of the app's few requests (kite.md §4: one a second), so what
several orders ask for at once is asked for together, and an answer serves everybody while it is
young. Who would wait too long goes without: what is missing is denied.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.risk_input import is_current
from ticker_service.errors import BrokerUnavailable, LoginRequired

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ticker_service.domain.risk_input import ReferencePrice
    from ticker_service.ports import QuoteSource
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

Symbol = tuple[str, str]
WAIT_S_MAX: Final = 2.0
"""An order waits so long for a price; a turn at the broker comes every second."""
QUOTES_MAX: Final = 500
"""Instruments in one request (kite.md §2.8)."""
KEPT_MAX: Final = 2_000


class QuoteShelf:
    """The quotes that the accounts of one app have had; belongs to one event loop."""

    def __init__(self) -> None:
        """Begin with none."""
        self.turn = asyncio.Lock()
        self.wanted: set[Symbol] = set()
        self._quotes: OrderedDict[Symbol, ReferencePrice] = OrderedDict()

    def young(
        self, symbols: Collection[Symbol], *, now_ns: int, within_s: float
    ) -> dict[Symbol, ReferencePrice]:
        """Return the quotes that are not older."""
        found = {symbol: self._quotes[symbol] for symbol in symbols if symbol in self._quotes}
        return {
            symbol: quote
            for symbol, quote in found.items()
            if 0 <= now_ns - quote.at_ns <= within_s * NS_PER_S
        }

    def put(self, quotes: Mapping[Symbol, ReferencePrice]) -> None:
        """Keep quotes; the oldest go."""
        for symbol, quote in quotes.items():
            self._quotes[symbol] = quote
            self._quotes.move_to_end(symbol)
        while len(self._quotes) > KEPT_MAX:
            self._quotes.popitem(last=False)


class LastPricesOf:
    """One account's way to last prices. Port ``LastPrices``."""

    def __init__(self, source: QuoteSource, shelf: QuoteShelf, clock: Clock) -> None:
        """Take the parts.

        Args:
            source: Asks the broker, in the app's turn.
            shelf: What the app's accounts share.
            clock: Time.
        """
        self.tick: Callable[[str, str], ReferencePrice | None] = _no_tick
        """What an instrument last traded at by the ticks of this process."""
        self._source = source
        self._shelf = shelf
        self._clock = clock

    async def fresh(
        self, symbols: Collection[Symbol], *, within_s: float, with_circuit: bool = False
    ) -> Mapping[Symbol, ReferencePrice]:
        """Return the last prices that are to be had; see ``LastPrices``."""
        found = {} if with_circuit else self._ticked(symbols, within_s)
        # Half of the age is left for who asks: a quote at its last moment would be none to them.
        found |= self._young(set(symbols) - found.keys(), within_s)
        if set(symbols) - found.keys():
            try:
                async with asyncio.timeout(WAIT_S_MAX):
                    await self._ask(set(symbols) - found.keys(), within_s)
            except (TimeoutError, BrokerUnavailable, LoginRequired) as error:
                log.warning("risk_prices_not_read", error=str(error) or "no turn in time")
            found |= self._young(set(symbols) - found.keys(), within_s)
        return found

    async def _ask(self, missing: set[Symbol], within_s: float) -> None:
        shelf = self._shelf
        shelf.wanted |= missing
        try:
            async with shelf.turn:
                # Who was before us in the turn has asked for ours as well.
                missing -= self._young(missing, within_s).keys()
                if missing:
                    others = sorted(shelf.wanted - missing)
                    asked = [*sorted(missing), *others][:QUOTES_MAX]
                    shelf.put(await self._source.quotes(asked))
        finally:
            shelf.wanted -= missing

    def _young(self, symbols: Collection[Symbol], within_s: float) -> dict[Symbol, ReferencePrice]:
        return self._shelf.young(symbols, now_ns=self._clock.now_ns(), within_s=within_s / 2)

    def _ticked(self, symbols: Collection[Symbol], within_s: float) -> dict[Symbol, ReferencePrice]:
        now_ns, found = self._clock.now_ns(), {}
        for symbol in symbols:
            tick = self.tick(*symbol)
            if tick is None or not 0 <= now_ns - tick.at_ns <= within_s * NS_PER_S:
                continue
            # A tick may be young and its trade old, or of a mode that does not tell when it was.
            if is_current(tick, now_ns=now_ns, limit_s=within_s):
                found[symbol] = tick
        return found


def _no_tick(_: str, __: str) -> None:
    return None
