"""The tick path as a user of the usual libraries writes it today.

``KiteTicker._parse_binary`` makes a dict of each packet; each option gets its volatility and five
Greeks from vollib; each tick is one JSON message; the messages of a frame go out in one pipeline of
redis-py. It is given for free what is hard: the forward of each expiry, found by our path before
the clock runs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import redis
from kiteconnect import KiteTicker
from py_lets_be_rational.exceptions import AboveMaximumException, BelowIntrinsicException
from vollib.black.greeks import analytical
from vollib.black.implied_volatility import implied_volatility

from ticker_service.constants import NS_PER_US

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.domain.universe import Universe
    from ticker_service.ports import Frame

NS_PER_YEAR: Final = 365 * 86_400 * 1_000_000_000
RATE: Final = 0.0
_NO_ANSWER: Final = (BelowIntrinsicException, AboveMaximumException, ZeroDivisionError)
"""What vollib raises for prices without a volatility; the last for one that is all intrinsic."""


@dataclass(frozen=True, slots=True)
class _Option:
    expiry: int
    expiry_ns: int
    strike: float
    flag: str


class UsualPath:
    """Frames in, one JSON message per tick on Redis."""

    def __init__(self, universe: Universe, url: str, *, prefix: str) -> None:
        self._ticker = KiteTicker("api_key", "access_token")
        self._redis = redis.Redis.from_url(url)
        self._prefix = prefix
        self._options = _options(universe)

    def publish(self, frames: Sequence[Frame], forward: NDArray[Any]) -> list[dict[str, Any]]:
        """Publish the ticks of some frames; return them as they went out.

        Args:
            frames: What was received, and when.
            forward: Forward of each expiry, rupees.
        """
        forwards: list[float] = forward.tolist()
        published: list[dict[str, Any]] = []
        warnings.simplefilter("ignore")  # of vollib, for a price that is all intrinsic
        for frame in frames:
            ticks = self._ticker._parse_binary(frame.payload)  # noqa: SLF001 - no other door
            pipeline = self._redis.pipeline(transaction=False)
            received_at_us = frame.received_at_ns // NS_PER_US
            for tick in ticks:
                tick["received_at_us"] = received_at_us
                option = self._options.get(tick["instrument_token"])
                if option is not None:
                    tick.update(
                        _priced(tick, option, forwards[option.expiry], frame.received_at_ns)
                    )
                channel = f"{self._prefix}{tick['instrument_token']}"
                pipeline.publish(channel, orjson.dumps(tick, option=orjson.OPT_SERIALIZE_NUMPY))
            pipeline.execute()
            published += ticks
        return published

    def close(self) -> None:
        """Give the connection back."""
        self._redis.close()


def _options(universe: Universe) -> Mapping[int, _Option]:
    columns = zip(
        universe.instrument_token.tolist(),
        universe.is_option.tolist(),
        universe.expiry.tolist(),
        universe.expiry_ns.tolist(),
        universe.strike.tolist(),
        universe.is_call.tolist(),
        strict=True,
    )
    return {
        token: _Option(expiry, expiry_ns, strike, "c" if is_call else "p")
        for token, is_option, expiry, expiry_ns, strike, is_call in columns
        if is_option
    }


def _priced(
    tick: Mapping[str, Any], option: _Option, forward: float, received_at_ns: int
) -> dict[str, float | None]:
    price = tick["last_price"]
    if "depth" in tick:
        bid, ask = (tick["depth"][side][0]["price"] for side in ("buy", "sell"))
        price = 0.5 * (bid + ask) if bid and ask else price
    years = (option.expiry_ns - received_at_ns) / NS_PER_YEAR
    try:
        volatility = implied_volatility(price, forward, option.strike, RATE, years, option.flag)
        terms = option.flag, forward, option.strike, years, RATE, volatility
        return {
            "price_used": price,
            "implied_volatility": volatility,
            "delta": analytical.delta(*terms),
            "gamma": analytical.gamma(*terms),
            "theta": analytical.theta(*terms),
            "vega": analytical.vega(*terms),
            "rho": analytical.rho(*terms),
        }
    except _NO_ANSWER:
        return {"price_used": price, "implied_volatility": None}
