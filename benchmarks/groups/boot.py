"""From the start of the agent's unit to its first answer, under a systemd that has booted."""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import Final

from benchmarks import bundles, container
from benchmarks.container import Container
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from edgeslm.cli.imaging.plan import Given, plan
from edgeslm.cli.imaging.root import lay
from edgeslm.contract.topics import DEFAULT_ROOT, Topics
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.profiles import detect_profile

_DEVICE: Final = "press-hall-7"
_TOPIC: Final = "plant/log"
_UNIT: Final = "edgeslm"
_VERDICTS: Final = "/var/lib/edgeslm/verdicts"
_BROKER: Final = ("-h", "127.0.0.1", "-q", "1", "-V", "5")
_LIMIT_S: Final = 120.0
_TIME: Final = 315_532_800  # 1980-01-01


def boot(setup: Setup) -> dict[str, Measured]:
    """A text waits at the broker, in the session of an agent that is stopped; then it is started.

    The golden file's verdict is kept from one start to the next, as on a device; once it is not.
    """
    device = _device(setup)
    with device:
        ear = (*_BROKER, "-i", "ear", "-c", "-x", "3600", "-t", f"{_base()}/#")
        device.run("mosquitto_sub", *ear, "-E")
        _first(device, ear, number=0)  # so that there is a session, and files in the page cache
        took = []
        for number in range(1, setup.rounds + 1):
            setup.tell(f"start {number} of {setup.rounds}")
            took.append(_first(device, ear, number=number))
        device.run("systemctl", "stop", _UNIT)
        device.run("rm", "-r", _VERDICTS)
        anew = _first(device, ear, number=setup.rounds + 1)
    note = f"{anew:.2f} s at a bundle's first start, which replays its golden file"
    value = statistics.median(took)
    return {"unit-start": Measured(value, 0, (min(took), max(took)), note=note)}


def _base() -> str:
    return f"{Topics(DEFAULT_ROOT, _DEVICE).base}/results"


def _device(setup: Setup) -> Container:
    """Return a device that has the plant's model, as `edgeslm image` lays it."""
    bundle = bundles.plant(setup)
    name = open_bundle(bundle, verify=False).manifest.name
    profile = detect_profile()
    setup.tell("making a root file system")
    root = container.installed(setup.work / "root", setup.cache)
    config = setup.work / "agent.toml"
    lines = [
        f'device_id = "{_DEVICE}"\nprofile = "{profile.name}"',
        '[uplink]\nhost = "127.0.0.1"',
        f'[models.{name}]\nbundle = "/usr/share/edgeslm/bundles/{name}"',
        f'[routes.log]\ntopic = "{_TOPIC}"\nmodels = ["{name}"]',
    ]
    config.write_text("\n".join([*lines, ""]), "utf-8")
    given = Given(
        root=root,
        overlay=False,
        profile=profile,
        profile_file=None,
        config=config,
        bundles=[bundle],
        root_of_trust=None,
    )
    lay(root, plan(given).items, time=_TIME)
    return Container(root, setup.work / "device", states=("edgeslm",))


def _first(device: Container, ear: tuple[str, ...], *, number: int) -> float:
    """Return the seconds from the unit's start to the answer to a text that waits for it.

    Raises:
        RunFailedError: it does not come.
    """
    if number:
        device.run("systemctl", "stop", _UNIT)
    text = f"filler {number} temperature 71.9 C"
    if number:
        device.run("mosquitto_pub", *_BROKER, "-t", _TOPIC, "-m", text)
    heard = device.start("mosquitto_sub", *ear, "-C", "1", stdout=subprocess.DEVNULL)
    begun = time.perf_counter()
    device.run("systemctl", "start", *(("--no-block",) if number else ()), _UNIT)
    if not number:
        device.run("mosquitto_pub", *_BROKER, "-t", _TOPIC, "-m", text)
    try:
        heard.wait(_LIMIT_S)
    except subprocess.TimeoutExpired:
        heard.kill()
        msg = f"no answer: {device.says('journalctl', '-n', '20', '--no-pager', '-u', _UNIT)}"
        raise RunFailedError(msg) from None
    return time.perf_counter() - begun
