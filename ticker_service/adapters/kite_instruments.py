"""Kite's instruments dump over HTTP, as columns. Port ``InstrumentCatalog``.

The dump is public and large (over 100,000 rows), so it is parsed column by column and never as a
dict per row, which is what the official client does. Source: kite.md §2.8.
"""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import httpx
import numpy as np

from ticker_service.adapters.kite_session import tls_context
from ticker_service.constants import NS_PER_S
from ticker_service.domain.instrument import InstrumentTable
from ticker_service.errors import BrokerUnavailable, CatalogError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ticker_service.config import KiteConfig
    from ticker_service.runtime.clock import Clock

FETCH_S_MAX: Final = 30.0
DUMP_BYTES_MAX: Final = 256 << 20
HTTP_OK: Final = 200
COLUMNS: Final = (
    "instrument_token",
    "exchange_token",
    "tradingsymbol",
    "name",
    "last_price",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
    "instrument_type",
    "segment",
    "exchange",
)
_UINT32_MAX: Final = (1 << 32) - 1


def _client() -> httpx.AsyncClient:
    # No timeout of its own: the caller's total deadline is stricter than one per read.
    return httpx.AsyncClient(
        verify=tls_context(),
        trust_env=False,
        follow_redirects=False,
        timeout=None,  # noqa: S113
    )


class KiteInstruments:
    """Fetches the dump once per call; the caller decides when a day has begun."""

    def __init__(self, config: KiteConfig) -> None:
        # The sandbox prefixes every route but this one (kite.md §2.8).
        self._url = f"{config.rest_root}/instruments"

    async def fetch(self) -> InstrumentTable:
        """Return the whole dump.

        Raises:
            BrokerUnavailable: It could not be fetched; trying again is safe.
            CatalogError: What came is not a dump; the message names the column, row and value.
        """
        try:
            async with (
                asyncio.timeout(FETCH_S_MAX),
                _client() as client,
                client.stream("GET", self._url, headers={"X-Kite-Version": "3"}) as response,
            ):
                text = await self._text(response)
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"no instruments from {self._url} within {FETCH_S_MAX:.0f} s"
            ) from error
        except httpx.HTTPError as error:
            raise BrokerUnavailable(
                f"no instruments from {self._url}: {type(error).__name__} {error}"
            ) from error
        # A second of work: not between two orders, when a day's dump comes to a running daemon.
        return await asyncio.to_thread(parse_dump, text)

    async def clock_ahead_s(self, clock: Clock) -> float:
        """Return how many seconds our clock is ahead of the server's ``Date`` header.

        Raises:
            BrokerUnavailable: No answer, or none that says a date.
        """
        try:
            async with asyncio.timeout(FETCH_S_MAX), _client() as client:
                answer = await client.head(self._url)
            told = parsedate_to_datetime(answer.headers["date"])
        except (TimeoutError, httpx.HTTPError, KeyError, ValueError) as error:
            raise BrokerUnavailable(f"{self._url} does not say what time it is") from error
        return clock.now_ns() / NS_PER_S - told.timestamp()

    async def _text(self, response: httpx.Response) -> str:
        if response.status_code != HTTP_OK:
            raise BrokerUnavailable(f"{self._url} answered HTTP {response.status_code}")
        content = bytearray()
        async for part in response.aiter_bytes():
            content += part
            if len(content) > DUMP_BYTES_MAX:
                raise CatalogError(
                    f"{self._url}: more than {DUMP_BYTES_MAX} bytes is no instruments dump"
                )
        return content.decode("utf-8", errors="replace")


def parse_dump(text: str) -> InstrumentTable:
    """Turn the dump's CSV into columns.

    Args:
        text: The CSV with its header; columns are found by name, so new ones do no harm.

    Raises:
        CatalogError: A column is missing, a row has another number of fields, a number or date
            cannot be read, a token occurs twice, or there is no row at all.
    """
    by_name = _plain_columns(text) or _columns(text)
    return InstrumentTable(
        instrument_token=_tokens(by_name["instrument_token"]),
        tradingsymbol=_texts(by_name["tradingsymbol"]),
        name=_texts(by_name["name"]),
        expiry=_dates(by_name["expiry"]),
        strike=_numbers("strike", by_name["strike"]),
        price_step=_numbers("tick_size", by_name["tick_size"]),
        lot_size=_whole_numbers("lot_size", by_name["lot_size"], at_least=0),
        instrument_type=_texts(by_name["instrument_type"]),
        segment=_texts(by_name["segment"]),
        exchange=_texts(by_name["exchange"]),
    )


