"""REST door for the risk gate: ``/v1/risk``. To change what it does takes scope ``admin``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from app.http.entry import ERRORS, Admins, DoorsHere, ExactRoute, Reads
from app.http.schemas import KEY_CHARACTERS_MAX, KEY_PATTERN
from ticker_service.domain.kill_switch import switch_message

_Account = Annotated[str, Query(max_length=KEY_CHARACTERS_MAX, pattern=KEY_PATTERN)]

router = APIRouter(prefix="/v1/risk", tags=["risk"], responses=ERRORS, route_class=ExactRoute)


@router.get("")
async def show(who: Reads, doors: DoorsHere, account: _Account | None = None) -> dict[str, Any]:
    """List your accounts' limits in force, what of them is in use, and the newest denials."""
    return {"accounts": doors.front.controls.risk(who, account)}


@router.post("/reload")
async def reload(who: Admins, doors: DoorsHere) -> dict[str, Any]:
    """Read the limits again from the daemon's settings; faulty ones change nothing.

    The token must be good for all accounts.
    """
    changed: dict[str, Any] = doors.read_risk_limits(who)
    return changed


@router.delete("/latch")
async def lift(account: _Account, who: Admins, doors: DoorsHere) -> dict[str, Any]:
    """Let an account go on that a loss has stopped; it is not stopped so again today."""
    found = await doors.front.controls.lift_losses(who, account)
    return {"lifted": [switch_message(each) for each in found]}
