"""Where the broker's postbacks come in: ``/v1/postback/WORD``, if a word is set.

The only route without a bearer token: the broker has none. The word keeps strangers out, the
checksum tells who wrote it (`orders.postbacks`), and nothing that it says is believed.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app.http import exact_json
from app.security.limits import RequestLimiter, RequestRate
from ticker_service.errors import OrderRefused

if TYPE_CHECKING:
    from ticker_service.orders.postbacks import Postbacks
    from ticker_service.runtime.clock import Clock

PREFIX: Final = "/v1/postback/"
RATE: Final = RequestRate(per_s=50.0, burst=200, principals_max=1)
"""For all together: a busy account has several a second."""


def router(postbacks: Postbacks, word: str, clock: Clock) -> APIRouter:
    """Return the route for the word that is set."""
    made = APIRouter(tags=["postback"])
    limiter = RequestLimiter(RATE, clock)

    @made.post(PREFIX + "{given}", include_in_schema=False)
    async def take(given: str, request: Request) -> Response:
        """Take a postback; 200 also for one that came before."""
        if not hmac.compare_digest(given.encode(errors="replace"), word.encode()):
            raise HTTPException(404)
        wait_s = limiter.take("broker")
        if wait_s > 0.0:
            raise OrderRefused("TOO_MANY_REQUESTS", f"try again in {wait_s:.2f} s")
        body = await request.body()
        try:
            said = exact_json.read(body)
        except json.JSONDecodeError as error:
            raise OrderRefused("INVALID_REQUEST", f"is no JSON: {error.msg}") from None
        postbacks.take(body, said)
        return JSONResponse({"status": "taken"})

    return made
