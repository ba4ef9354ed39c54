"""Trains a static model once, and keeps it by all that it depends on.

It is kept as a trained encoder is (exporters/training/folder.py), with the graph in place of the
weights: `encoder.onnx`, which PyTorch need not know how to load.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeslm.contract.manifest import BaseModelInfo
from exporters.cache import kept, key_of, pins
from exporters.sources.base import Encoder, read_encoder, write_encoder
from exporters.training import static
from exporters.training.divide import Division
from exporters.training.folder import Facts, fingerprint, read_trained, write_head
from exporters.training.network import one_thread
from exporters.training.plan import MAX_TOKENS, TrainingPlan
from exporters.training.train import Outcome
from exporters.workbench import Stage

_MODEL: Final = "model"
_REPORT: Final = "report.json"
_MEASURED: Final = "measured.json"
_PACKAGES: Final = ("numpy", "onnx", "tokenizers", "torch")
_CODE: Final = ("divide", "folder", "static", "train_static")


@dataclass(frozen=True, slots=True)
class StaticOrder:
    """What to train.

    Args:
        encoder: gives tokenizer and word vectors.
        source: where that comes from, as manifests say it.
        digest: hash of the same.
        division: of the examples.
        seed: of every random choice.
        max_tokens: where texts are cut; None: at `MAX_TOKENS`.
        teacher: float32 [learn, labels], the logits to imitate; None: the labels alone are learnt.
    """

    encoder: Encoder
    source: str
    digest: bytes
    division: Division
    seed: int
    max_tokens: int | None
    teacher: NDArray[np.float32] | None = None


def train_static(order: StaticOrder, stage: Stage) -> tuple[Encoder, Outcome]:
    """Return the static model of `order`, trained now or in an earlier run.

    Raises:
        NoVectorsError: the encoder has no word vectors to begin with.
        CacheError: the disk refuses.
    """
    division, goal = order.division, order.teacher
    max_tokens = order.max_tokens or MAX_TOKENS
    rows = [(row.text, row.label) for row in (*division.learn, *division.held_out)]
    learnt = len(division.learn)  # where the one ends and the other begins
    facts = [rows, learnt, order.seed, max_tokens, pins(_PACKAGES)]
    taught = b"" if goal is None else hashlib.sha256(goal.tobytes()).digest()
    parts = [order.digest, json.dumps(facts).encode(), taught, *_code()]

    folder = kept("static", key_of(parts), lambda folder: _write(folder, order, max_tokens, stage))
    report = json.loads((folder / _REPORT).read_bytes())
    outcome = Outcome(
        read_trained(folder / _MODEL),
        division,
        TrainingPlan(steps=report["steps"]),
        report,
        json.loads((folder / _MEASURED).read_bytes()),
    )
    return read_encoder(folder / _MODEL), outcome


def _write(folder: Path, order: StaticOrder, max_tokens: int, stage: Stage) -> None:
    division = order.division
    cpu, wall = time.process_time(), time.monotonic()
    steps = static.steps(division)
    with stage("training the static model", steps) as advance, one_thread():
        model = static.train(
            order.encoder,
            division,
            max_tokens=max_tokens,
            seed=order.seed,
            advance=advance,
            teacher=order.teacher,
        )
    inside = folder / _MODEL
    inside.mkdir()
    write_encoder(
        inside,
        model.graph(),
        order.encoder.tokenizer,
        weights_sha256=order.encoder.weights_sha256,
        max_positions=None,
    )
    facts = Facts(
        labels=division.labels,
        max_tokens=max_tokens,
        seed=order.seed,
        base=BaseModelInfo(source=order.source, sha256=order.encoder.weights_sha256),
        held_out=tuple(sorted({fingerprint(row.text) for row in division.held_out})),
    )
    write_head(inside, facts, model.weight, model.bias)
    report = {
        "texts": len(division.learn),
        "held_out": len(division.held_out),
        "out_of_scope": len(division.outside),
        "steps": steps,
        "pieces": len(model.pieces),
        "of_pieces": len(model.places),
        "pairs": len(model.pairs),
        "dim": model.pieces.shape[1],
        "taught": order.teacher is not None,
    }
    (folder / _REPORT).write_text(json.dumps(report))
    took = {
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.monotonic() - wall, 1),
    }
    (folder / _MEASURED).write_text(json.dumps(took))


def _code() -> list[bytes]:
    """The code that the vectors depend on, besides its packages."""
    return [Path(__file__).with_name(f"{name}.py").read_bytes() for name in _CODE]
