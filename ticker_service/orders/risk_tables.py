"""The risk limits in force, and who is told when they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from ticker_service.domain.risk import RiskTable, risk_table

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()


class RiskTables:
    """The limits in force, one object for all accounts; who changes them changes it here."""

    def __init__(
        self,
        table: RiskTable | None = None,
        *,
        on_change: Callable[[RiskTable], None] | None = None,
    ) -> None:
        """Begin with a table; with none, with the defaults."""
        self.current = table or risk_table()
        self._on_change = on_change

    def take(self, table: RiskTable) -> bool:
        """Put a table in force; return whether it says anything else than the one before."""
        if table.version == self.current.version:
            return False
        before, self.current = self.current.version, table
        log.warning("risk_limits_changed", before=before, version=table.version)
        if self._on_change is not None:
            self._on_change(table)
        return True
