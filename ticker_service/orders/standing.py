"""How one account stands: who finds out what keeps it from taking orders says so here.

Read by whoever asks before a new order is taken, and by whoever shows it. Belongs to one event
loop; no I/O.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from ticker_service.domain.order import Account

log = structlog.get_logger()


class DeskState(StrEnum):
    """Whether an account takes orders."""

    STARTING = "starting"
    OPEN = "open"
    LOGIN_REQUIRED = "login_required"
    STANDBY = "standby"
    STOPPING = "stopping"


class Standing:
    """How one account stands."""

    def __init__(self, account: Account) -> None:
        self.state = DeskState.STARTING
        self._account = account
        self._is_stopping = False

    def begin(self) -> None:
        """Start over: it stood by, or was lost; a login that is needed must be said again."""
        if not self._is_stopping:
            self.state = DeskState.STARTING

    def open(self, *, is_uncompared: bool) -> None:
        """Take orders, or cancels alone while fills and positions are still to be read."""
        # A pass that ends while we are told to stop must not let anybody in again.
        if not self._is_stopping:
            self.state = DeskState.STARTING if is_uncompared else DeskState.OPEN

    def needs_login(self, why: str) -> None:
        """Take no more orders until a login brings a new access token."""
        if self.state in {DeskState.STARTING, DeskState.OPEN}:
            self.state = DeskState.LOGIN_REQUIRED
            log.warning("login_required", account=self._account, reason=why)

    def stop(self) -> None:
        """Take no more orders, whatever is found out from now on."""
        self._is_stopping = True
        self.state = DeskState.STOPPING
