"""What came home goes into the next export: read by the exporter itself, and all the way round."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Engine

from edgeslm.cli import fleet_collect
from edgeslm.contract.messages import ADAPTERS, Result
from edgeslm.fleet.config import FleetConfig
from edgeslm.fleet.database import evidence
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.database.evidence import Sent
from edgeslm.fleet.database.heard import Heard, heard
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import init_repository
from edgeslm.runtime.device import platform_of, this_device
from edgeslm.runtime.profiles import detect_profile
from tests.commands import here
from tests.conftest import DATA, WEIGHTS, run_exporter
from tests.fleet import kit

PASSPHRASE: Final = "a passphrase of the tests"  # noqa: S105


def result(number: int, *, device: str = "dev1", **more: Any) -> Result:
    said: Result = {
        "schema": 1,
        "id": f"{number}",
        "device": device,
        "topic": "t",
        "source": "press-7",
        "time_in": 1000.0 + number,
        "time_out": 1000.0 + number,
        "latency_ms": 1.0,
        "task": "intent",
        "model": {"name": "orders", "version": 1, "hash": "a" * 64},
        "label": "stop",
        "accepted": True,
        "text": f"text {number}",
    }
    valid: Result = ADAPTERS["result"].validate_python({**said, **more})
    return valid


class Fleet:
    """A repository with its database, and what devices sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = init_repository(
            folder / "fleet", Passphrases(variable=PASSPHRASE), FleetConfig()
        )
        (folder / "passphrase").write_text(PASSPHRASE)
        self.engine: Engine = open_database(f"sqlite:///{folder / 'fleet' / 'fleet.db'}")
        self.out = folder / "collected.jsonl"

    def send(self, *results: Result, at: float = 5000.0) -> None:
        sent = [Sent(each["device"], each, at) for each in results]
        with self.engine.begin() as conn:
            evidence.keep(conn, sent)

    def judge(self, number: int, label: str, device: str = "dev1") -> None:
        with self.engine.begin() as conn:
            assert evidence.judge(conn, f"{device}/{number}", label, by="ann", now=6000.0)

    def run(self, word: str, *more: str) -> subprocess.CompletedProcess[str]:
        at = ("--repository", str(self.folder / "fleet"))
        return here("fleet", word, *more, *at, "--passphrase-file", str(self.folder / "passphrase"))

    def collect(self, *more: str) -> tuple[list[dict[str, Any]], str]:
        self.out.unlink(missing_ok=True)
        done = self.run("collect", "--model", "orders", "--out", str(self.out), *more)
        if done.returncode:
            return [], done.stderr
        return [json.loads(line) for line in self.out.read_text().splitlines()], done.stderr


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.engine.dispose()


def test_a_persons_label_counts_and_else_what_was_answered(fleet: Fleet) -> None:
    fleet.send(
        result(1),
        result(2, accepted=False),
        result(3, label="start", key="session 5", time=77.0),
        result(4, device="dev2", source=None),
    )
    fleet.judge(3, "call \u20ac")
    rows, said = fleet.collect()
    assert [(row["text"], row["label"]) for row in rows] == [
        ("text 1", "stop"),
        ("text 2", "oos"),
        ("text 3", "call \u20ac"),
        ("text 4", "stop"),
    ]
    assert (rows[2]["time"], rows[2]["key"], rows[2]["source"]) == (77.0, "session 5", "press-7")
    assert rows[2]["answered"] == "start"
    assert "source" not in rows[3]
    assert "4 examples" in said
    assert "1 judged" in said
    assert [r["text"] for r in fleet.collect("--judged-only")[0]] == ["text 3"]
    assert [r["text"] for r in fleet.collect("--device", "dev2")[0]] == ["text 4"]


def test_an_alarm_is_neither_until_somebody_judges_it(fleet: Fleet) -> None:
    more: dict[str, Any] = {"task": "anomaly", "accepted": None, "p_value": 0.5, "score": 1.0}
    more.pop("accepted")
    fleet.send(
        result(1, label="normal", **more),
        result(2, label="anomaly", **more),
        result(3, label="anomaly", **more),
        result(4, label="normal", **more),
        result(5, label="normal", **more),
    )
    fleet.judge(3, "normal")
    fleet.judge(4, "anomaly")
    fleet.judge(5, "odd")
    rows, said = fleet.collect()
    assert [(row["text"], row.get("label")) for row in rows] == [
        ("text 1", None),
        ("text 3", "normal"),
        ("text 4", "anomaly"),
    ]
    assert "1 alarms that nobody judged" in said
    assert "1 judged neither" in said


