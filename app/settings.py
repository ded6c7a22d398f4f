"""Settings from the environment and ``ticker-service.toml``, checked whole before anything starts.

Every setting is ``TICKER_SERVICE_`` and its name in capitals in the environment, or its name in the
file; the environment wins. ``REDIS_URL`` is also read without the prefix, as hosting platforms set
it. Secrets stay ``SecretStr`` until the engine's configuration is built and are never printed.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import os
import re
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from app.group_settings import GroupSettings, group_faults
from app.kill_names import Names
from ticker_service import assembly
from ticker_service.config import (
    SETTLE_MARGIN_RATIO,
    AccountConfig,
    BarsConfig,
    BreakerConfig,
    Encoding,
    EngineConfig,
    FeedAccountConfig,
    FlushConfig,
    HoursConfig,
    KiteConfig,
    OrderHalfConfig,
    OrdersConfig,
    PricingConfig,
    PublishConfig,
    RecordConfig,
    SubscriptionConfig,
    ValidationConfig,
)
from ticker_service.domain import trading_hours
from ticker_service.domain.bar import BAR_SECONDS
from ticker_service.domain.egress import read_address
from ticker_service.domain.limit import limits_of
from ticker_service.domain.risk import RiskTable, check_names, risk_table
from ticker_service.domain.rulebook import RuleName, number_of, rules_of
from ticker_service.domain.tick import Mode
from ticker_service.errors import ConfigurationError, InvariantViolatedError, LimitsRefused

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pydantic_core import ErrorDetails

    from ticker_service.accounts.tokens import AccessTokens
    from ticker_service.runtime.clock import Clock

PREFIX: Final = "TICKER_SERVICE_"
FILE: Final = Path("ticker-service.toml")
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
ACCOUNT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TOKEN_SECRET_BYTES_MIN: Final = 32
TOKEN_PASSPHRASE_BYTES_MIN: Final = 16
SMILE_MS_MIN: Final = 200
_SECRETS: Final = frozenset(
    {
        "accounts",
        "database_url",
        "kite_access_token",
        "kite_api_key",
        "kite_ws_parameters",
        "postback_word",
        "redis_url",
        "token_passphrase",
        "token_secret",
    }
)

POSTBACK_WORD: Final = re.compile("[A-Za-z0-9_-]{24,128}")
"""Nobody guesses it."""
_Names = Annotated[tuple[str, ...], NoDecode]


class AccountSettings(BaseModel):
    """One trading account and the Kite Connect app it trades through."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    user_id: str = Field(min_length=1)
    api_key: str = Field(min_length=1)
    api_secret: SecretStr
    access_token: SecretStr = SecretStr("")
    source_address: str = ""
    registered_addresses: tuple[str, ...] = ()
    algo_id: str = Field("", pattern="^[!-~]{0,64}$")
    proxy: SecretStr = SecretStr("")

    @field_validator("registered_addresses")
    @classmethod
    def _check_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        most = number_of(RuleName.REGISTERED_ADDRESS)
        if len(value) > most:
            raise ValueError(f"must be at most {most}, which is what the broker registers")
        return tuple(read_address(each) for each in value)


