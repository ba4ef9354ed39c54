"""`edgeslm fleet database`, and `--database`: on SQLite and PostgreSQL alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from edgeslm.cli.main import main
from edgeslm.fleet import config
from edgeslm.fleet.database import audit, migrate
from edgeslm.fleet.database.engine import connect, open_database, reading
from edgeslm.fleet.director import assigned
from tests.fleet import kit


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    monkeypatch.setenv("EDGESLM_FLEET_PASSPHRASE", kit.PASSPHRASE)
    monkeypatch.setenv("LOGNAME", "ada")
    repository = kit.make(tmp_path / "fleet")

    def run(*words: str) -> tuple[int, str, str]:
        verb, *more = words
        status = main(["fleet", verb, "--repository", str(repository.folder), *more])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_where_it_is_and_what_it_has(command: Any, database_url: str) -> None:
    there = ("database", "show", "--database", database_url)
    assert "empty; this version: 0001" in command(*there)[1]
    status, out, _ = command("database", "upgrade", "--database", database_url)
    assert (status, "schema 0001, was empty" in out) == (0, True)
    assert "schema 0001 already" in command("database", "upgrade", "--database", database_url)[1]
    assert "schema 0001; this version: 0001" in command(*there)[1]


def test_an_assignment_goes_where_it_is_said_and_who_gave_it_is_written(
    command: Any, database_url: str
) -> None:
    status, out, err = command("assign", "--device", "d", "--database", database_url)
    assert (status, err) == (0, "")
    assert "d: assignment 1: no model" in out
    engine = open_database(database_url)
    assert assigned(engine)["d"].seq == 1
    with reading(engine) as conn:
        [entry] = audit.entries(conn)
    engine.dispose()
    assert (entry.who, entry.by, entry.what) == ("ada", "cli", "device.assigned")
    assert entry.detail == {"device": "d", "seq": 1, "models": {}}


def test_a_newer_schema_is_named(command: Any, database_url: str) -> None:
    open_database(database_url).dispose()
    engine = connect(database_url)
    with engine.begin() as conn:
        conn.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '0999'"))  # noqa: S608
    engine.dispose()
    for words in (("assign", "--device", "d"), ("database", "upgrade"), ("database", "show")):
        status, _, err = command(*words, "--database", database_url)
        assert (status, "fleet.database_newer" in err) == (78, True)


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("postgresql://u:s3cr3t@127.0.0.1:1/fleet", 75, "fleet.database_down"),
        ("mysql://u:s3cr3t@h/fleet", 78, "fleet.database_invalid"),
        ("sqlite:////nowhere/fleet.db", 75, "/nowhere/fleet.db: No such file"),
    ],
)
def test_what_cannot_be_used_is_said_without_a_password(
    url: str, status: int, says: str, command: Any
) -> None:
    for words in (("assign", "--device", "d"), ("database", "show")):
        found, _, err = command(*words, "--database", url)
        assert (found, says in err, "s3cr3t" in err) == (status, True, False)


def test_fleet_toml_says_where_it_is(command: Any, tmp_path: Path) -> None:
    toml = tmp_path / "fleet" / "fleet.toml"
    said = toml.read_text()
    assert '# database = "postgresql://' in said
    toml.write_text(said.replace("[days]", 'database = "sqlite:///other.db"\n[days]', 1))
    assert command("assign", "--device", "d")[0] == 0
    assert (tmp_path / "fleet" / "other.db").exists()
    assert not (tmp_path / "fleet" / "fleet.db").exists()


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, "sqlite:////f/fleet.db"),
        ("sqlite:///x.db", "sqlite:////f/x.db"),
        ("sqlite:////abs/x.db", "sqlite:////abs/x.db"),
        ("postgresql://h/x", "postgresql://h/x"),
    ],
)
def test_a_relative_path_is_from_the_repository(said: str | None, found: str) -> None:
    assert config.database_url(config.FleetConfig(database=said), Path("/f")) == found
