"""Writes small, whole cascades: two graphs of random word vectors under the intent task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

from edgeslm.ports import Answer, Request
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.runtime.model import load_model
from tests.runtime import tiny

TEXTS: Final = [
    f"{a} {b} {c}" for a in tiny.WORDS[:3] for b in tiny.WORDS[3:6] for c in tiny.WORDS[6:]
]
CONFIDENCE: Final = 0.6
"""Of these texts, about half are above it."""
_ROLES: Final = {
    "model.onnx": "graph",
    "model.onnx.data": "weights",
    "parameters.json": "parameters",
}


def graph(seed: int) -> onnx.ModelProto:
    """Like `tiny.graph`, with other vectors."""
    model = tiny.graph()
    table = np.random.default_rng(seed).normal(size=(256, len(tiny.LABELS))) * 2
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table.astype(np.float32), "table"))
    return model


def parameters(threshold: float) -> bytes:
    """Those of an intent bundle; texts that score above `threshold` are rejected."""
    found = {
        "labels": tiny.LABELS,
        "threshold": threshold,
        "reject_share": 0.05,
        "temperature": 1.0,
        "calibration": [-1.0, 0.0],
    }
    return json.dumps(found).encode()


def write_cascade(
    folder: Path,
    *,
    confidence: float = CONFIDENCE,
    rejects: float = -0.8,
    settings: bytes | None = None,
    batched: bool = False,
    **manifest: Any,
) -> Path:
    """Write a cascade whose golden file says what it answers here.

    Args:
        folder: not there yet.
        confidence: below which the second stage answers.
        rejects: score above which the first would reject.
        settings: bytes in place of the cascade's own.
        batched: rows do not depend on their neighbours.
        manifest: overrides.
    """
    for stage, seed, threshold in (("first", 7, rejects), ("second", 8, 10.0)):
        (folder / stage).mkdir(parents=True)
        tiny.save_graph(folder / stage, graph(seed))
        (folder / stage / "parameters.json").write_bytes(parameters(threshold))
    own = json.dumps({"confidence": confidence, "lose_points": 0.3}).encode()
    (folder / "cascade.json").write_bytes(own if settings is None else settings)
    (folder / "tokenizer.json").write_bytes(tiny.tokenizer_bytes())
    (folder / "golden.jsonl").write_bytes(b"")
    seal(folder, batched=batched, **manifest)
    if settings is None and not manifest:
        (folder / "golden.jsonl").write_bytes(golden(folder))
        seal(folder, batched=batched)
    return folder


def golden(folder: Path, texts: Sequence[str] = TEXTS) -> bytes:
    """Return the golden file of what is there."""
    model = load_model(folder, golden=False)
    lines = []
    for text in texts:
        said = model.answer(Request(text))._asdict()
        keys = ("label", "accepted", "score", "confidence", "p_value", "stage")
        case = {"request": {"text": text}, "expect": {key: said[key] for key in keys}}
        lines.append(json.dumps(case) + "\n")
    return "".join(lines).encode()


def seal(folder: Path, *, batched: bool = False, **manifest: Any) -> None:
    """Write the manifest that fits the files in `folder`."""
    artifacts = []
    for stage in ("second", "first"):
        for name, role in _ROLES.items():
            row = _row(folder, f"{stage}/{name}", role, stage=stage)
            if role == "graph":
                row |= {"provider": "cpu", "batch_invariant": batched}
            artifacts.append(row)
    allowed = {"score": 1e-4, "confidence": 1e-4, "verified": "measured"}
    artifacts += [
        _row(folder, "tokenizer.json", "tokenizer"),
        _row(folder, "cascade.json", "cascade"),
        _row(folder, "golden.jsonl", "golden", tolerance=allowed),
    ]
    whole = {
        "schema_version": 1,
        "requires": ["cascade"],
        "name": "both",
        "version": 1,
        "task": "intent",
        "profiles": ["generic-x86_64"],
        "base_model": {"source": "tiny", "sha256": "0" * 64},
        "max_tokens": tiny.MAX_TOKENS,
        "artifacts": artifacts,
        "exporter": "0",
        **manifest,
    }
    (folder / MANIFEST).write_text(json.dumps(whole))


def _row(folder: Path, path: str, role: str, **more: Any) -> dict[str, Any]:
    data = (folder / path).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return {"role": role, "path": path, "size": len(data), "sha256": digest, **more}


def alone(folder: Path, stage: str, to: Path) -> Path:
    """Write the bundle that a stage would be by itself, into `to`."""
    threshold = json.loads((folder / stage / "parameters.json").read_bytes())["threshold"]
    model = onnx.load(folder / stage / "model.onnx")
    files = {"parameters.json": parameters(threshold)}
    return tiny.write_bundle(to, model=model, files=files, task="intent", name=stage)


def stages(answers: list[Answer]) -> dict[str | None, int]:
    """Count who answered."""
    found: dict[str | None, int] = {}
    for one in answers:
        found[one.stage] = found.get(one.stage, 0) + 1
    return found
