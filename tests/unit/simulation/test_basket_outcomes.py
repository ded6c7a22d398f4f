"""Every subset of a basket's legs failing in every way: the report is the broker's truth (F37)."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import pytest
import structlog
import virtual_time
from exactly_once import Attempt, Post, Records, violations
from order_scene import ACCOUNT, BUY, Scene
from sim_callers import body_text
from sim_play import at_broker, event_record, task_record

from ticker_service.config import OrdersConfig
from ticker_service.domain.job import Basket, BasketMode, Leg, LegStatus, body_of, report
from ticker_service.domain.order import OrderRequest, Side, TaskKind
from ticker_service.domain.order_state import IN_DOUBT, UNSENT
from ticker_service.domain.order_state import TaskState as S
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer, ScriptedBroker, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ticker_service.domain.order import OrderTask

QUICK: Final = OrdersConfig(
    settle_after_s=5.0,
    settle_spacing_s=0.4,
    settle_poll_s=0.3,
    book_poll_live_s=0.5,
    book_poll_idle_s=1.0,
)


class Way(StrEnum):
    """What becomes of one leg."""

    FILLS = "fills"
    RESTS = "rests"
    REFUSED = "refused"
    NO_MARGIN = "no margin"
    THROTTLED = "throttled"
    NOT_SENT = "not sent"
    DOUBT_TAKEN = "in doubt, and taken"
    DOUBT_NOT_TAKEN = "in doubt, and not taken"
    EXCHANGE_REJECTS = "rejected by the exchange"
    PART_ONLY = "filled in part, then ended"


GOOD: Final = frozenset({Way.FILLS, Way.RESTS, Way.DOUBT_TAKEN})
ANSWERS: Final = {
    Way.REFUSED: Answer(reply=refusal(400, "InputException"), takes_effect=False),
    Way.NO_MARGIN: Answer(reply=refusal(400, "MarginException"), takes_effect=False),
    Way.THROTTLED: Answer(reply=refusal(429, "NetworkException"), takes_effect=False),
    Way.NOT_SENT: Answer(
        reply=Reply(withheld=Withheld.NOTHING_LEFT, failure="connection refused"),
        takes_effect=False,
    ),
    Way.DOUBT_TAKEN: Answer(reply=refusal(502, "DataException")),
    Way.DOUBT_NOT_TAKEN: Answer(reply=refusal(503, "NetworkException"), takes_effect=False),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Say nothing: hundreds of baskets log thousands of lines."""
    with structlog.testing.capture_logs():
        yield


def symbol(leg: int) -> str:
    return f"NIFTY26NOV2{leg}000CE"


class FatedBroker(ScriptedBroker):
    """Does with each leg what its fate is."""

    fates: dict[str, Way]

    async def place(self, request: OrderRequest, **how: Any) -> Reply:
        answer = ANSWERS.get(self.fates[request.tradingsymbol], Answer())
        self.answers.append(answer)
        return await super().place(request, **how)

    def live(self) -> None:
        """Let time pass at the exchange: what is open fills, rests or ends."""
        for order_id, row in self.book.items():
            if row.status != "OPEN":
                continue
            match self.fates[row.tradingsymbol]:
                case Way.FILLS | Way.DOUBT_TAKEN:
                    self._fill(order_id, row.quantity, "COMPLETE")
                case Way.EXCHANGE_REJECTS:
                    self.change(order_id, status="REJECTED", status_message="RMS: no")
                case Way.PART_ONLY:
                    self._fill(order_id, 25, "CANCELLED")
                case _:
                    pass

    def _fill(self, order_id: str, quantity: int, status: str) -> None:
        price = Decimal("100.05")
        self.change(order_id, status=status, filled_quantity=quantity, average_price=price)


def records_of(scene: Scene) -> Records:
    """Return what journal and broker wrote down, for the verdict of every other proof."""
    journal = scene.journal
    events = journal.events[ACCOUNT]
    seq = {
        (event.task_id, event.data["attempt"]): event.account_seq
        for event in events
        if event.event == "intent_recorded"
    }
    return Records(
        tasks=[task_record(task) for task in journal.tasks.values()],
        attempts=[
            Attempt(
                task_id=str(task.task_id),
                attempt=task.attempt,
                tag=task.tag or "",
                writer_epoch=task.writer_epoch or 0,
                intent_at_ns=0,
                send_not_after_ns=1 << 62,
                account_seq=seq[task.task_id, task.attempt],
                body=body_text(task.body),
            )
            for task in journal.attempts
        ],
        events=[event_record(event) for event in events],
        posts=[
            Post(kind="PLACE", at_ns=1, took_effect=False, tag=sent.what)
            for sent in scene.broker.sent
            if sent.kind is TaskKind.PLACE
        ],
        orders={order_id: at_broker(row) for order_id, row in scene.broker.book.items()},
    )


