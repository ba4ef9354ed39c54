"""The units of provisioning under a real systemd, with a stand-in for `edgeslm` and for stunnel."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from benchmarks import container
from benchmarks.container import Container
from tests.conftest import ROOT

UNITS: Final = ("edgeslm.service", "edgeslm-updater.service", "edgeslm-provision.service",
                "edgeslm-provision.timer", "edgeslm-stunnel.service")  # fmt: skip
ENABLED: Final = tuple(unit for unit in UNITS if "updater" not in unit)
STATES: Final = ("edgeslm", "edgeslm-updater", "edgeslm-provision")
FAILURES: Final = 2  # of the fleet, before it answers
# Gets a key at its third run; until then the agent waits, as ours does.
EDGESLM: Final = f"""\
#!/usr/bin/python3
import os, socket, sys, time
from pathlib import Path
folder = Path("/var/lib/edgeslm-provision")
key, tunnel, runs = folder / "key.pem", folder / "tunnel", folder / "runs"
if sys.argv[1] == "provision":
    count = int(runs.read_text()) + 1 if runs.exists() else 1
    runs.write_text(str(count))
    if count <= {FAILURES}:
        sys.exit(75)
    key.write_text("key")
    tunnel.mkdir(mode=0o750, exist_ok=True)
    (tunnel / "stunnel.conf").touch()
    sys.exit()
def tell(what):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.sendto(what, os.environ["NOTIFY_SOCKET"])
if not key.exists():
    if "--wait" not in sys.argv:
        sys.exit(75)
    print("waits", flush=True)
    tell(b"READY=1")
    while not key.exists():
        time.sleep(1)
        tell(b"WATCHDOG=1")
print("has read", key.read_text(), flush=True)
try:
    key.write_text("another")
except OSError:
    print("has not written", flush=True)
while not (tunnel / "socket").exists():  # stunnel begins when there is a key
    time.sleep(1)
    tell(b"WATCHDOG=1")
with socket.socket(socket.AF_UNIX) as way:
    way.connect(str(tunnel / "socket"))
    print("has connected", flush=True)
while True:
    tell(b"READY=1\\nWATCHDOG=1")
    time.sleep(5)
"""
STUNNEL: Final = """\
#!/usr/bin/python3
import os, signal, socket, time
from pathlib import Path
tunnel = Path("/var/lib/edgeslm-provision/tunnel")
signal.signal(signal.SIGHUP, lambda *_: print("reads again", flush=True))
way = socket.socket(socket.AF_UNIX)
way.bind(str(tunnel / "socket"))
way.listen()
(tunnel / "pid").write_text(str(os.getpid()))
print("listens", flush=True)
while True:
    time.sleep(60)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(container.problem() is not None, reason=str(container.problem())),
]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Container]:
    root = tmp_path / "root"
    root.mkdir()
    tar = container._debian(ROOT / ".cache")  # noqa: SLF001 -- without edgeslm in it
    subprocess.run(["tar", "-C", root, "-xf", tar], check=True)
    units = root / "etc/systemd/system"
    for unit in UNITS:
        shutil.copy(ROOT / "systemd" / unit, units)
    (units / "edgeslm-provision.service.d").mkdir()
    soon = units / "edgeslm-provision.service.d" / "soon.conf"
    soon.write_text("[Service]\nRestartSec=2\n")
    (units / "mosquitto.service").symlink_to("/dev/null")
    (units / "plant.service").write_text(  # for which a container waits
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    shutil.copy(ROOT / "systemd" / "sysusers.conf", root / "usr/lib/sysusers.d/edgeslm.conf")
    (root / "etc/edgeslm").mkdir()
    (root / "etc/edgeslm/agent.toml").touch()
    for name, text in (("edgeslm", EDGESLM), ("stunnel", STUNNEL)):
        (root / "usr/bin" / name).write_text(text)
        (root / "usr/bin" / name).chmod(0o755)
    for name in STATES:
        (root / "var/lib" / name).mkdir(exist_ok=True)
    argv = ["systemctl", f"--root={root}", "enable", "plant.service", *ENABLED]
    subprocess.run(["systemd-sysusers", f"--root={root}"], check=True, capture_output=True)
    subprocess.run(argv, check=True, capture_output=True)
    with Container(root, tmp_path / "device", STATES) as booted:
        yield booted
    shutil.rmtree(root)


def active(device: Container, unit: str) -> bool:
    return device.says("systemctl", "is-active", unit).strip() == "active"


def said(device: Container, unit: str) -> str:
    return device.says("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")


def wait(device: Container, unit: str, what: str, times: int = 1) -> None:
    until = time.monotonic() + 90
    while said(device, unit).count(what) < times:
        assert time.monotonic() < until, said(device, "edgeslm*")[-3000:]
        time.sleep(0.5)


def test_who_was_not_told_waits_and_begins_when_the_fleet_has_answered(
    device: Container,
) -> None:
    wait(device, "edgeslm.service", "has connected")
    agent = said(device, "edgeslm.service")
    assert agent.count("waits") == 1
    assert "status=" not in agent, "it was not restarted"
    assert "has read key" in agent
    assert "has not written" in agent
    assert not active(device, "edgeslm-updater"), "nobody has enabled it"
    assert active(device, "edgeslm-provision.timer")
    mode = device.run("stat", "-c", "%A %U %G", "/var/lib/edgeslm-provision").split()
    assert mode == ["drwxr-x---", "edgeslm-provision", "edgeslm"]
    # Who is neither agent nor updater.
    folder = "/var/lib/edgeslm-provision/tunnel"
    entered = device.says("runuser", "-u", "nobody", "--", "sh", "-c", f"cd {folder} && echo in")
    assert entered == ""

    device.run("systemctl", "start", "edgeslm-provision")
    wait(device, "edgeslm-stunnel.service", "reads again")
    device.run("systemctl", "kill", "--signal=KILL", "edgeslm-stunnel")
    wait(device, "edgeslm-stunnel.service", "listens", times=2)
    assert said(device, "edgeslm.service").count("has connected") == 1, "it was left alone"
