"""The only place that picks real adapters and hands them to the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ticker_service.adapters.kite_feed import KiteFeed
from ticker_service.adapters.kite_instruments import KiteInstruments
from ticker_service.adapters.redis_publisher import RedisPublisher
from ticker_service.domain import universe
from ticker_service.domain.session import ist_date
from ticker_service.engine import Engine
from ticker_service.market import subscribe

if TYPE_CHECKING:
    from ticker_service.config import EngineConfig
    from ticker_service.runtime.surroundings import Surroundings


async def assemble(config: EngineConfig, surroundings: Surroundings) -> Engine:
    """Reach everything the engine needs once, and build it.

    Raises:
        PublishError: Redis does not answer.
        BrokerUnavailable: The instruments dump could not be fetched.
        CatalogError: The dump is malformed or lacks what the settings name.
        ConfigurationError: One api_key cannot carry the subscription.
    """
    publisher = RedisPublisher(config.redis_url)
    try:
        await publisher.check()
        dump = await KiteInstruments(config.kite).fetch()
        chosen = universe.select(
            dump,
            underlyings=config.subscription.underlyings,
            instruments=config.subscription.instruments,
            expiries_max=config.subscription.expiries_max,
            today=ist_date(surroundings.clock.now_ns()),
        )
        subscribe.check_fits(chosen, config.subscription)
    except BaseException:
        await publisher.close()
        raise
    return Engine(
        chosen,
        config,
        feed=KiteFeed(config.kite, clock=surroundings.clock, chance=surroundings.chance),
        publisher=publisher,
        surroundings=surroundings,
    )
