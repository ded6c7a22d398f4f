"""Login, session and profile routes, as Kite answers them (kite.md §3.1)."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ticker_service.constants import NS_PER_S
from ticker_service.simulator import quotes, requests
from ticker_service.simulator.envelope import KiteError, success
from ticker_service.simulator.request_rates import Bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from ticker_service.simulator.options import SimulatedUser, SimulatorOptions
    from ticker_service.simulator.request_rates import RequestRates
    from ticker_service.simulator.sessions import Session, Sessions

LOGIN_PATH: Final = "/connect/login"
LANDING_PATH: Final = "/connect/landing"
EXCHANGES: Final = ("NSE", "NFO", "BFO", "CDS", "BSE", "MCX", "BCD", "NCO", "MF")
PRODUCTS: Final = ("CNC", "NRML", "MIS", "BO", "CO", "MTF")
ORDER_TYPES: Final = ("MARKET", "LIMIT", "SL", "SL-M")
REDIRECT_PARAMS_MAX: Final = 50
FOUND: Final = 302


class LoginRoutes:
    """The broker's front door."""

    def __init__(
        self, options: SimulatorOptions, sessions: Sessions, rates: RequestRates, *, rest_root: str
    ) -> None:
        self._users = options.users
        self._redirect_url = options.redirect_url or rest_root + LANDING_PATH
        self._sessions = sessions
        self._rates = rates

    def routes(self) -> list[Route]:
        """Return the routes to mount at the REST root."""
        return [
            Route(LOGIN_PATH, self._login),
            Route(LANDING_PATH, self._landing),
            Route("/session/token", self._exchange, methods=["POST"]),
            Route("/session/token", self._logout, methods=["DELETE"]),
            Route("/session/refresh_token", self._renew, methods=["POST"]),
            Route("/user/profile", self._profile),
        ]

    async def _login(self, request: Request) -> Response:
        query = request.query_params
        api_key = requests.required(query, "api_key")
        self._sessions.check_api_key(api_key)
        user_id = query.get("user_id", "")
        if not user_id:
            return HTMLResponse(_picker(self._users, request))
        user = self._sessions.user(user_id)
        if user is None:
            raise KiteError.input("Invalid `user_id`.")
        request_token = self._sessions.issue_request_token(user)
        extra = query.get("redirect_params", "")
        return RedirectResponse(
            _redirect(self._redirect_url, request_token, extra), status_code=FOUND
        )

    async def _landing(self, request: Request) -> Response:
        token = html.escape(request.query_params.get("request_token", ""))
        return HTMLResponse(_page("Logged in", f"<p>request_token: <code>{token}</code></p>"))

    async def _exchange(self, request: Request) -> Response:
        fields = await requests.form(request)
        api_key = requests.required(fields, "api_key")
        self._rates.admit(api_key, Bucket.OTHER)
        opened = self._sessions.exchange(
            api_key=api_key,
            request_token=requests.required(fields, "request_token"),
            checksum=requests.required(fields, "checksum"),
        )
        return success(_session_fields(opened))

    async def _logout(self, request: Request) -> Response:
        query = request.query_params
        api_key = requests.required(query, "api_key")
        self._rates.admit(api_key, Bucket.OTHER)
        self._sessions.check_api_key(api_key)
        if "refresh_token" in query:
            raise KiteError.token("Invalid `refresh_token`.")
        self._sessions.close(api_key, requests.required(query, "access_token"))
        return success(data=True)

    async def _renew(self, request: Request) -> Response:
        # Only platforms with an agreement of their own get refresh tokens; a session here has none.
        fields = await requests.form(request)
        api_key = requests.required(fields, "api_key")
        self._rates.admit(api_key, Bucket.OTHER)
        self._sessions.check_api_key(api_key)
        raise KiteError.token("Invalid `refresh_token`.")

    async def _profile(self, request: Request) -> Response:
        api_key, access_token = requests.credentials(request)
        self._rates.admit(api_key, Bucket.OTHER)
        session = self._sessions.authorised(api_key, access_token)
        return success(_profile_fields(session.user))


def _redirect(redirect_url: str, request_token: str, redirect_params: str) -> str:
    """Return the registered URL with Kite's answer, and the caller's own parameters, in its query.

    Raises:
        KiteError: ``redirect_params`` is no query string.
    """
    try:
        extra = parse_qsl(
            redirect_params, keep_blank_values=True, max_num_fields=REDIRECT_PARAMS_MAX
        )
    except ValueError as error:
        raise KiteError.input("Invalid `redirect_params`.") from error
    parts = urlsplit(redirect_url)
    answer = [
        *parse_qsl(parts.query, keep_blank_values=True),
        ("action", "login"),
        ("type", "login"),
        ("status", "success"),
        ("request_token", request_token),
        *extra,
    ]
    return urlunsplit(parts._replace(query=urlencode(answer)))


def _profile_fields(user: SimulatedUser) -> dict[str, object]:
    return {
        "user_id": user.user_id,
        "user_type": "individual",
        "email": user.email,
        "user_name": user.user_name,
        "user_shortname": user.user_shortname,
        "broker": "ZERODHA",
        "exchanges": EXCHANGES,
        "products": PRODUCTS,
        "order_types": ORDER_TYPES,
        "avatar_url": None,
        "meta": {"demat_consent": "consent"},
    }


def _session_fields(session: Session) -> dict[str, object]:
    return {
        **_profile_fields(session.user),
        "api_key": session.api_key,
        "access_token": session.access_token,
        "public_token": session.public_token,
        "refresh_token": "",
        "enctoken": session.enctoken,
        "silo": "",
        "login_time": quotes.ist_text(session.login_ns // NS_PER_S),
    }


def _picker(users: Sequence[SimulatedUser], request: Request) -> str:
    links = []
    for user in users:
        target = html.escape(str(request.url.include_query_params(user_id=user.user_id)))
        name = html.escape(f"{user.user_id} {user.user_name}")
        links.append(f'<li><a href="{target}">{name}</a></li>')
    return _page("Log in as", f"<ul>{''.join(links)}</ul>")


def _page(title: str, content: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
        f"<body><h1>{title}</h1>{content}</body></html>"
    )
