"""The universe: everything this daemon may subscribe today, as static columns sorted by token.

Chosen once per dump from the settings; the subscription window moves inside it. A row number of the
universe is how every step of the tick path names an instrument. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ticker_service.domain import token_index
from ticker_service.domain.book import (
    SHARE_DERIVATIVE_EXCHANGES,
    UNDERLYING_OF_INDEX,
    books_of,
)
from ticker_service.domain.expiry_clock import ExpiryInstants, expiry_instants
from ticker_service.domain.instrument import InstrumentType
from ticker_service.domain.token_index import TokenIndex
from ticker_service.errors import CatalogError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ticker_service.domain.instrument import InstrumentTable


ABSENT: Final = token_index.ABSENT
"""Row or expiry number that stands for "there is none"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """One expiry of one book's options at one exchange, with its strikes in ascending order.

    ``instant_ns`` is when its variance ends, ns since the Unix epoch.

    A name may be traded at two exchanges (``CRUDEOIL`` at MCX and NCO, ``USDINR`` at CDS and BCD).
    Their options are different contracts, so each exchange has its own expiry even on one date.
    """

    book: int
    date: dt.date
    instant_ns: int
    future_row: int
    strike: NDArray[np.float64]
    call_row: NDArray[np.intp]
    put_row: NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What never changes of some universe rows, columns of shape ``(n,)`` as in ``Universe``.

    Gathered once and kept by whoever prices the same rows again. A row that is not an option
    borrows the first expiry, so that ``expiry`` may index columns; ``is_option`` masks the result.
    """

    rows: NDArray[np.intp]
    book: NDArray[np.intp]
    is_option: NDArray[np.bool_]
    is_call: NDArray[np.bool_]
    strike: NDArray[np.float64]
    price_step: NDArray[np.float64]
    expiry: NDArray[np.intp]
    expiry_ns: NDArray[np.int64]
    other_leg: NDArray[np.intp]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Universe:
    """Static columns of shape ``(n,)``, one row per instrument, sorted by ``instrument_token``.

    ``is_named`` marks what the settings name one by one, which is wanted wherever the money is;
    ``book`` indexes ``books``; ``expiry`` indexes ``expiries`` and is ``ABSENT`` for what is not an
    option; ``expiry_ns`` is when a derivative's variance ends and ``last_trade_ns`` when it last
    trades, ns since the Unix epoch, 0 for what does not end; ``other_leg`` is the row of the same
    strike's other option; ``spot_row`` gives each book's cash index or stock, ``ABSENT`` where
    there is none.
    """

    instruments: InstrumentTable
    instrument_token: NDArray[np.uint32]
    is_named: NDArray[np.bool_]
    books: tuple[str, ...]
    book: NDArray[np.intp]
    is_option: NDArray[np.bool_]
    is_call: NDArray[np.bool_]
    strike: NDArray[np.float64]
    price_step: NDArray[np.float64]
    expiry: NDArray[np.intp]
    expiry_ns: NDArray[np.int64]
    last_trade_ns: NDArray[np.int64]
    other_leg: NDArray[np.intp]
    expiries: tuple[Expiry, ...]
    spot_row: tuple[int, ...]
    index: TokenIndex

    def __len__(self) -> int:
        """Return the number of instruments."""
        return len(self.instrument_token)

    def terms(self, rows: NDArray[np.intp]) -> Terms:
        """Return the static columns of some rows, in the order of ``rows``."""
        is_option = self.is_option[rows]
        return Terms(
            rows=rows,
            book=self.book[rows],
            is_option=is_option,
            is_call=self.is_call[rows],
            strike=self.strike[rows],
            price_step=self.price_step[rows],
            expiry=np.where(is_option, self.expiry[rows], 0),
            expiry_ns=self.expiry_ns[rows],
            other_leg=self.other_leg[rows],
        )

    def rows_of(self, instrument_token: NDArray[np.uint32]) -> NDArray[np.intp]:
        """Return the row of each token, ``ABSENT`` where it is not in the universe."""
        return self.index.rows_of(instrument_token)

    def rows_by_book(
        self, instrument_token: NDArray[np.uint32]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp] | None]:
        """Return the tokens' rows, and the order in which those of each book are together.

        Returns:
            As ``rows_of``, in the given order; and the order, None if they are together already.
            Within a book they keep their order. What is not in the universe may end up anywhere.
        """
        rows = self.rows_of(instrument_token)
        book = self.book[rows]
        if (book[1:] >= book[:-1]).all():
            return rows, None
        # Sixteen bits are sorted by counting.
        return rows, np.argsort(book.astype(np.uint16), kind="stable")


def select(
    dump: InstrumentTable,
    *,
    underlyings: Sequence[str],
    instruments: Sequence[str],
    expiries_max: int,
    today: dt.date,
) -> Universe:
    """Choose the universe from the whole dump.

    Args:
        dump: Every instrument of the day.
        underlyings: Names whose index or stock, futures and options are wanted, such as ``NIFTY``.
        instruments: Single instruments as ``EXCHANGE:TRADINGSYMBOL``.
        expiries_max: How many of each underlying's nearest option expiries are wanted.
        today: The date in India; contracts that expired before it are left out.

    Returns:
        The universe with at least one instrument.

    Raises:
        CatalogError: A wanted name is not in the dump; all missing names are listed.
    """
    books = books_of(dump)
    chosen = np.zeros(len(dump), np.bool_)
    missing: list[str] = []
    for underlying in underlyings:
        of_underlying = _rows_of_underlying(
            dump, underlying, expiries_max=expiries_max, today=today
        )
        if not of_underlying.any():
            missing.append(underlying)
        chosen |= of_underlying
    is_named = np.zeros(len(dump), np.bool_)
    symbols = dump.exchange + ":" + dump.tradingsymbol if instruments else None
    for instrument in instruments:
        named = np.asarray(symbols == instrument, np.bool_)
        if not named.any():
            missing.append(instrument)
        is_named |= named
    if missing:
        raise CatalogError(
            f"Condition failed: not in the instruments dump of {len(dump)} rows: {missing}"
        )
    rows = np.flatnonzero(chosen | is_named)
    rows = rows[np.argsort(dump.instrument_token[rows], kind="stable")]
    return _build(dump.take(rows), books[rows], is_named[rows])


def rebuild(
    table: InstrumentTable, *, book_names: NDArray[np.object_], is_named: NDArray[np.bool_]
) -> Universe:
    """Return a universe chosen earlier from what was kept of it, such as a recording.

    Args:
        table: The chosen instruments, sorted by token.
        book_names: The book of each; it was read from the whole dump, which is gone.
        is_named: What the settings named one by one.

    Raises:
        CatalogError: The columns differ in length, or the tokens are not in ascending order.
    """
    if not len(table) == len(book_names) == len(is_named):
        raise CatalogError(
            f"Condition failed: columns of {len(table)}, {len(book_names)} and {len(is_named)} rows"
        )
    if (table.instrument_token[1:] <= table.instrument_token[:-1]).any():
        raise CatalogError("Condition failed: the tokens are not in ascending order")
    return _build(table, book_names, is_named)


def _rows_of_underlying(
    dump: InstrumentTable, underlying: str, *, expiries_max: int, today: dt.date
) -> NDArray[np.bool_]:
    """Return the mask of the underlying itself, its live futures and its nearest options."""
    is_option = dump.is_option()
    is_derivative = dump.is_derivative()
    # NaT compares False, so what has no expiry drops out here.
    is_live = dump.expiry >= np.datetime64(today)
    of_name = np.asarray(dump.name == underlying, np.bool_) & is_derivative & is_live
    if not of_name.any():
        return of_name
    options = of_name & is_option
    nearest = np.unique(dump.expiry[options])[:expiries_max]
    options &= np.isin(dump.expiry, nearest)
    futures = of_name & ~is_option
    index_symbols = [s for s, name in UNDERLYING_OF_INDEX.items() if name == underlying]
    is_index = dump.is_index()
    spot = is_index & np.isin(dump.tradingsymbol, index_symbols)
    if not spot.any() and np.isin(dump.exchange[of_name], SHARE_DERIVATIVE_EXCHANGES).any():
        is_cash = ~is_derivative & ~is_index & np.asarray(dump.exchange == "NSE", np.bool_)
        spot = is_cash & np.asarray(dump.tradingsymbol == underlying, np.bool_)
    return options | futures | spot


def _build(
    table: InstrumentTable, book_names: NDArray[np.object_], is_named: NDArray[np.bool_]
) -> Universe:
    books = tuple(sorted(set(book_names.tolist())))
    book = np.array([books.index(name) for name in book_names.tolist()], np.intp)
    is_option = table.is_option()
    is_call = np.asarray(table.instrument_type == InstrumentType.CALL.value, np.bool_)
    expiry = np.full(len(table), ABSENT, np.intp)
    variance_ends_ns, last_trade_ns = _ends(table)
    other_leg = np.full(len(table), ABSENT, np.intp)
    expiries: list[Expiry] = []
    for book_number in range(len(books)):
        of_book = is_option & (book == book_number)
        dates_and_exchanges = zip(table.expiry[of_book], table.exchange[of_book], strict=True)
        for date, exchange in sorted(set(dates_and_exchanges)):
            at_exchange = np.asarray(table.exchange == exchange, np.bool_)
            rows = np.flatnonzero(of_book & at_exchange & (table.expiry == date))
            chain = _chain(
                table, rows, is_call, book=book_number, instant_ns=int(variance_ends_ns[rows[0]])
            )
            expiry[rows] = len(expiries)
            paired = (chain.call_row != ABSENT) & (chain.put_row != ABSENT)
            other_leg[chain.call_row[paired]] = chain.put_row[paired]
            other_leg[chain.put_row[paired]] = chain.call_row[paired]
            expiries.append(chain)
    return Universe(
        instruments=table,
        instrument_token=table.instrument_token,
        is_named=is_named,
        books=books,
        book=book,
        is_option=is_option,
        is_call=is_call,
        strike=np.where(is_option, table.strike, np.nan),
        price_step=table.price_step,
        expiry=expiry,
        expiry_ns=variance_ends_ns,
        last_trade_ns=last_trade_ns,
        other_leg=other_leg,
        expiries=tuple(expiries),
        spot_row=tuple(_spot_row(table, book, number) for number in range(len(books))),
        index=TokenIndex(table.instrument_token),
    )


def _ends(table: InstrumentTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return when each derivative's variance ends and when it last trades; 0 for all else."""
    ends = np.zeros((2, len(table)), np.int64)
    known: dict[tuple[str, str, dt.date], ExpiryInstants] = {}
    for row in np.flatnonzero(table.is_derivative() & ~np.isnat(table.expiry)).tolist():
        contract = (table.segment[row], table.name[row], table.expiry[row].item())
        if contract not in known:
            known[contract] = expiry_instants(*contract)
        ends[:, row] = known[contract].variance_ends_ns, known[contract].last_trade_ns
    return ends[0], ends[1]


