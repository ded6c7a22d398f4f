"""The rules of Kite, SEBI and the exchanges: a test per row, and the page that tells of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from order_scene import ACCOUNT, BUY
from pydantic import ValidationError
from small_exchange import EXPIRIES, future, table_of

from app.http.schemas import OrderBody
from ticker_service.accounts.limits import PaceRules
from ticker_service.domain import rulebook
from ticker_service.domain.contracts import Contracts
from ticker_service.domain.halt import HaltCode, new_halt
from ticker_service.domain.limit import LIMITS, limits_of
from ticker_service.domain.order import OrderChange, OrderType, Validity, to_fields
from ticker_service.domain.rulebook import NEWEST, RULES, RuleName, rules_of
from ticker_service.errors import ConfigurationError, OrderRefused
from ticker_service.orders import admit

if TYPE_CHECKING:
    from ticker_service.domain.order import OrderRequest

ROOT: Final = Path(__file__).resolve().parents[3]
TEXT: Final = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
TODAY: Final = dt.date(2026, 11, 21)
MARKET: Final = dataclasses.replace(BUY, order_type=OrderType.MARKET, price=None)
CRUDE: Final = dataclasses.replace(BUY, exchange="MCX", validity=Validity.IOC)


def refusal_of(order: OrderRequest, rules: rulebook.Rules = NEWEST) -> str:
    with pytest.raises(OrderRefused) as refused:
        admit.check_order(order, rules)
    return refused.value.rule


def test_market_protection_is_asked_for_and_says_whose_rule_it_is() -> None:
    assert NEWEST[RuleName.MARKET_PROTECTION].told in refusal_of(MARKET)
    change = OrderChange(order_type=OrderType.MARKET)
    with pytest.raises(OrderRefused, match="SEBI's rule market_protection since 2026-04-01"):
        admit.check_change(change, BUY)


def test_market_protection_can_have_another_bound_and_can_be_dropped() -> None:
    tight = rules_of({"market_protection": 3}, today=TODAY)
    admit.check_order(dataclasses.replace(MARKET, market_protection=Decimal(3)), tight)
    assert "up to 3" in refusal_of(
        dataclasses.replace(MARKET, market_protection=Decimal("3.1")), tight
    )
    free = rules_of({"market_protection": False}, today=TODAY)
    admit.check_order(MARKET, free)
    refusal_of(dataclasses.replace(MARKET, market_protection=Decimal(101)), free)


def test_ioc_on_mcx_is_refused_while_the_rule_holds() -> None:
    assert NEWEST[RuleName.NO_IOC_ON_MCX].told in refusal_of(CRUDE)
    admit.check_order(CRUDE, rules_of({"no_ioc_on_mcx": False}, today=TODAY))
    admit.check_order(CRUDE, rules_of(today=dt.date(2026, 3, 31)))


def test_kite_is_never_asked_to_cut_an_order_into_slices() -> None:
    assert NEWEST[RuleName.SLICES].number == 10
    assert "autoslice" not in to_fields(BUY)
    with pytest.raises(ValidationError, match="autoslice"):
        OrderBody.model_validate({**to_fields(BUY), "quantity": 75, "autoslice": True})


def test_an_order_above_the_freeze_quantity_is_told_of_the_rule() -> None:
    contract = future(1, "NIFTY", EXPIRIES[0])
    listed = Contracts.of(table_of([contract]), fetched_at_ns=0)
    order = dataclasses.replace(
        BUY, tradingsymbol=contract["tradingsymbol"], price=Decimal(100), quantity=65 * 28
    )
    with pytest.raises(OrderRefused) as refused:
        admit.check_listed(order, listed, rulebook.freeze_quantities({}, today=TODAY))
    assert NEWEST[RuleName.FREEZE_QUANTITY].told in refused.value.rule


def test_an_account_that_sends_from_a_wrong_address_is_told_of_the_rule() -> None:
    halt = new_halt(ACCOUNT, HaltCode.WRONG_IP, "no", now_ns=0)
    assert NEWEST[RuleName.REGISTERED_ADDRESS].told in halt.advice
    assert f"account resume {ACCOUNT}" in halt.advice


@pytest.mark.parametrize("name", sorted(rulebook.OF_LIMITS))
def test_the_limits_that_are_kept_are_the_rules_numbers(name: RuleName) -> None:
    limit = next(row for row in LIMITS if row.name.value == name.value)
    assert limit.at_most == NEWEST[name].number


def test_sends_keep_to_the_rules_of_a_second_and_a_minute() -> None:
    pace = PaceRules.of(limits_of())
    assert pace.total_per_s == NEWEST[RuleName.ORDERS_PER_SECOND].number
    assert pace.total_per_minute == NEWEST[RuleName.ORDERS_PER_MINUTE].number


def test_the_id_of_a_strategy_is_no_condition_of_an_order() -> None:
    assert NEWEST[RuleName.ALGO_ID].number is None
    admit.check_order(BUY)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("nonsense", 1, "nonsense: is no rule; the rules are registered_address, "),
        ("orders_per_day", 1, "orders_per_day: is changed in the setting limits"),
        ("slices", 5, "slices: nothing here is counted by it"),
        ("algo_id", False, "algo_id: nothing here is counted by it"),
        ("no_ioc_on_mcx", True, "no_ioc_on_mcx=True: must be false"),
        ("no_ioc_on_mcx", 1, "no_ioc_on_mcx=1: must be false"),
        ("market_protection", 0, "market_protection=0: must be false, or 1 to 100"),
        ("market_protection", 101, "market_protection=101: must be false, or 1 to 100"),
        ("market_protection", True, "market_protection=True: must be false, or 1 to 100"),
    ],
)
def test_a_change_that_is_none_is_refused_at_the_start(name: str, value: int, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        rules_of({name: value}, today=TODAY)
    assert told in str(refused.value)


def test_a_rule_holds_from_its_day_on_and_the_youngest_counts() -> None:
    assert rules_of(today=dt.date(2026, 3, 31)).keys() == {RuleName.FREEZE_QUANTITY}
    assert rules_of(today=TODAY).keys() == set(RuleName)


@pytest.mark.parametrize("row", RULES, ids=lambda row: row.name)
def test_the_page_has_every_row_as_it_is(row: rulebook.Rule) -> None:
    number = "-" if row.number is None else f"{row.number:,}"
    cells = (f"`{row.name}`", row.whose, str(row.since), number, row.says, row.advice, row.source)
    assert f"| {' | '.join(cells)} |" in TEXT


@pytest.mark.parametrize("row", rulebook.FREEZE_QUANTITIES, ids=lambda row: row.name)
def test_the_page_has_every_freeze_quantity(row: rulebook.FreezeQuantity) -> None:
    assert f"| {row.name} | {row.quantity:,} | {row.since} |" in TEXT