def _plain_columns(text: str) -> dict[str, Sequence[str]] | None:
    """Return the columns of a dump in which all is as usual; None for any other.

    Cutting the whole text at its commas takes a third of the time of a list per line. Quotes are
    rare, in a company's name now and then: such a line is read by itself.
    """
    lines = text.removesuffix("\n").split("\n")
    header, rows = lines[0].split(","), lines[1:]
    width = len(header)
    if not rows or "\r" in text or "\0" in text or not set(COLUMNS) <= set(header):
        return None
    quoted = {}
    for place in [place for place, line in enumerate(rows) if '"' in line]:
        try:
            (quoted[place],) = csv.reader([rows[place]], strict=True)
        except csv.Error:
            return None  # the field may go on in the next line
        rows[place] = "," * (width - 1)
    if any(line.count(",") != width - 1 for line in rows):
        return None
    if any(len(row) != width for row in quoted.values()):
        return None
    cells = ",".join(rows).split(",")
    columns = [cells[number::width] for number in range(width)]
    for place, row in quoted.items():
        for column, cell in zip(columns, row, strict=True):
            column[place] = cell
    return dict(zip(header, columns, strict=True))


def _columns(text: str) -> dict[str, Sequence[str]]:
    """Return the columns of any dump, or say what is wrong with it."""
    header, rows = _lines(text)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise CatalogError(f"Condition failed: the instruments dump lacks columns {missing}")
    if not rows:
        raise CatalogError("Condition failed: the instruments dump has no rows")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CatalogError(
                f"Condition failed: instruments dump line {number} has {len(row)} fields, "
                f"the header has {len(header)}"
            )
    return dict(zip(header, zip(*rows, strict=True), strict=True))


def _lines(text: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows."""
    reader = csv.reader(io.StringIO(text))
    try:
        return next(reader, []), list(reader)
    except csv.Error as error:
        raise CatalogError(
            f"Condition failed: instruments dump line {reader.line_num} is no CSV: {error}"
        ) from error


def _tokens(values: Sequence[str]) -> NDArray[np.uint32]:
    tokens = _whole_numbers("instrument_token", values, at_least=1).astype(np.uint32)
    distinct, counts = np.unique(tokens, return_counts=True)
    if len(distinct) != len(tokens):
        repeated = distinct[counts > 1].tolist()
        raise CatalogError(
            f"Condition failed: the instruments dump has {len(repeated)} tokens more than once, "
            f"{repeated[0]} among them"
        )
    return tokens


def _texts(values: Sequence[str]) -> NDArray[np.object_]:
    # The few distinct words of most columns are shared, not stored a hundred thousand times.
    seen: dict[str, str] = {}
    column = np.empty(len(values), dtype=object)
    column[:] = [seen.setdefault(value, value) for value in values]
    return column


def _numbers(name: str, values: Sequence[str]) -> NDArray[np.float64]:
    try:
        column = np.array([float(value) if value else 0.0 for value in values])
    except ValueError:
        wrong = next(place for place, value in enumerate(values) if not _is_number(value))
        raise _unreadable(name, wrong, values[wrong], "a number") from None
    if not np.isfinite(column).all():
        wrong = int(np.flatnonzero(~np.isfinite(column))[0])
        raise _unreadable(name, wrong, values[wrong], "a finite number")
    return column


def _whole_numbers(name: str, values: Sequence[str], *, at_least: int) -> NDArray[np.int64]:
    column = _numbers(name, values)
    # Checked as floats, which hold 32 bits exactly: a cast would round and wrap in silence.
    is_wrong = (column != np.floor(column)) | (column < at_least) | (column > _UINT32_MAX)
    if is_wrong.any():
        wrong = int(np.flatnonzero(is_wrong)[0])
        rule = f"a whole number from {at_least} to {_UINT32_MAX}"
        raise _unreadable(name, wrong, values[wrong], rule)
    return column.astype(np.int64)


def _dates(values: Sequence[str]) -> NDArray[np.datetime64]:
    distinct: dict[str, np.datetime64] = {"": np.datetime64("NaT", "D")}
    for place, value in enumerate(values):
        if value not in distinct:
            # Not numpy's own reading, which takes "2026" for New Year and knows a "today".
            if not _is_date(value):
                raise _unreadable("expiry", place, value, "a date as YYYY-MM-DD")
            distinct[value] = np.datetime64(value, "D")
    return np.array([distinct[value] for value in values], "datetime64[D]")


def _is_date(value: str) -> bool:
    try:
        return dt.date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _is_number(value: str) -> bool:
    try:
        float(value or 0)
    except ValueError:
        return False
    return True


def _unreadable(name: str, place: int, value: str, rule: str) -> CatalogError:
    return CatalogError(
        f"Condition failed: instruments dump line {place + 2}: {name}={value!r} is not {rule}"
    )
