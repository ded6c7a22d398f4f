"""Proof that it is Kite: the unmodified official Python clients work against the simulator."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import kiteconnect.exceptions as kite_errors
import numpy as np
import pytest
from kiteconnect import KiteConnect

from ticker_service.domain import session
from ticker_service.runtime.clock import SystemClock
from ticker_service.simulator import SimulatorOptions
from ticker_service.simulator.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import KiteTickerProcess, RunningSimulator


def _client(running: RunningSimulator) -> KiteConnect:
    return KiteConnect(api_key=running.options.api_key, root=running.rest_root)


def _logged_in(running: RunningSimulator, log_in: Callable[..., str]) -> KiteConnect:
    client = _client(running)
    client.set_access_token(log_in(running.simulator))
    return client


def _one_of_each(client: KiteConnect) -> dict[str, dict[str, Any]]:
    """Return rows of every kind of packet and every price scale, by quote key."""
    rows = {f"{row['exchange']}:{row['tradingsymbol']}": row for row in client.instruments()}
    chosen = ["NSE:NIFTY 50", "BSE:SENSEX", "NSE:INDIA VIX", "NSE:RELIANCE", "NSE:M&M"]
    segments = ["CDS-FUT", "NCO-FUT", "NFO-FUT", "BFO-FUT", "NFO-OPT", "BFO-OPT"]
    chosen += [
        next(key for key, row in rows.items() if row["segment"] == segment) for segment in segments
    ]
    return {key: rows[key] for key in chosen}


def test_a_login_through_the_official_client_yields_a_working_session(
    still: RunningSimulator,
) -> None:
    client = _client(still)
    query = client.login_url().partition("?")[2]
    redirect = httpx.get(f"{still.login_url}?{query}&user_id=CD5678").headers["location"]
    (request_token,) = parse_qs(urlsplit(redirect).query)["request_token"]

    opened = client.generate_session(request_token, still.options.api_secret)

    assert opened["user_id"] == "CD5678"
    assert isinstance(opened["login_time"], dt.datetime)
    assert opened.keys() >= {
        *("user_name", "user_shortname", "email", "user_type", "broker", "exchanges"),
        *("products", "order_types", "avatar_url", "meta", "api_key", "access_token"),
        *("public_token", "refresh_token", "enctoken"),
    }
    assert client.profile()["user_name"] == "Chetan Das"
    assert client.invalidate_access_token() is True
    with pytest.raises(kite_errors.TokenException):
        client.profile()


def test_the_dump_is_parsed_by_the_official_client(still: RunningSimulator) -> None:
    client = _client(still)

    rows = client.instruments()

    assert len(rows) == len(still.simulator.market.catalogue)
    assert [row for row in rows if row["exchange"] == "BFO"] == client.instruments("BFO")
    assert any(row["name"] == 'QUOTEWELL "Q", SONS & CO' for row in rows)
    today = session.ist_date(SystemClock().now_ns())
    assert all(row["expiry"] > today for row in rows if row["expiry"])


def test_quotes_agree_with_each_other_and_leave_out_missing_keys(
    still: RunningSimulator, log_in: Callable[..., str]
) -> None:
    client = _logged_in(still, log_in)
    keys = [*_one_of_each(client), "NSE:NOSUCH"]

    full, ohlc, ltp = client.quote(keys), client.ohlc(keys), client.ltp(keys)

    assert full.keys() == ohlc.keys() == ltp.keys() == set(keys[:-1])
    for key, quote in full.items():
        assert quote["ohlc"] == ohlc[key]["ohlc"]
        assert quote["last_price"] == ohlc[key]["last_price"] == ltp[key]["last_price"]
        assert isinstance(quote["timestamp"], dt.datetime)
        assert [len(side) for side in quote["depth"].values()] == [5, 5]


def test_quotes_are_found_by_token_too(still: RunningSimulator, log_in: Callable[..., str]) -> None:
    client = _logged_in(still, log_in)

    assert client.ltp("256265")["256265"] == client.ltp("NSE:NIFTY 50")["NSE:NIFTY 50"]


def test_candles_are_what_was_traded_as_the_official_client_reads_them(
    lively: RunningSimulator, log_in: Callable[..., str]
) -> None:
    client = _logged_in(lively, log_in)
    rows = _one_of_each(client)
    token = rows["NSE:RELIANCE"]["instrument_token"]
    now = dt.datetime.now(tz=session.IST)  # noqa: TID251 - the simulator lives in real time
    window = now - dt.timedelta(hours=1), now + dt.timedelta(hours=1)
    before = client.quote(["NSE:RELIANCE"])["NSE:RELIANCE"]["volume"]

    def traded() -> bool:
        return bool(client.historical_data(token, *window, "minute", oi=True))

    while not traded():
        pass
    candle = client.historical_data(token, *window, "minute", oi=True)[-1]
    assert candle["date"].utcoffset() == dt.timedelta(hours=5, minutes=30)
    assert candle["date"].second == 0
    assert candle["low"] <= min(candle["open"], candle["close"]) <= candle["high"]
    assert 0 < candle["volume"] < before
    assert candle["oi"] == 0
    whole = client.historical_data(token, *window, "60minute")
    assert sum(each["volume"] for each in whole) >= candle["volume"]
    assert "oi" not in whole[0]
    with pytest.raises(kite_errors.InputException, match="invalid interval"):
        client.historical_data(token, *window, "2minute")
    with pytest.raises(kite_errors.InputException, match="invalid token"):
        client.historical_data(1, *window, "minute")
    with pytest.raises(kite_errors.InputException, match="exceeds max limit"):
        client.historical_data(token, now - dt.timedelta(days=61), now, "minute")


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        (lambda client: client.ltp(["NSE:X"] * 1_001), kite_errors.InputException, 400),
        (lambda client: client.quote(["NSE:X"] * 501), kite_errors.InputException, 400),
        (lambda client: client.quote(), kite_errors.InputException, 400),
        (lambda client: client.instruments("NOSUCH"), kite_errors.InputException, 400),
        (lambda client: client.mf_orders(), kite_errors.GeneralException, 404),
        (lambda client: client._put("user.profile"), kite_errors.GeneralException, 405),
        (lambda client: client.generate_session("x", "y"), kite_errors.TokenException, 403),
        (lambda client: client.renew_access_token("x", "y"), kite_errors.TokenException, 403),
    ],
)
def test_refusals_surface_as_the_official_clients_exceptions(
    still: RunningSimulator,
    log_in: Callable[..., str],
    call: Callable[[KiteConnect], object],
    error: type[Exception],
    code: int,
) -> None:
    client = _logged_in(still, log_in)

    with pytest.raises(error) as raised:
        call(client)

    assert raised.value.code == code


def test_a_bad_token_surfaces_and_calls_the_session_hook(still: RunningSimulator) -> None:
    client, calls = _client(still), []
    client.set_access_token("nonsense")
    client.set_session_expiry_hook(lambda: calls.append("expired"))

    with pytest.raises(kite_errors.TokenException):
        client.profile()

    assert calls == ["expired"]


def test_requests_beyond_the_rate_surface_as_network_errors(
    serve: Callable[[SimulatorOptions], RunningSimulator], log_in: Callable[..., str]
) -> None:
    with serve(SimulatorOptions(seed=7, rate_per_s=0.0)) as running:
        client = _logged_in(running, log_in)

        def hurry() -> None:
            for _ in range(50):
                client.ltp("NSE:RELIANCE")

        with pytest.raises(kite_errors.NetworkException, match="Too many requests") as raised:
            hurry()

    assert raised.value.code == 429


def _assert_same_prices(tick: dict[str, Any], quote: dict[str, Any]) -> None:
    assert tick["last_price"] == pytest.approx(quote["last_price"], abs=1e-9)
    if tick["mode"] != "ltp":
        assert tick["ohlc"] == pytest.approx(quote["ohlc"], abs=1e-9)
    if tick["mode"] != "ltp" and tick["tradable"]:
        assert tick["volume_traded"] == quote["volume"]
        assert tick["last_traded_quantity"] == quote["last_quantity"]
        assert tick["average_traded_price"] == pytest.approx(quote["average_price"], abs=1e-9)
        assert tick["total_buy_quantity"] == quote["buy_quantity"]
        assert tick["total_sell_quantity"] == quote["sell_quantity"]
    if tick["mode"] == "full":
        assert tick["exchange_timestamp"] == _instant(quote["timestamp"])
    if tick["mode"] == "full" and tick["tradable"]:
        assert tick["depth"] == quote["depth"]
        assert tick["last_trade_time"] == _instant(quote["last_trade_time"])
        assert (tick["oi"], tick["oi_day_high"], tick["oi_day_low"]) == (
            quote["oi"],
            quote["oi_day_high"],
            quote["oi_day_low"],
        )


def _instant(rest_time: dt.datetime) -> float:
    return rest_time.replace(tzinfo=session.IST).timestamp()


@pytest.mark.parametrize("mode", ["default", "ltp", "quote", "full"])
def test_the_official_ticker_streams_what_the_quotes_say(
    still: RunningSimulator,
    log_in: Callable[..., str],
    start_ticker: Callable[..., KiteTickerProcess],
    mode: str,
) -> None:
    client = _logged_in(still, log_in)
    rows = _one_of_each(client)
    quotes = client.quote(list(rows))
    tokens = [row["instrument_token"] for row in rows.values()]

    ticker = start_ticker(still, client.access_token, {mode: tokens})
    ticks = ticker.ticks(set(tokens), mode="quote" if mode == "default" else mode)

    for key, row in rows.items():
        tick = ticks[row["instrument_token"]]
        assert tick["tradable"] == (row["segment"] != "INDICES")
        _assert_same_prices(tick, quotes[key])


def test_the_official_ticker_gets_live_ticks_round_the_truth(
    lively: RunningSimulator,
    log_in: Callable[..., str],
    start_ticker: Callable[..., KiteTickerProcess],
) -> None:
    client = _logged_in(lively, log_in)
    spot = client.ltp("NSE:NIFTY 50")["NSE:NIFTY 50"]["last_price"]
    options = [
        row
        for row in client.instruments("NFO")
        if row["name"] == "NIFTY"
        and row["segment"] == "NFO-OPT"
        and abs(row["strike"] - spot) < 200
    ]
    tokens = [row["instrument_token"] for row in options]
    ticker = start_ticker(lively, client.access_token, {"full": tokens})

    changes = 0
    for event in ticker.events():
        changes += len(event.get("ticks", []))
        if changes > 3 * len(tokens):
            break

    answer = httpx.get(lively.rest_root + "/sim/truth").json()
    truth = Truth(answer["data"])
    at_us = np.full(len(tokens), truth.at_us[-1])
    volatility = truth.volatility(np.array(tokens), at_us)
    assert np.all((volatility > 0.05) & (volatility < 0.5))
    assert truth.forward(np.array(tokens), at_us) == pytest.approx(spot, rel=0.05)


def test_an_order_update_reaches_the_official_ticker(
    still: RunningSimulator,
    log_in: Callable[..., str],
    start_ticker: Callable[..., KiteTickerProcess],
) -> None:
    ticker = start_ticker(still, log_in(still.simulator), {"ltp": [256265]})
    ticker.await_event("ticks")
    update = {"order_id": "1", "status": "COMPLETE"}

    reached = still.call(
        lambda: still.simulator.feed.broadcast_text("order", update, user_id="AB1234")
    )

    assert reached == 1
    assert ticker.await_event("order")["data"] == update


def test_an_error_text_reaches_the_official_tickers_error_callback(
    still: RunningSimulator,
    log_in: Callable[..., str],
    start_ticker: Callable[..., KiteTickerProcess],
) -> None:
    tokens = list(range(1 << 20, (1 << 20) + 3_001))

    ticker = start_ticker(still, log_in(still.simulator), {"default": tokens})

    error = ticker.await_event("error")
    assert error["code"] == 0
    assert "3000" in error["reason"]


def test_a_bad_token_surfaces_in_the_official_ticker_as_a_refused_upgrade(
    still: RunningSimulator, start_ticker: Callable[..., KiteTickerProcess]
) -> None:
    error = start_ticker(still, "nonsense", {"ltp": [256265]}).await_event("error")

    assert error["code"] == 1006
    assert "403" in error["reason"]


def test_the_official_ticker_reconnects_after_its_socket_was_killed(
    still: RunningSimulator,
    log_in: Callable[..., str],
    start_ticker: Callable[..., KiteTickerProcess],
) -> None:
    ticker = start_ticker(still, log_in(still.simulator), {"full": [256265]})
    ticker.await_event("ticks")

    answer = httpx.post(still.rest_root + "/sim/faults", json={"fault": "kill_sockets"})

    assert answer.json()["data"] == {"fault": "kill_sockets", "connections": 1}
    assert ticker.await_event("close")["code"] == 1006
    assert ticker.await_event("ticks")["ticks"][0]["instrument_token"] == 256265
