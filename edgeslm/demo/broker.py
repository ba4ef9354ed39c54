"""The demo's own broker on loopback: mosquitto if it is here, else the embedded one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgeslm.demo.errors import BrokerFailedError, MissingExtraError
from edgeslm.demo.processes import Child, accepts, free_port

Wanted = Literal["auto", "mosquitto", "embedded"]
# Debian keeps it where a user's PATH does not look.
_SYSTEM_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_START_S: Final = 10.0

_MOSQUITTO_CONF: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
# Without it a reply waits up to 40 ms for the next segment.
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 10000
connection_messages false
log_type error
log_type warning
"""
# rumqttd's names. It binds every interface and takes 20 KB unless told otherwise.
_EMBEDDED_TOML: Final = """\
id = 0

[router]
id = 0
max_connections = 64
max_outgoing_packet_count = 1000
max_segment_size = 104857600
max_segment_count = 10

[v5.1]
name = "demo"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 1000
dynamic_filters = true
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which broker, and why, for people."""

    kind: Literal["mosquitto", "embedded"]
    program: str
    said: str


def find_mosquitto() -> str | None:
    """The mosquitto program, also where PATH does not look."""
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    return shutil.which("mosquitto", path=folders)


def has_embedded() -> bool:
    """Whether the embedded broker's package is installed."""
    return importlib.util.find_spec("iotcore") is not None


def choose(
    wanted: Wanted,
    *,
    mosquitto: Callable[[], str | None] = find_mosquitto,
    embedded: Callable[[], bool] = has_embedded,
) -> Choice:
    """Decide which broker to start.

    Raises:
        MissingExtraError: what is wanted is not installed; says what to install.
    """
    program = mosquitto() if wanted != "embedded" else None
    if program:
        return Choice("mosquitto", program, "mosquitto")
    if wanted == "mosquitto":
        msg = "mosquitto is not installed: apt install mosquitto, or use --broker embedded"
        raise MissingExtraError(msg)
    if not embedded():
        msg = (
            "no MQTT broker: apt install mosquitto, or for the embedded one (package iotcore) "
            "make venv in a checkout"
        )
        raise MissingExtraError(msg)
    why = "" if wanted == "embedded" else ", since mosquitto is not installed"
    return Choice("embedded", sys.executable, f"the embedded broker (iotcore){why}")


def start(choice: Choice, folder: Path) -> tuple[Child, int]:
    """Start the broker on a free loopback port, its files in `folder`; return it and the port.

    Raises:
        BrokerFailedError: it does not take connections; quotes what it said.
    """
    port = free_port()
    if choice.kind == "mosquitto":
        conf = folder / "mosquitto.conf"
        conf.write_text(_MOSQUITTO_CONF.format(port=port))
        argv = [choice.program, "-c", str(conf)]
    else:
        conf = folder / "broker.toml"
        conf.write_text(_EMBEDDED_TOML.format(port=port))
        argv = [choice.program, "-m", "iotcore", "--config", str(conf), "--log-level", "CRITICAL"]
    try:
        child = Child(choice.kind, argv, log=folder / "broker.log")
    except OSError as err:
        msg = f"cannot start {choice.program}: {err.strerror}"
        raise BrokerFailedError(msg) from None
    if not accepts(port, child, within_s=_START_S):
        child.stop()
        msg = f"{choice.said} takes no connections: {child.last_words()}"
        raise BrokerFailedError(msg)
    return child, port
