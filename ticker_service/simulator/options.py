"""What one run of the simulator is told: seed, ports, pace, users. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from ticker_service.errors import ConfigurationError

SECRET_CHARACTERS: Final = 32
API_KEY_CHARACTERS: Final = 16
STEPS_PER_S_MAX: Final = 200
STRIKES_EACH_SIDE_MAX: Final = 400
INSTRUMENTS_MIN_MAX: Final = 1_000_000
PORT_MAX: Final = 65_535
_USER_ID: Final = re.compile(r"[A-Za-z0-9]{2,32}")
NEAREST_EXPIRY_DAYS_MAX: Final = 366


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedUser:
    """A client of the simulated broker."""

    user_id: str
    user_name: str
    email: str

    @property
    def user_shortname(self) -> str:
        """The first word of the name, as Kite shows it."""
        return self.user_name.split(" ", maxsplit=1)[0]


DEFAULT_USERS: Final = (
    SimulatedUser(user_id="AB1234", user_name="Asha Bhatt", email="asha@example.com"),
    SimulatedUser(user_id="CD5678", user_name="Chetan Das", email="chetan@example.com"),
    SimulatedUser(user_id="EF9012", user_name="Esha Fernandes", email="esha@example.com"),
)

DEFAULT_FREEZE_QUANTITIES: Final = (("NIFTY", 1_800), ("BANKNIFTY", 600), ("SENSEX", 1_000))


_CAPS: Final = {
    "orders_per_day_max": 1,
    "orders_per_minute_max": 1,
    "orders_per_second_max": 1,
    "modifications_max": 0,
}
"""Kite's numbers that can be others here, and the least that each can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """The settings of one simulator; everything random follows from ``seed``.

    Attributes:
        seed: Fixes instruments, prices, tokens and keys. Ports are chosen by the system.
        host: Address to listen on; the fault panel answers loopback callers only in any case.
        rest_port: Port of the REST root; 0 lets the system choose.
        ws_port: Port of the WebSocket root, another one; 0 lets the system choose.
        rate_per_s: Ticks per second over all instruments together; 0 stops the market, so that it
            moves only by ``Simulator.step``.
        steps_per_s: Steps of the price model per second; a tick belongs to one step.
        strikes_each_side: Strikes listed on each side of the one at the money.
        instruments_min: The dump has at least so many lines; those beyond what the other options
            make are contracts that nobody trades.
        nearest_expiry_days_min: The nearest expiry lies at least so many days ahead, at most 366;
            0 allows one that ends today.
        crossed_quote_ratio: Share of an option's quotes whose bid is above the ask.
        one_sided_quote_ratio: Share of them that lack one side.
        dead_strike_ratio: Share of the options that nobody quotes and that last traded yesterday.
        users: Who may log in.
        api_key: The registered application; derived from the seed when empty.
        api_secret: Its secret; derived from the seed when empty.
        redirect_url: Where a login sends the browser; a page of the simulator's own when empty.
        enforce_rate_limits: Answer 429 beyond Kite's request rates.
        truth_history_s: How long the true forwards and volatilities are kept, seconds.
        order_state_ms: How long an order stays in each interim state; 0 passes through them all
            before the request is answered.
        amo_rest_s: How long an after-market order waits before its session begins; this market
            never closes.
        cash_inr: What each user may trade with when the day begins.
        orders_per_day_max: Placements a user may ask for in a day, refused ones included; only
            with ``enforce_rate_limits``, as are the ten order requests a second and 400 a minute.
        orders_per_minute_max: Order requests of any kind a user may make in a minute.
        orders_per_second_max: Likewise in a second of the server's clock.
        modifications_max: Changes that one order takes.
        order_cooldown_s: After a 429 on orders, further ones are refused for so long.
        freeze_quantities: Largest quantity of one order in an underlying's derivatives.
        no_market: Instruments in which ``MARKET`` is refused, as EXCHANGE:TRADINGSYMBOL.
        tags_on_legs: A cover order's second leg bears the tag of its first; whether Kite's does is
            not known.
        postback_url: Where order updates are posted as well; nowhere when empty.
        is_slice_list: ``autoslice`` answers with a list, as older documentation has it, and not
            with an object that has ``children``.
    """

    seed: int = 1
    host: str = "127.0.0.1"
    rest_port: int = 0
    ws_port: int = 0
    rate_per_s: float = 2_000.0
    steps_per_s: int = 20
    strikes_each_side: int = 40
    instruments_min: int = 0
    nearest_expiry_days_min: int = 1
    crossed_quote_ratio: float = 0.0
    one_sided_quote_ratio: float = 0.0
    dead_strike_ratio: float = 0.0
    users: tuple[SimulatedUser, ...] = DEFAULT_USERS
    api_key: str = ""
    api_secret: str = field(default="", repr=False)
    redirect_url: str = ""
    enforce_rate_limits: bool = True
    truth_history_s: int = 600
    order_state_ms: float = 3.0
    amo_rest_s: float = 5.0
    cash_inr: int = 10_000_000
    orders_per_day_max: int = 5_000
    orders_per_minute_max: int = 400
    orders_per_second_max: int = 10
    modifications_max: int = 25
    order_cooldown_s: float = 0.0
    freeze_quantities: tuple[tuple[str, int], ...] = DEFAULT_FREEZE_QUANTITIES
    no_market: tuple[str, ...] = ()
    tags_on_legs: bool = False
    is_slice_list: bool = False
    postback_url: str = ""

    def __post_init__(self) -> None:
        faults = [text for wrong, text in self._checks() if wrong]
        if faults:
            raise ConfigurationError("Condition failed: " + "; ".join(faults))
        if not self.api_key:
            key = derived_secret(self.seed, "api_key")[:API_KEY_CHARACTERS]
            object.__setattr__(self, "api_key", key)
        if not self.api_secret:
            object.__setattr__(self, "api_secret", derived_secret(self.seed, "api_secret"))

    def _checks(self) -> list[tuple[bool, str]]:
        ids = [user.user_id for user in self.users]
        ports = [self.rest_port, self.ws_port]
        days = self.nearest_expiry_days_min
        odd = {
            "crossed_quote_ratio": self.crossed_quote_ratio,
            "one_sided_quote_ratio": self.one_sided_quote_ratio,
        }
        return [
            (self.seed < 0, f"seed={self.seed} must not be negative"),
            (
                not all(0 <= port <= PORT_MAX for port in ports),
                f"rest_port, ws_port={ports} must be 0 to {PORT_MAX}",
            ),
            (
                self.rest_port == self.ws_port != 0,
                f"rest_port, ws_port={ports} must differ",
            ),
            (not self.host, f"host={self.host!r} must name an address"),
            (
                self.redirect_url != "" and not _is_web_address(self.redirect_url),
                f"redirect_url={self.redirect_url!r} must be an address with scheme and host",
            ),
            (
                self.postback_url != "" and not _is_web_address(self.postback_url),
                f"postback_url={self.postback_url!r} must be an address with scheme and host",
            ),
            (
                not 0.0 <= self.rate_per_s < math.inf,
                f"rate_per_s={self.rate_per_s} must be a number, not negative",
            ),
            (
                not 1 <= self.steps_per_s <= STEPS_PER_S_MAX,
                f"steps_per_s={self.steps_per_s} must be 1 to {STEPS_PER_S_MAX}",
            ),
            (
                not 1 <= self.strikes_each_side <= STRIKES_EACH_SIDE_MAX,
                f"strikes_each_side={self.strikes_each_side} must be 1 to {STRIKES_EACH_SIDE_MAX}",
            ),
            (
                not 0 <= self.instruments_min <= INSTRUMENTS_MIN_MAX,
                f"instruments_min={self.instruments_min} must be 0 to {INSTRUMENTS_MIN_MAX}",
            ),
            (
                not 0 <= days <= NEAREST_EXPIRY_DAYS_MAX,
                f"nearest_expiry_days_min={days} must be 0 to {NEAREST_EXPIRY_DAYS_MAX}",
            ),
            *(
                (not 0.0 <= ratio <= 1.0, f"{name}={ratio} must be 0 to 1")
                for name, ratio in (*odd.items(), ("dead_strike_ratio", self.dead_strike_ratio))
            ),
            (sum(odd.values()) > 1.0, f"{odd} must not exceed 1 together"),
            (
                not 0 <= self.order_state_ms < math.inf,
                f"order_state_ms={self.order_state_ms} must be a number, not negative",
            ),
            (
                not 0 <= self.amo_rest_s < math.inf,
                f"amo_rest_s={self.amo_rest_s} must be a number, not negative",
            ),
            (self.cash_inr < 0, f"cash_inr={self.cash_inr} must not be negative"),
            *(
                (getattr(self, name) < least, f"{name}={getattr(self, name)} must be {least} up")
                for name, least in _CAPS.items()
            ),
            (
                not 0 <= self.order_cooldown_s < math.inf,
                f"order_cooldown_s={self.order_cooldown_s} must be a number, not negative",
            ),
            (
                any(quantity < 1 for _, quantity in self.freeze_quantities),
                f"freeze_quantities={self.freeze_quantities} must be positive",
            ),
            (
                not all(":" in name for name in self.no_market),
                f"no_market={self.no_market} must be EXCHANGE:TRADINGSYMBOL each",
            ),
            (self.truth_history_s < 1, f"truth_history_s={self.truth_history_s} must be positive"),
            (not ids or len(set(ids)) != len(ids), f"users={ids} must be named, each once"),
            (
                not all(_USER_ID.fullmatch(user_id) for user_id in ids),
                f"users={ids} must be 2 to 32 letters and digits each",
            ),
        ]


def derived_secret(seed: int, purpose: str) -> str:
    """Return 32 characters that follow from the seed and look like Kite's tokens."""
    digest = hashlib.sha256(f"ticker-service simulator {seed} {purpose}".encode())
    return digest.hexdigest()[:SECRET_CHARACTERS]


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # only read, it is checked
    except ValueError:
        return False
    return bool(parts.scheme and parts.hostname)
