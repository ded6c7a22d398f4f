"""Make `.venv` match the lock files; do nothing when it already does.

Run by the other scripts as `python3 scripts/environment.py [--dev]`. Standard library only: on a
fresh machine there is nothing else yet. Two scripts started side by side wait for each other.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCKS = {"run": ["requirements.lock"], "dev": ["requirements.lock", "requirements-dev.lock"]}


def main() -> int:
    """Create or update the environment and say what is being done on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    kind = "dev" if parser.parse_args().dev else "run"
    # The lock sits on the folder itself, so that it leaves no file and dies with its holder.
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        _update(kind)
    except subprocess.CalledProcessError as error:
        print(error.stdout or "", file=sys.stderr, end="")
        print(f"environment: {error.cmd[0]} exited with {error.returncode}", file=sys.stderr)
        return 1
    finally:
        os.close(folder)
    return 0


def _update(kind: str) -> None:
    wanted = _fingerprint(kind)
    # An environment for development serves running as well, so either stamp will do for `run`.
    acceptable = {wanted} if kind == "dev" else {wanted, _fingerprint("dev")}
    stamp = VENV / "ticker-service.stamp"
    if stamp.is_file() and stamp.read_text() in acceptable:
        return
    # For people only: a program that started the demo reads the first line of standard error.
    if sys.stderr.isatty():
        print(f"environment: setting up .venv ({kind}); once, about a minute", file=sys.stderr)
    if not _is_usable():
        shutil.rmtree(VENV, ignore_errors=True)
        venv.create(VENV, with_pip=True, symlinks=True)
    stamp.unlink(missing_ok=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    requirements = [part for lock in LOCKS[kind] for part in ("--requirement", str(ROOT / lock))]
    _run([*pip, "--require-hashes", "--only-binary", ":all:", *requirements])
    _run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    stamp.write_text(wanted)


def _is_usable() -> bool:
    """A half-made environment, or one whose interpreter has gone, is made anew."""
    if not PYTHON.exists():
        return False
    probe = subprocess.run([PYTHON, "-c", "import pip"], check=False, capture_output=True)
    return probe.returncode == 0


def _run(command: list[str]) -> None:
    """Run quietly; what the command said is shown when it failed."""
    subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _fingerprint(kind: str) -> str:
    """Return what decides whether an environment is still right: locks, metadata, place."""
    digest = hashlib.sha256(f"{kind} {sys.version} {ROOT}".encode())
    for name in LOCKS[kind]:
        digest.update((ROOT / name).read_bytes())
    # What follows the first tool's table is for tools and changes nothing that is installed.
    digest.update((ROOT / "pyproject.toml").read_bytes().split(b"\n[tool.")[0])
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
