"""The parameters of each task: what is taken also answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeslm import tasks
from edgeslm.errors import InvalidFileError
from edgeslm.ports import Answer, Request, Tensor
from edgeslm.runtime.cascade import is_sure, read_parameters
from exporters.data import Row
from exporters.heads import anomaly
from tests.fuzz.harness import fuzz

REQUESTS = (Request("ram 71.9 C, pressure 182.4", "p1"), Request("never seen 1e308 ¤", "p9"))


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Stand in for a model: a direction of its own for each text."""
    seeds = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8]) for t in texts]
    rows = np.stack([np.random.default_rng(seed).normal(size=8) for seed in seeds])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def answers(task: str, outputs: Mapping[str, Tensor], raw: bytes) -> None:
    made = tasks.load(task)(raw)
    for request in REQUESTS:
        answer = made.finish(made.prepare(request), outputs, truncated=False)
        assert math.isfinite(answer.score)
        assert 0 <= answer.confidence <= 1
        assert answer.p_value is None or 0 <= answer.p_value <= 1


def test_parameters_of_anomaly(targets: int) -> None:
    rows = [
        Row(f"ram {70 + i % 7}.{i % 10} C, pressure {180 + i % 5}", source=f"p{i % 2}")
        if i % 9
        else Row(f"gate {'open' if i % 2 else 'closed'}", source=f"p{i % 2}")
        for i in range(400)
    ]
    head = anomaly.fit(rows, embed, alarm_budget=0.05, seed=0, advance=lambda _: None)
    outputs = {"distance": np.array(0.4, np.float32)}
    fuzz(
        lambda raw: answers("anomaly", outputs, raw),
        [head.parameters],
        allowed=(InvalidFileError,),
        targets=targets,
    )


def test_parameters_of_intent(targets: int) -> None:
    parameters = {
        "labels": ["a", "b"],
        "threshold": -1.5,
        "reject_share": 0.05,
        "temperature": 1.25,
        "calibration": [-3.0, -2.5, -1.0],
    }
    outputs = {"logits": np.array([1.0, -2.0], np.float32)}
    fuzz(
        lambda raw: answers("intent", outputs, raw),
        [json.dumps(parameters).encode()],
        allowed=(InvalidFileError,),
        targets=targets,
    )


def test_parameters_of_a_cascade(targets: int) -> None:
    def decide(raw: bytes) -> None:
        found = read_parameters(raw)
        assert 0 <= found.confidence <= 1
        far = Answer("a", 1.0, 0.0, accepted=False)
        assert is_sure(far, found.bounds) == ((found.rejects_above or 0.0) < 0.0)

    fuzz(
        decide,
        [
            b'{"schema_version": 1, "confidence": 0.71, "lose_points": 0.3}',
            b'{"confidence": 0.7, "rejects_above": -1.5, "p_exponent": 0.1, "lose_points": 0.3}',
        ],
        allowed=(InvalidFileError,),
        targets=targets,
    )