class Settings(BaseSettings):
    """What an operator can set; see the description of each field."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        validate_default=True,
        str_strip_whitespace=True,
    )

    feeds: ClassVar[bool] = True
    publishes: ClassVar[bool] = True

    kite_rest_root: str = Field("https://api.kite.trade", description="Root of Kite's REST API")
    kite_ws_root: str = Field("wss://ws.kite.trade", description="Root of Kite's WebSocket")
    kite_route_prefix: str = Field(
        "", description="Put before REST routes; the official sandbox needs /oms"
    )
    kite_ws_parameters: dict[str, str] = Field(
        default_factory=dict,
        description='More query parameters of the WebSocket as JSON, e.g. {"user_id": "AB1234"}',
    )
    kite_api_key: str = Field(min_length=1, description="api_key of your Kite Connect app")
    database_url: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices(f"{PREFIX}database_url", "database_url"),
        description="postgresql:// address of the journal; needed with accounts",
    )
    accounts: dict[str, AccountSettings] = Field(
        default_factory=dict,
        description="Trading accounts by name, as tables [accounts.NAME] or as JSON",
    )
    groups: dict[str, GroupSettings] = Field(
        default_factory=dict,
        description="Groups of accounts by name, as tables [groups.NAME] or as JSON",
    )
    kite_access_token: SecretStr = Field(
        SecretStr(""),
        description="Today's access token; it ends at 06:00 IST. Not needed with an account of the "
        "same api_key: its logins serve the feed as well",
    )
    orders_host: str = Field("127.0.0.1", description="Address of the doors for orders")
    orders_port: int = Field(8780, ge=0, le=65_535, description="Their port; 0: system chooses")
    token_secret: SecretStr = Field(
        SecretStr(""), description="Key of callers' tokens, 32 bytes or more; needed with accounts"
    )
    token_folder: Path = Field(
        Path("tokens"), description="Where logins leave access tokens, encrypted"
    )
    token_passphrase: SecretStr = Field(
        SecretStr(""), description="Opens that folder; or credential ticker-service-tokens"
    )
    kill_switch_file: Path = Field(
        default_factory=lambda: _state_folder() / "kill-switch.json",
        description="What people have stopped; below STATE_DIRECTORY or the current folder",
    )
    postback_word: SecretStr = Field(
        SecretStr(""),
        description="Last part of the address to which the broker sends postbacks; off without",
    )
    egress_probe_url: str = Field(
        "", description="Answers with the caller's address; asked before the market opens"
    )
    limits: dict[str, int] = Field(
        default_factory=dict,
        description='Changes of the broker\'s limits by name, such as {"orders_per_day": 3000}',
    )
    breaker_failures_max: int = Field(
        5, ge=1, le=1_000, description="So many failures leave a broker alone"
    )
    breaker_window_s: float = Field(30.0, gt=0, le=3_600, description="Within this time")
    breaker_open_s: float = Field(10.0, gt=0, le=3_600, description="For so long, then one try")
    installation: str = Field("T0", pattern="^[A-Z0-9]{2}$", description="Marks our orders' tags")
    order_deadline_s: float = Field(30.0, gt=0, le=86_400, description="An order leaves by then")
    order_send_window_s: float = Field(5.0, gt=0, le=60, description="From intent to first byte")
    order_cooldown_s: float = Field(
        10.0, ge=0, le=600, description="Nothing is sent for so long after Kite said 429"
    )
    order_request_s: float = Field(7.0, gt=0, le=60, description="Longest wait for Kite's answer")
    order_settle_after_s: float = Field(
        90.0, ge=0, le=3_600, description="An unknown order may surface in Kite's book so late"
    )
    order_settle_spacing_s: float = Field(2.0, gt=0, le=60, description="Between two proofs")
    order_book_poll_s: float = Field(5.0, gt=0, le=60, description="While an order is live")
    order_open_uncompared_after_s: float = Field(
        120.0,
        ge=0,
        le=86_400,
        description="Open although fills and positions cannot be read for so long; 0: never",
    )
    order_rules: dict[str, StrictBool | StrictInt] = Field(
        default_factory=dict,
        description='Changes of docs/rules.md by name, such as {"no_ioc_on_mcx": false}',
    )
    risk: dict[str, Any] = Field(
        default_factory=dict,
        description="Limits of the risk gate (docs/risk.md), with tables accounts.NAME and "
        "groups.NAME, as a table [risk] or JSON; read again on SIGHUP and by `risk reload`",
    )
    freeze_quantities: dict[str, Annotated[int, Field(ge=0, le=10_000_000)]] = Field(
        default_factory=dict,
        description="Largest quantity of one order in derivatives of a name, as a table or JSON, "
        'e.g. {"NIFTY": 1800}; 0 drops a built-in one',
    )
    order_connections_max: int = Field(8, ge=1, le=100, description="To the journal, for orders")
    query_connections_max: int = Field(4, ge=1, le=100, description="To the journal, for reads")
    connection_wait_s: float = Field(1.0, gt=0, le=30, description="Longest wait for one of them")
    statement_ms: int = Field(2_000, ge=100, le=60_000, description="Longest statement for orders")
    journal_may_be_volatile: bool = Field(
        default=False, description="Accept a database with fsync off; tests only"
    )
    kill_at: Literal["", "C0", "C1", "C2", "C3", "C4", "C5", "C6", "C7"] = Field(
        "", description="Die at a named point; refused unless Kite's roots are on loopback"
    )
    redis_url: SecretStr = Field(
        validation_alias=AliasChoices(f"{PREFIX}redis_url", "redis_url"),
        description="redis://, rediss:// or unix:// address of the server to publish to",
    )
    channel_prefix: str = Field("ticker:v1:", min_length=1, description="Prefix of all channels")
    encodings: Annotated[tuple[Encoding, ...], NoDecode] = Field(
        (Encoding.JSON,),
        min_length=1,
        description="Of json and arrow, separated by commas; a channel each",
    )
    instrument_channels: bool = Field(
        default=False, description="Also a channel and a key for every instrument, as JSON"
    )
    instrument_ttl_ms: int = Field(
        60_000, ge=1_000, le=86_400_000, description="How long such a key outlives its tick"
    )

    underlyings: _Names = Field(("NIFTY",), description="Underlyings, separated by commas")
    instruments: _Names = Field((), description="Single instruments as EXCHANGE:TRADINGSYMBOL")
    strikes_each_side: int = Field(20, ge=0, le=500, description="Strikes each side of the money")
    expiries: int = Field(3, ge=1, le=50, description="Nearest expiries of each underlying")
    mode: Literal["ltp", "quote", "full"] = Field("full", description="Kite's subscription mode")

    flush_interval_ms: int = Field(
        20,
        ge=1,
        le=1_000,
        description="Least time between two batches of a book, so the longest wait",
    )
    flush_bytes_max: int = Field(1 << 20, ge=1_024, description="Frames that flush a batch early")
    backlog_bytes_max: int = Field(
        64 << 20, ge=1 << 20, description="Frames kept while Redis does not answer"
    )
    conflate_after_ms: int = Field(
        500, ge=10, le=60_000, description="Older backlog keeps each instrument's newest tick only"
    )
    tick_age_ms_max: int = Field(
        300_000,
        ge=5_000,
        le=86_400_000,
        description="Refuse a tick that the exchange stamped so long before it came",
    )
    doubtful_ticks: Literal["refuse", "publish"] = Field(
        "refuse",
        description="Crossed depth or a price off the step: refuse, or publish marked and unpriced",
    )
    feed_accounts: _Names = Field(
        (), description="Accounts whose logins may carry the feed when its own cannot, in order"
    )
    bars: _Names = Field((), description="Bars to make of ticks, such as 1s,1m; none without it")
    bars_grace_ms: int = Field(
        2_000, ge=0, le=30_000, description="A bar is final so long after its end"
    )
    market_hours: Literal["exchange", "always"] = Field(
        "exchange", description="always: for a simulated exchange, which never closes"
    )
    market_holidays: _Names = Field(
        (), description="Further holidays, as 2027-01-26 or MCX:2027-01-26, separated by commas"
    )
    market_sessions: _Names = Field(
        (), description="Special sessions, as 2026-11-08 13:45-14:45 IST, separated by commas"
    )
    heartbeat_ms: int = Field(1_000, ge=100, le=10_000, description="Between two heartbeats")
    snapshot_ms: int = Field(500, ge=100, le=1_000, description="Between two snapshots")
    reprice_ms: int = Field(
        250, ge=50, le=60_000, description="Between two looks for options whose numbers moved"
    )
    smile_ms: int = Field(
        0, ge=0, le=60_000, description="Between two smiles of a book; 0: none are published"
    )
    depth: bool = Field(default=False, description="Five levels of depth as columns")
    own_volatility: bool = Field(
        default=False, description="The volatility of each option's own quote as two more columns"
    )
    rate: float = Field(
        0.0, ge=-0.1, le=0.5, description="Discount rate per year as a fraction; not the carry"
    )

    record: bool = Field(default=False, description="Record what comes in, to be replayed")
    record_folder: Path = Field(
        default_factory=lambda: _state_folder() / "record",
        description="Where recordings go; without it below STATE_DIRECTORY or the current folder",
    )
    record_columns: bool | None = Field(
        None, description="Record what goes out as Parquet, too; unset: if pyarrow is installed"
    )
    record_frames_days: int = Field(
        0, ge=0, le=36_500, description="Keep frames so many days back; 0 for ever"
    )
    record_repriced: bool = Field(
        default=True, description="With the rows that only a forward's move sent out"
    )
    record_columns_days: int = Field(
        0, ge=0, le=36_500, description="Keep columns so many days back; 0 for ever"
    )
    record_part_s: int = Field(
        900, ge=10, le=86_400, description="How long a part of the columns stays open"
    )
    record_bytes_max: int = Field(
        0, ge=0, description="Keep so much in all, the oldest frames going first; 0 without limit"
    )
    record_free_bytes_min: int = Field(
        2 << 30, ge=0, description="Stop recording when the disk has less room than this"
    )

    stall_s: float = Field(
        10.0, ge=0.1, le=600, description="End when the event loop stands still for so long"
    )
    health_host: str = Field("127.0.0.1", description="Address of /health and /metrics")
    health_port: int = Field(
        9108, ge=0, le=65_535, description="Its port; 0 lets the system choose"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info")
    log_format: Literal["json", "console"] = Field("json", description="json for machines")

    @field_validator(
        "underlyings",
        "instruments",
        "encodings",
        "feed_accounts",
        "bars",
        "market_holidays",
        "market_sessions",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("bars")
    @classmethod
    def _check_bars(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in BAR_SECONDS]
        if unknown:
            raise ValueError(f"{unknown} must be among {', '.join(BAR_SECONDS)}")
        return tuple(dict.fromkeys(value))

    @field_validator("market_holidays", "market_sessions")
    @classmethod
    def _check_calendar(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        are_sessions = info.field_name == "market_sessions"
        try:
            trading_hours.calendar(
                holidays=() if are_sessions else value, sessions=value if are_sessions else ()
            )
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("smile_ms")
    @classmethod
    def _check_smile(cls, value: int) -> int:
        if 0 < value < SMILE_MS_MIN:
            raise ValueError(f"must be 0 or at least {SMILE_MS_MIN}: a fit takes milliseconds")
        return value

    @field_validator("kite_rest_root")
    @classmethod
    def _check_rest_root(cls, value: str) -> str:
        return _checked_root(value, encrypted="https", plain="http")

    @field_validator("postback_word")
    @classmethod
    def _check_word(cls, value: SecretStr) -> SecretStr:
        word = value.get_secret_value()
        if word and not POSTBACK_WORD.fullmatch(word):
            raise ValueError("must be 24 to 128 letters, digits, dashes and underscores")
        return value

    @field_validator("egress_probe_url")
    @classmethod
    def _check_probe(cls, value: str) -> str:
        return _checked_root(value, encrypted="https", plain="http") if value else ""

    @field_validator("kite_ws_root")
    @classmethod
    def _check_ws_root(cls, value: str) -> str:
        return _checked_root(value, encrypted="wss", plain="ws")

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr) -> SecretStr:
        scheme = urlsplit(value.get_secret_value()).scheme
        if scheme not in {"", "postgresql", "postgres"}:
            raise ValueError("must begin with postgresql://")
        return value

    @field_validator("accounts")
    @classmethod
    def _check_accounts(cls, value: dict[str, AccountSettings]) -> dict[str, AccountSettings]:
        wrong = [name for name in value if not ACCOUNT_NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"names must be letters, digits, dot, dash, underscore: {wrong}")
        users = [each.user_id for each in value.values()]
        if len(set(users)) != len(users):
            # The broker limits rates by user, and one order of two writers is nobody's to keep.
            raise ValueError("a user_id belongs to one account only")
        return value

    @field_validator("groups")
    @classmethod
    def _check_groups(cls, value: dict[str, GroupSettings]) -> dict[str, GroupSettings]:
        wrong = [name for name in value if not ACCOUNT_NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"names must be letters, digits, dot, dash, underscore: {wrong}")
        return value

    @field_validator("order_rules")
    @classmethod
    def _check_rules(cls, value: dict[str, int]) -> dict[str, int]:
        try:
            rules_of(value, today=dt.date.max)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("risk")
    @classmethod
    def _check_risk(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            risk_table(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, value: dict[str, int]) -> dict[str, int]:
        try:
            limits_of(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if not url and not cls.publishes:
            return value
        if urlsplit(url).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must begin with redis://, rediss:// or unix://")
        if not assembly.is_redis_url(url):
            raise ValueError("is no address; quote special characters as %XX")
        return value

    @field_validator("kite_access_token")
    @classmethod
    def _check_token(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        accounts = info.data.get("accounts", {})
        is_missing = cls.feeds and not value.get_secret_value().strip()
        if is_missing and not _of_app(accounts, info.data):
            raise PydanticCustomError("missing", "is required")
        return value

    def relation_faults(self) -> list[str]:
        """Return what is wrong between settings that are right each for itself."""
        roots = (self.kite_rest_root, self.kite_ws_root)
        is_loopback = all(urlsplit(root).hostname in LOOPBACK_HOSTS for root in roots)
        secret_bytes = len(self.token_secret.get_secret_value().encode())
        checks = [
            self._passphrase_fault(),
            (
                self.order_settle_after_s < SETTLE_MARGIN_RATIO * self.order_request_s,
                "ORDER_SETTLE_AFTER_S",
                (
                    f"must be at least {SETTLE_MARGIN_RATIO} times order_request_s="
                    f"{self.order_request_s}: an order could still be under way when its absence "
                    "is proven"
                ),
            ),
            (
                bool(self.kill_at) and not is_loopback,
                "KILL_AT",
                "only with Kite's roots on loopback",
            ),
            (
                len(set(self.encodings)) < len(self.encodings),
                "ENCODINGS",
                "names an encoding twice",
            ),
            (
                Encoding.ARROW in self.encodings and find_spec("pyarrow") is None,
                "ENCODINGS",
                "arrow needs pyarrow: install ticker-service[arrow]",
            ),
            (
                bool(unknown := sorted(set(self.feed_accounts) - set(self.accounts))),
                "FEED_ACCOUNTS",
                f"{unknown}: must be of accounts={sorted(self.accounts)}",
            ),
            (
                bool(self.accounts) and not self.database_url.get_secret_value(),
                "DATABASE_URL",
                "is required with accounts: orders are journalled before they are sent",
            ),
            (
                bool(self.accounts) and secret_bytes < TOKEN_SECRET_BYTES_MIN,
                "TOKEN_SECRET",
                f"needs {TOKEN_SECRET_BYTES_MIN} bytes with accounts, has {secret_bytes}",
            ),
        ]
        faults = [f"{PREFIX}{name}: {rule}" for is_fault, name, rule in checks if is_fault]
        faults += [f"{PREFIX}GROUPS: {fault}" for fault in group_faults(self.groups, self.accounts)]
        try:
            check_names(risk_table(self.risk), accounts=self.accounts, groups=self.groups)
        except LimitsRefused as error:
            faults += [f"{PREFIX}RISK: {fault}" for fault in error.faults]
        return faults

    def _passphrase_fault(self) -> tuple[bool, str, str]:
        length = len(self.token_passphrase.get_secret_value().encode())
        return (
            0 < length < TOKEN_PASSPHRASE_BYTES_MIN,
            "TOKEN_PASSPHRASE",
            f"needs {TOKEN_PASSPHRASE_BYTES_MIN} bytes, has {length}",
        )

    def feed_account_configs(self) -> tuple[FeedAccountConfig, ...]:
        """Return the accounts whose logins may carry the feed, that of its own app first."""
        own = _of_app(self.accounts, {"kite_api_key": self.kite_api_key})
        return tuple(
            FeedAccountConfig(account=name, api_key=self.accounts[name].api_key)
            for name in dict.fromkeys((own, *self.feed_accounts))
            if name
        )

    def passphrase(self) -> bytes:
        """Return what opens the folder of access tokens, empty if there is nothing."""
        passphrase = self.token_passphrase.get_secret_value().encode()
        if not passphrase and "CREDENTIALS_DIRECTORY" in os.environ:
            passphrase = assembly.passphrase_credential(os.environ)
        return passphrase

    def token_store(self, clock: Clock) -> AccessTokens:
        """Return where access tokens rest: encrypted files with a passphrase, memory without."""
        return assembly.token_store(self.token_folder, self.passphrase(), clock)

    def accounts_config(self) -> OrderHalfConfig:
        """Return the order half's own view of settings that must have accounts."""
        config = self.order_half_config()
        if config is None:
            raise InvariantViolatedError("Invariant: settings without accounts were refused")
        return config

    def order_half_config(self) -> OrderHalfConfig | None:
        """Return the order half's own view, None when no account is set."""
        if not self.accounts:
            return None
        return OrderHalfConfig(
            database_url=self.database_url.get_secret_value(),
            redis_url=self.redis_url.get_secret_value(),
            channel_prefix=self.channel_prefix,
            rest_root=self.kite_rest_root,
            route_prefix=self.kite_route_prefix,
            limits=limits_of(self.limits),
            risk=risk_table(self.risk),
            hours=self.hours_config(),
            breakers=self.breaker_config(),
            kill_switch_file=self.kill_switch_file,
            egress_probe_url=self.egress_probe_url,
            hears_postbacks=bool(self.postback_word.get_secret_value()),
            groups=tuple(each.to_domain(name) for name, each in self.groups.items()),
            requires_durable_storage=not self.journal_may_be_volatile,
            order_connections_max=self.order_connections_max,
            query_connections_max=self.query_connections_max,
            connection_wait_s=self.connection_wait_s,
            statement_ms=self.statement_ms,
            accounts=tuple(
                AccountConfig(
                    account=name,
                    user_id=each.user_id,
                    api_key=each.api_key,
                    api_secret=each.api_secret.get_secret_value(),
                    access_token=each.access_token.get_secret_value(),
                    source_address=each.source_address,
                    registered_addresses=each.registered_addresses,
                    algo_id=each.algo_id,
                    proxy=each.proxy.get_secret_value(),
                )
                for name, each in self.accounts.items()
            ),
            orders=OrdersConfig(
                installation=self.installation,
                deadline_s=self.order_deadline_s,
                send_window_s=self.order_send_window_s,
                request_s_max=self.order_request_s,
                cooldown_s=self.order_cooldown_s,
                settle_after_s=self.order_settle_after_s,
                settle_spacing_s=self.order_settle_spacing_s,
                settle_poll_s=min(1.0, self.order_settle_spacing_s),
                book_poll_live_s=self.order_book_poll_s,
                book_poll_idle_s=6.0 * self.order_book_poll_s,
                audit_s=9.0 * self.order_book_poll_s,
                audit_again_s=2.0 * self.order_book_poll_s,
                open_uncompared_after_s=self.order_open_uncompared_after_s,
                freeze_quantities=self.freeze_quantities,
                rules=self.order_rules,
            ),
        )

    def hours_config(self) -> HoursConfig:
        """Return when the markets trade, beyond what is built in."""
        return HoursConfig(
            is_always_open=self.market_hours == "always",
            holidays=self.market_holidays,
            sessions=self.market_sessions,
        )

    def breaker_config(self) -> BreakerConfig:
        """Return when a broker that fails is left alone."""
        return BreakerConfig(
            failures_max=self.breaker_failures_max,
            window_s=self.breaker_window_s,
            open_s=self.breaker_open_s,
        )

    def record_config(self) -> RecordConfig | None:
        """Return what to record, None for nothing."""
        if not self.record:
            return None
        has_arrow = find_spec("pyarrow") is not None
        return RecordConfig(
            folder=self.record_folder,
            columns=has_arrow if self.record_columns is None else self.record_columns,
            repriced=self.record_repriced,
            frames_days=self.record_frames_days,
            columns_days=self.record_columns_days,
            part_s=self.record_part_s,
            bytes_max=self.record_bytes_max,
            free_bytes_min=self.record_free_bytes_min,
        )

    def engine_config(self) -> EngineConfig:
        """Return the engine's own view of these settings.

        Raises:
            ConfigurationError: Numbers contradict each other; every fault is listed.
        """
        return EngineConfig(
            kite=KiteConfig(
                rest_root=self.kite_rest_root,
                ws_root=self.kite_ws_root,
                route_prefix=self.kite_route_prefix,
                extra_parameters=tuple(self.kite_ws_parameters.items()),
                api_key=self.kite_api_key,
                access_token=self.kite_access_token.get_secret_value().strip(),
            ),
            redis_url=self.redis_url.get_secret_value(),
            feed_accounts=self.feed_account_configs(),
            subscription=SubscriptionConfig(
                underlyings=self.underlyings,
                instruments=self.instruments,
                strikes_each_side=self.strikes_each_side,
                expiries_max=self.expiries,
                mode=Mode[self.mode.upper()],
            ),
            flush=FlushConfig(
                interval_ms=self.flush_interval_ms,
                bytes_max=self.flush_bytes_max,
                backlog_bytes_max=self.backlog_bytes_max,
                conflate_after_ms=self.conflate_after_ms,
            ),
            validation=ValidationConfig(
                tick_age_ms_max=self.tick_age_ms_max,
                publishes_doubtful=self.doubtful_ticks == "publish",
            ),
            bars=BarsConfig(intervals=self.bars, grace_ms=self.bars_grace_ms),
            hours=self.hours_config(),
            publish=PublishConfig(
                channel_prefix=self.channel_prefix,
                encodings=self.encodings,
                instrument_channels=self.instrument_channels,
                instrument_ttl_ms=self.instrument_ttl_ms,
                heartbeat_ms=self.heartbeat_ms,
                snapshot_ms=self.snapshot_ms,
                reprice_ms=self.reprice_ms,
                smile_ms=self.smile_ms,
                depth=self.depth,
                own_volatility=self.own_volatility,
            ),
            pricing=PricingConfig(rate=self.rate),
            breakers=self.breaker_config(),
        )


