"""A small bundle that judges lines, and operators who may say what they think of that."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from edgeslm.contract.feedback import SIGNED, Claims
from edgeslm.core.operators import key_id, sealed
from edgeslm.ports import Request
from edgeslm.runtime.model import load_model
from edgeslm.tasks.anomaly import DISTANCE, load
from tests.runtime import tiny

HISTORY: Final = {
    "values": [70.0, 71.0, 72.0], "counts": [100, 200, 300], "once": 0, "others": 0,
    "effective": 300.0, "scale": 0.8,
}  # fmt: skip
TAIL: Final = {"scores": [0.0], "log_p": [0.0], "log_p_above": [-5.7], "decay": 1.0}
REPERTOIRE: Final = {"lines": 300, "once": 0, "templates": [0, 1], "histories": {"0": [HISTORY]}}
PARAMETERS: Final[dict[str, Any]] = {
    "alarm_budget": 0.01, "calibration_lines": 300, "masks": 2,
    "templates": ["motor temp=¤ C", "pump on"],
    "everyone": REPERTOIRE, "sources": {"in/a": REPERTOIRE, "in/b": REPERTOIRE},
    "text": TAIL, "number": {**TAIL, "scores": [0.0, 3.0], "log_p": [0.0, -5.0],
    "log_p_above": [-0.1, -5.7]}, "fused": {**TAIL, "scores": [-0.1]},
}  # fmt: skip
"""Two sources that say two things, one of them with a temperature of 70 to 72."""
FAULT: Final = "bearing seized at 3"
"""What the golden file has as a known fault."""
FAR: Final = 0.5
"""What the graph says of every template."""


def graph() -> onnx.ModelProto:
    """`FAR`, whatever is read -> float32 [batch] "distance"."""
    inputs = ("input_ids", "attention_mask")
    table, axes = np.full((256, 1), FAR, np.float32), np.array([1, 2], np.int64)
    nodes = [
        helper.make_node("Gather", ["table", inputs[0]], ["embedded"], name="gather"),
        helper.make_node("ReduceMean", ["embedded", "axes"], [DISTANCE], name="mean", keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "lines",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "time"]) for n in inputs],
        [helper.make_tensor_value_info(DISTANCE, TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(axes, "axes")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def bundle(folder: Path, *, parameters: dict[str, Any] | None = None, **manifest: Any) -> Path:
    """Write a bundle that judges by `parameters`, or by `PARAMETERS`."""
    raw = json.dumps(parameters or PARAMETERS).encode()
    task, cases = load(raw), []
    for text in ("motor temp=71 C", FAULT):
        prepared = task.prepare(Request(text, "in/a"))
        answer = task.finish(prepared, {DISTANCE: np.array(FAR, np.float32)}, truncated=False)
        expect = {"label": answer.label, "score": answer.score, "confidence": answer.confidence}
        case = {"request": {"text": text, "source": "in/a"}, "expect": expect}
        if text == FAULT:
            case["fault"] = True
        cases.append(json.dumps(case).encode() + b"\n")
    files = {"parameters.json": raw, "golden.jsonl": b"".join(cases)}
    fields = {"task": "anomaly", "name": "lines", **manifest}
    return tiny.write_bundle(folder, model=graph(), files=files, **fields)


class Signer:
    """A key of a fleet that signs tokens of operators."""

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        self._raw = self._private.public_key().public_bytes_raw()
        self.public = base64.b64encode(self._raw).decode()

    def token(self, **claims: Any) -> str:
        """A token, good for ever and everywhere unless `claims` say otherwise."""
        whole = {
            "id": "0123456789abcdef",
            "operator": "Anna",
            "key": key_id(self._raw),
            "issued": 0,
            "expires": 2**40,
            **claims,
        }
        return self.seal(Claims(**whole).model_dump_json(exclude_defaults=True).encode())

    def seal(self, raw: bytes) -> str:
        """A token of any bytes."""
        return sealed(raw, self._private.sign(SIGNED + raw))


def intents(folder: Path, **manifest: Any) -> Path:
    """Write a bundle that takes every text for one of three colours."""
    parameters = {
        "labels": tiny.LABELS,
        "threshold": 1e9,
        "reject_share": 0.05,
        "temperature": 1.0,
        "calibration": [0.0],
    }
    files = {"parameters.json": json.dumps(parameters).encode()}
    fields = {"task": "intent", "name": "colours", **manifest}
    tiny.write_bundle(folder, files=files, **fields)
    answer = load_model(folder, golden=False).answer(Request("red pump"))
    expect = {"label": answer.label, "score": answer.score, "confidence": answer.confidence}
    expect["accepted"] = True
    case = {"request": {"text": "red pump"}, "expect": expect}
    (folder / "golden.jsonl").write_bytes(json.dumps(case).encode() + b"\n")
    tiny.seal(folder, **fields)
    return folder
