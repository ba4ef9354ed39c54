"""`edgeslm fleet accounts|tokens|audit` as people type them."""

from __future__ import annotations

import getpass
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.cli.main import main
from edgeslm.fleet.access import Passwords, fingerprint
from tests.fleet import kit

Edgeslm = Callable[..., tuple[int, str, str]]
PASSWORD = "a password that is long"  # noqa: S105


@pytest.fixture
def fleet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Edgeslm:
    monkeypatch.chdir(tmp_path)
    kit.make(tmp_path / "fleet")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")

    def run(*words: str | Path) -> tuple[int, str, str]:
        status = main(["fleet", *map(str, words)])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def rows(query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect("fleet/fleet.db") as database:
        found = database.execute(query).fetchall()
    database.close()
    return found


def test_there_is_no_account_until_somebody_makes_one(fleet: Edgeslm) -> None:
    assert "none: edgeslm fleet accounts add" in fleet("accounts", "list")[1]
    status, out, _ = fleet("accounts", "add", "ada", "--password-file", "password")
    assert (status, out) == (0, "ada: viewer\n")
    assert fleet("accounts", "role", "ada", "--role", "operator")[0] == 0
    assert fleet("accounts", "list")[1].startswith("ada  operator, since ")
    [(kept,)] = rows("SELECT password FROM accounts")
    assert str(kept).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert Passwords().right(str(kept), PASSWORD)
    assert fleet("accounts", "disable", "ada")[0] == 0
    assert "operator, disabled" in fleet("accounts", "list")[1]
    assert fleet("accounts", "enable", "ada")[0] == 0
    assert fleet("accounts", "remove", "ada")[1] == "ada: removed\n"
    audit = fleet("audit")[1]
    for what in ("added", "role", "disabled", "enabled", "removed"):
        assert f"account.{what}  name: ada" in audit
    assert PASSWORD not in audit


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("accounts", "add", "a b", "--password-file", "password"), "account.refused"),
        (("accounts", "add", "ada", "--password-file", "missing"), "account.password"),
        (("accounts", "add", "ada", "--password-file", "fleet"), "account.password"),
        (("accounts", "add", "ada", "--password-file", "short"), "account.password"),
        (("accounts", "add", "ada", "--password-file", "binary"), "account.password"),
        (("accounts", "disable", "nobody"), "account.refused"),
        (("accounts", "remove", "nobody"), "account.refused"),
        (("tokens", "create", "nobody"), "account.refused"),
        (("tokens", "revoke", "nothing"), "account.refused"),
    ],
)
def test_what_cannot_be_is_said(fleet: Edgeslm, words: tuple[str, ...], code: str) -> None:
    Path("short").write_text("short")
    Path("binary").write_bytes(b"\xff\xfe" * 20)
    status, _, err = fleet(*words)
    assert status == 65
    assert f"[{code}]" in err


def test_an_account_is_there_once(fleet: Edgeslm) -> None:
    words = ("accounts", "add", "ada", "--password-file", "password")
    assert fleet(*words)[0] == 0
    assert "there is an account of this name already" in fleet(*words)[2]


def test_a_password_is_typed_twice(fleet: Edgeslm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no terminal" in fleet("accounts", "add", "ada")[2]
    typed = iter([PASSWORD, "another", PASSWORD, PASSWORD])
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: next(typed))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert "not the same" in fleet("accounts", "add", "ada")[2]
    assert fleet("accounts", "add", "ada")[0] == 0


def test_a_token_is_printed_once_and_revoked(fleet: Edgeslm) -> None:
    fleet("accounts", "add", "ada", "--password-file", "password")
    token = fleet("tokens", "create", "ada", "--label", "a script", "--days", "2")[1].strip()
    [(number, kept)] = rows("SELECT id, hash FROM tokens")
    assert kept == fingerprint(token)
    listed = fleet("tokens", "list")[1]
    assert "ada  good to" in listed
    assert "a script" in listed
    assert token not in listed
    assert fleet("tokens", "revoke", str(number))[0] == 0
    assert fleet("tokens", "list")[1] == "none\n"
    assert token not in fleet("audit", "--json")[1]
