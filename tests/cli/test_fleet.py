"""`edgeslm fleet ...` as people type it: done, or told which file is wrong, and what to do."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.adapters.tuf import Trust
from edgeslm.cli.main import main
from edgeslm.fleet.database.engine import open_database
from tests.fleet import kit

Edgeslm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fleet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Edgeslm:
    """Runs `edgeslm fleet WORDS` in an empty folder; returns status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESLM_FLEET_PASSPHRASE", kit.PASSPHRASE)

    def run(*words: str | Path) -> tuple[int, str, str]:
        status = main(["fleet", *map(str, words)])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def test_from_nothing_to_a_device_and_a_stick(fleet: Edgeslm, tmp_path: Path) -> None:
    status, out, _ = fleet("init", "--topic-root", "plant/a")
    assert status == 0
    assert out.splitlines()[0] == "fleet: made"
    kit.bundle(tmp_path / "b1", profiles=["one"])
    kit.bundle(tmp_path / "b2", profiles=["two"], exporter="1")
    assert fleet("add", "b1", "b2", "--model", "press", "--version", "1", "--task", "intent")[
        1
    ] == ("press 1 for one: 0.0 MB, signed\npress 1 for two: 0.0 MB, signed\n")
    assert fleet("add", "b1")[1] == "all of it was there already\n"
    (tmp_path / "c.toml").write_text("state_interval_s = 5\n")
    words = ("assign", "--device", "d1", "--model", "press", "--config", "c.toml", "--expires", "9")
    assert fleet(*words)[1] == "d1: assignment 1: press 1, with a configuration\n"
    assert fleet("assign", "--device", "d1", "--no-config", "--without", "press")[1] == (
        "d1: assignment 2: no model\n"
    )
    assert fleet("keys", "export-root", "--to", "root.json")[0] == 0
    assert (tmp_path / "root.json").stat().st_mode & 0o777 == 0o644
    assert fleet("keys", "rotate", "timestamp")[1] == (
        "timestamp: rotated; timestamp-2 signs in its place\n"
    )
    assert fleet("keys", "revoke", "model-press")[1].startswith("model-press: revoked")
    assert fleet("keys", "renew")[1] == "root, targets, model-press: signed anew\n"
    status, out, _ = fleet("stick", "--to", "stick.tar", "--device", "d1")
    assert (status, out.split(",")[0].split(";")[1]) == (
        0,
        " edgeslm update --from it within 14 days",
    )
    assert out.endswith(("then snapshot expires\n", "then timestamp expires\n"))
    listed = json.loads(fleet("keys", "list", "--json")[1])
    assert {"name": "timestamp", "signs": [], "where": "keys/timestamp.pem"} in listed["keys"]
    assert listed["days_left"]["root"] == pytest.approx(365, abs=0.1)
    text = fleet("keys", "list")[1]
    assert "timestamp      signs nothing any more; keys/timestamp.pem" in text
    assert "root           is good for 365.0 days" in text
    metadata = tmp_path / "fleet" / "metadata"
    shelf = kit.Shelf({path.name: path.read_bytes() for path in metadata.iterdir()})
    trust = Trust(tmp_path / "d", (tmp_path / "root.json").read_bytes(), shelf)
    assert trust.walk_roots().threshold == 1


