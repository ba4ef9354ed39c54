"""Writes small, whole bundles with a real ONNX graph and a real tokenizer, in milliseconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from tokenizers import models, normalizers, pre_tokenizers, processors

from edgeslm.runtime.bundle import MANIFEST

LABELS = ["red", "green", "blue"]
WORDS = ["pump", "valve", "motor", "hot", "cold", "stuck", "red", "green", "blue"]
MAX_TOKENS = 16


def tokenizer_bytes() -> bytes:
    """A WordPiece tokenizer of a few words and all letters, padding and cutting as MiniLM's do."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *(f"##{c}" for c in letters)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    native = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))  # noqa: S106 -- a token
    native.normalizer = normalizers.BertNormalizer()
    native.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    native.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    native.enable_truncation(MAX_TOKENS)
    native.enable_padding(length=MAX_TOKENS)
    return str(native.to_str()).encode()


def graph(inputs: Sequence[str] = ("input_ids", "attention_mask")) -> onnx.ModelProto:
    """Mean of the tokens' random embeddings -> float32 [batch, 3] "logits"."""
    rng = np.random.default_rng(7)
    table = rng.normal(size=(256, len(LABELS))).astype(np.float32)
    axes = np.array([1], np.int64)
    nodes = [
        helper.make_node("Gather", ["table", inputs[0]], ["embedded"], name="gather"),
        helper.make_node("ReduceMean", ["embedded", "axes"], ["logits"], name="mean", keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "time"]) for n in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(axes, "axes")],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def save_graph(folder: Path, model: onnx.ModelProto) -> None:
    """Write model.onnx with its weights in model.onnx.data, as bundles have them."""
    onnx.save(
        model,
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=64,
    )


def golden_line(text: str, **expect: Any) -> dict[str, Any]:
    return {"request": {"text": text}, "expect": {"accepted": True, **expect}}


def write_bundle(
    folder: Path,
    *,
    model: onnx.ModelProto | None = None,
    files: Mapping[str, bytes] | None = None,
    artifact: Mapping[str, Any] | None = None,
    tolerance: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> Path:
    """Write a whole, consistent bundle.

    `files`, `artifact` (of the graph), `tolerance` and `manifest` override.
    """
    folder.mkdir(parents=True)
    save_graph(folder, model or graph())
    contents = {
        "tokenizer.json": tokenizer_bytes(),
        "parameters.json": json.dumps(LABELS).encode(),
        "golden.jsonl": b'{"request": {"text": "no model"}, '
        b'"expect": {"label": "none", "score": 0, "confidence": 1}}\n',
        **(files or {}),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    seal(folder, artifact=artifact, tolerance=tolerance, **manifest)
    return folder


ROLES = {
    "model.onnx": "graph",
    "model.onnx.data": "weights",
    "tokenizer.json": "tokenizer",
    "parameters.json": "parameters",
    "golden.jsonl": "golden",
}


def seal(
    folder: Path,
    *,
    artifact: Mapping[str, Any] | None = None,
    tolerance: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> None:
    """Write the manifest that fits the files in `folder`."""
    artifacts = []
    for name, role in ROLES.items():
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        row = {"role": role, "path": name, "size": len(data), "sha256": digest}
        if role == "graph":
            row = {**row, "provider": "cpu", **(artifact or {})}
        if role == "golden":
            row["tolerance"] = {
                "score": 1e-4,
                "confidence": 1e-4,
                "verified": "measured",
                **(tolerance or {}),
            }
        artifacts.append(row)
    whole = {
        "schema_version": 1,
        "name": "tiny",
        "version": 1,
        "task": "double",
        "profiles": ["generic-x86_64"],
        "base_model": {"source": "tiny", "sha256": "0" * 64},
        "max_tokens": MAX_TOKENS,
        "artifacts": artifacts,
        "exporter": "0",
        **manifest,
    }
    (folder / MANIFEST).write_text(json.dumps(whole))
