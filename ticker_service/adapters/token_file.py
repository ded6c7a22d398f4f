"""A directory of sealed files, one per account. Port ``TokenVault``.

Format: one JSON object. The data key comes from a passphrase by PBKDF2-HMAC-SHA256 with a random
salt, the secret is sealed with AES-256-GCM under a random nonce, both new at every write. Every
other field and the account's name are bound into the seal as associated data, so neither a changed
header nor one account's file under another's name opens.

The directory is ours alone (0700), so is each file (0600). A file is written whole beside its place
and renamed into it; after a crash there is the old one or the new one. Whoever can write as our
user can put back an older file; nothing here defends against that.

Deriving the key takes some 0.2 s of processor time, so every call runs in a worker thread.
Source: reliability.md §5.8.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import secrets
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ticker_service.domain.order import Account

VERSION: Final = 1
KEY_DERIVATION: Final = "PBKDF2-HMAC-SHA256"
CIPHER: Final = "AES-256-GCM"
ROUNDS: Final = 600_000
ROUNDS_MAX: Final = 10_000_000
"""A file that asks for more would only keep us busy; fewer than ``ROUNDS`` would be a downgrade."""
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
FILE_BYTES_MAX: Final = 64 << 10
PASSPHRASE_BYTES_MIN: Final = 16
PASSPHRASE_BYTES_MAX: Final = 4_096

_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GROUP_OR_WORLD: Final = 0o077
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking, so that a pipe put in a file's place cannot hang us; it is then refused as no file.
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class TokenFiles:
    """Keeps each account's secret bytes in ``DIRECTORY/ACCOUNT.sealed``."""

    def __init__(self, directory: Path, passphrase: bytes) -> None:
        if not PASSPHRASE_BYTES_MIN <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
            raise ConfigurationError(
                f"Condition failed: the vault's passphrase has {len(passphrase)} bytes, it needs "
                f"{PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX}"
            )
        self._directory = directory
        self._passphrase = passphrase
        # A caller that is cancelled does not stop the worker it started: the next waits for it, so
        # that what was asked for last is what stays.
        self._one_at_a_time = threading.Lock()

    async def mark(self, account: Account) -> tuple[int, ...] | None:
        """Return what is another for every file that is put in the account's place.

        Raises:
            ConfigurationError: The directory is not ours alone, or cannot be used.
        """
        return await asyncio.to_thread(self._mark, account)

    async def load(self, account: Account) -> bytes | None:
        """Return what was saved for an account, None if nothing is.

        Raises:
            ConfigurationError: The file is not ours alone, was changed, or was sealed with another
                passphrase.
        """
        return await asyncio.to_thread(self._load, account)

    async def save(self, account: Account, secret: bytes) -> None:
        """Replace what is kept for an account; on disk when this returns.

        Raises:
            ConfigurationError: The directory is not ours alone, or cannot be written.
        """
        await asyncio.to_thread(self._save, account, secret)

    async def remove(self, account: Account) -> None:
        """Keep nothing for an account.

        Raises:
            ConfigurationError: The directory is not ours alone, or cannot be written.
        """
        await asyncio.to_thread(self._remove, account)

    def _mark(self, account: Account) -> tuple[int, ...] | None:
        name = _file_name(account)
        with self._opened(is_made=False) as directory:
            if directory is None:
                return None
            try:
                state = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return None
        # A number may be given to a new file at once; its instants are then others.
        return (state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_mode)

    def _load(self, account: Account) -> bytes | None:
        name = _file_name(account)
        path = self._directory / name
        with self._one_at_a_time, self._opened(is_made=False) as directory:
            content = None if directory is None else _read(directory, name, path)
        if content is None:
            return None
        return _open_sealed(_parse(content, path), account, self._passphrase, path)

    def _save(self, account: Account, secret: bytes) -> None:
        name = _file_name(account)
        content = _sealed(account, secret, self._passphrase).to_bytes()
        with self._one_at_a_time, self._opened(is_made=True) as directory:
            assert directory is not None  # noqa: S101 - it was just made
            _write(directory, name, content)

    def _remove(self, account: Account) -> None:
        name = _file_name(account)
        with self._one_at_a_time, self._opened(is_made=False) as directory:
            if directory is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)
                    os.fsync(directory)

    @contextlib.contextmanager
    def _opened(self, *, is_made: bool) -> Iterator[int | None]:
        """Hold the directory open, so that every later step is about the one that was checked."""
        directory = None
        try:
            if is_made:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                directory = os.open(self._directory, _OPEN_DIRECTORY)
            if directory is not None:
                _check_ours(os.fstat(directory), self._directory, mode="0700")
            yield directory
        except OSError as error:
            raise ConfigurationError(
                f"Condition failed: {self._directory} cannot be used as the token directory: "
                f"{error.strerror}"
            ) from None
        finally:
            if directory is not None:
                os.close(directory)


