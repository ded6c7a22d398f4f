"""Fills and positions of the broker against what journal and book say; virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from order_scene import BUY, Scene, broker_order
from structlog.testing import capture_logs
from virtual_time import run

from ticker_service.config import OrdersConfig
from ticker_service.domain.order import TaskKind, to_fields
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.portfolio import BrokerPosition, BrokerTrade, PositionKey
from ticker_service.errors import BrokerUnavailable, LoginRequired, OrderRefused
from ticker_service.orders.audit import Difference, Differs
from ticker_service.orders.standing import DeskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from ticker_service.domain.order import Account, OrderTask

KEY = PositionKey(BUY.exchange, BUY.tradingsymbol, BUY.product)
NAME = ":".join(KEY)
LONG_ENOUGH_S = 120.0


def trade(order_id: str, quantity: int, price: str = "100.05", side: str = "BUY") -> BrokerTrade:
    return BrokerTrade(
        trade_id=f"{order_id}-{quantity}",
        order_id=order_id,
        key=KEY,
        transaction_type=side,
        quantity=quantity,
        average_price=Decimal(price),
    )


def position(quantity: int, overnight: int = 0, **key: str) -> BrokerPosition:
    return BrokerPosition(key=KEY._replace(**key), quantity=quantity, overnight_quantity=overnight)


class Watched(Scene):
    """A scene whose desk's differences are kept as they are told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told: list[tuple[Difference, bool]] = []
        self.desk.audit.on_change = lambda each, begins: self.told.append((each, begins))

    @contextlib.asynccontextmanager
    async def filled(self) -> AsyncIterator[str]:
        """Run the desk with one order of 75 filled at 100.05; yields its order id."""
        async with self.opened():
            placed = await self.place()
            await self.reaches(placed, TaskState.WORKING)
            order_id = self.now(placed).broker_order_id or ""
            self.broker.change(
                order_id, status="COMPLETE", filled_quantity=75, average_price=Decimal("100.05")
            )
            await self.reaches(placed, TaskState.FILLED)
            yield order_id

    def differ(self) -> set[tuple[Differs, str, int, int]]:
        return {
            (each.what, each.name, int(each.ours), int(each.theirs))
            for each in self.desk.audit.differences
        }


def test_while_the_books_agree_nothing_is_told() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled():
            scene.broker.book["of-another"] = broker_order(
                order_id="of-another",
                status="COMPLETE",
                transaction_type="SELL",
                filled_quantity=30,
                average_price=Decimal(99),
            )
            await asyncio.sleep(LONG_ENOUGH_S)
        assert scene.told == []

    play(scenario)


def test_a_fill_that_the_journal_does_not_have_is_told_once_with_its_figures() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled() as order_id:
            scene.broker.trade_book = [trade(order_id, 75), trade(order_id, 10)]
            await scene.until(lambda: scene.desk.audit.differences)
            await asyncio.sleep(LONG_ENOUGH_S)
            assert scene.differ() == {(Differs.FILLS, order_id, 75, 85)}
        assert len(scene.told) == 1

    play(scenario)


def test_a_fill_of_the_journal_that_was_never_traded_is_told() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled() as order_id:
            scene.broker.trade_book = []
            await scene.until(lambda: scene.desk.audit.differences)
            assert scene.differ() == {(Differs.FILLS, order_id, 75, 0)}

    play(scenario)


@pytest.mark.parametrize(("average", "is_told"), [("100.06", False), ("100.07", True)])
def test_an_average_may_differ_by_a_ten_thousandth(average: str, *, is_told: bool) -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled() as order_id:
            scene.broker.trade_book = [trade(order_id, 75, average)]
            await asyncio.sleep(LONG_ENOUGH_S)
            told = {each.what for each in scene.desk.audit.differences}
            assert told == ({Differs.PRICE} if is_told else set())

    play(scenario)


def test_a_position_that_no_fill_explains_is_told_and_its_end_too() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled():
            scene.broker.net_positions = [position(150)]
            await scene.until(lambda: scene.desk.audit.differences)
            assert scene.differ() == {(Differs.POSITION, NAME, 75, 150)}
            scene.broker.net_positions = [position(75)]
            await scene.until(lambda: not scene.desk.audit.differences)
        assert [begins for _, begins in scene.told] == [True, False]

    play(scenario)


def test_what_was_carried_into_the_day_needs_no_fill() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled():
            scene.broker.net_positions = [
                position(-225, overnight=-300),
                position(40, overnight=40, tradingsymbol="NIFTY26DEC25000CE"),
            ]
            await asyncio.sleep(LONG_ENOUGH_S)
        assert scene.told == []

    play(scenario)


