"""Everybody round the daemon in the suite ``orders``: a broker, its users, a durable journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx
import orjson

from app.console import demo_parts
from app.embedded import embedded_postgres
from scripts.benchmarks import machine, service
from ticker_service.assembly import migrate_journal

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping

    from scripts.benchmarks.service import Exchange

CONNECTIONS: Final = 24
"""To the journal, on either side; the default is made for a few accounts."""
KEY: Final = b"a benchmark's own key of thirty-two bytes"  # allow-secret
SHARE: Final = "INFY"
CASH_INR: Final = 1_000_000_000
HTTP_S_MAX: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """The simulator with everybody logged in, and a journal's database."""

    exchange: Exchange
    tokens: Mapping[str, str]
    """Access tokens by account; an account is called as its user."""
    database_url: str
    price: str

    @property
    def order(self) -> dict[str, str]:
        """An order that rests, in Kite's form."""
        return {
            "exchange": "NSE",
            "tradingsymbol": SHARE,
            "transaction_type": "BUY",
            "order_type": "LIMIT",
            "product": "CNC",
            "variety": "regular",
            "validity": "DAY",
            "quantity": "1",
            "price": self.price,
        }

    def daemon_settings(self, **more: object) -> dict[str, object]:
        """Return the settings of a daemon with all accounts."""
        banner = self.exchange.banner
        accounts = {
            account: {
                "user_id": account,
                "api_key": banner["api_key"],
                "api_secret": banner["api_secret"],
                "access_token": token,
            }
            for account, token in self.tokens.items()
        }
        return self.exchange.settings(
            CHANNEL_PREFIX="orders:",
            UNDERLYINGS="NIFTY",
            EXPIRIES=1,
            STRIKES_EACH_SIDE=5,
            DATABASE_URL=self.database_url,
            ACCOUNTS=orjson.dumps(accounts).decode(),
            ORDERS_PORT=0,
            ORDER_CONNECTIONS_MAX=CONNECTIONS,
            TOKEN_SECRET=KEY.decode(),
            **more,
        )


async def broker_side(
    stack: contextlib.AsyncExitStack, relay: demo_parts.Relay, *, accounts: int
) -> Broker:
    """Start what a daemon with so many accounts needs, for as long as ``stack`` is open."""
    users = [f"BM{number:04d}" for number in range(accounts)]
    exchange = await service.exchange(
        stack,
        relay,
        "--rate=200",
        "--order-state-ms=0",
        "--strikes-each-side=5",
        f"--cash-inr={CASH_INR}",
        *(f"--user={user}" for user in users),
        cores=machine.on_all_cores,
    )
    with machine.on_all_cores():
        postgres = await stack.enter_async_context(embedded_postgres(durable=True))
    await migrate_journal(postgres.url)
    tokens = {user: await demo_parts.login(exchange.banner, user) for user in users}
    return Broker(
        exchange=exchange,
        tokens=tokens,
        database_url=postgres.url,
        price=await _resting_price(exchange, next(iter(tokens.values()))),
    )


async def _resting_price(exchange: Exchange, access_token: str) -> str:
    """Return a price at which a buyer waits: the lowest bid there is."""
    key = f"token {exchange.api_key}:{access_token}"
    async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as http:
        answer = await http.get(
            f"{exchange.rest_root}/quote",
            params={"i": f"NSE:{SHARE}"},
            headers={"Authorization": key},
        )
    quote = answer.raise_for_status().json()["data"][f"NSE:{SHARE}"]
    return f"{quote['last_price'] * 0.9:.0f}.00"
