"""Scenarios are read strictly, and groups come to the number of devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeslm.simulate.scenario import FAULTS, Scenario, ScenarioError, read_scenario
from tests.simulate.play import SCENARIOS

GROUP = '[[group]]\nname = "all"\n'
DOCS = Path(__file__).parents[2] / "docs" / "simulator.md"


def read(tmp_path: Path, text: str, devices: int = 100) -> Scenario:
    file = tmp_path / "scenario.toml"
    file.write_text(text)
    return read_scenario(file, devices)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "model: Field required"),
        ('model = "press"\n', "group: Field required"),
        (f'model = "press"\nmodle = 1\n{GROUP}', "modle: unknown key"),
        (f'model = "Press"\n{GROUP}', "model: not a name"),
        (f'model = "press"\n[versions.x]\n{GROUP}', "versions: 'x' is not a version"),
        (f'model = "press"\n{GROUP}fault = "sad"\n', "group.0.fault: Input should be"),
        (f'model = "press"\n{GROUP}count = 1\nshare = 0.5\n', "count or share, not both"),
        (f'model = "press"\n{GROUP}{GROUP}', "two have the same name"),
        (f'model = "press"\n{GROUP}[[group]]\nname = "b"\n', "only one can be what"),
        (f'model = "press"\n{GROUP}count = 7\n', "the groups have 7 devices of 100"),
        (f'model = "press"\n{GROUP}count = 700\n', "the groups have 700 devices of 100"),
        ("model = ", "not TOML"),
    ],
)
def test_a_wrong_scenario_is_refused_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(said)):
        read(tmp_path, text)


def test_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="No such file"):
        read_scenario(tmp_path / "none.toml", 1)


def test_shares_and_counts_come_to_the_number_of_devices(tmp_path: Path) -> None:
    text = (
        f'model = "press"\n{GROUP}[[group]]\nname = "b"\nshare = 0.05\n'
        '[[group]]\nname = "c"\ncount = 3\n'
    )
    assert read(tmp_path, text).sizes(2000) == [1897, 100, 3]
    thirds = "".join(f'[[group]]\nname = "{n}"\nshare = 0.3333\n' for n in "abc")
    assert sum(read(tmp_path, f'model = "press"\n{thirds}').sizes(100)) == 100


def test_a_group_says_how_a_version_does_on_its_devices(tmp_path: Path) -> None:
    text = (
        'model = "press"\n[versions.2]\np99_ms = 30.0\n[[group]]\nname = "a"\n'
        'share = 0.5\nversions.2.p99_ms = 80.0\n[[group]]\nname = "b"\n'
    )
    found = read(tmp_path, text)
    first, second = found.group
    assert found.behaviour(first, 2).p99_ms == 80.0
    assert found.behaviour(second, 2).p99_ms == 30.0
    assert found.behaviour(second, 3).p99_ms == 20.0


@pytest.mark.parametrize("file", sorted(SCENARIOS.glob("*.toml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("devices", [60, 2000])
def test_those_that_ship_can_be_read(file: Path, devices: int) -> None:
    assert sum(read_scenario(file, devices).sizes(devices)) == devices


def test_the_page_shows_a_scenario_that_can_be_read_and_every_fault(tmp_path: Path) -> None:
    page = DOCS.read_text()
    [text] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert read(tmp_path, text, devices=100).group[0].versions["2"].p99_ms == 80.0
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", page, re.MULTILINE))
    assert rows.keys() - {"fault"} == FAULTS.keys()
