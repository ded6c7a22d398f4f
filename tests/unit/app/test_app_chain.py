"""The option chain on the screen, kept from a book's messages."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from app.console.chain import ChainView
from ticker_service.client import Message

BOOK = "NIFTY"
SPOT, CALL, PUT, FAR_CALL, NEXT_CALL = range(1, 6)
INSTRUMENTS = {
    SPOT: {"instrument_type": "EQ", "expiry": None, "strike": None},
    CALL: {"instrument_type": "CE", "expiry": "2026-11-23", "strike": 24_000.0},
    PUT: {"instrument_type": "PE", "expiry": "2026-11-23", "strike": 24_000.0},
    FAR_CALL: {"instrument_type": "CE", "expiry": "2026-11-23", "strike": 25_000.0},
    NEXT_CALL: {"instrument_type": "CE", "expiry": "2026-12-01", "strike": 26_000.0},
}
BLANK = dict.fromkeys(
    [
        "instrument_token",
        "ltp",
        "change_pct",
        "bid",
        "ask",
        "oi",
        "implied_volatility",
        "delta",
        "gamma",
        "theta",
        "vega",
        "forward",
        "forward_source",
        "iv_status",
    ]
)


def batch(*rows: dict[str, Any], kind: str = "batch") -> Message:
    filled = [BLANK | row for row in rows]
    columns = {name: [row[name] for row in filled] for name in BLANK}
    return Message(kind, BOOK, {"columns": columns})


def option(token: int, **values: object) -> dict[str, Any]:
    known = {"forward": 24_040.0, "forward_source": "parity", "iv_status": "OK"}
    return {"instrument_token": token} | known | values


@pytest.fixture
def view() -> ChainView:
    view = ChainView(BOOK)
    view.instruments = INSTRUMENTS
    return view


def shown(view: ChainView, *, width: int = 160, strikes_shown: int = 15) -> str:
    console = Console(width=width, record=True, file=None, force_terminal=False, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(view.table(width=width, strikes_shown=strikes_shown))
    return captured.get()


def test_an_empty_view_can_be_shown(view: ChainView) -> None:
    assert BOOK in shown(view)


def test_the_title_tells_spot_and_forward_with_its_source(view: ChainView) -> None:
    view.take(batch({"instrument_token": SPOT, "ltp": 24_012.35, "change_pct": 0.5}, option(CALL)))
    text = shown(view)
    assert "24,012.35 (+0.50 %)" in text
    assert "forward 24,040.00 by parity" in text


def test_the_volatility_is_shown_in_percent(view: ChainView) -> None:
    view.take(batch(option(CALL, implied_volatility=0.1234, delta=0.512)))
    text = shown(view)
    assert "12.34" in text
    assert "0.512" in text


def test_a_row_without_a_volatility_shows_why_and_no_zero(view: ChainView) -> None:
    view.take(batch(option(CALL, iv_status="CROSSED")))
    assert "crossed" in shown(view)


def test_a_strike_without_rows_on_one_side_is_blank_there(view: ChainView) -> None:
    view.take(batch(option(FAR_CALL, delta=0.1)))
    assert "25000" in shown(view)


def test_only_the_nearest_expiry_is_shown(view: ChainView) -> None:
    view.take(batch(option(CALL), option(NEXT_CALL)))
    text = shown(view)
    assert "24000" in text
    assert "26000" not in text


def test_the_strikes_nearest_the_money_are_shown(view: ChainView) -> None:
    view.take(batch(option(CALL), option(FAR_CALL)))
    text = shown(view, strikes_shown=1)
    assert "24000" in text
    assert "25000" not in text


@pytest.mark.parametrize(("width", "has_oi", "has_vega"), [(160, True, True), (120, False, True)])
def test_a_narrow_terminal_loses_the_less_important_figures(
    view: ChainView, width: int, *, has_oi: bool, has_vega: bool
) -> None:
    view.take(batch(option(CALL)))
    text = shown(view, width=width)
    assert (" oi " in text, " vega " in text) == (has_oi, has_vega)


def test_the_latest_row_of_an_instrument_is_the_one_shown(view: ChainView) -> None:
    view.take(batch(option(CALL, bid=1.5)))
    view.take(batch(option(CALL, bid=2.5)))
    text = shown(view)
    assert "2.50" in text
    assert "1.50" not in text


def test_a_snapshot_replaces_everything(view: ChainView) -> None:
    view.take(batch(option(CALL), option(FAR_CALL)))
    view.take(batch(option(CALL), kind="snapshot"))
    assert "25000" not in shown(view)


def test_the_last_three_notices_are_kept(view: ChainView) -> None:
    for number in range(5):
        view.take(Message("gap", BOOK, {"reason": f"r{number}", "instruments": [1]}))
    assert [notice[-5:-2] for notice in view.notices] == ["'r2", "'r3", "'r4"]


def test_a_token_nobody_explained_is_no_obstacle(view: ChainView) -> None:
    view.take(batch(option(99)))
    assert BOOK in shown(view)


def test_large_open_interest_is_short(view: ChainView) -> None:
    view.take(batch(option(CALL, oi=12_345_678), option(PUT, oi=0)))
    assert "1.2Cr" in shown(view)


def test_an_underlying_that_never_traded_is_no_obstacle(view: ChainView) -> None:
    view.take(batch({"instrument_token": SPOT}, option(CALL)))
    assert BOOK in shown(view)
