"""An option chain on the screen, kept from a book's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ticker_service.client import Message

Row = dict[str, Any]
STRIKES_SHOWN: Final = 15
WIDE: Final = ("oi", "vega", "theta", "gamma", "delta", "iv %", "bid", "ask")
MEDIUM: Final = ("vega", "theta", "delta", "iv %", "bid", "ask")
NARROW: Final = ("delta", "iv %", "bid", "ask")
"""A leg's columns from the outside in, by how much room the terminal has."""
_PRICES: Final = ("bid", "ask")
WIDTH_WIDE: Final = 148
WIDTH_MEDIUM: Final = 112


class ChainView:
    """The latest rows of one book, and how they look as a table of its nearest expiry."""

    def __init__(self, book: str) -> None:
        self.book = book
        self.instruments: Mapping[int, Row] = {}
        self._rows: dict[int, Row] = {}
        self._before: dict[int, float] = {}
        self.notices: list[str] = []

    def take(self, message: Message) -> None:
        """Apply a message of this book."""
        if message.kind == "snapshot":
            self._rows.clear()
        if message.kind in {"snapshot", "batch"}:
            for row in message.rows():
                token = row["instrument_token"]
                before = self._rows.get(token)
                if before is not None and before["ltp"] is not None:
                    self._before[token] = before["ltp"]
                self._rows[token] = row
        elif message.kind in {"gap", "status", "missed"}:
            words = {k: v for k, v in message.body.items() if k in {"reason", "state", "seq"}}
            self.notices = [*self.notices[-2:], f"{message.kind} {words}"]

    def underlying(self) -> Row | None:
        """Return the latest row of the book's index or stock."""
        for token, row in self._rows.items():
            if self.instruments.get(token, {}).get("instrument_type") == "EQ":
                return row
        return None

    def at_the_money_call(self) -> tuple[Row, Row] | None:
        """Return the instrument and the latest row of the nearest expiry's call at the money."""
        _, legs = self._nearest_expiry()
        calls = {strike: row for (strike, kind), row in legs.items() if kind == "CE"}
        forward = next((row["forward"] for row in calls.values() if row["forward"]), None)
        if forward is None:
            return None
        row = calls[min(calls, key=lambda strike: abs(strike - forward))]
        return self.instruments[row["instrument_token"]], row

    def table(self, *, width: int, strikes_shown: int = STRIKES_SHOWN) -> Table:
        """Return the strikes nearest the money of the nearest expiry, calls left, puts right.

        Args:
            width: Columns of the terminal; the less important figures go first.
            strikes_shown: Rows.
        """
        expiry, legs = self._nearest_expiry()
        forward = next((r["forward"] for r in legs.values() if r["forward"]), None)
        strikes = sorted({strike for strike, _ in legs})
        if forward is not None:
            nearest = sorted(strikes, key=lambda strike: abs(strike - forward))[:strikes_shown]
            strikes = sorted(nearest)
        table = Table(
            title=self._title(expiry, legs, forward), title_justify="left", padding=(0, 1)
        )
        shown = WIDE if width >= WIDTH_WIDE else MEDIUM if width >= WIDTH_MEDIUM else NARROW
        # The put side mirrors the call side, but a bid stands left of its ask on both.
        mirrored = [*_PRICES, *(name for name in reversed(shown) if name not in _PRICES)]
        for name in shown:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("strike", justify="center", style="bold", no_wrap=True)
        for name in mirrored:
            table.add_column(name, justify="right", no_wrap=True)
        for strike in strikes:
            call, put = legs.get((strike, "CE")), legs.get((strike, "PE"))
            is_money = forward is not None and strike == min(
                strikes, key=lambda each: abs(each - forward)
            )
            table.add_row(
                *self._cells(call, shown),
                f"{strike:g}",
                *self._cells(put, mirrored),
                style="on grey15" if is_money else "",
            )
        return table

    def _nearest_expiry(self) -> tuple[str, dict[tuple[float, str], Row]]:
        """Return the nearest expiry that has rows, and them by strike and kind."""
        by_expiry: dict[str, dict[tuple[float, str], Row]] = {}
        for token, row in self._rows.items():
            fact = self.instruments.get(token)
            if fact and fact["instrument_type"] in {"CE", "PE"}:
                legs = by_expiry.setdefault(fact["expiry"], {})
                legs[fact["strike"], fact["instrument_type"]] = row
        if not by_expiry:
            return "", {}
        expiry = min(by_expiry)
        return expiry, by_expiry[expiry]

    def _title(
        self, expiry: str, legs: Mapping[tuple[float, str], Row], forward: float | None
    ) -> Text:
        spot = self.underlying()
        text = Text(f"{self.book} ", style="bold")
        if spot is not None:
            text.append(f"{_number(spot['ltp'], 2)} ({spot['change_pct'] or 0.0:+.2f} %)  ")
        if forward is not None:
            source = next((r["forward_source"] for r in legs.values() if r["forward"]), "")
            text.append(f"forward {forward:,.2f} by {source}  ", style="cyan")
        text.append(f"expiry {expiry or '-'}", style="dim")
        text.append("   calls left, puts right", style="dim")
        return text

    def _cells(self, row: Row | None, names: Sequence[str]) -> list[Text]:
        """Return the named figures of one leg."""
        if row is None:
            return [Text("")] * len(names)
        token = row["instrument_token"]
        before, now = self._before.get(token), row["ltp"]
        moved = 0.0 if before is None or now is None else now - before
        colour = "green" if moved > 0 else "red" if moved < 0 else ""
        volatility = row["implied_volatility"]
        is_ok = row["iv_status"] == "OK"
        cells = {
            "bid": Text(_number(row["bid"], 2), style=colour),
            "ask": Text(_number(row["ask"], 2), style=colour),
            "iv %": Text(
                (row["iv_status"] or "-")[:8].lower()
                if volatility is None
                else _number(100.0 * volatility, 2),
                style="yellow" if is_ok else "dim",
            ),
            "delta": Text(_number(row["delta"], 3)),
            "gamma": Text(_number(row["gamma"], 5), style="dim"),
            "theta": Text(_number(row["theta"], 2), style="dim"),
            "vega": Text(_number(row["vega"], 2), style="dim"),
            "oi": Text(_short(row["oi"]), style="dim"),
        }
        return [cells[name] for name in names]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _short(value: int | None) -> str:
    if value is None:
        return "-"
    for size, unit in ((10_000_000, "Cr"), (100_000, "L"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return str(value)
