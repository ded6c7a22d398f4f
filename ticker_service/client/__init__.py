"""What a consumer of the Redis channels imports."""

from ticker_service.client.tick_reader import Message, TickReader

__all__ = ["Message", "TickReader"]
