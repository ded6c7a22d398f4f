"""One channel and one key per instrument, for consumers that want a price and nothing else.

Path: feed -> decode -> validate -> batch -> price -> [publish].
Pure. Opt-in, because it makes a Python object of every value: tens of thousands of rows a second
where the books' channels carry millions (docs/wire.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ticker_service.domain.book import book_name
from ticker_service.errors import CatalogError
from ticker_service.market.encode import dumps, json_values
from ticker_service.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.domain.universe import Universe
    from ticker_service.market.columns import Column


class InstrumentChannels:
    """Writes ``tick:EXCHANGE:TRADINGSYMBOL``: a message, and the same as a key that ends itself."""

    def __init__(
        self, universe: Universe, columns: Sequence[Column], *, prefix: str, lifetime_ms: int
    ) -> None:
        """Name every instrument of the universe.

        Args:
            universe: The instruments.
            columns: What a row says.
            prefix: Before every channel and key.
            lifetime_ms: How long a key outlives the tick it holds.

        Raises:
            CatalogError: Two instruments would share a channel.
        """
        table = universe.instruments
        names = zip(table.exchange.tolist(), table.tradingsymbol.tolist(), strict=True)
        self._facts = [{"exchange": each, "tradingsymbol": symbol} for each, symbol in names]
        self._channels = [
            f"{prefix}tick:{each['exchange']}:{book_name(each['tradingsymbol'])}"
            for each in self._facts
        ]
        shared = len(self._channels) - len(set(self._channels))
        if shared:
            raise CatalogError(f"Condition failed: {shared} instruments would share a channel")
        self._universe = universe
        self._names = [column.name for column in columns]
        self._listed = [json_values(column) for column in columns]
        self._token = self._names.index("instrument_token")
        self._lifetime_ms = lifetime_ms

    def outgoing(self, header: Mapping[str, object], values: Sequence[NDArray[Any]]) -> Outgoing:
        """Return the newest row of every instrument in a batch.

        Args:
            header: The batch's header.
            values: One array per column, shape ``(n,)``, rows in order of arrival.
        """
        tokens = values[self._token]
        newest = {token: place for place, token in enumerate(tokens.tolist())}
        places = np.fromiter(newest.values(), np.intp, len(newest))
        rows = self._universe.rows_of(tokens[places]).tolist()
        pairs = zip(self._listed, values, strict=True)
        lists = [_list(listed(array[places])) for listed, array in pairs]
        head = {**header, "kind": "tick"}
        del head["n"]
        messages = [
            (
                self._channels[row],
                dumps({**head, **self._facts[row], **dict(zip(self._names, cells, strict=True))}),
            )
            for row, *cells in zip(rows, *lists, strict=True)
        ]
        kept = [(channel, message, self._lifetime_ms) for channel, message in messages]
        return Outgoing(messages=messages, values=kept)


def _list(values: NDArray[Any] | list[Any]) -> list[Any]:
    return values if isinstance(values, list) else values.tolist()
