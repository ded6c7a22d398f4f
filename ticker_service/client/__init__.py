"""What a consumer of the Redis channels imports."""

from ticker_service.client.order_client import OrderClient, OrderDoorClosed, OrderError
from ticker_service.client.tick_reader import Message, TickReader

__all__ = ["Message", "OrderClient", "OrderDoorClosed", "OrderError", "TickReader"]
