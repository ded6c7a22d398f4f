"""Run the official ``KiteTicker`` on a plan given as JSON and print its callbacks as JSON lines."""

from __future__ import annotations

import datetime as dt
import json
import sys
from typing import Any

from kiteconnect import KiteTicker


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime):
        return value.timestamp()
    raise TypeError(type(value))


def _say(event: str, **facts: object) -> None:
    line = json.dumps({"event": event, **facts}, default=_plain)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Subscribe as the plan says and report until killed."""
    plan: dict[str, Any] = json.loads(sys.argv[1])
    ticker = KiteTicker(
        plan["api_key"], plan["access_token"], root=plan["root"], reconnect_max_delay=5
    )

    def on_connect(ws: KiteTicker, _: object) -> None:
        for mode, tokens in plan["modes"].items():
            ws.subscribe(tokens)
            if mode != "default":
                ws.set_mode(mode, tokens)
        _say("connect")

    ticker.on_connect = on_connect
    ticker.on_ticks = lambda _, ticks: _say("ticks", ticks=ticks)
    ticker.on_close = lambda _, code, reason: _say("close", code=code, reason=str(reason))
    ticker.on_error = lambda _, code, reason: _say("error", code=code, reason=str(reason))
    ticker.on_reconnect = lambda _, attempts: _say("reconnect", attempts=attempts)
    ticker.on_order_update = lambda _, data: _say("order", data=data)
    ticker.connect()


if __name__ == "__main__":
    main()