class RecordingSettings(Settings):
    """The same for a run that records and publishes nothing: no Redis, no orders."""

    publishes: ClassVar[bool] = False

    def order_half_config(self) -> OrderHalfConfig | None:
        """Return None: who only records trades nothing."""
        return None


class AccountsSettings(Settings):
    """The accounts alone, for the commands that log them in or let them trade again.

    They run where a person sits, who need not have what the daemon has beside them: the feed's app,
    the address of Redis, the key of callers' tokens.
    """

    feeds: ClassVar[bool] = False
    publishes: ClassVar[bool] = False

    kite_api_key: str = Field("", description="Not used here")
    redis_url: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices(f"{PREFIX}redis_url", "redis_url"),
        description="Not used here",
    )

    def relation_faults(self) -> list[str]:
        """Return what is wrong with the accounts; what else is wrong does not matter here."""
        checks = [
            self._passphrase_fault(),
            (not self.accounts, "ACCOUNTS", "none is configured; see docs/settings.md"),
        ]
        return [f"{PREFIX}{name}: {rule}" for is_fault, name, rule in checks if is_fault]


def load_accounts(file: Path | None = None, *, journal: bool = False) -> Settings:
    """Read what the accounts need, and nothing else.

    Args:
        file: As for :func:`load`.
        journal: Whether the journal's address is needed, too.

    Raises:
        ConfigurationError: As from :func:`load`.
    """
    loaded = load(file, kind=AccountsSettings)
    if journal and not loaded.database_url.get_secret_value():
        database_url(file)  # says what is missing
    return loaded