def read_credential(name: str, environment: Mapping[str, str]) -> bytes:
    """Return what the service manager keeps for us in ``$CREDENTIALS_DIRECTORY/NAME``.

    Args:
        name: The credential, as in systemd's ``LoadCredential=NAME:…``.
        environment: The process's environment.

    Raises:
        ConfigurationError: There is no such directory or no such credential.
    """
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    if not directory or not _ACCOUNT.fullmatch(name):
        raise ConfigurationError(
            f"Condition failed: credential {name!r} was not passed to this process "
            "(CREDENTIALS_DIRECTORY); see LoadCredential= in systemd.exec"
        )
    path = Path(directory) / name
    try:
        with path.open("rb") as file:
            content = file.read(PASSPHRASE_BYTES_MAX + 2)
    except OSError as error:
        raise ConfigurationError(
            f"Condition failed: credential {path} cannot be read: {error.strerror}"
        ) from None
    return content.rstrip(b"\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    """A file's fields."""

    rounds: int
    salt: bytes
    nonce: bytes
    sealed: bytes

    def to_bytes(self) -> bytes:
        fields = {
            "version": VERSION,
            "key_derivation": KEY_DERIVATION,
            "rounds": self.rounds,
            "salt": base64.b64encode(self.salt).decode(),
            "cipher": CIPHER,
            "nonce": base64.b64encode(self.nonce).decode(),
            "sealed": base64.b64encode(self.sealed).decode(),
        }
        return json.dumps(fields, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Raise ``ValueError``, ``KeyError`` or ``TypeError`` if it is no such file."""
        fields = json.loads(content)
        if (fields["version"], fields["key_derivation"], fields["cipher"]) != (
            VERSION,
            KEY_DERIVATION,
            CIPHER,
        ):
            raise ValueError("another format")
        rounds = fields["rounds"]
        if type(rounds) is not int or not ROUNDS <= rounds <= ROUNDS_MAX:
            raise ValueError("rounds")
        read = cls(
            rounds=rounds,
            salt=base64.b64decode(fields["salt"], validate=True),
            nonce=base64.b64decode(fields["nonce"], validate=True),
            sealed=base64.b64decode(fields["sealed"], validate=True),
        )
        if (len(read.salt), len(read.nonce)) != (SALT_BYTES, NONCE_BYTES):
            raise ValueError("lengths")
        return read

    def cipher(self, passphrase: bytes) -> AESGCM:
        derivation = PBKDF2HMAC(
            algorithm=hashes.SHA256(), length=KEY_BYTES, salt=self.salt, iterations=self.rounds
        )
        return AESGCM(derivation.derive(passphrase))

    def bound(self, account: Account) -> bytes:
        """Return what the seal vouches for besides the secret."""
        return json.dumps(
            ["ticker-service token", VERSION, account, KEY_DERIVATION, self.rounds, CIPHER]
        ).encode()


def _sealed(account: Account, secret: bytes, passphrase: bytes) -> _Sealed:
    empty = _Sealed(
        rounds=ROUNDS,
        salt=secrets.token_bytes(SALT_BYTES),
        nonce=secrets.token_bytes(NONCE_BYTES),
        sealed=b"",
    )
    sealed = empty.cipher(passphrase).encrypt(empty.nonce, secret, empty.bound(account))
    return _Sealed(rounds=empty.rounds, salt=empty.salt, nonce=empty.nonce, sealed=sealed)


def _open_sealed(file: _Sealed, account: Account, passphrase: bytes, path: Path) -> bytes:
    try:
        return file.cipher(passphrase).decrypt(file.nonce, file.sealed, file.bound(account))
    except InvalidTag:
        # The two cannot be told apart: that is what the seal is for.
        raise ConfigurationError(
            f"Condition failed: {path} does not open: another passphrase, or the file was changed "
            "or is another account's; restore the passphrase, or remove the file and log in again"
        ) from None


def _parse(content: bytes, path: Path) -> _Sealed:
    try:
        return _Sealed.from_bytes(content)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigurationError(
            f"Condition failed: {path} is no sealed token file of version {VERSION}; "
            "remove it and log in again"
        ) from None


def _file_name(account: Account) -> str:
    if not _ACCOUNT.fullmatch(account):
        raise ConfigurationError(
            f"Condition failed: account={account!r} cannot name a file: letters, digits, dot, "
            "dash and underscore only, at most 64"
        )
    return f"{account}.sealed"


def _read(directory: int, name: str, path: Path) -> bytes | None:
    try:
        file = os.open(name, _OPEN_FILE, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"Condition failed: {path} cannot be read as a plain file: {error.strerror}"
        ) from None
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            raise ConfigurationError(f"Condition failed: {path} is not a plain file")
        _check_ours(state, path, mode="0600")
        with open(file, "rb", closefd=False) as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    finally:
        os.close(file)
    if len(content) > FILE_BYTES_MAX:
        raise ConfigurationError(
            f"Condition failed: {path} has more than {FILE_BYTES_MAX} bytes; it is no token file"
        )
    return content


def _write(directory: int, name: str, content: bytes) -> None:
    beside = f".{name}.{secrets.token_hex(8)}"
    file = os.open(beside, _NEW_FILE, mode=0o600, dir_fd=directory)
    try:
        with open(file, "wb") as opened:  # noqa: PTH123 - a descriptor relative to the directory
            opened.write(content)
            opened.flush()
            os.fsync(file)
        os.replace(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside, dir_fd=directory)
        raise
    os.fsync(directory)


def _check_ours(state: os.stat_result, path: Path, *, mode: str) -> None:
    if state.st_uid != os.geteuid():
        raise ConfigurationError(
            f"Condition failed: {path} belongs to uid {state.st_uid}, not to us ({os.geteuid()})"
        )
    if state.st_mode & _GROUP_OR_WORLD:
        raise ConfigurationError(
            f"Condition failed: {path} has mode {stat.S_IMODE(state.st_mode):04o}, so others may "
            f"use it; run chmod {mode} on it"
        )