def test_orders_of_others_explain_a_position_as_ours_do() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled():
            scene.broker.book["app"] = broker_order(
                order_id="app", status="COMPLETE", filled_quantity=75, average_price=Decimal(101)
            )
            scene.broker.net_positions = [position(75)]
            await scene.until(lambda: scene.desk.audit.differences)
            assert scene.differ() == {(Differs.POSITION, NAME, 150, 75)}
            assert [row.order_id for row in scene.desk.audit.external()] == ["app"]

    play(scenario)


def test_a_converted_position_is_told_apart_from_one_that_nothing_explains() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled():
            scene.broker.net_positions = [position(0), position(75, product="MIS")]
            await scene.until(lambda: scene.desk.audit.differences)
            assert {what for what, *_ in scene.differ()} == {Differs.PRODUCT}

    play(scenario)


def test_what_differs_for_a_moment_only_is_not_told() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled() as order_id:
            scene.broker.net_positions = [position(0)]
            scene.desk.want_audit()
            await asyncio.sleep(1.0)
            scene.broker.net_positions = None
            await asyncio.sleep(LONG_ENOUGH_S)
            # Figures that change from look to look are fills under way, however long they differ.
            for quantity in range(1, 60):
                scene.broker.trade_book = [trade(order_id, quantity)]
                await asyncio.sleep(scene.config.audit_again_s / 2)
            scene.broker.trade_book = None
        assert scene.told == []

    play(scenario)


def test_a_book_that_lacks_known_orders_is_no_witness() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled() as order_id:
            scene.broker.hidden.add(order_id)
            scene.broker.trade_book = [trade(order_id, 80)]
            await asyncio.sleep(LONG_ENOUGH_S)
            assert scene.told == []
            scene.broker.hidden.clear()
            await scene.until(lambda: scene.desk.audit.differences)

    play(scenario)


def test_nothing_is_sure_before_the_order_book_was_read_again() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled():
            books = scene.broker.reads
            scene.broker.net_positions = [position(0)]
            for _ in range(5):
                await scene.desk.audit.look()
            assert scene.broker.reads == books
            assert scene.desk.audit.differences == frozenset()

    play(scenario)


def test_a_book_asked_for_at_the_instant_of_a_look_decides_nothing() -> None:
    """Which of the two the broker answered first, nobody knows."""

    async def scenario(scene: Watched) -> None:
        async with scene.filled() as order_id:
            audit = scene.desk.audit
            await audit.look()
            await asyncio.sleep(0.001)
            scene.broker.trade_book = [trade(order_id, 75), trade(order_id, 10)]
            rows = tuple(scene.broker.book.values())
            audit.take_book(rows, scene.clock.monotonic_ns())
            await audit.look()
            audit.take_book(rows, scene.clock.monotonic_ns())
            await audit.look()
            assert audit.differences == frozenset()
            await asyncio.sleep(0.001)
            audit.take_book(rows, scene.clock.monotonic_ns())
            await audit.look()
            assert scene.differ() == {(Differs.FILLS, order_id, 75, 85)}

    play(scenario)


def test_an_account_opens_only_after_its_fills_and_positions_were_read() -> None:
    async def scenario(scene: Watched) -> None:
        down = True

        async def positions() -> list[BrokerPosition]:
            if down:
                raise LoginRequired("the portfolio's route refuses the token")
            return []

        scene.broker.positions = positions  # type: ignore[method-assign]  # only this route is down
        async with scene.running():
            await asyncio.sleep(LONG_ENOUGH_S)
            assert scene.desk.state is DeskState.LOGIN_REQUIRED
            assert scene.broker.reads > 1
            down = False
            await scene.until(lambda: scene.desk.state is DeskState.OPEN)

    play(scenario)


def test_a_broker_that_tells_no_fills_for_a_while_does_not_close_an_open_account() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled():
            scene.broker.is_down = True
            await asyncio.sleep(LONG_ENOUGH_S)
            assert scene.desk.state is DeskState.OPEN
            age_ns = scene.desk.audit.age_ns
            assert age_ns is not None
            assert age_ns >= 60e9
        assert scene.told == []

    play(scenario)


def test_a_look_costs_what_is_new_and_not_what_the_day_has_seen() -> None:
    async def scenario(scene: Watched) -> None:
        asked: list[int] = []
        lookup = scene.journal.tasks_by_order_id

        async def counted(account: Account, order_ids: Collection[str]) -> list[OrderTask]:
            asked.append(len(order_ids))
            return await lookup(account, order_ids)

        async with scene.filled() as order_id:
            await scene.desk.audit.look()
            scene.journal.tasks_by_order_id = counted  # type: ignore[method-assign]
            await scene.desk.audit.look()
            assert asked == [0]
            # What ended long ago and is filled all the same is looked at anew.
            scene.broker.trade_book = [trade(order_id, 75), trade(order_id, 5)]
            await scene.desk.audit.look()
            assert asked == [0, 1]

    play(scenario)


