"""REST door for kill switches: ``/v1/kill-switch``. It takes a token with scope ``admin``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from app.http.entry import ERRORS, Admins, DoorsHere, ExactRoute
from app.http.schemas import Strict
from ticker_service.constants import NS_PER_US
from ticker_service.domain.kill_switch import WHY_CHARACTERS_MAX, KillLevel, KillScope
from ticker_service.errors import ConfigurationError, OrderRefused

if TYPE_CHECKING:
    from ticker_service.domain.kill_switch import KillSwitch

_Scope = Annotated[str, Query(max_length=100)]


class KillRequest(Strict):
    """What to stop: ``all``, ``account:NAME`` or ``symbol:EXCHANGE:TRADINGSYMBOL``."""

    scope: Annotated[str, Field(max_length=100)]
    level: KillLevel = KillLevel.HALT_NEW
    why: Annotated[str, Field(max_length=WHY_CHARACTERS_MAX)] = ""


router = APIRouter(
    prefix="/v1/kill-switch", tags=["kill switch"], responses=ERRORS, route_class=ExactRoute
)


@router.post("")
async def throw(request: KillRequest, who: Admins, doors: DoorsHere) -> dict[str, Any]:
    """Stop a scope: nothing new of it leaves from before this is answered.

    ``is_on_disk`` is false where the disk refused it; it then holds until the daemon ends.
    """
    switch, is_on_disk = await doors.front.throw_kill_switch(
        who, scope_of(request.scope), request.level, request.why
    )
    return {**told(switch), "is_on_disk": is_on_disk}


@router.get("")
async def standing(who: Admins, doors: DoorsHere) -> dict[str, Any]:
    """List the switches that stand and concern an account of yours."""
    return {"kill_switches": [told(each) for each in doors.front.kill_switches(who)]}


@router.delete("")
async def release(scope: _Scope, who: Admins, doors: DoorsHere) -> dict[str, Any]:
    """Release every switch of a scope; what waited goes on."""
    found = await doors.front.release_kill_switches(who, scope_of(scope))
    return {"released": [told(each) for each in found]}


def scope_of(text: str) -> KillScope:
    """Return the scope that a request names.

    Raises:
        OrderRefused: It names none.
    """
    try:
        return KillScope.of(text)
    except ConfigurationError as error:
        raise OrderRefused(
            "INVALID_FIELD", str(error).partition(": ")[2], field="scope", value=text
        ) from None


def told(switch: KillSwitch) -> dict[str, Any]:
    """Return a switch as people and programs see it."""
    return {
        "switch_id": str(switch.switch_id),
        "scope": str(switch.scope),
        "level": switch.level.value,
        "why": switch.why,
        "by_whom": switch.by_whom,
        "since_us": switch.since_ns // NS_PER_US,
        "released_us": switch.released_ns // NS_PER_US or None,
        "released_by": switch.released_by or None,
    }