def test_by_time_and_by_a_filter_of_devices(fleet: Fleet) -> None:
    now = time.time()
    fleet.send(result(1), at=now - 3 * 86_400)
    fleet.send(result(2, device="dev2"), at=now - 60)
    state = {"schema": 1, "device": "dev2", "time": now, "agent_version": "1", "uptime_s": 1.0,
             "rss_mb": 1.0, "models": [], "outbox": 0, "withheld": 0, "drops": {},
             "tags": {"hall": "3"}}  # fmt: skip
    with fleet.engine.begin() as conn:
        heard(conn, [Heard("dev2", "state", ADAPTERS["state"].validate_python(state), now)])
    assert [r["text"] for r in fleet.collect("--since", "1d")[0]] == ["text 2"]
    assert len(fleet.collect("--since", "2020-01-01")[0]) == 2
    assert [r["text"] for r in fleet.collect("--where", "tag.hall = 3")[0]] == ["text 2"]
    assert fleet.collect("--where", "tag.hall = 4")[0] == []


def test_nothing_to_learn_from_is_an_error_and_leaves_the_file(fleet: Fleet) -> None:
    rows, said = fleet.collect()
    assert (rows, "[fleet.unknown_model]" in said) == ([], True)
    made = kit.bundle(fleet.folder / "bundle", name="orders", version=1)
    done = fleet.run("add", str(made))
    assert done.returncode == 0, done.stderr
    rows, said = fleet.collect()
    assert (rows, "nothing came home" in said) == ([], True)
    private = result(1)
    del private["text"]
    fleet.send(private, result(2, text="  "))
    fleet.out.write_text("before")
    done = fleet.run("collect", "--model", "orders", "--out", str(fleet.out))
    assert (done.returncode, "2 without a text" in done.stderr) == (65, True)
    assert fleet.out.read_text() == "before"
    fleet.send(result(3))
    done = fleet.run("collect", "--model", "orders", "--out", str(fleet.folder / "no" / "file"))
    assert (done.returncode, "fleet.unavailable" in done.stderr) == (75, True)


def test_a_moment_that_is_none_is_told_with_all_that_may_be_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        fleet_collect.main(["--model", "orders", "--out", "x", "--since", "30x"])
    said = " ".join(capsys.readouterr().err.split())
    assert "'30x' is not a time such as 90, 10m, 2h or 3d, at most 90d; nor a date such as" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_loop_closes(fleet: Fleet, intent_bundle: Path) -> None:
    """As documented: collect, export, add, roll out."""
    add(fleet.repository, [intent_bundle], Stated())
    name = str(json.loads((intent_bundle / "manifest.json").read_bytes())["name"])
    rows = [json.loads(line) for line in (DATA / "orders-train.jsonl").read_text().splitlines()]
    model = {"name": name, "version": 1, "hash": "a" * 64}
    answers = [
        result(n, text=row["text"], label=row["label"], model=model) for n, row in enumerate(rows)
    ]
    now = time.time()
    fleet.send(*answers, at=now)
    profile = detect_profile()
    update = {
        "schema": 1,
        "device": "dev1",
        "time": now,
        "updater_version": "1",
        "phase": "idle",
        "seq": 0,
        "config_seq": 0,
        "models": [{"name": name, "version": 1, "bundle": "a" * 64}],
        "platform": platform_of(this_device(), profile),
    }
    status = {"schema": 1, "device": "dev1", "online": True, "reason": "running", "time": now}
    with fleet.engine.begin() as conn:
        for kind, message in (("status", status), ("update", update)):
            valid = ADAPTERS[kind].validate_python(message)
            heard(conn, [Heard("dev1", kind, valid, now)])  # type: ignore[arg-type]
    done = fleet.run("collect", "--model", name, "--since", "30d", "--out", str(fleet.out))
    assert done.returncode == 0, done.stderr
    run_exporter(
        *("intent", "--data", str(fleet.out), "--eval", str(DATA / "orders-eval.jsonl")),
        *("--profile", profile.name, "--model", f"package:{WEIGHTS}", "--name", name),
        *("--version", "2", "--out", str(fleet.folder / "v2")),
    )
    done = fleet.run("add", str(fleet.folder / "v2" / "bundle"))
    assert done.returncode == 0, done.stderr
    done = fleet.run("rollout", "start", "--model", name, "--version", "2")
    assert done.returncode == 0, done.stderr
    done = fleet.run("rollout", "list", "--json")
    assert name in done.stdout, done.stderr
