"""Each topic of the contract, by each kind of client, on a broker that is set up as we print it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from edgeslm.contract.provision import PROVISIONER
from edgeslm.fleet.broker_config import Access, BrokerConfigError, acl_file, dynamic_security
from edgeslm.fleet.config import FleetConfig
from tests.agent.kit import AgentProcess, poll
from tests.fleet.guarded import (
    WATCHER,
    Peer,
    control,
    secret,
    with_acl,
    with_dynamic_security,
)
from tests.mosquitto import Mosquitto
from tests.updater.test_system import UpdaterProcess
from tests.updater.whole import DEVICE, MODEL, PASSPHRASE, Fleet

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]
ROOT: Final = "edgeslm/v1"
SERVICE: Final = "edgeslm-fleet"
DOTTED: Final = "dev.3"
USERS: Final = ("dev1", "dev2", DOTTED, SERVICE, "eyes", "hand", PROVISIONER)
ACCESS: Final = Access(
    ROOT,
    inputs=["plant/%u/#"],
    devices=["dev1", "dev2", DOTTED],
    viewers=["eyes"],
    operators=["hand"],
    discovery="homeassistant",
)
SAID: Final = ("status", "state", "events", "update", "results/m")
BLOB: Final = "a" * 64

# Written down a second time: what each may, and nothing else.
OWN: Final = tuple(f"{ROOT}/dev1/{each}" for each in (*SAID, "fleet/reply/n", "feedback/reply"))
# What is said on `feedback` holds an operator's token: the device reads it, and nobody else.
TO_OWN: Final = tuple(
    f"{ROOT}/dev1/{each}" for each in ("assignment", "command", "feedback", "fleet/time")
)
OTHERS: Final = tuple(topic.replace("dev1", "dev2") for topic in (*OWN, *TO_OWN))
SHARED: Final = tuple(f"{ROOT}/_fleet/{x}" for x in ("index", "meta/7.x.json", f"blob/{BLOB}"))
ASKED: Final = tuple(f"{ROOT}/_fleet/{each}" for each in ("ask", f"want/{BLOB}"))
# By client id, which in these tests is the user's; the plug-in knows no such patterns.
AUTHORITY: Final = f"{ROOT}/_fleet/authority"
CERTIFICATE: Final = {who: f"{ROOT}/_fleet/provision/{who}" for who in ("dev1", PROVISIONER)}
REPLIES: Final = {who: f"{topic}/reply" for who, topic in CERTIFICATE.items()}
# Home Assistant's; what is announced of one device is no other's.
ANNOUNCED: Final = {
    who: f"homeassistant/device/edgeslm_{level}/m/config"
    for who, level in {
        "dev1": "dev1",
        "dev2": "dev2",
        DOTTED: "dev_3-42c35d79",
        "eyes": "eyes",
        PROVISIONER: PROVISIONER,
    }.items()
}
ELSEWHERE: Final = (
    "homeassistant/device/edgeslm_dev1",
    "homeassistant/sensor/edgeslm_dev1/m/config",
    "homeassistant/status",
    "plant/dev1/log",
    "plant/dev2/log",
    "other/topic",
    f"{ROOT}/eyes/status",
    f"{ROOT}/dev1/fleet",
    f"{ROOT}/dev1/fleet/reply/n/more",
    f"{ROOT}/dev1/results",
    f"{ROOT}/_fleet/meta",
    f"{ROOT}/dev1",
)
TOPICS: Final = (
    *(*OWN, *TO_OWN, *OTHERS, *SHARED, AUTHORITY, *ASKED, *ELSEWHERE),
    *(*CERTIFICATE.values(), *REPLIES.values(), *ANNOUNCED.values()),
)
JUDGED: Final = frozenset(f"{ROOT}/{device}/feedback" for device in ("dev1", "dev2"))
SEEN: Final = frozenset(
    f"{ROOT}/{device}/{each}" for device in ("dev1", "dev2") for each in SAID
) | {f"{ROOT}/eyes/status"}
MAY_PUBLISH: Final = {
    "dev1": frozenset((*OWN, *ASKED, CERTIFICATE["dev1"], ANNOUNCED["dev1"])),
    PROVISIONER: frozenset((CERTIFICATE[PROVISIONER],)),
    SERVICE: frozenset((*TO_OWN, *(t for t in OTHERS if t.replace("dev2", "dev1") in TO_OWN)))
    | frozenset((*SHARED, AUTHORITY, *REPLIES.values())),
    "eyes": frozenset[str](),
    "hand": JUDGED,
}
MAY_READ: Final = {
    "dev1": frozenset((*TO_OWN, *SHARED, AUTHORITY, "plant/dev1/log", REPLIES["dev1"])),
    PROVISIONER: frozenset((REPLIES[PROVISIONER], AUTHORITY)),
    SERVICE: SEEN
    | frozenset((*ASKED, SHARED[1], *CERTIFICATE.values()))
    | {t for t in (*OWN, *OTHERS) if t.endswith(("/reply/n", "/reply"))},
    "eyes": SEEN,
    "hand": SEEN | {f"{topic}/reply" for topic in JUDGED},
}
KINDS: Final = ("acl", "dynamic-security", "mosquitto-ctrl")


@pytest.fixture(scope="module", params=KINDS)
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Mosquitto]]:
    folder = tmp_path_factory.mktemp("broker")
    if request.param == "acl":
        made = with_acl(folder, ACCESS, USERS)
    else:
        script = request.param == "mosquitto-ctrl"
        made = with_dynamic_security(folder, ACCESS, USERS, script=script)
    yield request.param, made
    made.kill()


def settled(heard: list[tuple[str, bytes]]) -> None:
    """Wait until nothing more comes."""
    count = -1
    while count != len(heard):
        count = len(heard)
        time.sleep(0.3)


def by_any_client(kind: str, user: str, topics: dict[str, str]) -> frozenset[str]:
    """Return what the plug-in's rules grant besides, since they cannot name a client id."""
    return frozenset(topics.values()) if kind != "acl" and user in topics else frozenset()