def _chain(
    table: InstrumentTable,
    rows: NDArray[np.intp],
    is_call: NDArray[np.bool_],
    *,
    book: int,
    instant_ns: int,
) -> Expiry:
    """Arrange the options of one book and date by strike."""
    strike = np.unique(table.strike[rows])
    call_row = np.full(len(strike), ABSENT, np.intp)
    put_row = np.full(len(strike), ABSENT, np.intp)
    position = np.searchsorted(strike, table.strike[rows])
    calls = is_call[rows]
    call_row[position[calls]] = rows[calls]
    put_row[position[~calls]] = rows[~calls]
    date: dt.date = table.expiry[rows[0]].item()
    is_future = np.asarray(table.instrument_type == InstrumentType.FUTURE.value, np.bool_)
    same = np.asarray(table.name == table.name[rows[0]], np.bool_)
    same &= np.asarray(table.exchange == table.exchange[rows[0]], np.bool_)
    future = np.flatnonzero(is_future & same & (table.expiry == table.expiry[rows[0]]))
    return Expiry(
        book=book,
        date=date,
        instant_ns=instant_ns,
        future_row=int(future[0]) if len(future) else ABSENT,
        strike=strike,
        call_row=call_row,
        put_row=put_row,
    )


def _spot_row(table: InstrumentTable, book: NDArray[np.intp], number: int) -> int:
    cash = np.flatnonzero((book == number) & ~table.is_derivative())
    # A shared book of plain equities has no spot of its own; neither has a book without options.
    has_options = bool((table.is_option() & (book == number)).any())
    return int(cash[0]) if len(cash) and has_options else ABSENT
