"""Draw the charts of docs/pricing.md: published smiles against the truth, and the solver's error.

Seeded, at a fixed instant, without a clock or a socket: the numbers behind a chart are the same on
every run, and with the same matplotlib so are its bytes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ticker_service.adapters.kite_instruments import parse_dump
from ticker_service.config import EngineConfig, KiteConfig, PublishConfig, SubscriptionConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain import session, universe
from ticker_service.domain.tick import Mode
from ticker_service.market.pipeline import TickPath
from ticker_service.ports import Frame
from ticker_service.pricing import PricingKernel
from ticker_service.pricing.svi import RawSvi
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.simulator.market import Market
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.simulator.smile import volatility_per_year
from ticker_service.testing import MemoryPublisher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "unit" / "pricing"))  # where the 60 digits are
FOLDER: Final = ROOT / "docs" / "charts"

SEED: Final = 1
STARTS: Final = dt.datetime(2026, 11, 20, 11, 0, tzinfo=session.IST)
STEPS_PER_S: Final = 20
SECONDS: Final = 30
BOOK: Final = "NIFTY"

FORWARD: Final = 24_000.0
PRICE_STEP: Final = 0.05
DIFFERENCE_SHOWN: Final = 0.4
WEEK: Final = 7 / 365
MINUTE: Final = 1 / 525_600
PRICE_MIN: Final = 1e-280
COLUMNS: Final = 81
ROWS: Final = 61

STYLE: Final = {
    "svg.hashsalt": "ticker-service",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
}
BLUE: Final = "#1f5fa8"
ORANGE: Final = "#d1691f"
GREY: Final = "#9a9a9a"


def main() -> int:
    """Draw both charts into docs/charts."""
    FOLDER.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        _save(_smiles(), "smile")
        _save(_errors(), "volatility-error")
    return 0


def _save(figure: Figure, name: str) -> None:
    path = FOLDER / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    print(path.relative_to(ROOT), path.stat().st_size, "bytes")


class _FixedClock:
    """A clock that the market's steps move."""

    def __init__(self, now_ns: int) -> None:
        self.at_ns = now_ns

    def now_ns(self) -> int:
        return self.at_ns

    def monotonic_ns(self) -> int:
        return self.at_ns


