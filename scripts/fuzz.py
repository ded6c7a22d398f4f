"""Look for bytes that break the tick path: coverage-guided with atheris where its wheel exists.

Run as `./scripts/fuzz TARGET --seconds N`. Exit status 0 means that nothing was found. An input
that breaks a promise is kept in `fuzz-findings/` and runs again with `--input FILE`; once mended it
belongs into `tests/data/fuzz/TARGET/`, whose files every run and every test begins with.

atheris has wheels for Linux on x86-64 alone. Elsewhere the same targets get seeded random changes
of the same seeds, which is weaker: nothing tells it which change reached new code.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# In the place of this folder, whose `secrets.py` would be taken for the standard library's.
sys.path[:1] = [str(ROOT / each) for each in ("", "tests")]

from scripts.typed_numbers import whole  # noqa: E402 - its folder is known only now

KEPT = ROOT / "tests" / "data" / "fuzz"
TARGETS = ("decode", "path", "text", "planted")
INPUT_BYTES_MAX = 8_192
MEMORY_MB_MAX = 1_024
INPUT_S_MAX = 10
"""An input that takes longer has found a loop."""
INSTRUMENTED = ("ticker_service.market", "ticker_service.adapters.kite_feed", "fuzz_targets")


def main() -> int:
    """Fuzz one target, or run one input again."""
    options = _options()
    if options.input is not None:
        _targets().TARGETS[options.target](options.input.read_bytes())
        print(f"{options.target}: {options.input} keeps every promise")
        return 0
    if options.corpus is not None:
        return _fuzz_guided(options)
    is_guided = importlib.util.find_spec("atheris") is not None and not options.unguided
    return _supervise(options) if is_guided else _fuzz_unguided(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=whole(at_least=1), default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--input", type=Path, help="run this file alone")
    parser.add_argument("--unguided", action="store_true", help="without atheris")
    parser.add_argument("--findings", type=Path, default=ROOT / "fuzz-findings")
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _supervise(options: argparse.Namespace) -> int:
    """Run the fuzzer in a child, because it ends its process itself, and say what came of it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for number, seed in enumerate(_seeds(options.target)):
            (Path(folder) / f"seed-{number:04}").write_bytes(seed[:INPUT_BYTES_MAX])
        options.findings.mkdir(exist_ok=True)
        arguments = [options.target, "--seed", str(options.seed), "--seconds", str(options.seconds)]
        arguments += ["--findings", str(options.findings)]
        child = subprocess.run(
            [sys.executable, __file__, *arguments, "--corpus", folder],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    runs = re.search(r"Done (\d+) runs", child.stdout)
    coverage = re.findall(r"cov: (\d+)", child.stdout)
    if child.returncode or not runs:
        print(child.stdout, file=sys.stderr)
        print(f"fuzz {options.target}: FOUND something, seed {options.seed}", file=sys.stderr)
        return 1
    return _say(options, "atheris", int(runs[1]), coverage=int(coverage[-1]) if coverage else 0)


def _fuzz_guided(options: argparse.Namespace) -> int:
    import atheris  # noqa: PLC0415 - has no wheel for every platform

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        target = _targets().TARGETS[options.target]
    atheris.Setup(
        [
            sys.argv[0],
            str(options.corpus),
            f"-artifact_prefix={options.findings}/{options.target}-",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-max_total_time={options.seconds}",
            f"-rss_limit_mb={MEMORY_MB_MAX}",
            f"-seed={options.seed}",
            f"-timeout={INPUT_S_MAX}",
        ],
        target,
    )
    atheris.Fuzz()
    return 0


def _fuzz_unguided(options: argparse.Namespace) -> int:
    """Change the seeds at random until the time is over."""
    target = _targets().TARGETS[options.target]
    chance = random.Random(options.seed)  # noqa: S311 - a sequence to repeat
    pool = [seed[:INPUT_BYTES_MAX] for seed in _seeds(options.target)]
    over = time.monotonic() + options.seconds
    runs = 0
    while time.monotonic() < over:
        data = _changed(chance.choice(pool), chance)
        try:
            target(data)
        except BaseException:
            options.findings.mkdir(exist_ok=True)
            kept = options.findings / f"{options.target}-seed-{options.seed}-run-{runs}"
            kept.write_bytes(data)
            print(f"fuzz {options.target}: FOUND something, kept as {kept}", file=sys.stderr)
            raise
        runs += 1
    return _say(options, "random", runs)


def _changed(data: bytes, chance: random.Random) -> bytes:
    """Return an input with a few bytes changed, cut out or put in."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(changed) + 1)
        extreme = chance.choice([b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00"])
        match chance.randrange(4):
            case 0:
                changed[at : at + len(extreme)] = extreme
            case 1:
                del changed[at : at + chance.randint(1, 64)]
            case 2:
                changed[at:at] = chance.randbytes(chance.randint(1, 64))
            case _:
                changed[at : at + 1] = chance.randbytes(1)
    return bytes(changed[:INPUT_BYTES_MAX])


def _seeds(target: str) -> list[bytes]:
    kept = sorted((KEPT / target).glob("*")) if (KEPT / target).is_dir() else []
    return [*_targets().seeds(target), *(file.read_bytes() for file in kept)]


def _targets() -> object:
    import fuzz_targets  # noqa: PLC0415 - instrumented while it is imported

    return fuzz_targets


def _say(options: argparse.Namespace, engine: str, runs: int, **more: int) -> int:
    said = {"target": options.target, "engine": engine, "runs": runs, "seed": options.seed, **more}
    print(json.dumps(said))
    # A fuzzer that ran nothing has proven nothing.
    return 0 if runs else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
