"""`edgeslm fleet publish`: options that cannot be are said at once, and a signal ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeslm.cli.fleet_publish import _options, broker_of
from edgeslm.cli.main import main
from edgeslm.contract.brokers import Broker
from edgeslm.contract.topics import FleetTopics
from edgeslm.updater.mailbox import open_mailbox
from tests.fleet import kit
from tests.mosquitto import Mosquitto


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("plant", "plant", None),
        ("plant:18830", "plant", 18830),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("::1", "::1", None),
        ("fe80::1:2", "fe80::1:2", None),
        ("[::1]", "::1", None),
        ("[::1]:1884", "::1", 1884),
    ],
)
def test_brokers_are_named_as_people_do(text: str, host: str, port: int | None) -> None:
    broker = broker_of(_options().parse_args(["--broker", text]))
    assert (broker.host, broker.port, broker.tls) == (host, port, None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--broker", "plant:x"], "--broker: 'plant:x': not HOST[:PORT]"),
        (["--broker", "plant:0"], "--port"),
        (["--broker", ""], "--host"),
        (["--broker", "plant", "--password-file", "p"], "a password needs a username"),
        (["--broker", "plant", "--username", "u", "--password-file", "gone"], "--password-file"),
        (["--broker", "plant", "--ca-file", "gone"], "--ca-file"),
        (["--broker", "plant", "--cert-file", "c"], "cert_file and key_file belong together"),
    ],
)
def test_options_that_cannot_be_are_said_at_once(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fleet", "publish", *words]) == 78
    assert told in capsys.readouterr().err


def test_without_a_repository_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fleet", "publish", "--broker", "h", "--repository", str(tmp_path)]) == 65
    assert "fleet.missing" in capsys.readouterr().err


@pytest.mark.broker
def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, mosquitto: Mosquitto) -> None:
    repository = kit.make(tmp_path / "fleet", clock=kit.Clock(time.time()))
    argv = [sys.executable, "-m", "edgeslm", "fleet", "publish"]
    argv += ["--repository", str(repository.folder), "--broker", f"127.0.0.1:{mosquitto.port}"]
    env = {**os.environ, "EDGESLM_FLEET_PASSPHRASE": kit.PASSPHRASE}
    with subprocess.Popen(argv, stderr=subprocess.PIPE, env=env) as process:
        box = open_mailbox("reader", Broker(host="127.0.0.1", port=mosquitto.port))
        topic = FleetTopics("edgeslm/v1").metadata("timestamp.json")
        found = box.retained(topic, timeout_s=30, max_bytes=10_000)
        box.close()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert found == repository.store.read("timestamp.json")
    assert "published" in [json.loads(line)["event"] for line in err.splitlines()]
