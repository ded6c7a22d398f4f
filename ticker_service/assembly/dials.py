"""Show what halts, breakers, kill switches and desks do: in metrics, in notices, in the log."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.accounts.breaker import BreakerChange, BreakerRules
from ticker_service.accounts.breakers import Breakers
from ticker_service.accounts.halts import Halts
from ticker_service.accounts.kill_switches import KillSwitches
from ticker_service.adapters.kill_file import KillFile
from ticker_service.constants import NS_PER_S, NS_PER_US
from ticker_service.domain.breaker import BreakerName, BreakerState
from ticker_service.domain.halt import HaltCode
from ticker_service.orders.audit import Differs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Gauge

    from ticker_service.accounts.limits import Lane, Pacer
    from ticker_service.config import (
        BreakerConfig,
        OrderHalfConfig,
    )
    from ticker_service.domain.halt import Halt
    from ticker_service.domain.kill_switch import KillSwitch
    from ticker_service.domain.order import Account
    from ticker_service.orders.audit import Difference
    from ticker_service.orders.desk import AccountDesk
    from ticker_service.orders.notices import Notices
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.surroundings import Surroundings
    from ticker_service.runtime.telemetry import Telemetry

log = structlog.get_logger()

BREAKER_OPEN: Final = (
    "1 while the broker is not asked because it fails, 0.5 while one request is tried"
)


def watch_pacer(account: Account, pacer: Pacer, waiting: Gauge, refused: Gauge) -> None:
    """Show how many sends of an account wait in each lane, and how many found no turn."""
    refused.labels(account).set_function(partial(getattr, pacer, "refused_count"))
    lanes: tuple[Lane, ...] = ("place", "exit", "cancel")
    for lane in lanes:
        waiting.labels(account, lane).set_function(partial(pacer.waiting, lane))


def halts_of(account: Account, gauge: Gauge, clock: Clock, notices: Notices) -> Halts:
    """Return what halts an account, shown in the metrics and told to everybody."""
    for code in HaltCode:
        gauge.labels(account, code.value).set(0.0)

    def changed(halt: Halt, begins: bool) -> None:  # noqa: FBT001 - as `Halts` calls it
        gauge.labels(account, halt.code.value).set(1.0 if begins else 0.0)
        notices.tell(
            "account",
            account=account,
            state="halted" if begins else "resumed",
            code=halt.code.value,
            until_us=None if halt.until_ns is None else halt.until_ns // NS_PER_US,
        )

    return Halts(account, clock=clock, on_change=changed)


def count_what_desks_meet(desks: Mapping[Account, AccountDesk], surroundings: Surroundings) -> None:
    """Show what each account's desk counts since the start."""
    dropped = surroundings.telemetry.gauge(
        "order_updates_dropped",
        "Order updates of the feed that found no room, since the start; the book tells the same",
        ["account"],
    )
    escalated = surroundings.telemetry.gauge(
        "jobs_escalated", "Jobs that a person was left with, since the start", ["account"]
    )
    for account, desk in desks.items():
        dropped.labels(account).set_function(partial(getattr, desk.book_watch, "updates_dropped"))
        escalated.labels(account).set_function(partial(getattr, desk.jobs, "escalated"))


def watch_audit(desk: AccountDesk, gauge: Gauge, notices: Notices) -> None:
    """Show what an account's books differ in, and tell everybody of what kind it is."""
    for what in Differs:
        gauge.labels(desk.account, what.value).set(0.0)

    def changed(each: Difference, begins: bool) -> None:  # noqa: FBT001 - as `Audit` calls it
        left = sum(one.what is each.what for one in desk.audit.differences)
        gauge.labels(desk.account, each.what.value).set(left)
        notices.tell(
            "books",
            account=desk.account,
            state="differ" if begins else "agree",
            what=each.what.value,
            left=left,
        )

    def uncompared(begins: bool) -> None:  # noqa: FBT001 - as the desk calls it
        state = "uncompared" if begins else "compared"
        notices.tell("account", account=desk.account, state=state)

    desk.audit.on_change = changed
    desk.readiness.on_uncompared = uncompared


