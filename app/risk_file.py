"""The risk limits of a running daemon, read again from its settings: on SIGHUP or at the door."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import structlog

from app.settings import risk_limits
from ticker_service.errors import ConfigurationError, LimitsRefused, OrderRefused

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from ticker_service.orders.risk_tables import RiskTables

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RiskFile:
    """Where the limits stand, None for where the settings are by default, and whom to tell.

    They may name the accounts and groups that the daemon was started with.
    """

    tables: RiskTables
    file: Path | None
    _: KW_ONLY
    accounts: Collection[str]
    groups: Collection[str]
    had_settings: bool
    """Whether the file had any setting in it at the start."""

    def read_again(self, by_whom: str) -> dict[str, str | bool]:
        """Put in force what the settings say now; return the versions before and after.

        Raises:
            OrderRefused: They are wrong or cannot be read; those before stay in force.
        """
        before = self.tables.current.version
        try:
            table = risk_limits(
                self.file,
                accounts=self.accounts,
                groups=self.groups,
                # What was in force came from somewhere, and no limit is lost for want of a file.
                is_missed=self.had_settings or bool(self.tables.current.said),
            )
        except ConfigurationError as error:
            log.error("risk_limits_not_read", error=str(error), version=before, by_whom=by_whom)  # noqa: TRY400 - the message has it all
            raise _refusal(error) from error
        has_changed = self.tables.take(table)
        if has_changed:
            log.warning("risk_limits_read", version=table.version, by_whom=by_whom)
        else:
            log.info("risk_limits_unchanged", version=table.version, by_whom=by_whom)
        return {"version": table.version, "before": before, "has_changed": has_changed}

    def heed_signal(self) -> None:
        """Read them again; what is wrong with them is in the log."""
        try:
            self.read_again("SIGHUP")
        except OrderRefused:
            return


def _refusal(error: ConfigurationError) -> OrderRefused:
    """Return the first fault with its field and value, and how many more there are."""
    if not isinstance(error, LimitsRefused):
        return OrderRefused("RISK_LIMITS", f"the settings cannot be read: {error}")
    first, *others = error.faults
    rule = first.rule
    if others:
        rule += "; likewise wrong: " + "; ".join(map(str, others))
    return OrderRefused("RISK_LIMITS", rule, field=first.field, value=first.value)