def load(
    file: Path | None = None, *, kind: type[Settings] = Settings, **overrides: object
) -> Settings:
    """Read and check all settings.

    Args:
        file: The TOML file; without one, ``ticker-service.toml`` if it is there.
        kind: Which settings.
        overrides: Values that win over environment and file, such as command line options.

    Raises:
        ConfigurationError: With one line per fault, naming the setting, the value and the rule; or
            the file that was named is not there.
    """
    source = _source(file)

    class FromFile(kind):  # type: ignore[misc, valid-type]
        """The settings with their sources in order: arguments, environment, file."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, source)

    faults = _unknown_variables()
    try:
        settings = FromFile(**overrides)
    except ValidationError as error:
        faults += [_fault(detail, source) for detail in error.errors()]
    except (ValueError, OSError) as error:
        # A file that is not TOML or not ours to read, or a variable that should hold JSON.
        faults.append(f"{source} or environment: {error}")
    else:
        faults += settings.relation_faults()
    if faults:
        raise ConfigurationError("\n".join(faults))
    return settings


def _of_app(accounts: Mapping[str, AccountSettings], data: Mapping[str, Any]) -> str:
    """Return the first account that trades through the feed's app: its token opens the feed."""
    api_key = data.get("kite_api_key")
    return next((name for name, each in accounts.items() if each.api_key == api_key), "")


