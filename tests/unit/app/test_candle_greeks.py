"""``ticker-service greeks`` in this process: files in and out, one option, and every refusal."""

from __future__ import annotations

import csv
import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from app.cli import cli
from ticker_service.pricing import PricingKernel

if TYPE_CHECKING:
    from click.testing import Result

DATA = Path(__file__).resolve().parents[2] / "data" / "history"
WORDS = {"price_source", "forward_source", "iv_leg", "iv_status"}
HEADER = "timestamp,expiry,strike,instrument_type,close"
OTHER_SCRIPT = "\N{DEVANAGARI DIGIT TWO}\N{DEVANAGARI DIGIT FIVE}"
GOOD = "2026-11-20T10:00:00,2026-11-24,25000,CE,120"
ONE = ("--strike", "25900", "--expiry", "2026-11-24", "--price", "94.45", "--call")


def greeks(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["greeks", *(str(each) for each in arguments)])


def table(file: Path) -> dict[str, list[str]]:
    with file.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    return dict(zip(header, zip(*rows, strict=True), strict=True))  # type: ignore[arg-type]


def assert_same(found: dict[str, list[str]], wanted: dict[str, list[str]]) -> None:
    """Hold numbers to twelve digits: other processors may differ in the last one."""
    assert list(found) == list(wanted)
    for name, column in wanted.items():
        for row, (value, want) in enumerate(zip(found[name], column, strict=True)):
            try:
                assert float(value) == pytest.approx(float(want), rel=1e-12, abs=1e-12), (name, row)
            except ValueError:
                assert value == want, (name, row)