@pytest.mark.parametrize("user", sorted(MAY_PUBLISH))
def test_what_may_not_be_published_reaches_nobody(broker: tuple[str, Mosquitto], user: str) -> None:
    kind, mosquitto = broker
    with Peer(mosquitto.port, WATCHER) as watcher, Peer(mosquitto.port, user) as peer:
        assert watcher.subscribe("#")
        taken = {topic for topic in TOPICS if peer.publish(topic, b"x")}
        settled(watcher.heard)
        arrived = {topic for topic, payload in watcher.heard if payload == b"x"}
    # The patterns of an ACL file hold for the service too: it may ask itself for something.
    patterns = set(ASKED) if (kind, user) == ("acl", SERVICE) else set()
    may = MAY_PUBLISH[user] | by_any_client(kind, user, CERTIFICATE)
    assert arrived - patterns == may
    assert taken == arrived


@pytest.mark.parametrize("user", sorted(MAY_READ))
def test_what_may_not_be_read_is_not_delivered(broker: tuple[str, Mosquitto], user: str) -> None:
    kind, mosquitto = broker
    with Peer(mosquitto.port, WATCHER) as watcher:
        # Of those that are retained a part was there before.
        before = [topic for number, topic in enumerate(TOPICS) if number % 2]
        for topic in before:
            assert watcher.publish(topic, b"before", retain=True)
        with Peer(mosquitto.port, user) as peer:
            granted = {topic for topic in TOPICS if peer.subscribe(topic)}
            for topic in TOPICS:
                assert watcher.publish(topic, b"now")
            settled(peer.heard)
            now = {topic for topic, payload in peer.heard if payload == b"now"}
            may = MAY_READ[user] | by_any_client(kind, user, REPLIES)
            if (kind, user) == ("acl", SERVICE):  # its patterns hold for the service too
                may |= {*SHARED, AUTHORITY}
            if (kind, user) == ("acl", "eyes"):  # and are taken back from who is no device
                may -= {f"{ROOT}/eyes/status"}
            assert now == may
            old = {topic for topic, payload in peer.heard if payload == b"before"}
            assert old == may & set(before)
            if kind != "acl":  # mosquitto's ACL files grant all, and deliver what may be read
                assert granted == may
        for topic in before:
            watcher.publish(topic, b"", retain=True)


