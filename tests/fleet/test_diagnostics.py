"""A manager's command, a real broker, a real updater: who is heeded, and who is not answered."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine, select

from edgeslm.adapters.dsse import seal
from edgeslm.contract.fleet import ASSIGNMENT, COMMAND, Command
from edgeslm.contract.topics import Topics
from edgeslm.fleet.config import FleetConfig
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.database.schema import audit
from edgeslm.fleet.diagnostics import command
from edgeslm.fleet.director import director_signers
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository, init_repository
from tests.agent.kit import AgentProcess, poll
from tests.fleet.guarded import Peer
from tests.mosquitto import Mosquitto
from tests.runtime import tiny

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]
PASSPHRASE: Final = "a passphrase of the tests"  # noqa: S105
TOPICS: Final = Topics("edgeslm/v1", "dev1")


class Fleet:
    """A repository that is served, and the updater of one device that has two models."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.folder = folder
        self.broker = broker
        passphrases = Passphrases(variable=PASSPHRASE)
        self.repository = init_repository(folder / "fleet", passphrases, FleetConfig())
        self.engine: Engine = open_database(f"sqlite:///{folder / 'fleet' / 'fleet.db'}")
        (folder / "passphrase").write_text(PASSPHRASE)
        root = folder / "root.json"
        root.write_bytes(self.repository.store.read("1.root.json"))
        with (folder / "server.log").open("wb") as log:
            argv = [*self.argv("publish"), "--log-level", "warning"]
            self.server = subprocess.Popen(argv, stderr=log)
        bundle = tiny.write_bundle(folder / "bundle")
        device = AgentProcess(
            folder / "device",
            broker.port,
            device_id="dev1",
            models={"one": {"bundle": bundle}, "two": {"bundle": bundle}},
            update={"root": root, "dir": folder / "device" / "updater"},
        )
        device.configure()
        self.log = folder / "updater.jsonl"
        argv = [sys.executable, "-m", "edgeslm", "updater", "--config", str(device.config)]
        with self.log.open("wb") as log:
            self.updater = subprocess.Popen(argv, stderr=log)
        self.peer = Peer(broker.port, "peer")
        assert self.peer.subscribe("edgeslm/v1/+/fleet/reply/+")
        assert self.peer.subscribe(TOPICS.update)
        # Its first words, and a while for what it listens to: then a genuine one is answered.
        poll(lambda: self.words > 0, "its first words")

    def argv(self, word: str, *more: str) -> list[str]:
        at = (
            "--repository",
            str(self.folder / "fleet"),
            "--broker",
            f"127.0.0.1:{self.broker.port}",
        )
        passphrase = ("--passphrase-file", str(self.folder / "passphrase"))
        return [sys.executable, "-m", "edgeslm", "fleet", word, *more, *at, *passphrase]

    def run(self, word: str, *more: str) -> subprocess.CompletedProcess[str]:
        argv = self.argv(word, *more)
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)

    def genuine(self, device: str = "dev1", *, repository: Repository | None = None) -> bytes:
        return command(repository or self.repository, self.engine, device, "doctor")[1]

    def made(self, **changed: object) -> bytes:
        """A command that our own commands would not make, signed by the director."""
        new = command(self.repository, self.engine, "dev1", "doctor")[0]
        payload = Command.model_validate({**new.model_dump(by_alias=True), **changed})
        raw = payload.model_dump_json(by_alias=True).encode()
        return seal(raw, kind=COMMAND, signers=director_signers(self.repository))

    def send(self, envelope: bytes, *, retain: bool = False) -> None:
        assert self.peer.publish(TOPICS.command, envelope, retain=retain)

    @property
    def replies(self) -> list[bytes]:
        return [payload for topic, payload in self.peer.heard if "/reply/" in topic]

    @property
    def words(self) -> int:
        """How often the updater has said how it is."""
        return sum(topic == TOPICS.update for topic, _ in self.peer.heard)

    def close(self) -> None:
        self.peer.__exit__()
        for process in (self.updater, self.server):
            process.terminate()
            process.wait(20)
        self.engine.dispose()


@pytest.fixture
def fleet(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Fleet]:
    made = Fleet(tmp_path, mosquitto)
    yield made
    made.close()


