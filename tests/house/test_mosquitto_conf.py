"""docs/mosquitto.conf works where its header says: behind the main file of the package."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgeslm.contract.fleet import BLOCK_BYTES
from tests.mosquitto import Mosquitto

OURS = Path(__file__).parents[2] / "docs" / "mosquitto.conf"
# Debian's and Ubuntu's /etc/mosquitto/mosquitto.conf, its places moved.
MAIN = """\
pid_file {folder}/mosquitto.pid

persistence true
persistence_location {folder}/

log_dest file {folder}/mosquitto.log

include_dir {folder}/conf.d
"""

pytestmark = pytest.mark.broker


@pytest.fixture
def packaged(tmp_path: Path) -> Iterator[Mosquitto]:
    """The broker of a fresh installation, with our file in conf.d, not started."""
    broker = Mosquitto(tmp_path)
    user = "user root\n" if os.geteuid() == 0 else ""  # else it could not write to our folder
    broker.conf.write_text(MAIN.format(folder=tmp_path) + user)
    (tmp_path / "conf.d").mkdir()
    settings = OURS.read_text("utf-8").replace("listener 1883 ", f"listener {broker.port} ")
    (tmp_path / "conf.d" / "edgeslm.conf").write_text(settings, "utf-8")
    yield broker
    broker.kill()


def test_it_starts_behind_the_packages_own_file_and_keeps_what_is_retained(
    packaged: Mosquitto,
) -> None:
    at = ("-h", "127.0.0.1", "-p", str(packaged.port), "-q", "1", "-t", "plant/press-7/log")
    packaged.start()
    subprocess.run(["mosquitto_pub", *at, "--retain", "-m", "kept"], check=True, timeout=10)
    packaged.stop()
    packaged.start()
    reading = ["mosquitto_sub", *at, "-C", "1", "-W", "10"]
    assert subprocess.run(reading, check=True, capture_output=True, timeout=20).stdout == b"kept\n"


BLOCKS = 400
STATES = 80
# MQTT 3.1.1: as "slow", kept alive for a minute; to all below "fleet", at QoS 1.
CONNECT = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04slow"
SUBSCRIBE = b"\x82\x0c\x00\x01\x00\x07fleet/#\x01"


def test_what_is_to_be_acknowledged_comes_behind_blocks_that_a_device_was_too_slow_for(
    packaged: Mosquitto,
) -> None:
    """Fewer `max_queued_messages` than blocks wait would have it dropped, and not only blocks."""
    packaged.start()
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    slow.settimeout(1.0)
    with slow:
        slow.connect(("127.0.0.1", packaged.port))
        slow.sendall(CONNECT)
        assert slow.recv(4) == b"\x20\x02\x00\x00"
        slow.sendall(SUBSCRIBE)
        assert slow.recv(5) == b"\x90\x03\x00\x01\x01"
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.connect("127.0.0.1", packaged.port)
        client.loop_start()
        block = b"B" * BLOCK_BYTES
        for number in range(BLOCKS):
            sent = client.publish("fleet/blob", block)
            if number % 20 == 0:  # not more than so many at once on our side
                sent.wait_for_publish(10)
        for number in range(STATES):
            client.publish("fleet/state", f"state-{number:03}", qos=1).wait_for_publish(10)
        client.disconnect()
        client.loop_stop()
        came = bytearray()
        while not came.endswith(b"state-%03d" % (STATES - 1)):
            came += slow.recv(1 << 20)
    assert (came.count(b"\x00\x0afleet/blob"), came.count(b"state-")) == (BLOCKS, STATES)
