"""The REST root, spoken to by a client that is not Kite's."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from ticker_service.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RunningSimulator


@pytest.fixture
def http(still: RunningSimulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=still.rest_root, trust_env=False) as client:
        yield client


@pytest.fixture
def authorised(
    still: RunningSimulator, http: httpx.Client, log_in: Callable[..., str]
) -> httpx.Client:
    token = log_in(still.simulator)
    http.headers["Authorization"] = f"token {still.options.api_key}:{token}"
    return http


def _refusal(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    assert body.keys() == {"status", "message", "data", "error_type"}
    assert (body["status"], body["data"]) == ("error", None)
    assert body["message"]
    return response.status_code, body["error_type"]


def _login_query(still: RunningSimulator, **more: str) -> dict[str, str]:
    return {"v": "3", "api_key": still.options.api_key, "user_id": "AB1234", **more}


def test_a_login_redirects_to_the_registered_url_with_kites_parameters(
    serve: Callable[..., RunningSimulator],
) -> None:
    options = SimulatorOptions(seed=7, redirect_url="https://desk.example/back?from=kite")
    with serve(options) as running:
        response = httpx.get(
            running.login_url,
            params=_login_query(running, redirect_params="some=X&more=Y%26Z"),
        )

    target = urlsplit(response.headers["location"])
    assert response.status_code == 302
    assert (target.scheme, target.netloc, target.path) == ("https", "desk.example", "/back")
    query = dict(parse_qsl(target.query))
    assert len(query.pop("request_token")) == 32
    assert query == {
        "from": "kite",
        "action": "login",
        "type": "login",
        "status": "success",
        "some": "X",
        "more": "Y&Z",
    }


def test_without_a_user_the_login_page_offers_them(
    still: RunningSimulator, http: httpx.Client
) -> None:
    page = http.get("/connect/login", params={"v": "3", "api_key": still.options.api_key})

    assert page.headers["content-type"].startswith("text/html")
    assert all(user.user_id in page.text for user in still.options.users)


def test_the_default_redirect_lands_on_a_page_that_shows_the_token(
    still: RunningSimulator, http: httpx.Client
) -> None:
    page = http.get("/connect/login", params=_login_query(still), follow_redirects=True)

    assert page.status_code == 200
    assert dict(parse_qsl(page.url.query.decode()))["request_token"] in page.text


def test_pages_escape_what_the_caller_wrote(http: httpx.Client) -> None:
    page = http.get("/connect/landing", params={"request_token": "<script>alert(1)</script>"})

    assert "<script>" not in page.text


@pytest.mark.parametrize("change", [{"api_key": "other"}, {"api_key": ""}, {"user_id": "ZZ0000"}])
def test_a_login_with_a_foreign_key_or_user_is_refused(
    still: RunningSimulator, http: httpx.Client, change: dict[str, str]
) -> None:
    response = http.get("/connect/login", params={**_login_query(still), **change})

    assert _refusal(response) == (400, "InputException")


def test_redirect_parameters_that_flood_are_refused(
    still: RunningSimulator, http: httpx.Client
) -> None:
    query = _login_query(still, redirect_params="&".join(["a=1"] * 100))

    assert _refusal(http.get("/connect/login", params=query)) == (400, "InputException")


def test_a_refresh_token_is_nothing_an_individual_has(
    still: RunningSimulator, http: httpx.Client
) -> None:
    query = {"api_key": still.options.api_key, "refresh_token": "x"}

    assert _refusal(http.delete("/session/token", params=query)) == (403, "TokenException")
    assert _refusal(http.post("/session/refresh_token", data=query)) == (403, "TokenException")


def _token_form(still: RunningSimulator, http: httpx.Client) -> dict[str, str]:
    location = http.get("/connect/login", params=_login_query(still)).headers["location"]
    request_token = dict(parse_qsl(urlsplit(location).query))["request_token"]
    text = still.options.api_key + request_token + still.options.api_secret
    return {
        "api_key": still.options.api_key,
        "request_token": request_token,
        "checksum": hashlib.sha256(text.encode()).hexdigest(),
    }


def test_a_session_has_exactly_kites_fields(still: RunningSimulator, http: httpx.Client) -> None:
    response = http.post("/session/token", data=_token_form(still, http))

    assert response.headers["content-type"] == "application/json"
    assert response.json()["data"].keys() == {
        *("user_id", "user_name", "user_shortname", "email", "user_type", "broker"),
        *("exchanges", "products", "order_types", "avatar_url", "meta", "api_key"),
        *("access_token", "public_token", "refresh_token", "enctoken", "silo", "login_time"),
    }


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"checksum": "0" * 64}, (403, "TokenException")),
        ({"request_token": "spent"}, (403, "TokenException")),
        ({"api_key": "other"}, (400, "InputException")),
        ({"checksum": ""}, (400, "InputException")),
        ({"request_token": ""}, (400, "InputException")),
    ],
)
def test_a_wrong_token_exchange_is_refused_as_at_kite(
    still: RunningSimulator,
    http: httpx.Client,
    change: dict[str, str],
    refusal: tuple[int, str],
) -> None:
    form = {**_token_form(still, http), **change}

    assert _refusal(http.post("/session/token", data=form)) == refusal


def test_the_profile_has_exactly_kites_fields(authorised: httpx.Client) -> None:
    assert authorised.get("/user/profile").json()["data"].keys() == {
        *("user_id", "user_type", "email", "user_name", "user_shortname", "broker"),
        *("exchanges", "products", "order_types", "avatar_url", "meta"),
    }


@pytest.mark.parametrize(
    "header", ["", "token", "token x", "token x:y", "Bearer {key}:{token}", "token {key}:x", "\x80"]
)
def test_a_request_without_a_live_session_is_a_token_error(
    still: RunningSimulator, http: httpx.Client, log_in: Callable[..., str], header: str
) -> None:
    text = header.format(key=still.options.api_key, token=log_in(still.simulator))

    for path in ("/user/profile", "/quote?i=NSE:RELIANCE", "/quote/ltp", "/quote/ohlc"):
        response = http.get(path, headers={"Authorization": text.encode("latin-1")})
        assert _refusal(response) == (403, "TokenException")


def test_a_full_quote_has_exactly_kites_fields(authorised: httpx.Client) -> None:
    data = authorised.get("/quote", params={"i": ["NSE:M&M", "NSE:NIFTY 50"]}).json()["data"]

    assert data.keys() == {"NSE:M&M", "NSE:NIFTY 50"}
    for quote in data.values():
        assert quote.keys() == {
            *("instrument_token", "timestamp", "last_trade_time", "last_price", "last_quantity"),
            *("buy_quantity", "sell_quantity", "volume", "average_price", "oi", "oi_day_high"),
            *("oi_day_low", "net_change", "lower_circuit_limit", "upper_circuit_limit"),
            *("ohlc", "depth"),
        }
        assert quote["ohlc"].keys() == {"open", "high", "low", "close"}
        for side in ("buy", "sell"):
            assert [level.keys() for level in quote["depth"][side]] == [
                {"price", "quantity", "orders"}
            ] * 5


def test_a_thousand_long_keys_fit_into_one_request(
    still: RunningSimulator, authorised: httpx.Client
) -> None:
    keys = list(still.simulator.market.catalogue.row_by_key)[-1_000:]

    data = authorised.get("/quote/ltp", params={"i": keys}).json()["data"]

    assert data.keys() == set(keys)


def test_unknown_keys_alone_give_an_empty_answer(authorised: httpx.Client) -> None:
    answer = authorised.get("/quote/ltp", params={"i": ["NSE:NOSUCH", "99999999999999999999"]})

    assert answer.json() == {"status": "success", "data": {}}


def test_the_dump_is_exactly_text_csv_and_packed_on_request(http: httpx.Client) -> None:
    plain = http.get("/instruments", headers={"Accept-Encoding": "identity"})
    with http.stream("GET", "/instruments", headers={"Accept-Encoding": "gzip"}) as packed:
        body = b"".join(packed.iter_raw())

    assert plain.headers["content-type"] == packed.headers["content-type"] == "text/csv"
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(body) == plain.content


@pytest.mark.parametrize(
    ("method", "path", "refusal"),
    [
        ("GET", "/", (404, "GeneralException")),
        ("GET", "/quote/", (404, "GeneralException")),
        ("GET", "/gtt/triggers", (404, "GeneralException")),
        ("GET", "/orders", (403, "TokenException")),
        ("PATCH", "/orders", (405, "GeneralException")),
        ("PUT", "/orders/regular", (405, "GeneralException")),
        ("GET", "/sim/ledger?after=x", (400, "InputException")),
        ("POST", "/quote", (405, "GeneralException")),
        ("DELETE", "/user/profile", (405, "GeneralException")),
        ("GET", "/session/token", (405, "GeneralException")),
        ("PATCH", "/sim/faults", (405, "GeneralException")),
        ("GET", "/instruments/NOSUCH", (400, "InputException")),
        ("GET", "/sim/truth?from_us=x", (400, "InputException")),
        ("GET", "/sim/truth?to_us=-1", (400, "InputException")),
        ("GET", "/sim/truth?to_us=" + "9" * 4_000, (400, "InputException")),
    ],
)
def test_every_failure_wears_kites_envelope(
    http: httpx.Client, method: str, path: str, refusal: tuple[int, str]
) -> None:
    assert _refusal(http.request(method, path)) == refusal


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"&" * 1_000, b"a=1&" * 20_000, b"%zz=%", b"[1]", b"x" * 200_000]
)
def test_any_form_body_is_refused_in_the_envelope(http: httpx.Client, body: bytes) -> None:
    assert _refusal(http.post("/session/token", content=body)) == (400, "InputException")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 300_000,
        b"POST /session/token HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /session/token HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nshort",
        b"GET /quote?i=%ff%00&i=%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_malformed_requests_do_not_disturb_the_server(
    still: RunningSimulator, http: httpx.Client, request_bytes: bytes
) -> None:
    parts = urlsplit(still.rest_root)
    # The server may hang up before it has read all of it.
    with (
        socket.create_connection((parts.hostname, parts.port or 0)) as raw,
        contextlib.suppress(OSError),
    ):
        raw.sendall(request_bytes)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(65_536):
            pass

    assert http.get("/instruments").status_code == 200


def test_requests_beyond_the_rate_are_throttled_as_at_kite(
    serve: Callable[..., RunningSimulator],
) -> None:
    with (
        serve(SimulatorOptions(seed=7, rate_per_s=0.0)) as running,
        httpx.Client(base_url=running.rest_root, trust_env=False) as http,
    ):
        answers = [http.get("/instruments/NCO") for _ in range(30)]
        refused = [each for each in answers if each.status_code != 200]

    assert refused
    assert {_refusal(each) for each in refused} == {(429, "NetworkException")}
    assert {each.json()["message"] for each in refused} == {"Too many requests"}


def test_the_truth_is_served_as_columns_by_step_and_expiry(
    still: RunningSimulator, http: httpx.Client
) -> None:
    still.call(still.simulator.step)

    data = http.get("/sim/truth").json()["data"]

    steps = len(data["at_us"])
    assert steps == 2
    for name in ("forward", "level", "slope", "curvature"):
        assert [len(row) for row in data[name]] == [len(data["expiries"])] * steps
    assert data["expiries"][0].keys() == {
        *("underlying", "exchange", "expiry", "expiry_us", "instrument_token", "strike")
    }
