"""The agent runs a cascade as one model, over a real broker."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from edgeslm.ports import Request
from edgeslm.runtime.model import load_model
from tests.agent.kit import AgentProcess, Plant, poll
from tests.runtime import cascades, tiny
from tests.runtime.cascades import TEXTS, write_cascade

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]


@pytest.fixture
def both(tmp_path: Path) -> Path:
    return write_cascade(tmp_path / "both", batched=True)


@pytest.fixture
def agent(make_agent: MakeAgent, both: Path) -> AgentProcess:
    return make_agent(
        models={"m": {"bundle": both, "workers": 2}},
        routes={"all": {"topic": "in/#", "models": ["m"], "share": "text"}},
        state_interval_s=1,
    )


def model_of(plant: Plant, **fields: Any) -> dict[str, Any]:
    """Wait for a state whose model has these fields, and return that."""
    found: list[dict[str, Any]] = []

    def told() -> bool:
        models = plant.last.get("state", {}).get("models", [])
        found[:] = [m for m in models if all(m.get(k) == v for k, v in fields.items())]
        return bool(found)

    poll(told, f"a state with {fields}")
    return found[0]


def test_answers_as_infer_does_and_tells_the_share(
    agent: AgentProcess, plant: Plant, both: Path
) -> None:
    agent.start()
    agent.wait_for("model_loaded")
    assert "handed_over" not in model_of(plant, state="serving")
    for text in TEXTS:
        plant.publish("in/a", text)
    results = plant.wait_for(len(TEXTS))
    model = load_model(both)
    for result in results:
        answer = model.answer(Request(result["text"], "in/a"))
        assert (result["label"], result["stage"]) == (answer.label, answer.stage)
        assert (result["score"], result["accepted"]) == (answer.score, answer.accepted)
        assert "requires" not in result, "readers of before take it: stage is beside what they know"
    handed = sum(result["stage"] == "second" for result in results)
    assert 0 < handed < len(TEXTS)
    share = round(handed / len(TEXTS), 4)
    told = model_of(plant, answered=len(TEXTS), handed_over=share)
    assert told["cache_misses"] == len(TEXTS) + handed


def test_a_cascade_whose_second_stage_is_spoilt_does_not_take_the_place_of_one_that_serves(
    agent: AgentProcess, plant: Plant, both: Path
) -> None:
    agent.start()
    agent.wait_for("model_loaded")
    old = model_of(plant, state="serving")
    shutil.rmtree(both)
    write_cascade(both, confidence=0.7)
    spoilt = bytearray((both / "second" / "model.onnx.data").read_bytes())
    spoilt[7] ^= 1
    (both / "second" / "model.onnx.data").write_bytes(spoilt)
    agent.hup()
    failed = agent.wait_for("model_failed")
    assert failed["code"] == "bundle.tampered"
    assert "second/model.onnx.data" in failed["message"]
    assert model_of(plant, state="serving")["hash"] == old["hash"]
    assert plant.ask("in/a", TEXTS[0])["model"]["hash"] == old["hash"]


LAST, DEAF = "blue", "stuck"
"""A word whose vector is cut off from the second stage's graph, and one whose vector is no number.
"""


def write_spoilt(folder: Path) -> Path:
    """Write a cascade as it is listed, whose second stage fails for some words."""
    write_cascade(folder)
    data = folder / "second" / "model.onnx.data"
    model = cascades.graph(8)
    table = np.frombuffer(model.graph.initializer[0].raw_data, np.float32).reshape(256, -1).copy()
    vocabulary = json.loads(tiny.tokenizer_bytes())["model"]["vocab"]
    table[vocabulary[DEAF]] = np.nan
    table = table[: vocabulary[LAST]]
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    data.unlink()
    tiny.save_graph(folder / "second", model)
    cascades.seal(folder)
    whole = [text for text in TEXTS if LAST not in text and DEAF not in text]
    (folder / "golden.jsonl").write_bytes(cascades.golden(folder, whole))
    cascades.seal(folder)
    return folder


def test_what_the_second_stage_cannot_answer_is_an_error_and_no_guess_of_the_first(
    make_agent: MakeAgent, plant: Plant, tmp_path: Path
) -> None:
    intact, spoilt = write_cascade(tmp_path / "intact"), write_spoilt(tmp_path / "spoilt")
    agent = make_agent(
        models={"m": {"bundle": spoilt, "workers": 2}},
        routes={"all": {"topic": "in/#", "models": ["m"], "share": "text"}},
        state_interval_s=1,
    )
    agent.start()
    agent.wait_for("model_loaded")
    model_of(plant, state="serving")
    for text in TEXTS:
        plant.publish("in/a", text)
    model = load_model(intact)
    said: Counter[str] = Counter()
    for result in plant.wait_for(len(TEXTS)):
        right = model.answer(Request(result["text"], "in/a"))
        if right.stage == "second" and LAST in result["text"]:
            assert result["error"]["code"] == "inference.failed"
        elif right.stage == "second" and DEAF in result["text"]:
            assert result["error"]["code"] == "inference.no_number"
        else:
            assert (result["label"], result["stage"]) == (right.label, right.stage)
        assert ("label" in result) != ("error" in result)
        said[result["error"]["code"] if "error" in result else result["stage"]] += 1
    assert len(said) == 4, f"else the test says nothing: {said}"
    handed = len(TEXTS) - said["first"]
    model_of(plant, answered=said["first"] + said["second"], state="serving")
    model_of(plant, handed_over=round(handed / len(TEXTS), 4))


def test_a_stage_that_is_written_over_while_it_serves_answers_no_more(
    agent: AgentProcess, plant: Plant, both: Path
) -> None:
    """Its weights are mapped: what lies there now would be what it says, silently."""
    agent.start()
    agent.wait_for("model_loaded")
    model_of(plant, state="serving")
    model = load_model(both)
    handed = [text for text in TEXTS if model.answer(Request(text, "in/a")).stage == "second"]
    right = {text: model.answer(Request(text, "in/a")).score for text in handed}
    del model
    data = both / "second" / "model.onnx.data"
    whole = data.read_bytes()
    agent.mark()
    with data.open("r+b") as opened:
        opened.write(bytes(len(whole)))
    agent.wait_for("model_overwritten")
    assert agent.wait_for("model_failed")["code"] == "bundle.tampered"
    for text in handed:
        plant.publish("in/a", text)
    model_of(plant, state="failed")
    assert plant.results == []
    with data.open("r+b") as opened:
        opened.write(whole)
    for result in plant.wait_for(len(handed)):
        assert result["score"] == right[result["text"]]