@pytest.mark.slow
def test_a_device_looks_at_itself_and_who_is_not_there_does_not_answer(fleet: Fleet) -> None:
    done = fleet.run("doctor", "dev1")
    assert "clock" in done.stdout, done.stderr
    assert "errors, " in done.stdout.splitlines()[-1]
    assert done.returncode in {0, 65, 75, 78}, "the status of `edgeslm doctor` there"
    with fleet.engine.connect() as conn:
        (row,) = conn.execute(select(audit.c.what, audit.c.detail)).all()
    assert tuple(row) == ("device.doctor", {"device": "dev1"})
    refused = fleet.run("bench", "dev1")
    assert (refused.returncode, "which model? There are one, two" in refused.stderr) == (65, True)
    assert "command.model" in refused.stderr
    measured = fleet.run("bench", "dev1", "--model", "one")
    assert (measured.returncode, "no task 'double'" in measured.stdout) == (65, True), "its status"
    done = fleet.run("doctor", "dev2", "--timeout", "3")
    assert (done.returncode, "fleet.no_answer" in done.stderr) == (75, True)
    done = fleet.run("doctor", "dev 2")
    assert (done.returncode, "fleet.command" in done.stderr) == (65, True)


def test_what_no_director_signed_and_what_is_not_for_it_is_not_answered(
    fleet: Fleet, tmp_path: Path
) -> None:
    thief = init_repository(tmp_path / "thief", Passphrases(variable=PASSPHRASE), FleetConfig())
    genuine = fleet.genuine()
    late = Repository(
        tmp_path / "fleet", Passphrases(variable=PASSPHRASE), clock=lambda: time.time() - 3600
    )
    wrong = [
        b"",
        b"{}",
        b"x" * 20_000,
        fleet.genuine(repository=thief),  # forged
        genuine.replace(b'"payload":"e', b'"payload":"f'),
        genuine.replace(COMMAND.encode(), ASSIGNMENT.encode()),
        fleet.genuine("dev2"),  # another's, sent here
        fleet.made(reply="edgeslm/v1/dev1/status"),
        fleet.made(reply="edgeslm/v1/dev2/fleet/reply/x"),
    ]
    for number, envelope in enumerate(wrong, 1):
        fleet.send(envelope)
        poll(lambda n=number: fleet.log.read_text().count('"command_') == n, "its refusal")  # type: ignore[misc]
    fleet.send(fleet.genuine(), retain=True)  # heard while it listens: then it is one like others
    poll(lambda: len(fleet.replies) == 1, "the answer to the genuine one")
    fleet.send(fleet.genuine(repository=late))
    poll(lambda: len(fleet.replies) == 2, "why an expired one is refused")
    assert b"command.stale" in fleet.replies[1]
    assert fleet.updater.poll() is None
    log = fleet.log.read_text()
    assert "command.foreign" in log
    assert "command.malformed" in log


def test_a_replayed_one_is_heeded_once_and_not_by_the_next_updater_either(fleet: Fleet) -> None:
    envelope = fleet.genuine()
    for _ in range(3):
        fleet.send(envelope)
    poll(lambda: len(fleet.replies) == 1, "its answer")
    fleet.send(envelope)
    fleet.updater.terminate()
    fleet.updater.wait(20)
    fleet.send(envelope, retain=True)
    before = fleet.words  # with its last ones, which the broker had before
    argv = list(map(str, fleet.updater.args))  # type: ignore[arg-type]
    with fleet.log.open("ab") as log:
        fleet.updater = subprocess.Popen(argv, stderr=log)
    poll(lambda: fleet.words > before, "its first words")
    time.sleep(2.0)
    assert len(fleet.replies) == 1, "what is retained is not heeded"
    fleet.send(envelope)
    poll(lambda: len(fleet.replies) == 2, "why one older than the updater is refused")
    assert b"command.stale" in fleet.replies[1]


@pytest.mark.slow
def test_a_flood_costs_six_programs_and_an_answer_each(fleet: Fleet) -> None:
    for _ in range(40):
        fleet.send(fleet.genuine())
    time.sleep(20.0)
    done = [reply for reply in fleet.replies if b'"status"' in reply]
    assert 1 <= len(done) <= 6
    assert len(fleet.replies) <= 40
    assert all(b"command.busy" in r or b"command.too_many" in r or r in done for r in fleet.replies)
    for _ in range(200):
        fleet.send(b"x" * 5000)
    assert fleet.updater.poll() is None