def test_a_file_of_candles_is_priced_as_the_one_that_was_checked_by_hand(tmp_path: Path) -> None:
    out = tmp_path / "priced.csv"

    answer = greeks(DATA / "options.csv", "--underlying", DATA / "underlying.csv", "--out", out)

    assert (answer.exit_code, answer.stdout) == (0, "")
    assert answer.stderr == "42 candles; 41 OK, 1 STALE; forwards: 41 parity, 1 future\n"
    assert_same(table(out), table(DATA / "priced.csv"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["priced.csv"]


def test_the_checked_file_says_what_the_kernel_says() -> None:
    """Guards the file above: its numbers are the kernel's for the prices and forwards in it."""
    priced = table(DATA / "priced.csv")
    of = {name: np.array(priced[name], float) for name in ("close", "forward", "strike", "years")}
    is_call = np.array(priced["instrument_type"]) == "CE"

    solved, status = PricingKernel(64).solve(
        of["close"], of["forward"], of["strike"], of["years"], 0.0, is_call
    )

    own = [float(value) if value else np.nan for value in priced["own_implied_volatility"]]
    np.testing.assert_allclose(solved[0], own, rtol=1e-12)
    assert np.count_nonzero(status) == 1
    # The close of 09:15 is taken to be of 09:16:00, so 4 days, 6 hours and 14 minutes are left.
    assert of["years"][0] == ((4 * 24 + 6) * 60 + 14) * 60 / (365 * 86_400)


def test_without_out_the_priced_candles_are_csv_on_standard_output(tmp_path: Path) -> None:
    candles = tmp_path / "one.csv"
    candles.write_text(f"{HEADER},forward\n{GOOD},25010\n")

    answer = greeks(candles)

    header, row = csv.reader(answer.stdout.splitlines())
    cells = dict(zip(header, row, strict=True))
    assert header[:5] == HEADER.split(",")
    assert (cells["timestamp"], cells["forward"]) == ("2026-11-20T10:00:00", "25010.0")
    assert (cells["forward_source"], cells["iv_status"]) == ("given", "OK")


def test_parquet_and_csv_are_two_forms_of_one_answer(tmp_path: Path) -> None:
    options, underlying = table(DATA / "options.csv"), table(DATA / "underlying.csv")
    zone = pa.timestamp("ns", "Asia/Kolkata")
    for name, columns in (("options", options), ("underlying", underlying)):
        stamps = [dt.datetime.fromisoformat(each) for each in columns["timestamp"]]
        days = [dt.date.fromisoformat(each) if each else None for each in columns["expiry"]]
        typed = {
            "timestamp": pa.array(stamps, zone),
            "expiry": pa.array(days, pa.date32()),
            "close": pa.array([float(each) for each in columns["close"]]),
        }
        if name == "options":
            typed |= {
                "strike": pa.array([int(each) for each in columns["strike"]]),
                "instrument_type": pa.array(columns["instrument_type"]).dictionary_encode(),
                "volume": pa.array([int(each) for each in columns["volume"]]),
            }
        parquet.write_table(pa.table(typed), tmp_path / f"{name}.parquet")
    out = tmp_path / "priced.parquet"

    answer = greeks(
        tmp_path / "options.parquet", "--underlying", tmp_path / "underlying.parquet", "--out", out
    )

    assert answer.exit_code == 0, answer.stderr
    found = parquet.read_table(out)
    wanted = table(DATA / "priced.csv")
    for name in ("implied_volatility", "own_implied_volatility", "delta", "rho", "forward"):
        values = [np.nan if each is None else each for each in found[name].to_pylist()]
        expected = [float(each) if each else np.nan for each in wanted[name]]
        np.testing.assert_allclose(values, expected, rtol=1e-12, err_msg=name)
    for name in WORDS:
        assert found[name].to_pylist() == list(wanted[name])
    assert found["own_implied_volatility"].null_count == 1
    assert pa.types.is_timestamp(found["timestamp"].type)


def test_an_empty_volume_is_not_known_and_0_is_nothing_traded(tmp_path: Path) -> None:
    statuses = []
    for volume in ("", "0", "75"):
        candles, out = tmp_path / "one.csv", tmp_path / "priced.csv"
        candles.write_text(f"{HEADER},forward,volume\n{GOOD},25010,{volume}\n")
        assert greeks(candles, "--out", out).exit_code == 0
        statuses += table(out)["iv_status"]

    assert statuses == ["OK", "STALE", "OK"]


def test_a_candle_of_an_hour_has_its_close_an_hour_later(tmp_path: Path) -> None:
    candles = tmp_path / "one.csv"
    candles.write_text(f"{HEADER},forward\n{GOOD},25010\n")
    years = {}
    for interval in ("minute", "60minute"):
        out = tmp_path / f"{interval}.csv"
        assert greeks(candles, "--interval", interval, "--out", out).exit_code == 0
        years[interval] = float(table(out)["years"][0])

    assert (years["minute"] - years["60minute"]) * 365 * 24 * 60 == pytest.approx(59.0)


def test_the_segment_says_when_an_expiry_ends() -> None:
    left = {}
    for segment in ("NFO-OPT", "CDS-OPT"):
        answer = greeks("--forward", 25_850, *ONE, "--segment", segment, "--json")
        left[segment] = orjson.loads(answer.stdout)["expires"]

    assert left == {
        "NFO-OPT": "2026-11-24T15:30:00+05:30",
        "CDS-OPT": "2026-11-24T12:30:00+05:30",
    }


def test_futures_in_the_underlying_file_belong_to_the_options_of_their_date(tmp_path: Path) -> None:
    candles, futures, out = (tmp_path / f"{each}.csv" for each in ("options", "futures", "priced"))
    candles.write_text(f"{HEADER}\n{GOOD}\n{GOOD.replace('11-24', '12-29')}\n")
    futures.write_text(
        "timestamp,close,expiry\n2026-11-20T10:00:00,25200,2026-12-29\n"
        "2026-11-20T10:00:00,25050,2026-11-24\n2026-11-20T10:00:00,25400,2027-01-26\n"
    )

    assert greeks(candles, "--underlying", futures, "--out", out).exit_code == 0

    priced = table(out)
    assert [float(each) for each in priced["forward"]] == [25_050.0, 25_200.0]
    assert list(priced["forward_source"]) == ["future", "future"]


def test_a_stamp_without_a_zone_is_indian_and_one_with_a_zone_is_not_moved(tmp_path: Path) -> None:
    years = []
    for stamp in ("2026-11-20T10:00:00", "2026-11-20T04:30:00Z", "2026-11-20T10:00:00+0530"):
        candles, out = tmp_path / "one.csv", tmp_path / "priced.csv"
        row = GOOD.replace("2026-11-20T10:00:00", stamp)
        candles.write_text(f"{HEADER},forward\n{row},25010\n")
        assert greeks(candles, "--out", out).exit_code == 0
        years.append(table(out)["years"][0])

    assert years == [years[0]] * 3


def test_two_underlyings_in_one_file_have_spots_of_their_own(tmp_path: Path) -> None:
    candles, spots, out = (tmp_path / f"{each}.csv" for each in ("options", "spots", "priced"))
    candles.write_text(f"{HEADER},underlying\n{GOOD},NIFTY\n{GOOD},OTHER\n")
    spots.write_text(
        "timestamp,close,underlying\n"
        "2026-11-20T10:00:00,25100,OTHER\n2026-11-20T10:00:00,25000,NIFTY\n"
    )

    assert greeks(candles, "--underlying", spots, "--out", out).exit_code == 0

    assert [float(each) for each in table(out)["forward"]] == [25_000.0, 25_100.0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no header"),
        ("timestamp,timestamp\n", "column timestamp: is there twice"),
        ("timestamp,expiry,strike,instrument_type\n", "column close: is missing; there are"),
        (f"{HEADER}\n{GOOD}\n{GOOD},1\n", "row 2: has 6 cells, the header 5"),
        (f"{HEADER}\n{GOOD}x\n", "column close, row 1: '120x' is not a number"),
        (f"{HEADER}\n{GOOD[:-3]}1_2.0\n", "column close, row 1: '1_2.0' is not a number"),
        (
            f"{HEADER}\n{GOOD.replace('25000', '25_000')}\n",
            "column strike, row 1: '25_000' is not a number",
        ),
        (f"{HEADER}\n{GOOD}e999\n", "column close, row 1: '120e999' is not finite"),
        (f"{HEADER}\n{GOOD.replace('25000', '')}\n", "column strike, row 1: an empty cell must be"),
        (f"{HEADER}\n{GOOD.replace('25000', '0')}\n", "column strike, row 1: '0' must be a number"),
        (f"{HEADER}\n{GOOD.replace('CE', 'call')}\n", "column instrument_type, row 1: 'call' must"),
        (
            f"{HEADER}\n{GOOD.replace('2026-11-24', '24-11-2026')}\n",
            "column expiry, row 1: '24-11-2026' is not a date in ISO 8601",
        ),
        (
            f"{HEADER}\n{GOOD.replace('2026-11-24', '')}\n",
            "column expiry, row 1: an empty cell is not a date",
        ),
        (
            f"{HEADER}\n{GOOD.replace('2026-11-20T', '20/11/2026 ')}\n",
            "column timestamp, row 1: '20/11/2026 10:00:00' is not a date and time",
        ),
        (
            f"{HEADER}\n{GOOD.replace('2026-11-20T10:00:00', '1795251566')}\n",
            "column timestamp, row 1: '1795251566' is not a date and time",
        ),
        (
            f"{HEADER}\n{GOOD.replace('2026-11-20', '9999-11-20')}\n",
            "column timestamp, row 1: '9999-11-20T10:00:00' is not between",
        ),
        (f"{HEADER}\n{GOOD}\n{GOOD}\n", "column timestamp, row 2: is the same as in row 1"),
        (
            f"{HEADER}\n{GOOD}\n{GOOD.replace('10:00', '09:59')}\n",
            "column timestamp, row 2: is earlier than in row 1",
        ),
        (f"{HEADER},forward\n{GOOD},-5\n", "column forward, row 1: '-5' must be a number above 0"),
        (f"{HEADER},forward\n{GOOD},0\n", "column forward, row 1: '0' must be a number above 0"),
        (f"{HEADER},forward\n{GOOD},inf\n", "column forward, row 1: 'inf' is not finite"),
        (f"{HEADER},delta\n{GOOD},0\n", "column delta: is there already"),
        (f"{HEADER},underlying\n{GOOD},\n", "column underlying, row 1: an empty cell must be"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_the_place_and_the_rule(
    tmp_path: Path, text: str, complaint: str
) -> None:
    candles, out = tmp_path / "bad.csv", tmp_path / "priced.csv"
    candles.write_text(text)

    answer = greeks(candles, "--out", out)

    assert answer.exit_code == 1
    assert len(answer.stderr.splitlines()) == 1
    assert complaint in answer.stderr
    assert not out.exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'a,b\n"open', b"PAR1 but not really"])
def test_bytes_that_are_no_table_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    for suffix in (".csv", ".parquet"):
        candles = tmp_path / f"bad{suffix}"
        candles.write_bytes(content)

        answer = greeks(candles)

        assert answer.exit_code == 1
        assert len(answer.stderr.splitlines()) == 1
        assert str(candles) in answer.stderr


def test_nested_parquet_columns_are_refused_by_row(tmp_path: Path) -> None:
    nested = pa.table({"timestamp": [[1, 2]], "expiry": [[1]], "strike": [[1.0]]})
    parquet.write_table(nested, tmp_path / "nested.parquet")

    answer = greeks(tmp_path / "nested.parquet")

    assert answer.exit_code == 1
    assert "row 1: [1] " in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_rows_of_the_underlying_that_repeat_are_refused(tmp_path: Path) -> None:
    candles, spots = tmp_path / "one.csv", tmp_path / "spots.csv"
    candles.write_text(f"{HEADER}\n{GOOD}\n")
    spots.write_text("timestamp,close\n2026-11-20T10:00:00,1\n2026-11-20T10:00:00,2\n")

    answer = greeks(candles, "--underlying", spots)

    assert answer.exit_code == 1
    assert "underlying candles, column timestamp, row 2: is the same as in row 1" in answer.stderr


def test_names_of_underlyings_in_one_file_only_are_refused_when_there_are_several(
    tmp_path: Path,
) -> None:
    candles, spots = tmp_path / "two.csv", tmp_path / "spots.csv"
    candles.write_text(f"{HEADER},underlying\n{GOOD},NIFTY\n{GOOD},OTHER\n")
    spots.write_text("timestamp,close\n2026-11-20T10:00:00,25000\n")

    answer = greeks(candles, "--underlying", spots)

    assert answer.exit_code == 1
    assert "spots.csv, column underlying: is missing; the other file holds NIFTY, OTHER" in (
        answer.stderr
    )


@pytest.mark.parametrize(
    ("name", "status", "complaint"),
    [("day.xlsx", 2, "must end in .csv or .parquet"), ("none.csv", 1, "cannot be read: No such")],
)
def test_files_that_cannot_be_read_are_refused(
    tmp_path: Path, name: str, status: int, complaint: str
) -> None:
    answer = greeks(tmp_path / name)

    assert answer.exit_code == status
    assert complaint in answer.stderr


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    candles = tmp_path / "one.csv"
    candles.write_text(f"{HEADER}\n{GOOD}\n")

    answer = greeks(candles, "--out", tmp_path / "nowhere" / "priced.csv")

    assert answer.exit_code == 1
    assert "cannot be written: No such file or directory" in answer.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["one.csv"]


def test_parquet_without_its_library_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "day.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    answer = greeks(tmp_path / "day.parquet")

    assert answer.exit_code == 2
    assert "pip install 'ticker-service[arrow]'" in answer.stderr


def test_one_option_is_a_line_of_json() -> None:
    answer = greeks("--forward", 25_850, *ONE, "--at", "2026-11-20T10:15:00", "--json")

    facts = orjson.loads(answer.stdout)
    assert answer.exit_code == 0
    assert facts["iv_status"] == "OK"
    assert facts["forward_source"] == "given"
    assert facts["years"] == ((4 * 24 + 5) * 60 + 15) * 60 / (365 * 86_400)
    back = PricingKernel(1).evaluate(
        [facts["implied_volatility"]], [25_850.0], [25_900.0], [facts["years"]], 0.0, [True]
    )
    assert back[0, 0] == pytest.approx(94.45, rel=1e-12)
    assert facts["delta"] == pytest.approx(back[1, 0], rel=1e-12)


def test_one_option_is_a_small_table_with_units() -> None:
    answer = greeks("--forward", 25_850, *ONE, "--at", "2026-11-20T10:15:00")

    lines = answer.stdout.splitlines()
    assert len(lines) == 13
    assert lines[0].split() == ["iv_status", "OK"]
    assert lines[5].startswith("vega ")
    assert lines[5].endswith("rupees per volatility point")


def test_the_instant_that_was_asked_for_comes_back_to_the_microsecond() -> None:
    answer = greeks("--forward", 25_850, *ONE, "--at", "2026-11-24T15:29:59.999999", "--json")

    facts = orjson.loads(answer.stdout)
    assert facts["at"] == "2026-11-24T15:29:59.999999+05:30"
    assert facts["expires"] == "2026-11-24T15:30:00+05:30"


def test_a_spot_is_carried_and_the_doubt_is_said() -> None:
    answer = greeks("--spot", 25_850, *ONE, "--rate", 0.065, "--at", "2026-11-20T10:15:00")

    assert "UNRELIABLE  the spot with carry is not the market's forward" in answer.stdout
    assert "spot_carry" in answer.stdout


def test_a_price_that_nothing_explains_is_told_and_has_no_numbers() -> None:
    answer = greeks(
        *("--forward", 26_000, "--strike", 25_000, "--expiry", "2026-11-24", "--price", 900),
        *("--call", "--at", "2026-11-20T10:15:00", "--json"),
    )

    facts = orjson.loads(answer.stdout)
    assert facts["iv_status"] == "BELOW_INTRINSIC"
    assert [facts[name] for name in ("implied_volatility", "delta", "vega")] == [None] * 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "give a file of candles, or either --forward or --spot"),
        (("--forward", "1", "--spot", "1", *ONE), "either --forward or --spot"),
        (("--forward", "25850", *ONE[:-1]), "--call or --put is missing"),
        (("--forward", "25850", *ONE[2:]), "--strike is missing"),
        (("--forward", "nan", *ONE), "--forward=nan: must be a number above 0"),
        (("--forward", "-1", *ONE), "--forward=-1.0: must be a number above 0"),
        (("--forward", "inf", *ONE), "--forward=inf: must be a number above 0"),
        (("--forward", "1", *ONE, "--rate", "6.5"), "--rate=6.5: must be a number above -1 and"),
        (
            ("--forward", "1", *ONE, "--segment", "NFO"),
            "--segment=NFO: must be one of BCD-FUT, BCD",
        ),
        (("--forward", "1", *ONE, "--at", "noon"), "--at=noon: is not a date and time"),
        (("--forward", "1", *ONE, "--expiry", "soon"), "--expiry=soon: is not a date in ISO 8601"),
        (("--forward", "1", *ONE, "--out", "a.csv"), "--out is for a file of candles"),
        (("--forward", "1", *ONE, "--underlying", "a.csv"), "--underlying is for a file of"),
        (("--forward", "1", *ONE, "--interval", "day"), "--interval is for a file of candles"),
        (("--forward", "1", *ONE, "--interval", "minute"), "--interval is for a file of candles"),
        (("--forward", "1", *ONE, "--candle-price", "open"), "--candle-price is for a file of"),
        (("--forward", "1", *ONE, "--own-leg"), "--own-leg is for a file of candles"),
        (("--forward", "1", *ONE, "--at", "2026-11-20"), "--at=2026-11-20: has no time of day"),
        (("--forward", "1", *ONE, "--at", "20261120"), "--at=20261120: has no time of day"),
        (("--forward", "1", *ONE, "--put"), "--call and --put exclude each other"),
        (("--forward", "1", *ONE[:-1]), "--call or --put is missing"),
        (("day.csv", "--put"), "--call or --put is for one option"),
        (("day.csv", "--json"), "--json is for one option"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(
    arguments: tuple[str, ...], complaint: str
) -> None:
    answer = greeks(*arguments)

    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1
    assert complaint in answer.stderr


@pytest.mark.parametrize("option", ["--price", "--forward", "--spot", "--strike", "--rate"])
@pytest.mark.parametrize("typed", ["25_900", OTHER_SCRIPT, "many", "0x10"])
def test_a_number_that_only_python_would_read_is_refused(option: str, typed: str) -> None:
    answer = greeks(*ONE, option, typed)

    assert answer.exit_code == 2
    assert "is not a number" in answer.stderr
    assert option in answer.stderr


def test_digits_of_another_script_in_a_file_are_no_number(tmp_path: Path) -> None:
    candles = tmp_path / "one.csv"
    candles.write_text(f"{HEADER}\n{GOOD.replace('25000', OTHER_SCRIPT)}\n")
    assert OTHER_SCRIPT in candles.read_text()

    answer = greeks(candles)

    assert answer.exit_code == 1
    assert "is not a number" in answer.stderr
