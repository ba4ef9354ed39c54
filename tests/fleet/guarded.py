"""A mosquitto that knows who may do what, in each of the ways that we print, and its clients."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgeslm.fleet.broker_config import Access, acl_file, dynamic_security, mosquitto_ctrl
from tests.mosquitto import Mosquitto

WATCHER: Final = "watcher"  # may do everything
PLUGIN: Final = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so"
_WAIT_S: Final = 10.0


def secret(user: str) -> str:
    return f"password of {user}"


def with_acl(folder: Path, access: Access, users: Sequence[str]) -> Mosquitto:
    """A broker with an `acl_file`."""
    broker = Mosquitto(folder)
    passwords = folder / "passwords"
    passwords.touch(0o600)
    for user in (*users, WATCHER):
        argv = ["mosquitto_passwd", "-b", str(passwords), user, secret(user)]
        subprocess.run(argv, check=True, capture_output=True)
    acl = folder / "acl"
    acl.write_text(acl_file(access) + f"\nuser {WATCHER}\ntopic readwrite #\n")
    broker.configure(f"allow_anonymous false\npassword_file {passwords}\nacl_file {acl}")
    broker.start()
    return broker


def with_dynamic_security(
    folder: Path, access: Access, users: Sequence[str], *, script: bool
) -> Mosquitto:
    """A broker with the plug-in, told by our JSON or by our script."""
    broker = Mosquitto(folder)
    config = folder / "dynamic-security.json"
    argv = ["mosquitto_ctrl", "dynsec", "init", str(config), "admin", secret("admin")]
    subprocess.run(argv, check=True, capture_output=True)
    broker.configure(f"allow_anonymous false\nplugin {PLUGIN}\nplugin_opt_config_file {config}\n")
    broker.start()
    at = ["-h", "127.0.0.1", "-p", str(broker.port), "-u", "admin", "-P", secret("admin")]
    if script:
        file = folder / "commands.sh"
        # Clients first: the script would ask for their passwords.
        text = mosquitto_ctrl(access)
        for user in users:
            quoted = f"createClient {user}"
            assert quoted in text
            text = text.replace(quoted, f"{quoted} -p '{secret(user)}'")
        file.write_text(text)
        done = subprocess.run(["sh", str(file), *at], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
    else:
        control(broker, json.loads(dynamic_security(access))["commands"])
    passwords = [
        {"command": "setClientPassword", "username": user, "password": secret(user)}
        for user in users
    ]
    everything = [
        {"acltype": kind, "topic": "#", "priority": 0, "allow": True}
        for kind in ("publishClientSend", "publishClientReceive", "subscribePattern")
    ]
    role = {"command": "createRole", "rolename": "all", "acls": everything}
    watcher = {
        "command": "createClient",
        "username": WATCHER,
        "password": secret(WATCHER),
        "roles": [{"rolename": "all", "priority": 0}],
    }
    control(broker, [*passwords, role, watcher])
    return broker


def control(broker: Mosquitto, commands: list[dict[str, Any]]) -> None:
    """Give the plug-in commands as its administrator."""
    topic = "$CONTROL/dynamic-security/v1"
    with Peer(broker.port, "admin") as admin:
        admin.subscribe(f"{topic}/response")
        admin.publish(topic, json.dumps({"commands": commands}).encode())
        deadline = time.monotonic() + _WAIT_S
        while not admin.heard:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        responses = json.loads(admin.heard[0][1])["responses"]
        assert not [each for each in responses if "error" in each], responses


class Peer:
    """A client of MQTT 5 that keeps what it hears, and what the broker says to what it does."""

    def __init__(self, port: int, user: str) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._codes: dict[tuple[str, int], int] = {}
        self._ready = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=user, protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.username_pw_set(user, secret(user))
        self._client.on_connect = lambda *_: self._ready.set()
        self._client.on_message = lambda _c, _u, m: self.heard.append((m.topic, bytes(m.payload)))
        self._client.on_publish = lambda _c, _u, mid, code, _p: self._note("p", mid, code)
        self._client.on_subscribe = lambda _c, _u, mid, codes, _p: self._note("s", mid, codes[0])
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(_WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Return whether the broker says that it took it."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        return self._answer("p", info.mid) < 0x80

    def subscribe(self, topic_filter: str) -> bool:
        """Return whether the broker says that it grants it."""
        _, mid = self._client.subscribe(topic_filter, qos=1)
        assert mid is not None
        return self._answer("s", mid) < 0x80

    def _note(self, kind: str, mid: int, code: Any) -> None:
        self._codes[kind, mid] = code.value

    def _answer(self, kind: str, mid: int) -> int:
        deadline = time.monotonic() + _WAIT_S
        while (kind, mid) not in self._codes:
            assert time.monotonic() < deadline, "the broker does not answer"
            time.sleep(0.001)
        return self._codes[kind, mid]
