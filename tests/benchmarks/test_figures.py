"""The registry says what was promised, and a figure is printed as one object."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import __main__ as main
from benchmarks import groups, isolation, stats
from benchmarks.figures import BY_NAME, SPECS, Figure, Measured

# The promises, written down a second time: a bound that is changed is changed on purpose.
PROMISED = {
    "feedback-auroc-1": (">=", 0.97, "value"),
    "feedback-auroc-50": (">=", 0.89, "value"),
    "feedback-recall": (">=", 0.95, "value"),
    "feedback-false-alarms": ("<=", 55, "value"),
    "feedback-notices": ("<=", 20, "value"),
    "drift-noticed": ("<=", 200, "value"),
    "drift-early": ("<=", 0, "value"),
    "drift-false": ("<=", 0, "value"),
    "clinc150-accuracy": (">=", 95.0, "value"),
    "clinc150-oos-auroc": (">=", 0.955, "value"),
    "clinc150-int8": (">=", -0.5, "difference"),
    "clinc150-oos-int8": (">=", -0.5, "difference"),
    "banking77-accuracy": (">=", 92.5, "value"),
    "banking77-int8": (">=", -0.5, "difference"),
    "snips-accuracy": (">=", 97.0, "value"),
    "snips-int8": (">=", -0.5, "difference"),
    "few-banking77-accuracy": (">=", 85.5, "value"),
    "few-banking77-int8": (">=", -0.4, "difference"),
    "few-snips-accuracy": (">=", 93.0, "value"),
    "few-snips-int8": (">=", -0.4, "difference"),
    "finetune-clinc150-accuracy": (">=", 96.4, "value"),
    "finetune-clinc150-oos-auroc": (">=", 0.975, "value"),
    "finetune-clinc150-oos-recall": (">=", 88, "value"),
    "finetune-clinc150-oos-int8": (">=", -0.4, "difference"),
    "finetune-clinc150-cpu": ("<=", 20, "value"),
    "finetune-clinc150-int8": (">=", -0.4, "difference"),
    "finetune-banking77-accuracy": (">=", 92.7, "value"),
    "finetune-banking77-int8": (">=", -0.4, "difference"),
    "finetune-snips-accuracy": (">=", 98.3, "value"),
    "finetune-snips-int8": (">=", -0.4, "difference"),
    "finetune-maintie-accuracy": (">=", 96.5, "value"),
    "finetune-maintie-int8": (">=", -0.4, "difference"),
    "bgl-auroc": (">=", 0.99, "value"),
    "bgl-f1": (">=", 0.88, "value"),
    "bgl-f1-worst": (">=", 0.70, "value"),
    "clinc150-pruned-size": ("<=", 14.0, "value"),
    "clinc150-pruned-accuracy": (">=", 96.1, "value"),
    "clinc150-pruned-int8": (">=", -0.4, "difference"),
    "clinc150-student-size": ("<=", 8.0, "value"),
    "clinc150-student-accuracy": (">=", 95.5, "value"),
    "clinc150-student-int8": (">=", -0.4, "difference"),
    "clinc150-student-time": ("<=", 0.56, "ratio"),
    "static-size": ("<=", 7.0, "value"),
    "static-clinc150-accuracy": (">=", 91.0, "value"),
    "static-clinc150-int8": (">=", -0.4, "difference"),
    "static-banking77-accuracy": (">=", 89.3, "value"),
    "static-banking77-int8": (">=", -0.4, "difference"),
    "static-snips-accuracy": (">=", 97.7, "value"),
    "static-snips-int8": (">=", -0.4, "difference"),
    "cascade-accuracy": (">=", -0.3, "difference"),
    "cascade-oos-recall": (">=", 88, "value"),
    "cascade-share": ("<=", 0.35, "value"),
    "cascade-throughput": (">=", 2.5, "ratio"),
    "bgl-false-alarms": ("<=", 1.3, "value"),
    "bgl-false-alarms-worst": ("<=", 2.5, "value"),
    "skab-auroc": (">=", 0.88, "value"),
    "skab-f1": (">=", 0.81, "value"),
    "skab-false-alarms": ("<=", 25, "value"),
    "skab-missed": ("<=", 20, "value"),
    "nab-machine-auroc": (">=", 0.90, "value"),
    "nab-ambient-auroc": (">=", 0.78, "value"),
    "hdfs-auroc": (">=", 0.74, "value"),
    "hdfs-f1": (">=", 0.65, "value"),
    "hdfs-lines-auroc": (">=", None, "value"),
    "hdfs-lines-f1": (">=", None, "value"),
    "adversarial-plant-caught": (">=", 18, "value"),
    "adversarial-plant-numbers": ("<=", 0, "value"),
    "adversarial-plant-false": ("<=", 0, "value"),
    "memory-cost": ("<=", 60, "difference"),
    "adversarial-caught": (">=", 26, "value"),
    "adversarial-false": ("<=", 0, "value"),
    "cache-hit-rate": (">=", 0.93, "value"),
    "split-cost": ("<=", 25, "value"),
    "throughput-cold": (">=", 8, "ratio"),
    "throughput-cold-cached": (">=", 3, "ratio"),
    "throughput-warm": (">=", 0.6, "ratio"),
    "throughput-unrepeated": (">=", 1.5, "ratio"),
    "throughput-unrepeated-callers": (">=", 0.75, "ratio"),
    "latency": ("<=", 3, "difference"),
    "steady-pss": ("<=", 1.3, "ratio"),
    "cold-start": ("<=", 4, "ratio"),
    "swap-failed": ("<=", 0, "value"),
    "swap-p99": ("<=", 2, "ratio"),
    "swap-pss": ("<=", 1.05, "ratio"),
    "int8-size": ("<=", 0.27, "ratio"),
    "int8-speed": (">=", 2, "ratio"),
    "node-plant": (">=", 1, "ratio"),
    "node-plant-cpu": ("<=", None, "ratio"),
    "node-unrepeated": (">=", 1, "ratio"),
    "node-unrepeated-cpu": ("<=", None, "ratio"),
    "matrix-time": ("<=", 0.6, "ratio"),
    "identical-exports": ("<=", 0, "value"),
    "tune-latency": ("<=", 0.8, "ratio"),
    "tune-throughput": (">=", 1.25, "ratio"),
    "tune-batched": (">=", None, "ratio"),
    "tune-accuracy": (">=", 0, "difference"),
    "tune-olive-latency": ("<=", 1, "ratio"),
    "tune-olive-throughput": (">=", 1, "ratio"),
    "tune-olive-batched": (">=", None, "ratio"),
    "tune-olive-accuracy": (">=", 0, "difference"),
    "push-transfer": ("<=", 1.5, "ratio"),
    "push-broker-memory": ("<=", 30, "value"),
    "push-fleet": ("<=", 1.3, "ratio"),
    "push-head": ("<=", 2, "value"),
    "idle-traffic": ("<=", 200, "value"),
    "idle-cpu": ("<=", 0.5, "value"),
    "idle-wakeups": ("<=", 5, "value"),
    "soak-rss": ("<=", 1, "value"),
    "soak-lost": ("<=", 0, "value"),
    "soak-descriptors": ("<=", 0, "value"),
    "long-alerts": ("<=", 0, "value"),
    "long-duplicates": ("<=", 0, "value"),
    "flash-up": ("<=", 0, "value"),
    "flash-down": ("<=", 3000, "value"),
    "flash-alerts": ("<=", 3000, "value"),
    "flash-thinned": ("<=", None, "value"),
    "flash-idle": ("<=", 0, "value"),
    "unit-start": ("<=", 3, "value"),
    "package-size": ("<=", 40, "value"),
    "package-installed": ("<=", 150, "value"),
    "fleet-lost": ("<=", 0, "value"),
    "fleet-knowing": ("<=", 5, "value"),
    "fleet-pss": ("<=", 250, "value"),
    "fleet-exposure": ("<=", 1, "value"),
    "fleet-abort": ("<=", 5, "value"),
    "fleet-rough": ("<=", 0, "value"),
    "fleet-page-p95": ("<=", 200, "value"),
    "fleet-states": (">=", 500, "value"),
    "fleet-results": (">=", 2000, "value"),
    "provision-time": ("<=", 120, "value"),
    "provision-shared": ("<=", 0, "value"),
    "openvino-nodes": (">=", 100, "value"),
    "openvino-accuracy": (">=", -0.5, "difference"),
    "openvino-cpu": ("<=", None, "ratio"),
    "coreml-nodes": (">=", 98, "value"),
    "npu-intent-nodes": (">=", 100, "value"),
    "npu-intent-buckets": (">=", 92, "value"),
    "npu-anomaly-buckets": (">=", 92, "value"),
    "arm-agreement": (">=", 98, "value"),
    "npu-intent": (">=", -1.0, "difference"),
    "npu-anomaly-nodes": (">=", 100, "value"),
    "npu-anomaly": (">=", -1.0, "difference"),
}
KEYS = ["name", "value", "unit", "rival", "rival_value", "ratio", "direction", "bound", "bound_on",
        "spread", "holds", "machine", "commit"]  # fmt: skip

positive = st.floats(1e-3, 1e6)
rounds = st.lists(st.tuples(positive, positive), min_size=1, max_size=9)


def figure(name: str, measured: Measured, *, quick: bool = False) -> Figure:
    machine = {"cpu": "a CPU", "cores": 2, "flags": ["avx2"]}
    return Figure(BY_NAME[name], measured, machine, "0123456789ab", quick)


def test_the_registry_holds_every_promise_and_no_other() -> None:
    assert {s.name: (s.direction, s.bound, s.compared) for s in SPECS} == PROMISED


@pytest.mark.parametrize("group", sorted({spec.group for spec in SPECS}))
def test_every_group_has_a_function_that_measures_it(group: str) -> None:
    module = importlib.import_module(f"benchmarks.groups.{groups.MODULES[group]}")
    assert list(inspect.signature(getattr(module, group)).parameters) == ["setup"]


def test_no_group_is_measured_for_nothing() -> None:
    assert {spec.group for spec in SPECS} == set(groups.MODULES)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_figure_is_one_object_with_the_agreed_keys(name: str) -> None:
    found = figure(name, Measured(3.0, 2.0, (2.5, 3.5))).as_json()
    assert list(json.loads(json.dumps(found))) == KEYS
    assert found["ratio"] == pytest.approx(1.5)


def test_a_figure_says_what_is_unlike_the_usual() -> None:
    emulated = figure("openvino-nodes", Measured(100.0, 100.0, (100, 100), note="emulated: a CPU"))
    assert emulated.as_json()["note"] == "emulated: a CPU"


def test_what_cannot_be_measured_here_is_skipped_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"openvino-nodes": Measured(100.0, 100.0, (100, 100), note="emulated")}
    monkeypatch.setattr(isolation, "measure", lambda *_, **__: found)
    asked = ["openvino-nodes", "openvino-cpu", "--json", "--data", str(tmp_path)]
    assert main.main(asked) == 75
    out, err = capsys.readouterr()
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["openvino-nodes"]
    assert "openvino-cpu: skipped: not on this machine" in err


def test_the_documentation_describes_every_figure_and_no_other() -> None:
    """By name, or by a pattern such as `bgl-*`; each in a bullet that begins with it."""
    text = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text("utf-8")
    heads = re.findall(r"^- \*\*(.*?)\*\*", text, flags=re.MULTILINE)
    described = [name for head in heads for name in re.findall(r"`([^`]+)`", head)]
    assert [spec.name for spec in SPECS if not any(fnmatch(spec.name, d) for d in described)] == []
    assert [d for d in described if not any(fnmatch(spec.name, d) for spec in SPECS)] == []


def test_a_rehearsal_says_so() -> None:
    assert figure("latency", Measured(3.0, 2.0, (1, 1)), quick=True).as_json()["quick"] is True


@pytest.mark.parametrize(
    ("name", "value", "rival", "holds"),
    [
        ("snips-accuracy", 97.0, 99.0, True),
        ("snips-accuracy", 96.99, 50.0, False),
        ("split-cost", 25.0, 1.0, True),
        ("split-cost", 25.1, 100.0, False),
        ("throughput-cold", 800.0, 100.0, True),
        ("throughput-cold", 799.0, 100.0, False),
        ("steady-pss", 130.0, 100.0, True),
        ("steady-pss", 131.0, 100.0, False),
        ("snips-int8", 97.0, 97.5, True),
        ("snips-int8", 97.0, 97.6, False),
        ("latency", 5.0, 2.0, True),
        ("latency", 5.01, 2.0, False),
        ("adversarial-false", 0.0, 0.0, True),
    ],
)
def test_a_bound_is_on_the_value_the_ratio_or_the_difference(
    name: str, value: float, rival: float, *, holds: bool
) -> None:
    assert figure(name, Measured(value, rival, (value, value))).holds is holds


def test_a_rival_at_nought_has_no_ratio() -> None:
    assert figure("adversarial-false", Measured(0.0, 0.0, (0, 0))).as_json()["ratio"] is None


def test_what_is_only_published_promises_nothing() -> None:
    found = figure("node-plant-cpu", Measured(9.0, 1.0, (8, 10), 9.0))
    assert found.holds
    assert (found.as_json()["bound"], found.as_json()["holds"]) == (None, None)


def test_what_disturbs_both_of_a_round_leaves_the_ratio_alone() -> None:
    measured = stats.paired([100, 100, 50], [50, 50, 25])
    assert (measured.value, measured.compared, measured.spread) == (100, 2, (2, 2))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(rounds)
def test_the_compared_number_lies_within_the_spread(pairs: list[tuple[float, float]]) -> None:
    ours, rivals = [a for a, _ in pairs], [b for _, b in pairs]
    for measured in (stats.paired(ours, rivals), stats.above(ours, rivals)):
        assert measured.compared is not None
        assert measured.spread[0] <= measured.compared <= measured.spread[1]
