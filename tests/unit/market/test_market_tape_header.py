"""What a recording says of its run: every setting that decides the bytes, and no secret."""

from __future__ import annotations

import dataclasses
import json
import typing
from enum import Enum
from typing import Any

import numpy as np
import pytest
from recorded_stage import CHOSEN

from ticker_service import config as settings
from ticker_service.config import (
    EngineConfig,
    FeedAccountConfig,
    KiteConfig,
    SubscriptionConfig,
)
from ticker_service.domain.universe import Universe
from ticker_service.errors import RecordingError
from ticker_service.market import tape_header
from ticker_service.market.tape_header import Header
from ticker_service.market.tape_header import encode as encoded

GROUPS = [
    each.name
    for each in dataclasses.fields(EngineConfig)
    if each.name not in {"kite", "redis_url", "feed_accounts"}
]


def header(config: EngineConfig, universe: Universe = CHOSEN) -> Header:
    return Header(
        software="ticker-service 0.0",
        epoch=1_795_251_566_694_981,
        part=3,
        trading_day="2026-11-20",
        config=config,
        universe=universe,
    )


def another(value: Any) -> Any:
    """Another value of the same type, so that no default can stand in for it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, Enum):
        return next(each for each in reversed(type(value)) if each is not value)
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, another(value[0])) if value else ("x",)
    changed = {each.name: another(getattr(value, each.name)) for each in dataclasses.fields(value)}
    return dataclasses.replace(value, **changed)


def config(**changed: Any) -> EngineConfig:
    return EngineConfig(
        kite=KiteConfig(
            rest_root="secret-root", ws_root="secret-root", api_key="secret", access_token="secret"
        ),
        redis_url="redis://:secret@host",  # allow-secret
        feed_accounts=(FeedAccountConfig(account="secret-account", api_key="secret"),),
        **{"subscription": SubscriptionConfig(underlyings=("NIFTY",)), **changed},
    )


def test_every_setting_of_every_group_comes_back_as_it_was() -> None:
    plain = config()
    changed = config(**{name: another(getattr(plain, name)) for name in GROUPS})
    read = tape_header.decode(encoded(header(changed)), "a.tape")
    for name in GROUPS:
        assert getattr(read.config, name) == getattr(changed, name)
        assert getattr(read.config, name) != getattr(plain, name)


def test_every_group_of_settings_is_recorded() -> None:
    hints = typing.get_type_hints(EngineConfig)
    groups = {name for name, hint in hints.items() if dataclasses.is_dataclass(hint)} - {"kite"}
    assert set(json.loads(encoded(header(config())))["settings"]) == groups == set(GROUPS)


def test_no_address_no_account_and_no_secret_is_recorded() -> None:
    assert b"secret" not in encoded(header(config()))


def test_the_universe_comes_back_whole() -> None:
    read = tape_header.decode(encoded(header(config())), "a.tape").universe
    for each in dataclasses.fields(Universe):
        was, now = getattr(CHOSEN, each.name), getattr(read, each.name)
        if isinstance(was, np.ndarray):
            np.testing.assert_array_equal(now, was)
            assert now.dtype == was.dtype
    assert (read.books, read.spot_row) == (CHOSEN.books, CHOSEN.spot_row)
    assert [e.instant_ns for e in read.expiries] == [e.instant_ns for e in CHOSEN.expiries]
    for each in dataclasses.fields(CHOSEN.instruments):
        was, now = getattr(CHOSEN.instruments, each.name), getattr(read.instruments, each.name)
        np.testing.assert_array_equal(now, was)
        assert now.dtype == was.dtype


def test_what_a_run_was_comes_back() -> None:
    read = tape_header.decode(encoded(header(config())), "a.tape")
    assert (read.software, read.epoch, read.part, read.trading_day) == (
        "ticker-service 0.0",
        1_795_251_566_694_981,
        3,
        "2026-11-20",
    )


def changed_json(change: Any) -> bytes:
    facts = json.loads(encoded(header(config())))
    change(facts)
    return json.dumps(facts).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.update(format=2), "format=2"),
        (lambda f: f["settings"].update(new_group={}), "new_group"),
        (lambda f: f["settings"]["publish"].update(new_setting=1), "new_setting"),
        (lambda f: f["settings"]["publish"].update(depth="yes"), "depth='yes' is no bool"),
        (lambda f: f["settings"]["subscription"].update(mode=9), "9 is not a valid Mode"),
        (lambda f: f.pop("epoch"), "epoch"),
        (lambda f: f["instruments"].pop("strike"), "strike"),
        (lambda f: f["books"].pop(), "columns of"),
        (lambda f: f["instruments"]["instrument_token"].reverse(), "ascending order"),
        (lambda f: f["instruments"]["expiry"].__setitem__(0, "soon"), "soon"),
    ],
)
def test_what_cannot_be_replayed_the_same_is_refused_by_name(change: Any, words: str) -> None:
    with pytest.raises(RecordingError, match=r"a\.tape") as refused:
        tape_header.decode(changed_json(change), "a.tape")
    assert words in str(refused.value)


def test_a_setting_that_did_not_exist_then_has_its_default() -> None:
    def forget(facts: Any) -> None:
        del facts["settings"]["publish"]["depth"]
        del facts["settings"]["pricing"]

    read = tape_header.decode(changed_json(forget), "a.tape")
    assert read.config.publish.depth is False
    assert read.config.pricing == settings.PricingConfig()


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b"\xff"])
def test_a_header_that_is_none_is_a_clear_error(raw: bytes) -> None:
    with pytest.raises(RecordingError, match=r"a\.tape"):
        tape_header.decode(raw, "a.tape")
