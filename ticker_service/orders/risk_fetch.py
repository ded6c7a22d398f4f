"""Fetch what the rules of the risk gate ask for: prices, positions, holdings, margins.

Beside the risk gate. Nothing is asked for that no rule needs or that is young enough already; what
is not to be had is missing, and the rules deny (I13).
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain.exposure import NOTHING_OPEN
from ticker_service.domain.order import Product, TaskKind
from ticker_service.domain.risk_input import HeldPositions, Holdings
from ticker_service.domain.risk_rules import Need
from ticker_service.errors import BrokerUnavailable, JournalUnavailable, LoginRequired

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from ticker_service.domain.contracts import Contract, Contracts
    from ticker_service.domain.exposure import Exposure, Open, OpenKey
    from ticker_service.domain.order import Account, NewTask, OrderRequest
    from ticker_service.domain.risk import RiskLimits
    from ticker_service.domain.risk_input import DayResult, OrderMargin, ReferencePrice
    from ticker_service.domain.trading_hours import Calendar
    from ticker_service.orders.group_exposure import GroupExposure
    from ticker_service.orders.positions import Positions, Reading
    from ticker_service.ports import LastPrices
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

MARGIN_WAIT_S_MAX: Final = 2.0
"""An order waits so long for what the broker says of its margin, its turn to ask included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskSources:
    """Where what a rule asks for comes from; what is None is not to be had."""

    contracts: Callable[[], Contracts | None] = lambda: None
    calendar: Calendar | None = None
    prices: LastPrices | None = None
    held_shares: Callable[[], Awaitable[Mapping[tuple[str, str], int]]] | None = None
    """Asks the broker what may be sold out of the holdings."""
    margin: Callable[[OrderRequest], Awaitable[OrderMargin]] | None = None
    """Asks the broker what an order needs and what is free."""
    group: Callable[[], str] = str
    """The account's group, empty for none."""
    groups: GroupExposure | None = None
    """What is open on all accounts of its groups."""


@dataclass(slots=True)
class Fetched:
    """What was fetched for one decision."""

    reference: ReferencePrice | None = None
    references: Mapping[tuple[str, str], ReferencePrice] = dataclasses.field(default_factory=dict)
    positions: HeldPositions | None = None
    filled_before: Mapping[OpenKey, int] = dataclasses.field(default_factory=dict)
    """What had been filled when the positions were asked for."""
    holdings: Holdings | None = None
    day: DayResult | None = None
    margin: OrderMargin | None = None