def _checked_root(value: str, *, encrypted: str, plain: str) -> str:
    root = urlsplit(value)
    try:
        is_complete = bool(root.hostname) and root.port != 0
    except ValueError:
        is_complete = False
    if root.scheme not in {encrypted, plain} or not is_complete:
        raise ValueError(f"must be an {encrypted}:// address")
    if root.scheme == plain and root.hostname not in LOOPBACK_HOSTS:
        raise ValueError(f"must be encrypted ({encrypted}://) unless it is on loopback")
    return value.rstrip("/")


def _state_folder() -> Path:
    """Return where systemd lets the service keep things, else the current folder."""
    return Path(os.environ.get("STATE_DIRECTORY", "").split(":")[0])


def database_url(file: Path | None = None) -> str:
    """Return the journal's address alone; what else is missing does not matter to a migration.

    Raises:
        ConfigurationError: It is not set.
    """
    source = _source(file)
    url = str(_alone("database_url", source) or os.environ.get("DATABASE_URL", ""))
    if not url:
        raise ConfigurationError(
            f"{PREFIX}DATABASE_URL (or database_url in {source}): is required; "
            f"{_description('database_url')}"
        )
    return url


def risk_limits(
    file: Path | None = None,
    *,
    accounts: Collection[str] | None = None,
    groups: Collection[str] | None = None,
    is_missed: bool = False,
) -> RiskTable:
    """Read the risk limits alone, for a daemon that runs.

    Args:
        file: As for :func:`load`.
        accounts: Those that limits may name; without them, those of these settings.
        groups: Likewise.
        is_missed: Whether a file that is gone or has no setting in it is a fault, as editors and
            full disks leave one; without limits among other settings it means that there are none.

    Raises:
        ConfigurationError: They cannot be read or are wrong; every fault is listed.
    """
    source = _source(file)
    said = _table("risk", source)
    if said is None and is_missed and not _written(source):
        raise ConfigurationError(f"{source}: is gone, or has no setting in it")
    table = risk_table(said)
    check_names(
        table,
        accounts=_table("accounts", source) or () if accounts is None else accounts,
        groups=_table("groups", source) or () if groups is None else groups,
    )
    return table


