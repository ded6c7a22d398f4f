"""REST door for kill switches: ``/v1/kill-switch``. It takes a token with scope ``admin``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from app.http.entry import ERRORS, Admins, DoorsHere, ExactRoute
from app.http.schemas import Strict
from ticker_service.domain.kill_switch import (
    WHY_CHARACTERS_MAX,
    KillLevel,
    KillScope,
    switch_message,
)
from ticker_service.errors import ConfigurationError, OrderRefused

_Scope = Annotated[str, Query(max_length=100)]


class KillRequest(Strict):
    """What to stop: ``all``, ``group:NAME``, ``account:NAME``, ``symbol:EXCHANGE:SYMBOL``."""

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
    switch, is_on_disk = await doors.front.controls.throw_kill_switch(
        who, scope_of(request.scope), request.level, request.why
    )
    return {**switch_message(switch), "is_on_disk": is_on_disk}


@router.get("")
async def standing(who: Admins, doors: DoorsHere) -> dict[str, Any]:
    """List the switches that stand and concern an account of yours."""
    return {
        "kill_switches": [switch_message(each) for each in doors.front.controls.kill_switches(who)]
    }


@router.delete("")
async def release(scope: _Scope, who: Admins, doors: DoorsHere) -> dict[str, Any]:
    """Release every switch of a scope; what waited goes on."""
    found = await doors.front.controls.release_kill_switches(who, scope_of(scope))
    return {"released": [switch_message(each) for each in found]}


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