@pytest.mark.parametrize("wide", ["#", "+/#", f"{ROOT}/#", f"{ROOT}/+/+", f"{ROOT}/dev2/#"])
def test_a_wildcard_reaches_no_further(broker: tuple[str, Mosquitto], wide: str) -> None:
    _, mosquitto = broker
    with Peer(mosquitto.port, WATCHER) as watcher, Peer(mosquitto.port, "dev1") as peer:
        peer.subscribe(wide)
        for topic in TOPICS:
            assert watcher.publish(topic, b"now")
        settled(peer.heard)
        may = MAY_READ["dev1"] | by_any_client(broker[0], "dev1", REPLIES)
        assert {topic for topic, _ in peer.heard} <= may


@pytest.mark.parametrize("device", ["dev1", DOTTED])
def test_a_device_announces_itself_and_no_other_to_home_assistant(
    broker: tuple[str, Mosquitto], device: str
) -> None:
    _, mosquitto = broker
    with Peer(mosquitto.port, device) as peer:
        taken = {who for who, topic in ANNOUNCED.items() if peer.publish(topic, b"x", retain=True)}
        assert taken == {device}
    with Peer(mosquitto.port, WATCHER) as late:
        assert late.subscribe("homeassistant/#")
        settled(late.heard)
        assert late.heard == [(ANNOUNCED[device], b"x")]
        assert late.publish(ANNOUNCED[device], b"", retain=True)


def test_who_is_not_asked_to_allows_no_announcements() -> None:
    assert "homeassistant" not in acl_file(Access(ROOT, devices=["dev1", DOTTED]))


def test_the_services_processes_may_share(broker: tuple[str, Mosquitto]) -> None:
    _, mosquitto = broker
    shared = [
        f"$share/edgeslm-fleet/{each}" for each in (f"{ROOT}/_fleet/want/+", f"{ROOT}/+/events")
    ]
    with Peer(mosquitto.port, SERVICE) as service, Peer(mosquitto.port, "dev1") as device:
        assert all(service.subscribe(each) for each in shared)
        assert device.publish(ASKED[1], b"x")
        assert device.publish(f"{ROOT}/dev1/events", b"x")
        settled(service.heard)
        assert len(service.heard) == 2
    with Peer(mosquitto.port, WATCHER) as watcher, Peer(mosquitto.port, "dev1") as thief:
        thief.subscribe(f"$share/edgeslm-fleet/{ROOT}/+/events")
        assert watcher.publish(f"{ROOT}/dev2/events", b"x")
        settled(thief.heard)
        assert not thief.heard