def has_settings(file: Path | None = None) -> bool:
    """Return whether there is a settings file with a setting in it.

    Raises:
        ConfigurationError: It cannot be read.
    """
    return bool(_written(_source(file)))


@dataclass(frozen=True, slots=True, kw_only=True)
class KillPlace:
    """What throwing a kill switch needs to know; no other setting has to be right for it."""

    file: Path
    health_url: str
    has_journal: bool
    names: Names
    """None where these settings declare no account, or not so that they can be read."""


def kill_place(file: Path | None = None) -> KillPlace:
    """Return where kill switches are, and where to ask whether the daemon has seen them.

    Raises:
        ConfigurationError: The settings file is missing or cannot be read.
    """
    source = _source(file)
    fields = Settings.model_fields
    found = _alone("kill_switch_file", source) or fields["kill_switch_file"].get_default(
        call_default_factory=True, validated_data={}
    )
    host = str(_alone("health_host", source) or fields["health_host"].default)
    port = _alone("health_port", source) or fields["health_port"].default
    url = _alone("database_url", source) or os.environ.get("DATABASE_URL", "")
    shown = f"[{host}]" if ":" in host else host
    return KillPlace(
        file=Path(str(found)),
        health_url=f"http://{shown}:{port}",
        has_journal=bool(url),
        names=Names(accounts=_names("accounts", source), groups=_names("groups", source)),
    )


