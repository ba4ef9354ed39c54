"""Files that people and tools write."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.contract.base import parse_json, parse_toml
from edgeslm.contract.manifest import Manifest
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.settings import load_settings
from edgeslm.contract.topics import filter_problem, matches, overlap
from edgeslm.core.filters import FilterError
from edgeslm.core.filters import parse as parse_filter
from edgeslm.core.rollout import waves_of
from edgeslm.errors import ConfigError, InvalidFileError
from edgeslm.fleet.plans import read_plan
from edgeslm.runtime.golden import parse_golden
from tests.fuzz.harness import fuzz

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
GOLDEN = (
    b'{"request": {"text": "press 7: 71.9 C", "source": "a", "time": 1.5, "key": "k"}, "expect": '
    b'{"label": "normal", "accepted": null, "score": 0.1, "confidence": 0.9, "p_value": 0.5}}\n'
    b'{"request": {"text": "\\u20ac \\"x\\""}, "expect": {"label": "anomaly", "score": 1, '
    b'"confidence": 0.5}, "near_threshold": true}\n'
)


def test_settings(tmp_path: Path, targets: int) -> None:
    file = tmp_path / "agent.toml"

    def parse(raw: bytes) -> None:
        file.write_bytes(raw)
        load_settings(file)

    whole = (
        b'device_id = "d"\ntopic_root = "a/b"\nlog_level = "debug"\nstate_interval_s = 5\n'
        b'uplink = {host = "h", port = 1883, protocol = "3.1.1", tls = {}}\n'
        b'[models."a.b-c"]\nbundle = "x"\nworkers = 2\n'
        b'[routes.r]\ntopic = "$share/g/t/#"\nmodels = ["a.b-c"]\ntext = "/a~1b/0"\n'
    )
    seeds = [(EXAMPLES / "agent.toml").read_bytes(), whole]
    fuzz(parse, seeds, allowed=(ConfigError,), targets=targets)


def test_device_profiles(targets: int) -> None:
    def parse(raw: bytes) -> None:
        parse_toml(DeviceProfile, raw, file="p.toml", remedy="Correct it.")

    shipped = [path.read_bytes() for path in sorted((ROOT / "device-profiles").glob("*.toml"))]
    seeds = [(EXAMPLES / "profile.toml").read_bytes(), *shipped]
    fuzz(parse, seeds, allowed=(InvalidFileError,), targets=targets)


def test_manifests(targets: int) -> None:
    def parse(raw: bytes) -> None:
        manifest = parse_json(Manifest, raw, file="manifest.json", remedy="Export again.")
        for artifact in manifest.artifacts:
            assert not artifact.path.startswith("/")
            assert ".." not in artifact.path.split("/")

    seeds = [(EXAMPLES / "manifest.json").read_bytes()]
    fuzz(parse, seeds, allowed=(InvalidFileError,), targets=targets)


def test_golden_files(targets: int) -> None:
    def parse(raw: bytes) -> None:
        assert parse_golden(raw)

    fuzz(parse, [GOLDEN], allowed=(InvalidFileError,), targets=targets)


@pytest.mark.parametrize("other", ["#", "+/b", "edgeslm/v1/d/#"])
def test_topic_filters(other: str, targets: int) -> None:
    def parse(raw: bytes) -> None:
        text = raw.decode("utf-8", "surrogateescape")
        problem = filter_problem(text)
        if problem is None:
            assert overlap(text, other) is overlap(other, text)
        if problem is None and not {"+", "#", "$"} & set(text):
            assert matches(text, text)

    fuzz(parse, [b"plant/+/log", b"$share/g/a/#", b"a//b"], targets=targets)


FILTERS = (
    b"profile = pi-4 and tag.hall in (A, B) and not (model.press.version >= 7 or heard_ago > 2h)",
    b"online or online = false and tag.\"old hall\" ~ 'x*?' or model.'a.version'.state = serving",
)


def test_filters(targets: int) -> None:
    def parse(raw: bytes) -> None:
        found = parse_filter(raw.decode("utf-8", "surrogateescape"))
        assert parse_filter(str(found)) == found

    fuzz(parse, FILTERS, allowed=(FilterError,), targets=targets)


def test_plans(tmp_path: Path, targets: int) -> None:
    file = tmp_path / "plan.toml"
    devices = {f"d{n}": f"type-{n % 3}" for n in range(50)}

    def parse(raw: bytes) -> None:
        file.write_bytes(raw)
        waves = waves_of(read_plan(file), devices, salt="1")
        assert set(waves) == set(devices)

    whole = (
        b'model = "m"\nversion = 3\nwaves = ["5", "0.5%", "20%", "100%"]\ntargets = "live"\n'
        b'quiet_s = 60\ndeadline_s = 60\non_breach = "pause"\nlate = "write_off"\n'
        b'[limits]\nfailed = "0.125%"\nsilent = "100%"\nalarm_ratio = 2\nanswers = 1\n'
    )
    seeds = [(EXAMPLES / "plan.toml").read_bytes(), whole]
    fuzz(parse, seeds, allowed=(InvalidFileError,), targets=targets)
