"""docs/mosquitto.conf works where its header says: behind the main file of the package."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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