def _names(name: str, file: Path) -> frozenset[str]:
    """Return the names in a table of the settings, none where it is faulty."""
    try:
        return frozenset(_table(name, file) or ())
    except ConfigurationError:
        return frozenset()


def token_secret(file: Path | None = None) -> bytes:
    """Return the key of callers' tokens alone.

    Raises:
        ConfigurationError: It is not set, or too short.
    """
    source = _source(file)
    secret = str(_alone("token_secret", source) or "").encode()
    if len(secret) < TOKEN_SECRET_BYTES_MIN:
        raise ConfigurationError(
            f"{PREFIX}TOKEN_SECRET (or token_secret in {source}): "
            f"needs {TOKEN_SECRET_BYTES_MIN} bytes, has {len(secret)}"
        )
    return secret


def _source(file: Path | None) -> Path:
    """Return the settings file; one that was named has to be there.

    A typo in its name would otherwise be a run with other settings than the operator's.
    """
    if file is None:
        return FILE
    if not file.exists():
        raise ConfigurationError(f"{file}: there is no such settings file")
    if file.is_dir():
        raise ConfigurationError(f"{file}: is a folder, no settings file")
    return file


def _alone(name: str, file: Path) -> object:
    """Return one setting without asking for the others."""
    return os.environ.get(PREFIX + name.upper()) or _written(file).get(name)


