"""Work that must not be left half done when its caller is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

Result = TypeVar("Result")


async def finish(work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work`` to its end even when the caller is cancelled, then let the caller be cancelled.

    For one thing only: what was sent must be recorded (STYLE 28). The work has its own deadlines;
    this adds none.
    """
    task = asyncio.ensure_future(work)  # noqa: TID251 - the one place that may
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)  # noqa: TID251 - the one place that may
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001 - raised below from the task itself
            break
    if cancelled is not None:
        task.exception()  # retrieved, so that it is not reported as lost
        raise cancelled
    return task.result()
