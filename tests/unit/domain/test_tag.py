"""The tag of a send: Kite can carry it, and it names one attempt and no other."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.domain.tag import ATTEMPTS_MAX, is_ours, tag_of

TASKS = st.uuids(version=4)
ATTEMPTS = st.integers(1, ATTEMPTS_MAX)
INSTALLATIONS = st.from_regex(r"[A-Z0-9]{2}", fullmatch=True)


@given(INSTALLATIONS, TASKS, ATTEMPTS)
def test_a_tag_is_twenty_characters_that_kite_carries(
    installation: str, task: uuid.UUID, attempt: int
) -> None:
    assert re.fullmatch(r"[A-Z0-9]{20}", tag_of(installation, task, attempt))


@given(INSTALLATIONS, TASKS, ATTEMPTS)
def test_a_tag_is_known_as_ours_by_its_installation_only(
    installation: str, task: uuid.UUID, attempt: int
) -> None:
    tag = tag_of(installation, task, attempt)
    assert is_ours(tag, installation)
    assert not is_ours(tag, "ZZ" if installation != "ZZ" else "AA")


@given(TASKS, ATTEMPTS, st.integers(0, 19), st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ"))
def test_a_tag_with_one_character_garbled_is_not_ours(
    task: uuid.UUID, attempt: int, place: int, other: str
) -> None:
    tag = tag_of("T0", task, attempt)
    garbled = tag[:place] + other + tag[place + 1 :]
    # A checksum of 1,024 values is not proof; one in a thousand may pass unless it is the check.
    if garbled != tag and place >= 18:
        assert not is_ours(garbled, "T0")


def test_garbling_is_noticed_almost_always() -> None:
    tag = tag_of("T0", uuid.UUID(int=2**90 + 12345), 1)
    garbled = {
        tag[:place] + other + tag[place + 1 :]
        for place in range(3, 18)
        for other in "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
        if other != tag[place]
    }
    passed = sum(is_ours(each, "T0") for each in garbled)
    assert passed <= len(garbled) // 100


def test_every_attempt_at_a_task_has_a_tag_of_its_own() -> None:
    task = uuid.uuid4()
    tags = {tag_of("T0", task, attempt) for attempt in range(1, ATTEMPTS_MAX + 1)}
    assert len(tags) == ATTEMPTS_MAX


@given(TASKS, TASKS, ATTEMPTS, ATTEMPTS)
def test_two_attempts_share_a_tag_only_if_they_are_the_same(
    one: uuid.UUID, other: uuid.UUID, first: int, second: int
) -> None:
    is_same = (one.int % 2**64, first) == (other.int % 2**64, second)
    assert (tag_of("T0", one, first) == tag_of("T0", other, second)) is is_same


@pytest.mark.parametrize("foreign", ["", "T0", "MYSTRATEGY", "T" * 20, "t0" + "0" * 18, "T0" * 50])
def test_a_foreign_tag_is_not_ours(foreign: str) -> None:
    assert not is_ours(foreign, "T0")


@pytest.mark.parametrize("installation", ["", "A", "ABC", "A-", "Ä0", "٣٣"])
def test_an_installation_that_kite_could_not_carry_is_refused(installation: str) -> None:
    with pytest.raises(ValueError, match="installation"):
        tag_of(installation, uuid.uuid4(), 1)


@pytest.mark.parametrize("attempt", [0, -1, ATTEMPTS_MAX + 1])
def test_an_attempt_beyond_the_tag_s_room_is_refused(attempt: int) -> None:
    with pytest.raises(ValueError, match=str(attempt)):
        tag_of("T0", uuid.uuid4(), attempt)