def test_what_is_signed_is_in_the_audit_log(
    fleet: Edgeslm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    fleet("init")
    assert not (tmp_path / "fleet" / "fleet.db").exists()
    kit.bundle(tmp_path / "b1", profiles=["one"])
    kit.bundle(tmp_path / "b2", profiles=["two"], exporter="1")
    for words in (
        ("add", "b1", "b2"),
        ("add", "b1"),  # changes nothing
        ("assign", "--device", "d1", "--model", "press"),
        ("keys", "rotate", "timestamp"),
        ("keys", "revoke", "model-press"),
        ("keys", "renew", "root"),
        ("stick", "--to", "stick.tar", "--device", "d1"),
    ):
        status, _, err = fleet(*words)
        assert (status, err) == (0, "")
    rows = [json.loads(line) for line in fleet("audit", "--json")[1].splitlines()][::-1]
    assert {(row["who"], row["by"]) for row in rows} == {("ada", "cli")}
    assert [row["what"] for row in rows] == [
        *("bundles.added", "device.assigned", "key.rotated", "key.revoked", "roles.renewed"),
        "stick.written",
    ]
    added = rows[0]["detail"]
    assert (added["model"], added["version"], added["profiles"]) == ("press", 1, ["one", "two"])
    manifest = (tmp_path / "b1" / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() in added["bundles"]
    assert rows[2]["detail"] == {"key": "timestamp", "new": "timestamp-2"}
    text = fleet("audit")[1]
    assert "models: press 1" in text
    assert "profiles: one, two, bundles: " in text
    assert not set("{}[]'") & set(text)


def test_init_is_in_the_audit_log_of_a_database_that_is_there(
    fleet: Edgeslm, tmp_path: Path
) -> None:
    (tmp_path / "fleet").mkdir()
    open_database(f"sqlite:///{tmp_path}/fleet/fleet.db").dispose()
    assert fleet("init", "--topic-root", "plant/a")[0] == 0
    assert "fleet.made  topic_root: plant/a" in fleet("audit")[1]


@pytest.mark.parametrize("url", ["sqlite:///no/where.db", "postgresql://127.0.0.1:1/x", "oracle:"])
def test_what_is_signed_needs_no_database(fleet: Edgeslm, tmp_path: Path, url: str) -> None:
    fleet("init")
    kit.bundle(tmp_path / "b")
    for words, what in (
        (("add", "b"), "bundles.added"),
        (("keys", "rotate", "timestamp"), "key.rotated"),
        (("keys", "renew", "targets"), "roles.renewed"),
    ):
        status, out, err = fleet(*words, "--database", url)
        assert status == 0
        assert "sign" in out
        assert f"done, but {what} is not in the audit log: " in err
    assert "press 1" not in fleet("add", "b")[1]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["add", "nowhere"], 65, "nowhere/manifest.json: No such file"),
        (["add", "b", "--model", "valve"], 65, "b/manifest.json: press 1 (intent), to be added"),
        (["assign", "--device", "d1", "--model", "ghost"], 65, "ghost: no such model"),
        (["assign", "--device", "_fleet"], 65, "not a device's id"),
        (["assign", "--device", "d", "--config", "no.toml"], 78, "no.toml: No such file"),
        (["keys", "rotate", "ghost"], 65, "ghost: no key in use has this name"),
        (["keys", "rotate", "root-1", "--key", "pkcs11:x"], 75, "token and id are needed"),
        (["keys", "export-root", "--to", "no/where"], 75, "no/where: No such file"),
        (["stick", "--to", "b"], 75, "b: there is something already"),
        (["stick", "--to", "s", "--device", "d9"], 65, "d9: it has no assignment"),
        (["init"], 65, "fleet.toml is there already"),
        (["keys", "list", "--repository", "elsewhere"], 65, "elsewhere: no repository"),
        (["keys", "list", "--repository", "b/manifest.json"], 65, "no repository"),
        (["keys", "renew", "--passphrase-file", "no.txt"], 65, "no.txt: No such file"),
        (["keys", "renew", "ghost"], 65, "ghost: no such role"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(
    words: list[str], status: int, says: str, fleet: Edgeslm, tmp_path: Path
) -> None:
    fleet("init")
    kit.bundle(tmp_path / "b")
    found, out, err = fleet(*words)
    assert (found, out) == (status, "")
    assert says in err
    assert err.startswith(f"edgeslm fleet {words[0]}: ")
    assert err.endswith("]\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["keys", "rotate"], "which KEY?"),
        (["keys", "export-root"], "--to FILE"),
        (["keys", "break"], "invalid choice"),
        (["assign", "--device", "d", "--version", "1"], "of which --model?"),
        (["assign", "--device", "d", "--config", "x", "--no-config"], "one of them"),
        (["assign", "--device", "d", "--expires", "nan"], "not a number of days"),
        (["assign", "--device", "d", "--seq", "0"], "not in [1,"),
        (["init", "--topic-root", "a/#"], "not a topic"),
        (["init", "--key", "root-1=/x.pem"], "is not NAME=pkcs11"),
        (["init", "--key", "boot-1=pkcs11:x"], "no key has this name"),
        (["add"], "BUNDLE"),
        (["stick"], "--to"),
    ],
    ids=str,
)
def test_wrong_options_show_the_usage(
    words: list[str], says: str, fleet: Edgeslm, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        fleet(*words)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_a_missing_extra_says_which_to_install(
    fleet: Edgeslm, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tuf" else real(name)
    )
    for words in (["init"], ["add", "b"], ["keys", "list"], ["stick", "--to", "x"]):
        status, _, err = fleet(*words)
        assert status == 75
        assert "tuf: not installed. pip install 'edgeslm[fleet]' [fleet.extra_missing]" in err
