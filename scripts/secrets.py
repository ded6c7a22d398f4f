"""Fail when a tracked file holds a key, a token, a password or an address of one machine.

A deliberate stand-in (a test's planted secret) is allowed by `allow-secret` on the same line.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = "allow-secret"
FILE_BYTES_MAX = 1_000_000
RULES = {
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "JSON web token": re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    "assigned secret": re.compile(
        r"(?i)\b\w*(?:api_secret|access_token|password|passphrase|jwt_secret)\w*\s*[:=]\s*"
        r"[\"'][A-Za-z0-9+/_=-]{16,}[\"']"
    ),
    "credentials in an address": re.compile(r"\b[a-z+]+://[^\s/:@\"'{}<>]*:[^\s/@\"'{}<>]{6,}@"),
    "package registry address": re.compile(
        r"https?://[^\s\"']*(?:pypi|pythonhosted|npmjs|debian)\.(?:org|com)"
    ),
    "path of one machine": re.compile(r"(?<![\w.])/(?:root|home/\w+|Users/\w+|work)/[\w.-]+/"),
}


def main() -> int:
    """Print each finding as `file:line: rule` and return 1 if there is any."""
    found = 0
    for name in _tracked_files():
        path = ROOT / name
        if not path.is_file() or path.stat().st_size > FILE_BYTES_MAX:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if ALLOWED in line:
                continue
            for rule, pattern in RULES.items():
                if pattern.search(line):
                    print(f"{name}:{number}: {rule}", file=sys.stderr)
                    found += 1
    print(f"secret scan: {found} found", file=sys.stderr)
    return 1 if found else 0


def _tracked_files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [name for name in listing.stdout.split("\0") if name]


if __name__ == "__main__":
    sys.exit(main())