class RiskFetch:
    """One account's; belongs to one event loop."""

    def __init__(
        self,
        account: Account,
        exposure: Exposure,
        positions: Positions,
        clock: Clock,
        *,
        sources: RiskSources,
        day: Callable[[], DayResult | None],
    ) -> None:
        """Begin with nothing read; the parts are those of the gate."""
        self._account = account
        self._exposure = exposure
        self._positions = positions
        self._clock = clock
        self._sources = sources
        self._day = day
        self._reading = asyncio.Lock()
        # One at a time: turns at the broker that many orders took would keep its books waiting.
        self._asking_margin = asyncio.Lock()
        self._shares: Holdings | None = None
        self._held: tuple[int, Reading, Mapping[OpenKey, int]] | None = None
        """When positions were asked for, wall ns, what came, and what had been filled by then."""

    def contract(self, order: OrderRequest) -> Contract | None:
        """Return what the day's instruments say of what an order names, None if nothing."""
        contracts = self._sources.contracts()
        symbol = order.tradingsymbol.strip().upper()
        return None if contracts is None else contracts.find(order.exchange, symbol)

    def name(self, exchange: str, symbol: str) -> str:
        """Return the underlying of an instrument, empty where it is not known."""
        contracts = self._sources.contracts()
        contract = None if contracts is None else contracts.find(exchange, symbol)
        if contract is None:
            return ""
        return contract.name if contract.is_derivative else symbol

    async def fetch(
        self,
        needs: frozenset[Need],
        limits: RiskLimits,
        order: OrderRequest,
        open_: Iterable[tuple[OpenKey, Open]],
    ) -> Fetched:
        """Fetch what the rules need; what is not to be had is missing, and they deny.

        Args:
            needs: What they ask for.
            limits: How old it may be.
            order: What is decided on.
            open_: What is open, here and on the accounts of its limited groups.
        """
        fetched = Fetched()
        unpriced = order.price is None and order.trigger_price is None
        symbol = order.exchange, order.tradingsymbol.strip().upper()
        symbols = set()
        if Need.LAST_PRICE in needs or Need.QUOTE in needs or (Need.UNPRICED in needs and unpriced):
            symbols.add(symbol)
        if Need.OPEN_PRICES in needs:
            symbols |= {
                (key.exchange, key.tradingsymbol) for key, each in open_ if each.unpriced_quantity
            }
            symbols |= {symbol} if unpriced else set()
        if symbols and self._sources.prices is not None:
            fetched.references = await self._sources.prices.fresh(
                symbols,
                within_s=float(limits.reference_age_s_max),
                with_circuit=Need.QUOTE in needs,
            )
            fetched.reference = fetched.references.get(symbol)
        if Need.POSITIONS in needs:
            await self._read_positions(limits, fetched)
        if Need.HOLDINGS in needs and order.product is Product.CNC:
            fetched.holdings = await self._holdings_now(limits)
        if Need.DAY in needs:
            fetched.day = self._day()
        return fetched

    async def margin(self, new: NewTask, order: OrderRequest) -> OrderMargin | None:
        """Ask the broker, None if there is no answer in time or no need of one.

        What an earlier change made of an order is not in its own words, so the largest quantity
        that was asked for it counts.
        """
        counted, counts = self._exposure.with_(new) or (NOTHING_OPEN, NOTHING_OPEN)
        asks_no_more = new.kind is TaskKind.MODIFY and counts == counted != NOTHING_OPEN
        if self._sources.margin is None or asks_no_more:
            return None
        asked = dataclasses.replace(order, quantity=max(order.quantity, counts.quantity))
        try:
            async with asyncio.timeout(MARGIN_WAIT_S_MAX), self._asking_margin:
                return await self._sources.margin(asked)
        except (TimeoutError, BrokerUnavailable, LoginRequired) as error:
            why = str(error) or "no answer in time"
            log.warning("risk_margin_not_read", account=self._account, error=why)
            return None

    async def _read_positions(self, limits: RiskLimits, fetched: Fetched) -> None:
        """Fetch positions that are young enough; older ones stay if they cannot be read."""
        limit_ns = int(limits.positions_age_s_max * NS_PER_S)
        async with self._reading:
            if self._held is None or not self._is_young(self._held[0], limit_ns // 2):
                # What is filled from here on may not be in the answer, so it counts beside it.
                at_ns, filled = self._clock.now_ns(), self._exposure.filled()
                try:
                    self._held = at_ns, await self._positions.read(), filled
                except (BrokerUnavailable, LoginRequired, JournalUnavailable) as error:
                    log.warning("risk_positions_not_read", account=self._account, error=str(error))
            held = self._held
        if held is None:
            return
        at_ns, reading, fetched.filled_before = held
        net: dict[tuple[str, str], int] = {}
        for position in reading.positions:
            symbol = position.key.exchange, position.key.tradingsymbol
            net[symbol] = net.get(symbol, 0) + position.quantity
        net = {symbol: quantity for symbol, quantity in net.items() if quantity}
        names = {symbol: name for symbol in net if (name := self.name(*symbol))}
        fetched.positions = HeldPositions(at_ns=at_ns, net=net, names=names)

    async def _holdings_now(self, limits: RiskLimits) -> Holdings | None:
        """Return what may be sold of shares, None if it was never read; the rule asks its age.

        Its ``filled`` is what had been filled by then.
        Shares bought today for delivery may be sold as well; the broker's positions have them.
        """
        held_shares = self._sources.held_shares
        if held_shares is None:
            return None
        limit_ns = int(limits.positions_age_s_max * NS_PER_S)
        async with self._reading:
            if self._shares is not None and self._is_young(self._shares.at_ns, limit_ns // 2):
                return self._shares
            at_ns, filled = self._clock.now_ns(), self._exposure.filled()
            try:
                free = dict(await held_shares())
                reading = await self._positions.read()
            except (BrokerUnavailable, LoginRequired, JournalUnavailable) as error:
                log.warning("risk_holdings_not_read", account=self._account, error=str(error))
                return self._shares
            for position in reading.positions:
                if position.key.product == Product.CNC and position.quantity > 0:
                    symbol = position.key.exchange, position.key.tradingsymbol
                    free[symbol] = free.get(symbol, 0) + position.quantity
            self._shares = Holdings(at_ns=at_ns, free=free, filled=filled)
            return self._shares

    def _is_young(self, at_ns: int, limit_ns: int) -> bool:
        # What is told of a time to come was told before the clock was set back.
        return 0 <= self._clock.now_ns() - at_ns <= limit_ns

    def positions(self, fetched: Fetched) -> HeldPositions | None:
        """Return the positions with what was filled since they were asked for."""
        if fetched.positions is None:
            return None
        since = self._filled_since(fetched.filled_before)
        return dataclasses.replace(fetched.positions, filled=since)

    def holdings(self, fetched: Fetched) -> Holdings | None:
        """Return the holdings likewise."""
        if fetched.holdings is None:
            return None
        since = self._filled_since(fetched.holdings.filled)
        return dataclasses.replace(fetched.holdings, filled=since)

    def _filled_since(self, before: Mapping[OpenKey, int]) -> dict[OpenKey, int]:
        return {
            key: quantity - before.get(key, 0)
            for key, quantity in self._exposure.filled().items()
            if quantity > before.get(key, 0)
        }
