"""What pyproject.toml asks for is pinned, within its range."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
]
LINES = [
    line
    for file in sorted((ROOT / "packaging").glob("constraints*.txt"))
    for line in file.read_text().splitlines()
    if not line.startswith("#")
]
PINS = {canonicalize_name(name): version for name, _, version in (x.partition("==") for x in LINES)}


@pytest.mark.parametrize("asked", [r for r in ASKED if r.name != "edgeslm"], ids=str)
def test_a_dependency_is_pinned_within_its_range(asked: Requirement) -> None:
    assert asked.specifier.contains(PINS[canonicalize_name(asked.name)])


def test_a_pin_is_one_version_without_a_local_tag() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in LINES)


def test_every_dependency_is_explained() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    unexplained = {r.name for r in ASKED if r.name != "edgeslm" and r.name not in page}
    assert not unexplained


def test_no_python_is_claimed_on_which_the_set_up_has_not_run() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    ran = re.findall(
        r"^\| [^|]+ \| (3\.\d+) \| The (?:whole test suite|set-up)", page, re.MULTILINE
    )
    claimed = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: Python :: 3." in c]
    assert claimed == ran
