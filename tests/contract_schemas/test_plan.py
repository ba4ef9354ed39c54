"""Plans of roll-outs: what is impossible is refused, with the name of what is wrong."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from edgeslm.contract.base import parse_json, parse_toml
from edgeslm.contract.rollout import Plan, share
from edgeslm.errors import InvalidFileError
from edgeslm.fleet.plans import read_plan

HEAD = 'model = "press"\nversion = 7\n'

# What the file says -> what the error names.
BAD = {
    "no model": ("version = 7", "model"),
    "no version": ('model = "press"', "version"),
    "a version that is a text": ('model = "press"\nversion = "7"', "version"),
    "version 0": ('model = "press"\nversion = 0', "version"),
    "an unknown key": (HEAD + "wave = []", "wave: unknown key"),
    "an unknown limit": (HEAD + "[limits]\nfail = '5%'", "limits.fail: unknown key"),
    "no waves": (HEAD + "waves = []", "waves"),
    "too many waves": (HEAD + f"waves = {['1'] * 33}", "waves"),
    "a wave of nobody": (HEAD + 'waves = ["0%", "100%"]', "one of no devices"),
    "a wave of 0": (HEAD + 'waves = ["0", "100%"]', "waves.0: not a number of devices or a share"),
    "more than all": (HEAD + 'waves = ["101%"]', "waves.0: not a number of devices or a share"),
    "a negative wave": (HEAD + 'waves = ["-1%", "100%"]', "waves.0"),
    "a wave as a number": (HEAD + "waves = [1]", "waves.0"),
    "waves that shrink": (HEAD + 'waves = ["10%", "5%", "100%"]', "each must reach further"),
    "waves that stand": (HEAD + 'waves = ["5", "5", "100%"]', "each must reach further"),
    "not everybody": (HEAD + 'waves = ["1%", "99%"]', "the last must be 100%"),
    "so many at last": (HEAD + 'waves = ["1%", "5000"]', "the last must be 100%"),
    "a share without percent": (HEAD + '[limits]\nfailed = "5"', "limits.failed: not a share"),
    "a limit below 1": (HEAD + "[limits]\nalarm_ratio = 0.5", "limits.alarm_ratio"),
    "a negative soak": (HEAD + "soak_s = -1", "soak_s"),
    "no deadline": (HEAD + "deadline_s = 0", "deadline_s"),
    "not finite": (HEAD + "soak_s = inf", "soak_s"),
    "no hours": (HEAD + 'hours = ["22-5"]', "hours.0: not hours, such as 22:00-05:30"),
    "another word": (HEAD + 'on_breach = "stop"', "on_breach"),
    "too long a filter": (HEAD + f'where = "{"x" * 2001}"', "where"),
    "a filter that is none": (
        HEAD + 'where = "profile ="',
        "where: character 10: found the end; expected a",
    ),
    "not TOML": ("model =", "not TOML"),
    "too long": ("#" * 70_000, "longer than 65536 bytes"),
}


@pytest.mark.parametrize(("text", "named"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(text)
    with pytest.raises(InvalidFileError) as err:
        read_plan(file)
    assert named in str(err.value)
    assert str(file) in str(err.value)
    assert "docs/rollouts.md lists every key." in str(err.value)
    assert err.value.code == "fleet.plan"


@pytest.mark.parametrize("path", ["", "missing.toml", "a\0b"])
def test_a_plan_that_cannot_be_read_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidFileError, match="Check the path"):
        read_plan(tmp_path / path)


def test_a_plan_of_its_model_alone_has_safe_defaults() -> None:
    plan = parse_toml(Plan, HEAD.encode(), file="p", remedy="r")
    assert plan.waves == ("1%", "10%", "100%")
    assert plan.on_breach == "abort"
    assert plan.quiet_s < plan.soak_s < plan.deadline_s
    assert parse_json(Plan, plan.model_dump_json(), file="p", remedy="r") == plan


@pytest.mark.parametrize(
    ("wave", "total", "expected"),
    [
        ("1%", 2000, 20),
        ("1%", 1999, 19),
        ("1%", 150, 1),
        ("1%", 5, 1),
        ("29%", 100, 29),
        ("0.125%", 8000, 10),
        ("33.333%", 3, 1),
        ("5", 3, 3),
        ("5", 100, 5),
        ("100%", 7, 7),
    ],
)
def test_a_wave_reaches_no_further_than_it_says(wave: str, total: int, expected: int) -> None:
    waves = (wave,) if wave == "100%" else (wave, "100%")
    plan = Plan(model="press", version=7, waves=waves)
    assert plan.reach(0, total) == expected


def test_a_share_is_exact() -> None:
    assert share("29%") * 100 == 29
    assert share("0.001%") == Fraction(1, 100_000)
