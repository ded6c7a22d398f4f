"""The instruments dump over HTTP: the simulator's, and what a broken server sends in its place."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import numpy as np
import pytest
from kite_stand_in import answering, raw_server
from running import CountingSimulator

from ticker_service.adapters import kite_instruments
from ticker_service.adapters.kite_instruments import COLUMNS, KiteInstruments, parse_dump
from ticker_service.config import KiteConfig
from ticker_service.errors import BrokerUnavailable, CatalogError
from ticker_service.simulator import SimulatorOptions
from ticker_service.testing import FixedCatalog

if TYPE_CHECKING:
    from ticker_service.domain.instrument import InstrumentTable

HEADER = ",".join(COLUMNS)
ROW = "256265,1001,NIFTY 50,NIFTY 50,0,,0,0,0,EQ,INDICES,NSE"


def catalog_at(rest_root: str) -> KiteInstruments:
    return KiteInstruments(
        KiteConfig(rest_root=rest_root, ws_root="ws://127.0.0.1:1", api_key="k", access_token="")
    )


def fetch_from(answer: bytes, *, then_hang: bool = False) -> InstrumentTable:
    """Fetch from a server that answers every request with these bytes."""

    async def scene() -> InstrumentTable:
        async with (
            asyncio.timeout(9.0),
            raw_server(answering(answer, then_hang=then_hang)) as port,
        ):
            return await catalog_at(f"http://127.0.0.1:{port}").fetch()

    return asyncio.run(scene())


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("kind", ["kite", "fixed"])
def test_a_catalog_returns_the_whole_dump_again_and_again(kind: str) -> None:
    async def scene() -> None:
        options = SimulatorOptions(seed=7, rate_per_s=0.0, enforce_rate_limits=False)
        async with CountingSimulator(options) as simulator:
            market = simulator.market
            expected = parse_dump(market.catalogue.dump(market.last_price_inr).decode())
            root = str(simulator.banner()["rest_root"])
            catalog = catalog_at(root) if kind == "kite" else FixedCatalog(expected)
            for _ in range(2):
                table = await catalog.fetch()
                assert len(table) == len(market.catalogue)
                assert np.array_equal(table.instrument_token, expected.instrument_token)
                assert np.array_equal(table.expiry, expected.expiry, equal_nan=True)
                assert table.tradingsymbol.tolist() == expected.tradingsymbol.tolist()

    asyncio.run(scene())


def test_a_packed_dump_is_unpacked() -> None:
    body = gzip.compress(f"{HEADER}\n{ROW}\n".encode())
    table = fetch_from(response(body, "200 OK", "Content-Encoding: gzip"))
    assert table.instrument_token.tolist() == [256265]


@pytest.mark.parametrize(
    "status", ["500 Oops", "403 Forbidden", "429 Slow down", "204 Nothing", "302 Found"]
)
def test_any_status_but_200_means_try_again_later(status: str) -> None:
    with pytest.raises(BrokerUnavailable, match=f"answered HTTP {status[:3]}"):
        fetch_from(response(b"", status, "Location: http://127.0.0.1:1/elsewhere"))


def test_a_redirect_is_not_followed() -> None:
    async def scene() -> None:
        async with CountingSimulator(SimulatorOptions(rate_per_s=0.0)) as simulator:
            # A real dump waits at the other end: following would succeed.
            place = f"{simulator.banner()['rest_root']}/instruments"
            await asyncio.to_thread(
                fetch_from, response(b"", "307 Temporary Redirect", f"Location: {place}")
            )

    with pytest.raises(BrokerUnavailable, match="answered HTTP 307"):
        asyncio.run(scene())


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="hangs up"),
        pytest.param(b"\xff" * 1_000, id="noise"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", id="cut short"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="broken chunks"
        ),
        pytest.param(response(b"not gzip", "200 OK", "Content-Encoding: gzip"), id="broken gzip"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000, id="endless headers"),
    ],
)
def test_a_broken_answer_means_try_again_later(answer: bytes) -> None:
    with pytest.raises(BrokerUnavailable, match="no instruments from http://127"):
        fetch_from(answer)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="no answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"x", id="half a body"),
    ],
)
def test_an_answer_that_never_ends_is_given_up(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kite_instruments, "FETCH_S_MAX", 0.2)
    with pytest.raises(BrokerUnavailable, match="within"):
        fetch_from(answer, then_hang=True)


def test_a_body_that_dribbles_for_ever_meets_the_total_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kite_instruments, "FETCH_S_MAX", 0.3)

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def scene() -> None:
        async with asyncio.timeout(5.0), raw_server(dribble) as port:
            await catalog_at(f"http://127.0.0.1:{port}").fetch()

    with pytest.raises(BrokerUnavailable, match="within"):
        asyncio.run(scene())


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_body_beyond_the_limit_is_no_dump(
    is_packed: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kite_instruments, "DUMP_BYTES_MAX", 100_000)
    body = b"x" * 1_000_000
    headers = ["Content-Encoding: gzip"] if is_packed else []
    with pytest.raises(CatalogError, match="more than 100000 bytes"):
        fetch_from(response(gzip.compress(body) if is_packed else body, "200 OK", *headers))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "lacks columns"),
        (b"<html><body>maintenance</body></html>", "lacks columns"),
        (b'{"status":"error"}', "lacks columns"),
        (f"{HEADER}\n".encode(), "no rows"),
        (f"{HEADER}\n{ROW},more\n".encode(), "line 2 has 13 fields"),
        (f"{HEADER}\n{ROW}\n{ROW}\n".encode(), "256265"),
        (f"{HEADER}\n{ROW.replace('256265', 'x')}\n".encode(), "instrument_token='x'"),
        (f"{HEADER}\n{ROW.replace('256265', 'nan')}\n".encode(), "instrument_token='nan'"),
        (f"{HEADER}\n{ROW.replace('256265', '-1')}\n".encode(), "instrument_token='-1'"),
        (f"{HEADER}\n{ROW.replace('256265', '4294967296')}\n".encode(), "'4294967296'"),
        (f"{HEADER}\n{ROW.replace('256265', '1e300')}\n".encode(), "'1e300'"),
        (f"{HEADER}\n{ROW.replace('256265', '256265.5')}\n".encode(), "'256265.5'"),
        (f"{HEADER}\n{ROW.replace(',,', ',soon,')}\n".encode(), "expiry='soon'"),
        (b"\xff\xfe\x00" * 100, "lacks columns"),
        pytest.param(f'{HEADER}\n"{"x" * 200_000}"\n'.encode(), "dump", id="huge field"),
        pytest.param(
            f"{HEADER}\n{ROW.replace(',0,', ',0' + chr(13) + 'x,')}\n".encode(),
            "dump",
            id="carriage return within a field",
        ),
    ],
)
def test_what_is_no_dump_is_named_for_what_is_wrong(body: bytes, reason: str) -> None:
    with pytest.raises(CatalogError, match=reason):
        fetch_from(response(body))
