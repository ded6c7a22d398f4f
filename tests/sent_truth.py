"""What the simulated exchange put on the socket last, as Kite's own parser reads it: the oracle.

Nothing of our decoder, publisher or reader is in it.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import httpx
from kiteconnect import KiteTicker

if TYPE_CHECKING:
    from running import Exchange

    from ticker_service.client import BookTable

COLUMN_OF: Final = {
    "last_price": "ltp",
    "last_traded_quantity": "last_quantity",
    "average_traded_price": "average_price",
    "volume_traded": "volume",
    "total_buy_quantity": "buy_quantity",
    "total_sell_quantity": "sell_quantity",
    "oi": "oi",
}


def truth(at: Exchange) -> dict[int, dict[str, Any]]:
    """Return what Kite's parser reads in the packets sent last on the one open socket."""
    answer = httpx.get(f"{at.rest_root}/sim/sent", trust_env=False).raise_for_status()
    connections = answer.json()["data"]["connections"]
    if len(connections) != 1:
        return {}
    packets = [base64.b64decode(packet) for packet in connections[0]["packets"].values()]
    frame = len(packets).to_bytes(2, "big")
    frame += b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets)
    ticks = KiteTicker("key", "token")._parse_binary(frame)
    return {tick["instrument_token"]: expected_row(tick) for tick in ticks}


def expected_row(tick: dict[str, Any]) -> dict[str, Any]:
    """Return a tick of the official parser in the names of the wire."""
    row = {ours: tick[theirs] for theirs, ours in COLUMN_OF.items() if theirs in tick}
    row |= {name: tick["ohlc"][name] for name in ("open", "high", "low", "close")}
    stamp = tick.get("exchange_timestamp")
    if stamp is not None:
        row["exchange_ts_us"] = int(stamp.timestamp()) * 1_000_000
    for side, name in (("buy", "bid"), ("sell", "ask")):
        for number, level in enumerate(tick.get("depth", {}).get(side, ()), start=1):
            row[f"{name}_price_{number}"] = level["price"] or None
            row[f"{name}_quantity_{number}"] = level["quantity"]
            row[f"{name}_orders_{number}"] = level["orders"]
    return row


def difference(table: BookTable, expected: dict[int, dict[str, Any]]) -> str:
    """Return the first difference between a table and the truth, empty if there is none."""
    got = {row["instrument_token"]: row for row in table.rows()}
    if got.keys() != expected.keys():
        return f"instruments differ: {sorted(got.keys() ^ expected.keys())[:5]} of {len(expected)}"
    for token, row in expected.items():
        for name, value in row.items():
            mine = got[token][name]
            is_same = mine == value or (value == 0 and mine is None)
            if not is_same and isinstance(value, float) and mine is not None:
                is_same = abs(mine - value) < 1e-9
            if not is_same:
                return f"token={token} {name}: {mine!r} is not {value!r}"
    return "" if expected else "nothing was sent yet"
