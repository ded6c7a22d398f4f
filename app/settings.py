"""Settings from the environment and ``ticker-service.toml``, checked whole before anything starts.

Every setting is ``TICKER_SERVICE_`` and its name in capitals in the environment, or its name in the
file; the environment wins. ``REDIS_URL`` is also read without the prefix, as hosting platforms set
it. Secrets stay ``SecretStr`` until the engine's configuration is built and are never printed.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ticker_service.config import (
    EngineConfig,
    FlushConfig,
    KiteConfig,
    PricingConfig,
    PublishConfig,
    SubscriptionConfig,
)
from ticker_service.domain.tick import Mode
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PREFIX: Final = "TICKER_SERVICE_"
FILE: Final = Path("ticker-service.toml")
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SECRETS: Final = frozenset({"kite_access_token", "redis_url", "kite_api_key"})

_Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What an operator can set; see the description of each field."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        validate_default=True,
        str_strip_whitespace=True,
    )

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
    kite_access_token: SecretStr = Field(description="Today's access token; it ends at 06:00 IST")
    redis_url: SecretStr = Field(
        validation_alias=AliasChoices(f"{PREFIX}redis_url", "redis_url"),
        description="redis://, rediss:// or unix:// address of the server to publish to",
    )
    channel_prefix: str = Field("ticker:v1:", min_length=1, description="Prefix of all channels")

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
    heartbeat_ms: int = Field(1_000, ge=100, le=10_000, description="Between two heartbeats")
    snapshot_ms: int = Field(500, ge=100, le=1_000, description="Between two snapshots")
    reprice_ms: int = Field(
        250, ge=50, le=60_000, description="Between two batches that only a forward's move caused"
    )
    depth: bool = Field(default=False, description="Five levels of depth as columns")
    rate: float = Field(
        0.0, ge=-0.1, le=0.5, description="Discount rate per year as a fraction; not the carry"
    )

    health_host: str = Field("127.0.0.1", description="Address of /health and /metrics")
    health_port: int = Field(
        9108, ge=0, le=65_535, description="Its port; 0 lets the system choose"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info")
    log_format: Literal["json", "console"] = Field("json", description="json for machines")

    @field_validator("underlyings", "instruments", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("kite_rest_root", "kite_ws_root")
    @classmethod
    def _check_root(cls, value: str) -> str:
        root = urlsplit(value)
        if root.scheme not in {"https", "wss", "http", "ws"} or not root.hostname:
            raise ValueError("must be an https:// or wss:// address")
        if root.scheme in {"http", "ws"} and root.hostname not in LOOPBACK_HOSTS:
            raise ValueError("must be encrypted (https:// or wss://) unless it is on loopback")
        return value.rstrip("/")

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        if urlsplit(value.get_secret_value()).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return value

    @field_validator("kite_access_token")
    @classmethod
    def _check_token(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().strip():
            raise ValueError("must not be empty")
        return value

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
            publish=PublishConfig(
                channel_prefix=self.channel_prefix,
                heartbeat_ms=self.heartbeat_ms,
                snapshot_ms=self.snapshot_ms,
                reprice_ms=self.reprice_ms,
                depth=self.depth,
            ),
            pricing=PricingConfig(rate=self.rate),
        )


def load(file: Path = FILE, **overrides: object) -> Settings:
    """Read and check all settings.

    Args:
        file: The TOML file; one that does not exist is an empty one.
        overrides: Values that win over environment and file, such as command line options.

    Raises:
        ConfigurationError: With one line per fault, naming the setting, the value and the rule.
    """

    class FromFile(Settings):
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
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    faults = _unknown_variables()
    try:
        settings = FromFile(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        faults += [_fault(detail) for detail in error.errors()]
    except ValueError as error:
        # A file that is not TOML, or a variable that should hold JSON and does not.
        faults.append(f"{file} or environment: {error}")
    if faults:
        raise ConfigurationError("\n".join(faults))
    return settings


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


def _fault(detail: ErrorDetails) -> str:
    """Return one line that names the setting, its value unless secret, and the rule."""
    path = [str(part) for part in detail["loc"]]
    name = path[0] if path else "settings"
    field = "redis_url" if name.lower().endswith("redis_url") else name
    where = f"{PREFIX}{field.upper()} (or {field} in {FILE})"
    rule = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{where}: is required; {_description(field)}"
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, Settings.model_fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{name} in {FILE}: is not a setting{hint}"
    value: Any = "(secret)" if field in _SECRETS else repr(detail["input"])[:100]
    return f"{where}: {value}: {rule}"


def _description(field: str) -> str:
    return Settings.model_fields[field].description or ""
