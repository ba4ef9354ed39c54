"""What Prometheus reads of a real agent, and what it costs when nobody reads."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeslm.agent.metrics import METRICS, Snapshot, page
from edgeslm.contract.messages import ADAPTERS
from tests.agent.kit import AgentProcess, Plant, poll

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "state.json"
MakeAgent = Callable[..., AgentProcess]


def parsed(raw: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return each sample's value by its name and its labels' values."""
    found = {}
    for family in text_string_to_metric_families(raw.decode()):
        assert family.documentation
        assert family.type in {"counter", "gauge"}
        for sample in family.samples:
            found[sample.name, tuple(sample.labels.values())] = sample.value
    return found


def snapshot(**fields: Any) -> Snapshot:
    state = ADAPTERS["state"].validate_python(json.loads(EXAMPLE.read_text()) | fields)
    return Snapshot(state, uplink=True, inputs={"press": True, "spindle": False})


def test_names_and_units_are_those_of_prometheus() -> None:
    for metric in METRICS:
        assert metric.name.startswith("edgeslm_")
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert not metric.name.endswith(("_ms", "_mb", "_s", "_per_h"))
        assert metric.help.endswith(".")
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_a_state_becomes_samples_in_base_units() -> None:
    found = parsed(page(snapshot(drops={"own_topic": 3})))
    assert found["edgeslm_resident_memory_bytes", ()] == pytest.approx(96.4 * 2**20)
    assert found["edgeslm_model_latency_seconds", ("press", "0.99")] == pytest.approx(0.009807)
    assert found["edgeslm_model_answers_total", ("press",)] == 1042
    assert found["edgeslm_model_serving", ("spindle",)] == 0
    assert found["edgeslm_model_input_connected", ("spindle",)] == 0
    assert found["edgeslm_drops_total", ("own_topic",)] == 3
    assert ("edgeslm_pressure_level", ()) not in found


def test_each_metric_can_be_had() -> None:
    pressed = {"level": 2, "causes": ["temperature_c"], "temperature_c": 91.5}
    crashes = {"count": 2, "time": 1.0, "kind": "killed", "reason": "x"}
    drift = {"suspected": False, "new_rate": 0.1, "evidence": 1.0, "limit": 5.0, "channels": []}
    also = {"oldest_s": 1.5, "handed_over": 0.3, "drift": drift}
    raw = page(
        snapshot(
            drops={"own_topic": 3},
            pressure=pressed,
            crashes=crashes,
            rss_mb_per_h=3.6,
            outbox_oldest_s=60.0,
            outbox_alerts=2,
            models=[{**json.loads(EXAMPLE.read_text())["models"][0], **also}],
        )
    )
    found = parsed(raw)
    assert {name for name, _ in found} == {metric.name for metric in METRICS}
    assert found["edgeslm_resident_memory_growth_bytes_per_second", ()] == pytest.approx(
        2**20 / 1e3
    )
    assert found["edgeslm_pressure_level", ()] == 2


def test_intents_have_no_rate_of_new_templates() -> None:
    drift = {"suspected": True, "evidence": 1.0, "limit": 5.0, "channels": ["intent"]}
    model = {**json.loads(EXAMPLE.read_text())["models"][0], "drift": drift}
    found = parsed(page(snapshot(models=[model])))
    assert found["edgeslm_model_drift_suspected", (model["name"],)] == 1
    assert not any(name == "edgeslm_model_new_template_ratio" for name, _ in found)


def test_labels_are_escaped() -> None:
    strange = 'a"b\\c\nd'
    found = parsed(page(snapshot(profile=strange)))
    assert any(strange in labels for name, labels in found if name == "edgeslm_agent_info")


def test_an_agent_without_the_endpoint_loads_nothing_of_it() -> None:
    code = "import edgeslm.cli.run, sys; print(any('prometheus' in m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def scrape(port: int) -> dict[tuple[str, tuple[str, ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(answer.read())


@pytest.mark.broker
def test_a_real_agent_is_read_beside_clients_that_hang(agent: AgentProcess, plant: Plant) -> None:
    port = free_port()
    agent.settings["metrics"] = {"listen": f"127.0.0.1:{port}"}
    agent.start()
    for i in range(5):
        plant.publish("in/a", f"text {i}")
    plant.wait_for(5)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            hangs = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            hangs.sendall(b"GET /metrics HTT")
        assert plant.ask("in/a", "meanwhile")["score"] == 9
        poll(lambda: scrape(port).get(("edgeslm_model_answers_total", ("m",))) == 6, "six answers")
        found = scrape(port)
    assert found["edgeslm_uplink_connected", ()] == 1
    assert found["edgeslm_model_serving", ("m",)] == 1
    assert found["edgeslm_model_input_connected", ("m",)] == 1
    assert 10e6 < found["edgeslm_resident_memory_bytes", ()] < 1e9
    agent.configure(metrics={"listen": f"127.0.0.1:{free_port()}"})
    agent.hup()
    agent.wait_for("reloaded")
    with pytest.raises(OSError, match="refused"):
        scrape(port)
    assert scrape(int(agent.settings["metrics"]["listen"].rpartition(":")[2]))
    assert agent.stop() < 5


@pytest.mark.broker
def test_an_address_that_is_taken_is_told_and_the_agent_serves(
    agent: AgentProcess, plant: Plant
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        agent.settings["metrics"] = {"listen": f"127.0.0.1:{port}"}
        agent.start()
        why = agent.wait_for("metrics_unavailable")
        assert why["code"] == "metrics.address"
        assert "in use" in why["message"]
        assert plant.ask("in/a", "text")["score"] == 4
    agent.mark()
    agent.hup()  # it is free by now
    agent.wait_for("reloaded")
    assert scrape(port)
    assert agent.stop() < 5
