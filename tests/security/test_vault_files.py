from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from ticker_service.adapters import token_file
from ticker_service.adapters.token_file import TokenFiles, read_credential
from ticker_service.domain.order import Account
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

MAIN, SPARE = Account("main"), Account("spare")
PHRASE = b"a planted phrase of the tests"
SECRET = b"a planted token of the tests"
ROUNDS = token_file.ROUNDS


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests here are not about how long guessing takes; those that are set it back."""
    monkeypatch.setattr(token_file, "ROUNDS", 1_000)


@pytest.fixture
def real_rounds(few_rounds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_file, "ROUNDS", ROUNDS)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def vault(home: Path) -> TokenFiles:
    return TokenFiles(home, PHRASE)


def saved(vault: TokenFiles, home: Path) -> Path:
    asyncio.run(vault.save(MAIN, SECRET))
    return home / "main.sealed"


def refusal(vault: TokenFiles, account: Account = MAIN) -> str:
    with pytest.raises(ConfigurationError) as raised:
        asyncio.run(vault.load(account))
    assert raised.value.__cause__ is None
    message = str(raised.value)
    assert "planted" not in message
    assert message.startswith("Condition failed: ")
    assert "\n" not in message
    return message


def test_what_was_saved_is_loaded_by_another_process_with_the_phrase(
    vault: TokenFiles, home: Path
) -> None:
    saved(vault, home)
    assert asyncio.run(TokenFiles(home, PHRASE).load(MAIN)) == SECRET


def test_nothing_saved_is_nothing_loaded(vault: TokenFiles, home: Path) -> None:
    assert asyncio.run(vault.load(MAIN)) is None
    saved(vault, home)
    assert asyncio.run(vault.load(SPARE)) is None


def test_the_mark_is_another_after_every_save_and_none_without_a_file(
    vault: TokenFiles,
) -> None:
    async def marks() -> list[tuple[int, ...] | None]:
        found = [await vault.mark(MAIN)]
        for _ in range(5):
            await vault.save(MAIN, SECRET)
            found += [await vault.mark(MAIN)]
        assert await vault.mark(MAIN) == found[-1]
        await vault.remove(MAIN)
        return [*found, await vault.mark(MAIN)]

    first, *saved, last = asyncio.run(marks())
    assert first is None
    assert last is None
    assert len(set(saved)) == 5


def test_the_file_shows_neither_secret_nor_phrase_and_names_its_parameters(
    vault: TokenFiles, home: Path, real_rounds: None
) -> None:
    path = saved(vault, home)
    assert b"planted" not in path.read_bytes()
    fields = json.loads(path.read_bytes())
    assert (fields["version"], fields["key_derivation"], fields["rounds"], fields["cipher"]) == (
        1,
        "PBKDF2-HMAC-SHA256",
        600_000,
        "AES-256-GCM",
    )


def test_salt_and_nonce_are_new_at_every_write(vault: TokenFiles, home: Path) -> None:
    first = json.loads(saved(vault, home).read_bytes())
    second = json.loads(saved(vault, home).read_bytes())
    assert all(first[name] != second[name] for name in ("salt", "nonce", "sealed"))


def test_file_and_directory_are_ours_alone_whatever_the_umask(
    vault: TokenFiles, home: Path
) -> None:
    former = os.umask(0)
    try:
        path = saved(vault, home)
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_another_phrase_opens_nothing(vault: TokenFiles, home: Path) -> None:
    saved(vault, home)
    assert "another passphrase" in refusal(TokenFiles(home, PHRASE + b"!"))


def test_an_accounts_file_under_another_accounts_name_does_not_open(
    vault: TokenFiles, home: Path
) -> None:
    saved(vault, home).rename(home / "spare.sealed")
    assert "another account's" in refusal(vault, SPARE)


@pytest.mark.parametrize("name", ["salt", "nonce", "sealed"])
def test_a_changed_byte_is_refused(vault: TokenFiles, home: Path, name: str) -> None:
    path = saved(vault, home)
    fields = json.loads(path.read_bytes())
    first = fields[name][0]
    fields[name] = ("A" if first != "A" else "B") + fields[name][1:]
    path.write_text(json.dumps(fields))
    assert "does not open" in refusal(vault)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("version", "1"),
        ("key_derivation", "none"),
        ("cipher", "AES-256-CBC"),
        ("rounds", 999),
        ("rounds", 10**12),
        ("rounds", 1_000.0),
        ("rounds", None),
        ("salt", ""),
        ("nonce", "AAAA"),
        ("nonce", 7),
        ("sealed", "not base64"),
    ],
)
def test_another_format_or_weaker_parameters_are_refused_before_any_work(
    vault: TokenFiles, home: Path, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(vault, home)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), name: value}))
    monkeypatch.setattr(token_file, "PBKDF2HMAC", None)
    assert "no sealed token file" in refusal(vault)


def test_a_file_that_makes_guessing_cheaper_is_refused(
    vault: TokenFiles, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(vault, home)
    monkeypatch.setattr(token_file, "ROUNDS", ROUNDS)
    assert "no sealed token file" in refusal(vault)


def test_other_parameters_within_bounds_do_not_open_either(vault: TokenFiles, home: Path) -> None:
    path = saved(vault, home)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "rounds": 1_001}))
    assert "does not open" in refusal(vault)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 60_000, b"9" * 5_000]
)
def test_a_file_that_is_something_else_is_refused(
    vault: TokenFiles, home: Path, content: bytes
) -> None:
    saved(vault, home).write_bytes(content)
    assert "no sealed token file" in refusal(vault)


def test_a_huge_file_is_refused_without_being_read_whole(vault: TokenFiles, home: Path) -> None:
    path = saved(vault, home)
    os.truncate(path, 1 << 40)
    assert "more than" in refusal(vault)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644])
def test_a_file_others_may_use_is_refused(vault: TokenFiles, home: Path, mode: int) -> None:
    saved(vault, home).chmod(mode)
    assert "chmod 0600" in refusal(vault)


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o701, 0o770])
def test_a_directory_others_may_enter_is_refused(vault: TokenFiles, home: Path, mode: int) -> None:
    saved(vault, home)
    home.chmod(mode)
    assert "chmod 0700" in refusal(vault)
    with pytest.raises(ConfigurationError, match="chmod 0700"):
        asyncio.run(vault.save(MAIN, SECRET))


@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_belongs_to_somebody_else_is_refused(
    vault: TokenFiles, home: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(vault, home)
    owner = os.geteuid()
    answers = iter([owner + 1] * 2 if what == "directory" else [owner, *[owner + 1] * 2])
    monkeypatch.setattr(os, "geteuid", lambda: next(answers))
    assert f"belongs to uid {owner}" in refusal(vault)


def test_a_symlink_in_the_files_place_is_not_followed(vault: TokenFiles, home: Path) -> None:
    path = saved(vault, home)
    path.rename(home / "elsewhere")
    path.symlink_to(home / "elsewhere")
    assert "cannot be read as a plain file" in refusal(vault)


def test_a_symlink_in_the_directorys_place_is_not_followed(
    vault: TokenFiles, home: Path, tmp_path: Path
) -> None:
    saved(vault, home)
    home.rename(tmp_path / "elsewhere")
    home.symlink_to(tmp_path / "elsewhere")
    assert "cannot be used" in refusal(vault)


def test_saving_replaces_a_symlink_and_leaves_what_it_pointed_to(
    vault: TokenFiles, home: Path, tmp_path: Path
) -> None:
    path = saved(vault, home)
    target = tmp_path / "precious"
    target.write_text("precious")
    path.unlink()
    path.symlink_to(target)
    saved(vault, home)
    assert target.read_text() == "precious"
    assert not path.is_symlink()


def test_a_pipe_in_the_files_place_is_refused_and_does_not_hang(
    vault: TokenFiles, home: Path
) -> None:
    path = saved(vault, home)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "not a plain file" in refusal(vault)


def test_a_socket_or_directory_in_the_files_place_is_refused(
    vault: TokenFiles, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(vault, home)
    path.unlink()
    monkeypatch.chdir(home)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
        assert "main.sealed" in refusal(vault)
    path.unlink()
    path.mkdir(0o700)
    assert "main.sealed" in refusal(vault)


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_write_that_fails_keeps_the_former_file_and_leaves_no_other(
    vault: TokenFiles, home: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(vault, home)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if step == "write":
            patched.setattr(token_file, "_NEW_FILE", os.O_RDONLY | os.O_CREAT | os.O_EXCL)
        else:
            patched.setattr(os, step, full)
        with pytest.raises(ConfigurationError, match="cannot be used") as raised:
            asyncio.run(vault.save(MAIN, b"newer"))
    assert "planted" not in str(raised.value)
    assert asyncio.run(vault.load(MAIN)) == SECRET
    assert list(home.iterdir()) == [path]


def test_the_new_file_is_on_disk_before_it_takes_its_place(
    vault: TokenFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append(f"fsync {kind}")
        real_fsync(descriptor)

    def replace(*places: str, src_dir_fd: int, dst_dir_fd: int) -> None:
        steps.append("replace")
        real_replace(*places, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    asyncio.run(vault.save(MAIN, SECRET))
    assert steps == ["fsync file", "replace", "fsync directory"]


def test_what_was_removed_is_gone_and_removing_it_again_is_no_error(
    vault: TokenFiles, home: Path
) -> None:
    path = saved(vault, home)
    asyncio.run(vault.remove(MAIN))
    assert not path.exists()
    asyncio.run(vault.remove(MAIN))
    asyncio.run(TokenFiles(home / "nowhere", PHRASE).remove(MAIN))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\x00b", ".hidden", "a b", "é", "x" * 65]
)
def test_an_accounts_name_never_leads_out_of_the_directory(
    vault: TokenFiles, home: Path, name: str
) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a file"):
        asyncio.run(vault.save(Account(name), SECRET))
    assert not home.exists()


@pytest.mark.parametrize("length", [0, 15, 4_097])
def test_a_short_or_endless_phrase_is_refused(home: Path, length: int) -> None:
    with pytest.raises(ConfigurationError, match="16 to 4096"):
        TokenFiles(home, b"x" * length)


def test_the_phrase_is_in_no_representation(vault: TokenFiles) -> None:
    assert "planted" not in repr(vault)


def test_a_credential_of_the_service_manager_is_read_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "phrase").write_bytes(PHRASE + b"\n")
    assert read_credential("phrase", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == PHRASE


@pytest.mark.parametrize("name", ["absent", "../phrase", "", "/etc/hostname"])
def test_a_credential_that_is_not_there_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read|was not passed"):
        read_credential(name, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_without_a_service_manager_the_error_says_where_credentials_come_from() -> None:
    with pytest.raises(ConfigurationError, match="LoadCredential"):
        read_credential("phrase", {})
