"""Profiles are chosen by what the device is, and read from hostile files without a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.manifest import Requirements
from edgeslm.errors import EXIT_CONFIG
from edgeslm.runtime import device
from edgeslm.runtime.device import Device, parse_cpuinfo, this_device
from edgeslm.runtime.profiles import ProfileError, detect_profile, load_profile, profile_names

VNNI = Device("x86_64", "new", frozenset({"avx2", "avx512_vnni"}))
X86 = """\
processor\t: 0
model name\t: Example CPU @ 2.4 GHz
flags\t\t: fpu avx2 avx512_vnni

processor\t: 1
model name\t: Other
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n"


def test_every_shipped_profile_is_valid_and_named_as_its_file() -> None:
    assert profile_names()
    assert [load_profile(name).name for name in profile_names()] == profile_names()


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ({"avx2", "avx512_vnni"}, "generic-x86_64"),
        ({"avx2", "avx_vnni"}, "generic-x86_64"),
        ({"avx2"}, "generic-x86_64-avx2"),
    ],
)
def test_detects_the_most_demanding_that_fits(features: set[str], name: str) -> None:
    assert detect_profile(Device("x86_64", "", frozenset(features))).name == name


def test_a_device_that_no_profile_fits_is_told_which_there_are() -> None:
    with pytest.raises(
        ProfileError, match=r"no device profile fits sparc64.*generic-x86_64"
    ) as caught:
        detect_profile(Device("sparc64", "", frozenset()))
    assert caught.value.exit_status == EXIT_CONFIG


def test_reads_a_file_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\ndescription = ""\nproviders = ["cpu"]\n[requires]\n')
    with pytest.raises(ProfileError, match=r"cpu needs \[cpu\.int8\]") as caught:
        load_profile(str(file))
    assert "Value error" not in str(caught.value)
    file.write_text(file.read_text() + "[cpu.int8]\nreduce_range = true\n")
    assert load_profile(str(file)).name == "mine"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"name = ", "not TOML"),
        (b"\xff", "not UTF-8"),
        (b"colour = 1", "colour: unknown key"),
        (b'name = "a"\nproviders = "cpu"', "providers"),
        (b"a" * 70_000, "longer than"),
        (b"a = " + b"[" * 5000, "not TOML"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(data: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_bytes(data)
    with pytest.raises(ProfileError, match=says) as caught:
        load_profile(str(file))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["", "nothing", "../generic-x86_64", "/nowhere/p.toml", "\0.toml"])
def test_a_profile_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ProfileError):
        load_profile(name)


def test_reads_what_a_cpu_is() -> None:
    assert parse_cpuinfo(X86) == (
        "Example CPU @ 2.4 GHz",
        frozenset({"fpu", "avx2", "avx512_vnni"}),
    )
    assert parse_cpuinfo(ARM) == ("0x41 0xd08", frozenset({"fp", "asimd"}))


@given(st.text())
def test_any_cpuinfo_is_read(text: str) -> None:
    parse_cpuinfo(text)


def test_this_device_has_what_it_is() -> None:
    here = this_device()
    own = Requirements(arch=here.arch, cpu_features=tuple(here.cpu_features))
    assert here.lacks(own) is None


def test_a_device_tree_names_the_soc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "compatible"
    tree.write_bytes(b"raspberrypi,4-model-b\0brcm,bcm2711\0")
    monkeypatch.setattr(device, "_COMPATIBLE", tree)
    monkeypatch.setattr(device, "_CPUINFO", tmp_path / "absent")
    here = this_device.__wrapped__()
    assert here.lacks(Requirements(soc="bcm2711")) is None
    assert here.lacks(Requirements(soc="bcm2712")) == "needs SoC bcm2712"
    assert (here.cpu_model, here.cpu_features) == ("", frozenset())
