"""Books: which channel an instrument's ticks go to.

A book is the dump's name of the underlying: an index, its futures and options, or a stock that has
derivatives. What has none shares a book per exchange (DESIGN §5). Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.domain.instrument import InstrumentTable

UNDERLYING_OF_INDEX: Final = {
    "NIFTY 50": "NIFTY",
    "NIFTY BANK": "BANKNIFTY",
    "NIFTY FIN SERVICE": "FINNIFTY",
    "NIFTY MID SELECT": "MIDCPNIFTY",
    "NIFTY NEXT 50": "NIFTYNXT50",
    "SENSEX": "SENSEX",
    "BANKEX": "BANKEX",
}
"""An index's symbol in the dump → the ``name`` its derivatives carry there."""

SHARE_DERIVATIVE_EXCHANGES: Final = ("NFO", "BFO")
"""Where an underlying's name may be a share's symbol. Elsewhere it is a commodity or a currency,
and a share of that symbol is another thing: ``NSE:SILVER`` is a fund, ``SILVER`` of MCX a metal."""


def book_name(underlying: str) -> str:
    """Return a name as channels spell it: ``NIFTY 50`` → ``NIFTY_50``, ``M&M`` → ``MANDM``."""
    return underlying.replace(" ", "_").replace("&", "AND")


def hash_tagged(name: str, prefix: str) -> str:
    """Return a channel or key as a Redis Cluster is given it.

    What follows the kind of the channel stands in braces, so that all of a book shares a slot:
    ``ticker:v1:ticks:NIFTY`` → ``ticker:v1:ticks:{NIFTY}``.

    Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
    """
    kind, colon, rest = name.removeprefix(prefix).partition(":")
    return f"{prefix}{kind}:{{{rest}}}" if colon else name


def books_of(table: InstrumentTable) -> NDArray[np.object_]:
    """Return the book of every instrument in the table, shape ``(n,)``.

    The table must be the whole dump: whether a stock has derivatives is read from it.
    """
    is_index = table.is_index()
    is_derivative = table.is_derivative()
    traded_underlyings = set(table.name[is_derivative].tolist())
    of_shares = is_derivative & np.isin(table.exchange, SHARE_DERIVATIVE_EXCHANGES)
    traded_shares = set(table.name[of_shares].tolist())
    books = np.empty(len(table), dtype=object)
    for row in np.flatnonzero(is_derivative).tolist():
        books[row] = book_name(table.name[row])
    for row in np.flatnonzero(~is_derivative).tolist():
        symbol = table.tradingsymbol[row]
        underlying = UNDERLYING_OF_INDEX.get(symbol, symbol) if is_index[row] else symbol
        if underlying in (traded_underlyings if is_index[row] else traded_shares):
            books[row] = book_name(underlying)
        else:
            books[row] = f"{table.exchange[row]}-{'INDEX' if is_index[row] else 'EQ'}"
    return books
