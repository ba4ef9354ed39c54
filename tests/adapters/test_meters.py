"""Counters and sensors of a machine, as its /sys shows them; what is not there is None."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgeslm.adapters.meters import cpu_mhz, energy_meter, temperature_c

PACKAGE = "class/powercap/intel-rapl:0"
SENSOR = "class/hwmon/hwmon3"


def tree(root: Path, files: Mapping[str, object]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


def rapl(root: Path, *, at: int, span: int = 1_000_000) -> Path:
    return tree(
        root,
        {
            f"{PACKAGE}/name": "package-0",
            f"{PACKAGE}/energy_uj": at,
            f"{PACKAGE}/max_energy_range_uj": span,
            # Below the package, and counted in it.
            "class/powercap/intel-rapl:0:0/name": "core",
            "class/powercap/intel-rapl:0:0/energy_uj": 1,
            "class/powercap/intel-rapl:0:0/max_energy_range_uj": span,
        },
    )


@pytest.mark.parametrize(("start", "end", "joules"), [(0, 400_000, 0.4), (900_000, 100_000, 0.2)])
def test_a_package_counts_once_and_may_go_around(
    start: int, end: int, joules: float, tmp_path: Path
) -> None:
    meter = energy_meter(rapl(tmp_path, at=start))
    assert meter is not None
    assert meter.name == "rapl package-0"

    def work() -> None:
        rapl(tmp_path, at=end)

    assert meter.joules(work) == pytest.approx(joules)


def test_a_counter_that_is_not_ours_to_read_is_none(tmp_path: Path) -> None:
    rapl(tmp_path, at=0)
    (tmp_path / PACKAGE / "energy_uj").unlink()
    (tmp_path / PACKAGE / "energy_uj").mkdir()  # root may read every file; nobody a folder
    assert energy_meter(tmp_path) is None


def rails(root: Path, **watts: float) -> Path:
    """An INA3221 at 5 V."""
    files: dict[str, object] = {f"{SENSOR}/name": "ina3221"}
    for number, (label, value) in enumerate(watts.items(), 1):
        files[f"{SENSOR}/in{number}_label"] = label
        files[f"{SENSOR}/in{number}_input"] = 5000
        files[f"{SENSOR}/curr{number}_input"] = round(1000 * value / 5)
    files[f"{SENSOR}/in7_label"] = "sum of shunt voltages"
    files[f"{SENSOR}/in7_input"] = files[f"{SENSOR}/curr7_input"] = 1
    return tree(root, files)


def test_power_is_added_up_over_time(tmp_path: Path) -> None:
    meter = energy_meter(rails(tmp_path, VDD_IN=10, VDD_CPU_GPU_CV=4, VDD_SOC=2))
    assert meter is not None
    assert meter.name == "ina3221 VDD_IN"
    start = time.perf_counter()
    joules = meter.joules(lambda: time.sleep(0.1))
    took_s = time.perf_counter() - start
    assert 10 * 0.1 <= joules <= 10 * took_s


def test_without_a_rail_for_the_whole_board_all_are_added(tmp_path: Path) -> None:
    meter = energy_meter(rails(tmp_path, VDD_GPU_SOC=3, VDD_CPU_CV=4, NC=9))
    assert meter is not None
    assert meter.name == "ina3221 VDD_GPU_SOC, VDD_CPU_CV"
    assert meter.joules(lambda: time.sleep(0.05)) >= 7 * 0.05


def test_a_sensor_that_goes_away_is_an_error(tmp_path: Path) -> None:
    meter = energy_meter(rails(tmp_path, VDD_IN=10))
    assert meter is not None

    def lose() -> None:
        (tmp_path / SENSOR / "curr1_input").write_text("gone")
        time.sleep(0.1)

    with pytest.raises(OSError, match="no number"):
        meter.joules(lose)


def test_the_hottest_sensor_that_is_connected_counts(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "class/thermal/thermal_zone0/temp": 41500,
            "class/thermal/thermal_zone1/temp": -256000,
            "class/thermal/thermal_zone2/temp": "",
            "class/hwmon/hwmon0/name": "k10temp",
            "class/hwmon/hwmon0/temp1_input": 52125,
            "class/hwmon/hwmon1/name": "nvme",
            "class/hwmon/hwmon1/temp1_input": 70000,
        },
    )
    assert temperature_c(tmp_path) == pytest.approx(52.125)


def test_the_clock_is_a_mean_over_cores(tmp_path: Path) -> None:
    for core, khz in enumerate((1_800_000, 600_000)):
        tree(tmp_path, {f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": khz})
    assert cpu_mhz(tmp_path) == pytest.approx(1200)


def test_a_mute_machine_says_none(tmp_path: Path) -> None:
    assert energy_meter(tmp_path) is None
    assert cpu_mhz(tmp_path) is None
    assert temperature_c(tmp_path) is None