def test_after_the_feed_came_back_the_fills_are_compared_at_once() -> None:
    async def scenario(scene: Watched) -> None:
        async with scene.filled():
            await asyncio.sleep(LONG_ENOUGH_S)
            await scene.until(lambda: (scene.desk.audit.age_ns or 0) > 5e9)
            scene.desk.want_audit()
            await asyncio.sleep(0.01)
            assert (scene.desk.audit.age_ns or 0) <= 1e9

    play(scenario)


def play(scenario: Callable[[Watched], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        await scenario(Watched())

    run(all_of_it())


def test_differences_are_told_in_one_order() -> None:
    one = Difference(what=Differs.FILLS, name="1", ours=Decimal(1), theirs=Decimal(2))

    assert sorted([dataclasses.replace(one, name="2"), one]) == [
        one,
        dataclasses.replace(one, name="2"),
    ]


def test_while_fills_or_positions_cannot_be_read_an_earlier_order_can_be_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()

    async def unreadable() -> None:
        raise BrokerUnavailable("not whole and readable")

    async def scenario() -> None:
        async with scene.opened():
            resting = await scene.reaches(await scene.place(), TaskState.WORKING)
        late = (await scene.journal.admit(scene.new(TaskKind.PLACE, to_fields(BUY)))).task
        scene.renew()
        with monkeypatch.context() as broken:
            broken.setattr(scene.broker, "positions", unreadable)
            async with scene.running():
                await asyncio.sleep(5.0)
                assert scene.desk.state is DeskState.STARTING
                await scene.reaches(await scene.cancel(resting), TaskState.ACKED)
                with pytest.raises(OrderRefused, match=r"cancels are taken") as refusal:
                    await scene.place()
                assert refusal.value.code == "ACCOUNT_NOT_OPEN"
                await asyncio.sleep(2 * scene.config.book_poll_idle_s)
                assert scene.desk.state is DeskState.STARTING
                broken.undo()
                await scene.until(lambda: scene.desk.state is DeskState.OPEN, within_s=15)
                await scene.reaches(await scene.place(), TaskState.WORKING)
        assert scene.now(late).state is TaskState.EXPIRED
        assert len(scene.broker.sent_tags()) == 2

    run(scenario())


def test_a_login_that_is_needed_while_fills_are_read_is_said_and_ends_with_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()

    async def refused() -> None:
        raise LoginRequired("told to refuse the access token")

    async def scenario() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(scene.broker, "trades", refused)
            async with scene.running():
                await asyncio.sleep(1.0)
                assert scene.desk.state is DeskState.LOGIN_REQUIRED
                broken.undo()
                scene.desk.has_new_token()
                await scene.until(lambda: scene.desk.state is DeskState.OPEN, within_s=15)

    run(scenario())


@pytest.mark.parametrize("opens_after_s", [20.0, 0.0])
def test_an_account_whose_fills_stay_unreadable_opens_after_a_settable_time_with_an_alarm(
    opens_after_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(config=OrdersConfig(open_uncompared_after_s=opens_after_s))
    told: list[bool] = []

    async def unreadable() -> None:
        raise BrokerUnavailable("not whole and readable")

    async def scenario() -> None:
        scene.desk.readiness.on_uncompared = told.append
        with monkeypatch.context() as broken, capture_logs() as logs:
            broken.setattr(scene.broker, "trades", unreadable)
            async with scene.running():
                await asyncio.sleep(19.0)
                assert scene.desk.state is DeskState.STARTING
                await asyncio.sleep(20.0)
                if not opens_after_s:
                    assert scene.desk.state is DeskState.STARTING
                    return
                assert scene.desk.state is DeskState.OPEN
                await scene.reaches(await scene.place(), TaskState.WORKING)
                assert told == [True]
                assert scene.desk.audit.age_ns is None
                broken.undo()
                await scene.until(lambda: scene.desk.audit.age_ns is not None, within_s=60)
                await scene.until(lambda: told == [True, False], within_s=5)
        (alarm,) = [each for each in logs if each["event"] == "account_opened_uncompared"]
        assert (alarm["log_level"], alarm["account"]) == ("error", "MAIN")

    run(scenario())


def test_a_login_that_is_needed_does_not_open_an_account_uncompared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(config=OrdersConfig(open_uncompared_after_s=20.0))

    async def refused() -> None:
        raise LoginRequired("told to refuse the access token")

    async def scenario() -> None:
        monkeypatch.setattr(scene.broker, "trades", refused)
        async with scene.running():
            await asyncio.sleep(100.0)
            assert scene.executor.holds.is_uncompared

    run(scenario())
