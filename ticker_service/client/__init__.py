"""What a consumer of the Redis channels imports."""

from ticker_service.client.bar_reader import BarReader
from ticker_service.client.book_table import BookTable
from ticker_service.client.messages import Message, NoColumns
from ticker_service.client.order_client import (
    OrderClient,
    OrderDoorClosed,
    OrderError,
    OrderInDoubt,
)
from ticker_service.client.rows import Rows
from ticker_service.client.tick_reader import TickReader

__all__ = [
    "BarReader",
    "BookTable",
    "Message",
    "NoColumns",
    "OrderClient",
    "OrderDoorClosed",
    "OrderError",
    "OrderInDoubt",
    "Rows",
    "TickReader",
]