async def trade(ways: Sequence[Way], *, mode: BasketMode, buys_first: bool = False) -> None:
    """Play one basket to its end, and hold what it says against the broker's book."""
    scene = Scene(config=QUICK)
    broker = scene.broker = FatedBroker(scene.clock)
    broker.fates = {symbol(leg): way for leg, way in enumerate(ways, 1)}
    scene.renew()
    sides = itertools.cycle((Side.SELL, Side.BUY))
    legs = tuple(
        Leg(order=replace(BUY, tradingsymbol=symbol(leg), transaction_type=side))
        for leg, side in zip(range(1, len(ways) + 1), sides, strict=False)
    )
    body = body_of(Basket(legs=legs, mode=mode, buys_first=buys_first))
    async with scene.opened():
        job = await scene.submit(TaskKind.BASKET, body)
        await until_quiet(scene, job, broker)
        if scene.now(job).state is S.RUNNING:
            # What rests is all that is left of it.
            assert Way.RESTS in ways
            await scene.cancel(job)
            await until_quiet(scene, job, broker)
        job = scene.now(job)
        assert job.state is S.DONE, job
        judge(scene, job, ways, mode)


async def until_quiet(scene: Scene, job: OrderTask, broker: FatedBroker) -> None:
    """Let time pass until the job has ended, or nothing of it moves any more."""
    still_s = 0.0
    before = -1
    while still_s < (1.0 if scene.now(job).state is S.DONE else 20.0):
        broker.live()
        await asyncio.sleep(0.5)
        now = len(scene.journal.events[ACCOUNT])
        moves = now != before or any(
            task.state in UNSENT | IN_DOUBT for task in scene.journal.tasks.values()
        )
        still_s, before = (0.0 if moves else still_s + 0.5), now


def judge(scene: Scene, job: OrderTask, ways: Sequence[Way], mode: BasketMode) -> None:
    """Hold the report of a basket against the broker's book."""
    children = [task for task in scene.journal.tasks.values() if task.job_id == job.task_id]
    book = {row.tradingsymbol: row for row in scene.broker.book.values()}
    assert len(book) == len(scene.broker.book), "a leg became two orders"
    told = report(job, children)
    for way, leg in zip(ways, told, strict=True):
        row = book.get(leg.order.tradingsymbol)
        at_exchange = 0 if row is None else row.filled_quantity
        assert leg.filled_quantity == at_exchange, (way, leg)
        assert row is None or row.status in {"COMPLETE", "CANCELLED", "REJECTED"}, (way, row)
        is_filled = row is not None and row.status == "COMPLETE"
        assert (leg.status is LegStatus.FILLED) == is_filled, (way, leg)
        assert leg.status in {LegStatus.FILLED, LegStatus.FAILED, LegStatus.NOT_SENT}
        if way is Way.FILLS and mode is BasketMode.INDEPENDENT and not job_waits(job):
            assert is_filled
    if set(ways) - GOOD and mode is BasketMode.ALL_OR_COMPENSATE:
        assert job.reason_code == "LEG_FAILED"
    assert violations(records_of(scene)) == []


def job_waits(job: OrderTask) -> bool:
    return "buys_first" in job.body


@pytest.mark.parametrize("mode", BasketMode)
@pytest.mark.parametrize("first", Way)
def test_two_legs_in_every_pair_of_ways(first: Way, mode: BasketMode) -> None:
    for second in Way:
        virtual_time.run(trade([first, second], mode=mode))


@pytest.mark.parametrize("mode", BasketMode)
@pytest.mark.parametrize("way", sorted(set(Way) - {Way.FILLS}))
def test_every_subset_of_four_legs_in_every_way(way: Way, mode: BasketMode) -> None:
    for fails in itertools.product((False, True), repeat=4):
        ways = [way if failing else Way.FILLS for failing in fails]
        virtual_time.run(trade(ways, mode=mode))


@pytest.mark.parametrize("mode", BasketMode)
@pytest.mark.parametrize("way", Way)
def test_sells_wait_for_buys_whatever_becomes_of_them(way: Way, mode: BasketMode) -> None:
    for second in (Way.FILLS, way):
        virtual_time.run(trade([Way.FILLS, way, way, second], mode=mode, buys_first=True))