def audit_age_s(desk: AccountDesk) -> float:
    """Return how old the newest comparison of an account is, seconds; -1 when there is none."""
    age_ns = desk.audit.age_ns
    return -1.0 if age_ns is None else age_ns / NS_PER_S


def external_count(desk: AccountDesk) -> float:
    """Return how many orders of an account's newest book were placed elsewhere."""
    return float(len(desk.audit.external()))


def kill_switches_of(
    config: OrderHalfConfig, surroundings: Surroundings, notices: Notices
) -> KillSwitches:
    """Return what people have stopped, shown in the metrics and told to everybody."""
    standing = surroundings.telemetry.gauge(
        "kill_switch", "1 while a kill switch stands", ["scope", "level"]
    )

    def changed(switch: KillSwitch, stands: bool) -> None:  # noqa: FBT001 - as it is called
        standing.labels(str(switch.scope), switch.level.value).set(1.0 if stands else 0.0)
        notices.tell(
            "kill_switch",
            scope=str(switch.scope),
            level=switch.level.value,
            state="thrown" if stands else "released",
            why=switch.why,
            by_whom=switch.by_whom,
        )

    return KillSwitches(
        KillFile(config.kill_switch_file),
        groups={group.name: frozenset(group.members) for group in config.groups},
        on_change=changed,
    )


class BreakerDials:
    """Where breakers show what they do: the metrics, the log and the notices."""

    def __init__(self, telemetry: Telemetry, notices: Notices) -> None:
        names = ["account", "breaker"]
        self._open = telemetry.gauge("breaker_open", BREAKER_OPEN, names)
        self._changes = telemetry.counter(
            "breaker_changes_total", "Transitions of breakers", [*names, "to"]
        )
        self._refusals = telemetry.gauge(
            "breaker_refusals",
            "Requests that were not made because of an open breaker, since the start",
            names,
        )
        self._notices = notices

    def watch(self, account: Account, breakers: Breakers) -> None:
        """Show an account's breakers from the start."""
        for name in BreakerName:
            self._open.labels(account, name.value).set(0.0)
            self._refusals.labels(account, name.value).set_function(
                partial(breakers.refused_count, name)
            )

    def changed(self, account: Account, name: BreakerName, change: BreakerChange) -> None:
        """Show one transition."""
        show_breaker(self._open.labels(account, name.value), account, name, change)
        self._changes.labels(account, name.value, change.after.value).inc()
        self._notices.tell(
            "breaker",
            account=account,
            breaker=name.value,
            before=change.before.value,
            after=change.after.value,
            failures=change.failures,
        )


def breakers_of(
    account: Account, config: BreakerConfig, clock: Clock, dials: BreakerDials
) -> Breakers:
    """Return an account's breakers, whose every change the dials show."""
    breakers = Breakers(
        account,
        clock=clock,
        rules={name: breaker_rules(config, name) for name in BreakerName},
        on_change=partial(dials.changed, account),
    )
    dials.watch(account, breakers)
    return breakers


def breaker_rules(config: BreakerConfig, name: BreakerName) -> BreakerRules:
    """Return when one of the breakers opens, and for how long."""
    open_s = {
        BreakerName.ORDERS: config.open_s,
        BreakerName.READS: min(config.open_s, config.read_open_s_max),
        BreakerName.FEED: min(config.open_s, config.feed_open_s_max),
    }
    return BreakerRules(
        failures_max=config.failures_max, window_s=config.window_s, open_s=open_s[name]
    )


def show_breaker(shown: Gauge, account: str, name: BreakerName, change: BreakerChange) -> None:
    """Show and log how a breaker stands now."""
    told = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 1.0}
    shown.set(told[change.after])
    log.warning(
        "breaker_changed",
        account=account,
        breaker=name,
        before=change.before,
        after=change.after,
        is_resumed=change.is_resumed,
    )