def _written(file: Path) -> dict[str, object]:
    """Return what the settings file says, nothing where there is none."""
    if not file.is_file():
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not ours to read, no UTF-8, or no TOML
        raise ConfigurationError(f"{file}: {error}") from error


def _table(name: str, file: Path) -> dict[str, Any] | None:
    """Return one setting that is a table; JSON in the environment."""
    said = _alone(name, file)
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except ValueError as error:
            raise ConfigurationError(f"{PREFIX}{name.upper()}: is no JSON: {error}") from error
    if said is not None and not isinstance(said, dict):
        raise ConfigurationError(f"{PREFIX}{name.upper()} (or {name} in {file}): must be a table")
    return said


def _unknown_variables() -> list[str]:
    """Report variables that look like ours and are not: a typo must not become a default."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    faults = []
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable.upper() not in known:
            # Compared without the prefix, which would make everything look alike.
            name = variable.removeprefix(PREFIX).lower()
            close = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; did you mean {PREFIX}{close[0].upper()}?" if close else ""
            faults.append(f"{variable}: is not a setting{hint}")
    return faults


def _fault(detail: ErrorDetails, source: Path) -> str:
    """Return one line that names the setting, its value unless secret, and the rule."""
    path = [str(part) for part in detail["loc"]]
    name = path[0] if path else "settings"
    field = name.lower().removeprefix(PREFIX.lower())
    where = f"{PREFIX}{field.upper()} (or {field} in {source})"
    rule = detail["msg"].removeprefix("Value error, ")
    if len(path) > 1 and field in {"accounts", "groups"}:
        inner = ".".join([field, *path[1:]])
        rule = {"missing": "is required", "extra_forbidden": "is not a setting"}.get(
            detail["type"], rule
        )
        return f"{where}: {inner}: {rule}"
    if detail["type"] == "missing":
        return f"{where}: is required; {_description(field)}"
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, Settings.model_fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{name} in {source}: is not a setting{hint}"
    value: Any = "(secret)" if field in _SECRETS else repr(detail["input"])[:100]
    return f"{where}: {value}: {rule}"


def _description(field: str) -> str:
    return Settings.model_fields[field].description or ""