def _published() -> tuple[Market, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Run half a minute of the simulated market through the tick path.

    Returns:
        The market, and the columns of the book's last snapshot, its instruments and its smiles.
    """
    start_ns = session.instant_ns(STARTS)
    clock, publisher = _FixedClock(start_ns), MemoryPublisher()
    market = Market(SimulatorOptions(seed=SEED), now_ns=start_ns)
    chosen = universe.select(
        parse_dump(market.catalogue.dump(market.last_price_inr).decode()),
        underlyings=[BOOK],
        instruments=[],
        expiries_max=3,
        today=STARTS.date(),
    )
    config = EngineConfig(
        kite=KiteConfig(rest_root="-", ws_root="-", api_key="-", access_token=""),
        redis_url="-",
        subscription=SubscriptionConfig(underlyings=(BOOK,)),
        publish=PublishConfig(smile_ms=1_000),
    )
    surroundings = Surroundings(
        clock=clock,
        chance=random.Random(SEED),  # noqa: S311 - jitter, not a secret
        telemetry=Telemetry(),
    )
    wanted = np.ones(len(chosen), np.bool_)
    row_by_token = market.catalogue.row_by_token
    subscribed = [row_by_token[token] for token in chosen.instrument_token.tolist()]

    async def run() -> None:
        path = TickPath(chosen, config, publisher, surroundings=surroundings, pause=_never)
        path.subscribed(np.arange(len(chosen)), since_ns=start_ns)
        for step in range(1, SECONDS * STEPS_PER_S + 1):
            clock.at_ns = start_ns + step * NS_PER_S // STEPS_PER_S
            changed = market.step(clock.at_ns).rows
            rows = changed[np.isin(changed, subscribed)]
            modes = np.full(len(rows), Mode.FULL, np.uint8)
            frames = [Frame(clock.at_ns, raw) for raw in market.packets.frames(rows, modes)]
            if frames:
                await path.flush(frames, wanted)
        await path.instruments()
        await path.snapshot()
        await path.smile(path.smiles.books)

    asyncio.run(run())
    values = {name.split(":")[2]: json.loads(raw) for name, raw in publisher.values.items()}
    smile = json.loads(publisher.messages[-1][1])
    return market, values["snapshot"]["columns"], values["instruments"]["columns"], smile["columns"]


async def _never(_: int) -> None:
    raise AssertionError("publishing into memory does not fail")


def _smiles() -> Figure:
    market, rows, instruments, smiles = _published()
    named = {name: np.array(values) for name, values in instruments.items()}
    priced = {name: np.array(values) for name, values in rows.items()}
    place = {token: row for row, token in enumerate(named["instrument_token"].tolist())}
    listed = [place[token] for token in priced["instrument_token"].tolist()]
    expiry, strike = named["expiry"][listed], named["strike"][listed].astype(float)
    kind = named["instrument_type"][listed]
    figure = Figure(figsize=(11, 5.6))
    axes = figure.subplots(
        2, len(smiles["expiry"]), sharex="col", sharey="row", height_ratios=(2, 1)
    )
    for number, day in enumerate(smiles["expiry"]):
        fitted = {name: values[number] for name, values in smiles.items()}
        is_shown = (expiry == day) & ((strike >= fitted["forward"]) == (kind == "CE"))
        is_shown &= priced["iv_status"] == "OK"
        curves = market.catalogue.curves
        [curve] = [n for n, c in enumerate(curves) if (c.name, str(c.expiry)) == (BOOK, day)]
        _draw_smile(
            axes[:, number],
            strike[is_shown],
            priced["implied_volatility"][is_shown].astype(float),
            priced["vega"][is_shown].astype(float),
            truth=(market.underlyings.smile[:, curve], market.underlyings.forward_inr[curve]),
            fitted=fitted,
        )
        axes[0, number].set_title(f"{day}, {fitted['years'] * 365:.1f} days", fontsize=10)
        axes[1, number].set_xlabel("strike")
    axes[0, 0].set_ylabel("volatility, % per year")
    axes[1, 0].set_ylabel("less the truth, points")
    axes[0, 0].legend(frameon=False, loc="upper right")
    return figure


def _draw_smile(
    axes: Sequence[Axes],
    strike: NDArray[np.float64],
    volatility: NDArray[np.float64],
    vega: NDArray[np.float64],
    *,
    truth: tuple[NDArray[np.float64], float],
    fitted: dict[str, Any],
) -> None:
    """Draw one expiry, and below it what is published and fitted less the truth.

    The bars are what one price step is worth.
    """
    parameters, forward = truth

    def true_at(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return volatility_per_year(np.repeat(parameters[:, None], len(at), axis=1), forward, at)

    between = np.linspace(strike.min(), strike.max(), 200)
    curve = RawSvi(
        **{name: np.array([fitted[f"svi_{name}"]]) for name in ("a", "b", "rho", "m", "sigma")}
    )
    variance, _, _ = curve.variance(np.log(between[None, :] / fitted["forward"]))
    drawn = np.sqrt(variance[0] / fitted["years"])
    step = PRICE_STEP / vega
    points = {"fmt": ".", "ms": 4, "lw": 0.7, "color": BLUE}
    above, below = axes
    above.plot(between, 100 * true_at(between), color=GREY, lw=5, alpha=0.6, label="truth")
    above.errorbar(
        strike, 100 * volatility, yerr=step, label="published, ± one price step", **points
    )
    above.plot(between, 100 * drawn, color=ORANGE, lw=1.2, zorder=5, label="smile")
    below.axhline(0.0, color=GREY, lw=5, alpha=0.6)
    below.errorbar(strike, 100 * (volatility - true_at(strike)), yerr=step, **points)
    below.plot(between, 100 * (drawn - true_at(between)), color=ORANGE, lw=1.2, zorder=5)
    below.set_ylim(-DIFFERENCE_SHOWN, DIFFERENCE_SHOWN)
    for axis in axes:
        axis.axvline(fitted["forward"], color=GREY, lw=0.8, ls=":")


def _errors() -> Figure:
    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    distance = np.linspace(-8.0, 8.0, COLUMNS)
    volatility = np.geomspace(0.01, 3.0, ROWS)
    strike = FORWARD * np.exp(distance * volatility[:, None] * np.sqrt(WEEK))
    image = _error_map(
        left, strike, volatility[:, None], WEEK, extent=(distance[0], distance[-1], volatility)
    )
    left.set_xlabel("ln(strike / forward) in standard deviations")
    left.set_ylabel("volatility per year")
    left.set_title("seven days", fontsize=10)
    log_strike = np.linspace(-0.3, 0.3, COLUMNS)
    years = np.geomspace(MINUTE, 1.0, ROWS)
    strike = np.broadcast_to(FORWARD * np.exp(log_strike), (ROWS, COLUMNS))
    _error_map(right, strike, 0.13, years[:, None], extent=(log_strike[0], log_strike[-1], years))
    right.set_xlabel("ln(strike / forward)")
    right.set_ylabel("years to expiry")
    right.set_title("13 % volatility; white: worth less than 1e-280", fontsize=10)
    bar = figure.colorbar(image, ax=(left, right), pad=0.02)
    bar.set_label("relative error of the volatility, units of 2.2e-16")
    return figure


def _error_map(
    axis: Axes,
    strike: NDArray[np.float64],
    volatility: NDArray[np.float64] | float,
    years: NDArray[np.float64] | float,
    *,
    extent: tuple[float, float, NDArray[np.float64]],
) -> AxesImage:
    """Solve the out-of-the-money option at every place, and compare with 60 digits.

    The reference is the exact inverse of the price rounded to a float, as in the tests.
    """
    import black_reference  # noqa: PLC0415 - found by the path above

    volatility, years = (np.broadcast_to(each, strike.shape) for each in (volatility, years))
    error = np.full(strike.shape, np.nan)
    for place in np.ndindex(strike.shape):
        is_call = bool(strike[place] >= FORWARD)
        terms = black_reference.Terms(
            FORWARD, float(strike[place]), float(years[place]), 0.0, is_call
        )
        price = float(black_reference.evaluate(float(volatility[place]), terms)[0])
        if price < PRICE_MIN:
            continue
        solved, _ = PricingKernel(1).solve(
            [price], [terms.forward], [terms.strike], [terms.years], 0.0, [is_call]
        )
        exact = black_reference.implied_volatility(price, float(volatility[place]), terms)
        error[place] = black_reference.relative_error(float(solved[0, 0]), exact)
    low, high, rows = extent
    image = axis.pcolormesh(
        np.linspace(low, high, COLUMNS),
        rows,
        error / np.finfo(float).eps,
        cmap="viridis",
        vmin=0.0,
        vmax=10.0,
        shading="nearest",
        rasterized=True,
    )
    axis.set_yscale("log")
    axis.grid(visible=False)
    print(f"{np.isfinite(error).sum()} options, worst {np.nanmax(error):.2g}")
    return image


if __name__ == "__main__":
    sys.exit(main())
