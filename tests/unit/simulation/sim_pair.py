"""A play of one daemon's two accounts in a group: what cannot be sent on one goes on on the other.

Each account has a broker of its own; the troubles fall on either. Judged account by account as
every play, and over both (I8): an instruction is on one at a time and at one broker at most.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import virtual_time
from exactly_once import one_place_over_accounts, unsettled, violations
from sim_broker import SimBroker
from sim_play import ACCOUNT, CONFIG, Outcome, Play
from sim_world import World

from ticker_service.accounts.tokens import AccessToken
from ticker_service.domain.account_group import AccountGroup, GroupBasis, GroupPolicy
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import Account, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from exactly_once import Records

SPARE: Final = Account("SPARE")
PAIR: Final = "PAIR"
USERS: Final = {ACCOUNT: "AB1234", SPARE: "CD5678"}
HANDED_OVER: Final = ("hand_over about to be asked", "hand_over confirmed")


def play_pair(seed: int, *, plant: Callable[[PairPlay], None] | None = None) -> Outcome:
    """Play one seed of two accounts to its end and judge it; as `sim_play.play`."""
    return virtual_time.run(_play(seed, plant))


async def _play(seed: int, plant: Callable[[PairPlay], None] | None) -> Outcome:
    async with asyncio.TaskGroup() as servers:
        world = World(random.Random(seed), servers)  # noqa: S311 - a play is to be repeated
        world.number_tasks()
        pair = PairPlay(world)
        if plant is not None:
            plant(pair)
        await pair.through()
        reserved = pair.misreserved()
        pair.end()
        records = {account: pair.records(account) for account in pair.accounts}
        ended_s = world.now_s()
        world.end()
    return Outcome(
        seed=seed,
        violations=[
            *(each for held in records.values() for each in violations(held)),
            *one_place_over_accounts(records, pair.told),
            *pair.permuted(),
            *pair.unexplained(),
            *reserved,
            *(breach for broker in pair.brokers.values() for breach in broker.breaches),
            *pair.false_alarms,
            *world.crashes,
        ],
        records=records[ACCOUNT],
        story=pair.story(),
        kills=world.kills,
        met=world.met,
        seconds=ended_s,
    )


class PairPlay(Play):
    """The parts of a play with two accounts."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        surfaces_s = 0.8 * CONFIG.settle_after_s
        self.accounts = (ACCOUNT, SPARE)
        self.brokers = {
            account: SimBroker(world, surfaces_s=surfaces_s, user_id=USERS[account])
            for account in self.accounts
        }
        self.broker = self.brokers[ACCOUNT]
        for account, broker in self.brokers.items():
            broker.updated = self._tell_update
            broker.known = partial(self._is_known_of, account)
            broker.stopped_by = self.kill_store.standing
            broker.looked = self._looked
        self.groups = (
            AccountGroup(
                name=PAIR,
                members=self.accounts,
                basis=GroupBasis.ONE_OWNER,
                policy=world.chance.choice(list(GroupPolicy)),
                moves_on_margin=world.happens(0.5),
            ),
        )
        # A sale may close what was held overnight, and stays.
        self.sides = (Side.BUY,) * 9 + (Side.SELL,)
        self._whose: dict[str, dict[str, str]] = {}
        self._delivered: dict[Account, list[tuple[int, str, int]]] = {
            account: [] for account in self.accounts
        }

    @property
    def told(self) -> list[object]:
        return [each for person in self.people for each in person.told]

    def broker_of(self, account: Account) -> SimBroker:
        return self.brokers[account]

    def whose(self, key: str) -> dict[str, str]:
        """Name the group for most keys, and always the same for one."""
        if key not in self._whose:
            is_grouped = self.world.happens(0.85)
            self._whose[key] = {"group": PAIR} if is_grouped else {"account": self.account}
        return self._whose[key]

    def deliver(self, account: Account, told: Sequence[tuple[int, str, int]]) -> None:
        self._delivered[account] += told

    def delivered_of(self, account: Account) -> list[tuple[int, str, int]]:
        return list(self._delivered[account])

    def records(self, account: Account = ACCOUNT) -> Records:
        """Return an account's records; what callers were told is judged over both."""
        return replace(super().records(account), told=[])

    # --- what goes wrong, on either account ---------------------------------------------------

    async def _doom(self) -> None:
        await super()._doom()
        if self.world.happens(0.2):
            self.world.doom = self.world.chance.choice(HANDED_OVER)

    async def _lose_session(self) -> None:
        daemon = self._open_daemon()
        if daemon is None:
            return
        account = self.world.chance.choice(self.accounts)
        self.world.tell(daemon.process.name, f"loses its session of {account}")
        daemon.journal.lose_writer(account, is_noticed=False)
        if self.world.happens(0.5):
            self.start()
        try:
            await asyncio.sleep(self.world.random_s(0.0, 3.0))
        finally:
            if daemon.process.is_alive:
                daemon.journal.lose_writer(account)

    async def _end_token(self) -> None:
        account = self.world.chance.choice(self.accounts)
        self.brokers[account].is_token_refused = True
        self.world.tell("broker", f"refuses the token of {account}")
        await asyncio.sleep(self.world.random_s(0.1, 4.0))
        await self._log_in()

    def _troubles(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [*super()._troubles(), self._refuse_address, self._refuse_address]

    async def _refuse_address(self) -> None:
        """Halt an account for its address, as an answer of the broker does, for a while."""
        account = self.world.chance.choice(self.accounts)
        self.world.met["halted"] += 1
        for daemon in self.daemons:
            if daemon.process.is_alive:
                daemon.desks[account].halts.begin(HaltCode.WRONG_IP, "told to")
        await asyncio.sleep(self.world.random_s(0.5, 6.0))
        await self._lift_halts()

    async def _lift_halts(self) -> None:
        for account in self.accounts:
            now_ns = self.world.clock.now_ns()
            for halt in await self.journal.halts(account):
                if halt.code is HaltCode.WRONG_IP:
                    lifted = replace(halt, lifted_at_ns=now_ns)
                    self.journal.shared.halts[account, halt.code] = lifted

    async def _shorten_books(self) -> None:
        broker = self.brokers[self.world.chance.choice(self.accounts)]
        broker.is_short = True
        try:
            await asyncio.sleep(self.world.random_s(1.0, 30.0))
        finally:
            broker.is_short = False

    async def _make_peace(self) -> None:
        for broker in self.brokers.values():
            broker.is_moody = False
        await super()._make_peace()

    async def _settle(self) -> None:
        until_s = self.world.now_s() + 900.0
        while self.world.now_s() < until_s:
            await asyncio.sleep(0.5)
            await self._lift_halts()
            is_quiet = self._has_ended() and self._is_delivered() and not self._doubted()
            open_matters = any(unsettled(self.records(each)) for each in self.accounts)
            if self._stays_quiet(is_quiet and not open_matters):
                return

    def _is_delivered(self) -> bool:
        return all(
            not (last := len(self.journal.events[account]))
            or (bool(got := self._delivered[account]) and got[-1][0] == last)
            for account in self.accounts
        )

    def _doubted(self) -> bool:
        return any(
            desk.exposure.doubts
            for each in self.daemons
            if each.process.is_alive
            for desk in each.desks.values()
        )

    async def _log_in(self) -> None:
        now_ns = self.world.clock.now_ns()
        for account, broker in self.brokers.items():
            broker.is_token_refused = False
            await self.tokens.put(
                AccessToken(
                    account=account,
                    user_id=USERS[account],
                    value=f"token-{account}-{now_ns}",
                    issued_at_ns=now_ns,
                )
            )

    def _is_known_of(self, account: Account, order_id: str) -> bool:
        return any(
            (task.account, task.broker_order_id) == (account, order_id)
            for task in self.journal.tasks.values()
        )

    def story(self) -> list[str]:
        told = super().story()
        told += [
            f"          journal    {SPARE} {event.account_seq:>3} {event.event} -> {event.state}"
            for event in self.journal.events[SPARE]
        ]
        return told