def test_agent_updater_and_server_need_no_more(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    for version in (1, 2):
        fleet.offer(version)
    access = Access(ROOT, inputs=["plant/+"])
    mosquitto = with_acl(tmp_path / "broker", access, (DEVICE, SERVICE))
    passwords = {user: tmp_path / user for user in (DEVICE, SERVICE)}
    for user, file in passwords.items():
        file.write_text(secret(user))
    argv = [sys.executable, "-m", "edgeslm", "fleet", "publish", "--username", SERVICE]
    argv += ["--repository", str(fleet.repository.folder), "--broker"]
    argv += [f"127.0.0.1:{mosquitto.port}", "--password-file", str(passwords[SERVICE])]
    server = subprocess.Popen(argv, env={**os.environ, "EDGESLM_FLEET_PASSPHRASE": PASSPHRASE})
    uplink = {"host": "127.0.0.1", "port": mosquitto.port, "username": DEVICE}
    agent = AgentProcess(
        tmp_path / "device",
        mosquitto.port,
        device_id=DEVICE,
        profile=fleet.profile,
        uplink={**uplink, "password_file": passwords[DEVICE]},
        models={MODEL: {"bundle": fleet.bundles[1], "workers": 1}},
        routes={"r": {"topic": "plant/+", "models": [MODEL]}},
        update={"root": fleet.root, "dir": tmp_path / "device" / "updater", "load_s": 20.0},
    )
    updater = UpdaterProcess(agent)
    try:
        agent.start()
        updater.start()
        fleet.assign(2)
        updater.wait_for("update_committed", version=2)
        with Peer(mosquitto.port, WATCHER) as watcher:
            assert watcher.subscribe(f"{ROOT}/{DEVICE}/#")

            def answered() -> bool:
                watcher.publish("plant/a", b"hello")
                time.sleep(0.2)
                return any("/results/" in topic for topic, _ in watcher.heard)

            poll(answered, "an answer")
            retained = {topic.rpartition("/")[2]: json.loads(p) for topic, p in watcher.heard[:4]}
        assert retained["status"]["online"]
        assert retained["update"]["models"][0]["version"] == 2
        assert {"state", "update", "status"} <= retained.keys()
    finally:
        updater.kill()
        agent.kill()
        server.kill()
        server.wait(10)
        mosquitto.kill()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"inputs": ["plant/#/x"]}, "elsewhere than alone"),
        ({"inputs": ["edgeslm/+/dev2/state"]}, "would let a device read"),
        ({"inputs": ["#"]}, "would let a device read"),
        ({"inputs": ["plant/x\ntopic readwrite #"]}, "cannot hold"),
        ({"service": "a b"}, "not a user"),
        ({"viewers": ["x\nuser y"]}, "not a user"),
        ({"viewers": ["eyes", "eyes"]}, "given twice"),
        ({"devices": ["+"]}, "not a user"),
        ({"discovery": "home/+"}, "a wildcard"),
        ({"discovery": "home\ntopic readwrite #"}, "cannot hold"),
        ({"discovery": ""}, "homeassistant"),
        ({"discovery": ROOT}, "would let a device write"),
    ],
)
def test_what_cannot_stand_there_is_refused(more: dict[str, object], says: str) -> None:
    with pytest.raises(BrokerConfigError, match=says):
        Access(ROOT, **more)  # type: ignore[arg-type]


def test_who_was_revoked_and_enrolled_anew_is_let_in_again(tmp_path: Path) -> None:
    access = Access(ROOT, devices=["dev1"])
    mosquitto = with_dynamic_security(tmp_path, access, ("dev1",), script=False)
    argv = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(mosquitto.port), "-u", "dev1"]
    argv += ["-P", secret("dev1"), "-q", "1", "-t", f"{ROOT}/dev1/status", "-m", "x"]

    def gets_in() -> bool:
        done = subprocess.run(argv, capture_output=True, check=False, timeout=20)
        return done.returncode == 0

    def told(made: Access, name: str) -> None:
        commands = json.loads(dynamic_security(made))["commands"]
        control(mosquitto, [each for each in commands if each["command"] == name])

    try:
        assert gets_in()
        told(Access(ROOT, revoked=["dev1"]), "disableClient")
        assert not gets_in()
        told(access, "enableClient")
        assert gets_in()
    finally:
        mosquitto.kill()


def test_a_shared_input_is_read_as_what_it_shares() -> None:
    text = acl_file(Access(ROOT, inputs=["$share/group/plant/#"]))
    assert "pattern read plant/#" in text.splitlines()


def test_the_command_prints_what_the_repository_says(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('topic_root = "acme/edge"\n')
    argv = [
        sys.executable,
        "-m",
        "edgeslm",
        "fleet",
        "broker-config",
        "--repository",
        str(tmp_path),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "pattern write acme/edge/%u/status" in done.stdout.splitlines()
    more = ["--kind", "dynamic-security", "--device", "d1", "--input", "plant/#"]
    done = subprocess.run([*argv, *more], capture_output=True, text=True, check=True)
    access = Access("acme/edge", inputs=["plant/#"], devices=["d1"])
    assert done.stdout == dynamic_security(access)
    said = ["--homeassistant", "--device", DOTTED]
    done = subprocess.run([*argv, *said], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "pattern write homeassistant/device/edgeslm_%u/+/config" in lines
    assert ANNOUNCED[DOTTED].replace("/m/", "/+/") in lines[lines.index(f"user {DOTTED}") + 1]
    done = subprocess.run([*argv, *more[:2]], capture_output=True, text=True, check=False)
    assert (done.returncode, "--device" in done.stderr) == (2, True)
    assert FleetConfig().topic_root == ROOT
