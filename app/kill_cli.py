"""``ticker-service kill …``: stop sending orders, whatever else is down, and go on again."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import httpx
import typer

from app.jobs import run_job, whoever
from app.kill_names import Names, doubt
from ticker_service.constants import NS_PER_S, NS_PER_US
from ticker_service.domain.kill_switch import (
    WHY_CHARACTERS_MAX,
    KillLevel,
    KillScope,
    KillSwitch,
    ScopeKind,
)
from ticker_service.domain.session import IST
from ticker_service.errors import ConfigurationError, JournalError
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from ticker_service.config import OrderHalfConfig

kill_cli = typer.Typer(
    name="kill",
    help="Stop sending orders, whatever else is down; it holds until you release it.",
    no_args_is_help=True,
)
SEEN_S_MAX: Final = 3.0
"""A daemon that runs shows a switch at once; one whose event loop hangs sends nothing either."""
ANSWER_S_MAX: Final = 10.0
"""For a list; one that is at work on much else answers late."""
LOOK_S: Final = 0.1
_Scope = Annotated[
    str,
    typer.Argument(help="all, group:NAME, account:NAME or symbol:EXCHANGE:TRADINGSYMBOL."),
]
_Config = Annotated[
    Path | None,
    typer.Option(help="Settings file; ticker-service.toml if left out. The environment wins."),
]
_File = Annotated[
    Path | None, typer.Option(help="The daemon's kill_switch_file, if settings cannot tell.")
]


@kill_cli.command()
def on(
    scope: _Scope,
    level: Annotated[
        str,
        typer.Option(
            help="BLOCK_NEW: no order leaves but what reduces a position, changes do; REDUCE_ONLY: "
            "no change either; HALT_NEW: nothing new leaves; CANCEL_ALL: and all is cancelled."
        ),
    ] = KillLevel.HALT_NEW.value,
    why: Annotated[str, typer.Option(help="For whoever releases it.")] = "no reason given",
    config: _Config = None,
    file: _File = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also on an account or group that is not known here.")
    ] = False,
) -> None:
    """Stop a scope. Exit status 0 means that it is on disk and that the daemon has seen it."""

    async def job() -> int:
        switch = KillSwitch(
            switch_id=uuid.uuid4(),
            scope=KillScope.of(scope),
            level=_level(level),
            why=_short(why),
            by_whom=whoever(),
            since_ns=SystemClock().now_ns(),
        )
        place = _Place(config, file)
        unsure = "" if force else await place.doubt(switch.scope)
        thrown = await asyncio.to_thread(place.store.throw, switch)
        print(f"{thrown}: on disk in {place.store.path}")  # noqa: T201 - the answer
        is_shown = await place.is_shown(thrown.switch_id)
        if unsure := unsure or await place.doubt_of_symbol(thrown.scope):
            print(unsure)  # noqa: T201 - likewise
        return 0 if is_shown and not unsure else 1

    raise typer.Exit(run_job(job()))


@kill_cli.command()
def off(scope: _Scope, config: _Config = None, file: _File = None) -> None:
    """Release every switch of a scope, here and in the journal; a running daemon goes on."""

    async def job() -> int:
        from ticker_service import assembly  # noqa: PLC0415 - other verbs start faster without it

        place, wanted = _Place(config, file), KillScope.of(scope)
        who, clock = whoever(), SystemClock()
        half = place.half()
        if half is None:
            released = await asyncio.to_thread(
                place.store.release, wanted, by_whom=who, now_ns=clock.now_ns()
            )
        else:
            released = await assembly.release_kill_switches(
                place.store, wanted, half, by_whom=who, clock=clock
            )
        for each in released:
            print(f"{each}: released")  # noqa: T201 - the answer
        if not released:
            print(f"{wanted}: no switch stands")  # noqa: T201 - likewise
        return 0 if await place.shows_none(wanted) else 1

    raise typer.Exit(run_job(job()))


@kill_cli.command("list")
def list_switches(config: _Config = None, file: _File = None) -> None:
    """Print what stands in this file, in the journal and at the daemon, and who released what."""

    async def job() -> int:
        place = _Place(config, file)
        path, in_file = place.store.path, await asyncio.to_thread(place.store.all)
        in_journal, said, status = await place.journalled()
        shown = await place.shown_now()
        here, there = ({each.switch_id: each for each in of} for of in (in_file, in_journal))
        # What stands at either place stands.
        ended = {key: each for key, each in (here | there).items() if not each.stands}
        found = ended | {each.switch_id: each for each in (*in_journal, *in_file) if each.stands}
        stands = {str(key) for key, each in found.items() if each.stands}
        beside = [each for each in shown or () if each["switch_id"] not in stands]
        lines = [
            f"file     {path}{'' if path.exists() else ', not there yet'}",
            f"journal  {said}",
            f"daemon   {place.compared(shown, stands)}",
        ]
        for each in sorted(found.values(), key=lambda each: each.since_ns):
            places = [("the file", here), ("the journal", there)]
            of = [name for name, known in places if _stands(known.get(each.switch_id))]
            lines.append(f"{_when(each.since_ns)} {each}{_end(each) or ', in ' + ' and '.join(of)}")
        lines += [f"{_shown(each)}, at the daemon alone" for each in beside]
        if not stands and not beside:
            lines.append("no switch stands")
        print("\n".join(lines))  # noqa: T201 - the answer
        return 1 if beside else status

    raise typer.Exit(run_job(job()))


class _Place:
    """Where the switches of these settings are, and the daemon that should look at them."""

    def __init__(self, config: Path | None, file: Path | None) -> None:
        from app import settings  # noqa: PLC0415 - other verbs start faster without it
        from ticker_service import assembly  # noqa: PLC0415 - as above

        self._config = config
        self._known = settings.kill_place(config)
        self.store = assembly.kill_file(file or self._known.file)

    def half(self) -> OrderHalfConfig | None:
        """Return what the journal needs, None where no journal is set."""
        from app import settings  # noqa: PLC0415 - as above

        if not self._known.has_journal:
            return None
        return settings.load_accounts(self._config, journal=True).accounts_config()

    async def journalled(self) -> tuple[list[KillSwitch], str, int]:
        """Return what the journal has, what to say of it, and the exit status of a list."""
        from ticker_service import assembly  # noqa: PLC0415 - as above

        try:
            half = self.half()
            if half is None:
                return [], "not looked at: these settings name none (DATABASE_URL)", 0
            return await assembly.journalled_kill_switches(half), "read", 0
        except JournalError as error:
            return [], f"does not answer, its switches are not listed: {error}", 1

    async def shown_now(self) -> list[dict[str, Any]] | None:
        """Return what the daemon shows, None when none answers."""
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S_MAX) as http:
            return await self._ask(http)

    def compared(self, shown: list[dict[str, Any]] | None, stands: Collection[str]) -> str:
        """Return whether the daemon holds what stands here, to be read by a person."""
        url = self._known.health_url
        if shown is None:
            return f"none answers at {url}"
        at_it = {each["switch_id"] for each in shown}
        if at_it == set(stands):
            return f"{url} holds the same"
        other = "it looks at another file: give its kill_switch_file with --file"
        return f"{url} HOLDS {len(at_it)}, AND {len(stands)} STAND HERE; {other}"

    async def doubt(self, scope: KillScope) -> str:
        """Return what to say of a scope of which nobody tells whether there is one.

        Raises:
            ConfigurationError: It is an account or group that is not known, and others are.
        """
        known = self._known.names
        if not known.has(scope):  # or it is thrown without asking anybody
            told = await self._told(scope, within_s=SEEN_S_MAX)
            there = ((each, frozenset(told.get(each, ()))) for each in ("accounts", "groups"))
            known |= Names(**dict(there))
        return doubt(scope, known)

    async def doubt_of_symbol(self, scope: KillScope) -> str:
        """Return what to say of a symbol that the daemon knows no instrument of."""
        if scope.kind is not ScopeKind.SYMBOL:
            return ""
        told = await self._told(scope, within_s=ANSWER_S_MAX)
        if told.get("is_instrument") is not False:
            return ""
        return (
            f"NO SUCH INSTRUMENT as {scope.name} is in the daemon's list of today: if that is "
            "misspelt, orders for what you meant still leave"
        )

    async def _told(self, scope: KillScope, *, within_s: float) -> dict[str, Any]:
        """Return what the daemon knows of names, nothing when none answers."""
        url = f"{self._known.health_url}/debug/kill-scope"
        with contextlib.suppress(httpx.HTTPError, ValueError, TypeError):
            async with httpx.AsyncClient(trust_env=False, timeout=within_s) as http:
                answer = await http.get(url, params={"scope": str(scope)})
                return dict(answer.raise_for_status().json())
        return {}

    async def is_shown(self, switch_id: uuid.UUID) -> bool:
        """Say whether the daemon looks at this file, and return it."""
        url = self._known.health_url
        why = f"no daemon answers at {url}; one that starts with this file will send nothing"
        async for shown in self._shown():
            if any(each["switch_id"] == str(switch_id) for each in shown):
                print(f"in force: the daemon at {url} shows it")  # noqa: T201 - the answer
                return True
            why = (
                f"NOT IN FORCE: the daemon at {url} does not show it, so it looks at another file: "
                "give its kill_switch_file with --file"
            )
        print(why)  # noqa: T201 - the answer
        return False

    async def shows_none(self, scope: KillScope) -> bool:
        """Say what still holds of a scope, if anything does, and return whether nothing is."""
        held: list[str] = []
        async for shown in self._shown():
            held = [each["switch_id"] for each in shown if each["scope"] == str(scope)]
            if not held:
                return True
        if held:
            print(  # noqa: T201 - the answer
                f"STILL IN FORCE at {self._known.health_url}: the journal or another file has it; "
                "give the daemon's own settings, or its file with --file"
            )
        return not held

    async def _shown(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield what the daemon shows again and again for a while; nothing if none answers."""
        until = time.monotonic() + SEEN_S_MAX
        async with httpx.AsyncClient(trust_env=False, timeout=SEEN_S_MAX) as http:
            while time.monotonic() < until:
                shown = await self._ask(http)
                if shown is not None:
                    yield shown
                await asyncio.sleep(LOOK_S)

    async def _ask(self, http: httpx.AsyncClient) -> list[dict[str, Any]] | None:
        """Return what the daemon shows, None when none answers."""
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
            answer = await http.get(f"{self._known.health_url}/health/ready")
            return list(answer.json()["kill_switches"])
        return None


def _level(text: str) -> KillLevel:
    try:
        return KillLevel(text.upper())
    except ValueError:
        raise ConfigurationError(f"level={text!r}: must be one of {', '.join(KillLevel)}") from None


def _short(why: str) -> str:
    if len(why) > WHY_CHARACTERS_MAX:
        raise ConfigurationError(
            f"why: has {len(why)} characters, must have at most {WHY_CHARACTERS_MAX}"
        )
    return why


def _stands(switch: KillSwitch | None) -> bool:
    return switch is not None and switch.stands


def _shown(switch: Mapping[str, Any]) -> str:
    """Return a switch as the daemon shows it, as `str` of one has it."""
    told = f"{switch['level']} on {switch['scope']} by {switch['by_whom']} ({switch['why']})"
    return f"{_when(switch['since_us'] * NS_PER_US)} {told}"


def _when(at_ns: int) -> str:
    return dt.datetime.fromtimestamp(at_ns // NS_PER_S, IST).strftime("%Y-%m-%d %H:%M:%S IST")


def _end(switch: KillSwitch) -> str:
    if switch.stands:
        return ""
    return f", released {_when(switch.released_ns)} by {switch.released_by}"
