"""The charts of docs/pricing.md can be drawn again, and say the same every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts import pricing_charts

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_charts_are_drawn_and_the_same_numbers_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ROOT", tmp_path), ("SECONDS", 10), ("COLUMNS", 9), ("ROWS", 7)):
        monkeypatch.setattr(pricing_charts, name, value)
    drawn = []
    for turn in ("first", "second"):
        monkeypatch.setattr(pricing_charts, "FOLDER", tmp_path / turn)
        assert pricing_charts.main() == 0
        drawn.append({file.name: file.read_bytes() for file in (tmp_path / turn).iterdir()})

    assert set(drawn[0]) == {"smile.svg", "volatility-error.svg"}
    assert drawn[0] == drawn[1]
