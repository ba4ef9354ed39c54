"""A model without layers: vectors of pieces, and of pairs of neighbours, summed.

A text's embedding is the sum of the vectors of its pieces and of each two that stand side by side,
scaled to length 1: the order of words counts as far as pairs tell it. It takes a few dozen
microseconds where an encoder takes milliseconds. Vectors of pieces start from the encoder's word
vectors, along the directions in which these differ most, and are trained on the examples with the
head; pieces that no example has are read as the nearest that one has. A pair's vector is found by
a hash of integer operations in the graph, so that a device needs nothing but the graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgeslm.errors import RejectedError
from edgeslm.runtime.tokenizer import INPUTS, Tokenizer
from exporters.heads.base import Advance
from exporters.sources.base import OPSET, Encoder
from exporters.training.batches import pad
from exporters.training.divide import Division
from exporters.vocabulary import NoTableError, nearest, own_tokens, word_vectors

DIM: Final = 128
"""Width of the vectors. Measured on CLINC150 and BANKING77, 256 are no better."""
PAIRS: Final = 1 << 14
"""Vectors that pairs share by their hash."""
_HASH: Final = (1_000_003, 8_191, 2_147_483_647)  # of (a, b): (a * first + b * second) % third
_BATCH: Final = 32
_EPOCHS: Final = (8, 60)
_STEPS: Final = 500  # few examples are gone through more often, until there were so many
_RATE: Final = 5e-3  # falls to 0
_DROPPED: Final = 0.3  # of a text's vectors, in each step
_SCALE: Final = 16.0  # of logits, over cosines
_TEMPERATURE: Final = 2.0  # at which a teacher's logits are compared
_OWN: Final = 0.1  # weight of the labels themselves beside a teacher's logits
_TINY: Final = 1e-12
_IR: Final = 10


class NoVectorsError(RejectedError):
    """The encoder has no word vectors that a static model could begin with."""

    code = "static.no_vectors"


@dataclass(frozen=True, slots=True)
class Static:
    """A trained static model, as its graph computes it.

    Args:
        places: int32 [tokens]: which of the vectors a piece is read as.
        pieces: float32 [kept, dim].
        pairs: float32 [PAIRS, dim].
        weight: float32 [dim, labels], on embeddings of length 1.
        bias: float32 [labels].
    """

    places: NDArray[np.int32]
    pieces: NDArray[np.float32]
    pairs: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def graph(self) -> onnx.ModelProto:
        """Return its encoder: `INPUTS` without segments -> float32 [batch, sequence, dim]."""
        ids, mask = INPUTS[:2]
        first, second, modulus = _HASH
        constants = {
            "places": self.places,
            "pieces": self.pieces,
            "pairs": self.pairs,
            "axis": np.array([1]),
            "begin": np.array([0]),
            "one": np.array([1]),
            "last": np.array([-1]),
            "first": np.array(first),
            "second": np.array(second),
            "modulus": np.array(modulus),
            "buckets": np.array(len(self.pairs)),
        }
        nodes = [
            _node("Gather", ["places", ids], "at"),
            _node("Gather", ["pieces", "at"], "piece"),
            _node("Cast", ["at"], "right", to=TensorProto.INT64),
            # The piece before each; before the first, itself.
            _node("Slice", ["right", "begin", "one", "axis"], "start"),
            _node("Slice", ["right", "begin", "last", "axis"], "rest"),
            _node("Concat", ["start", "rest"], "left", axis=1),
            _node("Mul", ["left", "first"], "left_part"),
            _node("Mul", ["right", "second"], "right_part"),
            _node("Add", ["left_part", "right_part"], "both"),
            _node("Mod", ["both", "modulus"], "mixed"),
            _node("Mod", ["mixed", "buckets"], "bucket"),
            _node("Gather", ["pairs", "bucket"], "pair"),
            _node("Add", ["piece", "pair"], "hidden"),
        ]
        integers = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in (ids, mask)
        ]
        hidden = helper.make_tensor_value_info(
            "hidden", TensorProto.FLOAT, ["batch", "sequence", self.pieces.shape[1]]
        )
        graph = helper.make_graph(
            nodes,
            "static",
            integers,
            [hidden],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR)
        onnx.checker.check_model(model)
        return model


def _node(op: str, inputs: Sequence[str], output: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=f"static/{output}", **attributes)


def steps(division: Division) -> int:
    """By how much `train` advances: batches of all epochs."""
    return _epochs(len(division.learn)) * math.ceil(len(division.learn) / _BATCH)


def _epochs(texts: int) -> int:
    least, most = _EPOCHS
    return min(most, max(least, math.ceil(_STEPS * _BATCH / texts)))


def train(  # noqa: PLR0913 -- by name
    encoder: Encoder,
    division: Division,
    *,
    max_tokens: int,
    seed: int,
    advance: Advance,
    teacher: NDArray[np.float32] | None = None,
) -> Static:
    """Train on `division.learn`; what it holds out is not looked at.

    Call it in `exporters.training.network.one_thread`, for the same bytes everywhere.

    Args:
        encoder: gives tokenizer and word vectors.
        division: of the examples.
        max_tokens: where texts are cut.
        seed: of order and dropout.
        advance: moved by `steps(division)` in all.
        teacher: float32 [learn, labels], the logits to imitate; None: the labels alone are learnt.

    Raises:
        NoVectorsError: the encoder has no word vectors.
    """
    reader = Tokenizer(encoder.tokenizer, max_tokens=max_tokens)
    texts = [reader.encode(row.text)[0][INPUTS[0]][0] for row in division.learn]
    vectors = _vectors(encoder)
    kept = np.unique(np.concatenate(texts))
    kept = kept[kept < len(vectors)]
    places = nearest(vectors, kept, own_tokens(encoder))
    number = {label: i for i, label in enumerate(division.labels)}
    right = torch.tensor([number[str(row.label)] for row in division.learn])
    rows = features([places[text] for text in texts], len(kept))
    network = _Network(_start(vectors[kept]), rows, right, labels=len(division.labels))
    goal = None if teacher is None else torch.from_numpy(teacher)
    _run(network, rows, right, goal, seed=seed, advance=advance)
    table = network.table.detach().numpy()
    return Static(
        places,
        table[: len(kept)].copy(),
        table[len(kept) : len(kept) + PAIRS].copy(),
        (_SCALE * network.head.detach().numpy()).astype(np.float32),
        network.bias.detach().numpy().copy(),
    )


def _vectors(encoder: Encoder) -> NDArray[np.float32]:
    try:
        return word_vectors(encoder)
    except NoTableError:
        msg = (
            "a static model begins with its encoder's word vectors, and this one looks tokens up "
            "in no table of them, or in several. Give --model another encoder."
        )
        raise NoVectorsError(msg) from None


def _start(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return word vectors along the `DIM` directions in which they differ most, of mean length 1.

    Signs are those of the largest value of each direction: solvers choose them as they like.
    """
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:DIM]
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    short = centred @ directions.T
    short /= max(float(np.linalg.norm(short, axis=1).mean()), _TINY)
    wide = np.zeros((len(vectors), DIM), np.float32)  # of few or narrow vectors the rest is 0
    wide[:, : short.shape[1]] = short
    return wide


def features(texts: Sequence[NDArray[np.int32]], kept: int) -> Tensor:
    """Return which rows of the table each text sums, int64 [texts, 2 * longest].

    Rows are those of pieces, then of pairs; behind them is an empty one, for padding.
    """
    ids, mask = pad([text.astype(np.int64) for text in texts])
    first, second, modulus = _HASH
    left = np.concatenate([ids[:, :1], ids[:, :-1]], axis=1)
    bucket = (left * first + ids * second) % modulus % PAIRS
    rows = np.concatenate([ids, kept + bucket], axis=1)
    rows[np.concatenate([mask, mask], axis=1) == 0] = kept + PAIRS
    return torch.from_numpy(rows)


class _Network(nn.Module):
    """Scaled cosines to a vector of each label, and a bias.

    Args:
        pieces: float32 [kept, dim], to start from; pairs start at nothing.
        features: of the texts.
        right: numbers of their labels.
        labels: how many.
    """

    def __init__(
        self, pieces: NDArray[np.float32], features: Tensor, right: Tensor, *, labels: int
    ) -> None:
        super().__init__()
        table = torch.zeros(len(pieces) + PAIRS + 1, DIM)
        table[: len(pieces)] = torch.from_numpy(pieces)
        self.table = nn.Parameter(table)
        with torch.no_grad():
            texts = self.embed(features)
            means = torch.zeros(labels, DIM).index_add_(0, right, texts - texts.mean(dim=0))
        self.head = nn.Parameter(nn.functional.normalize(means, dim=1, eps=_TINY).T.contiguous())
        self.bias = nn.Parameter(torch.zeros(labels))

    def embed(self, features: Tensor) -> Tensor:
        """Return embeddings, float32 [texts, dim], of length 1."""
        empty = len(self.table) - 1
        summed = nn.functional.embedding_bag(
            features, self.table, mode="sum", padding_idx=empty, sparse=True
        )
        return nn.functional.normalize(summed, dim=1, eps=_TINY)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, float32 [texts, labels]."""
        logits: Tensor = _SCALE * (self.embed(features) @ self.head) + self.bias
        return logits


def _run(  # noqa: PLR0913 -- by name
    network: _Network,
    features: Tensor,
    right: Tensor,
    goal: Tensor | None,
    *,
    seed: int,
    advance: Advance,
) -> None:
    """Train all vectors and the head, at a rate that falls to nothing."""
    random = torch.Generator().manual_seed(seed)
    optimisers: tuple[torch.optim.Optimizer, ...] = (
        torch.optim.SparseAdam([network.table], lr=_RATE),
        torch.optim.Adam([network.head, network.bias], lr=_RATE),
    )
    epochs, count = _epochs(len(right)), len(right)
    total, step = epochs * math.ceil(count / _BATCH), 0
    empty = len(network.table) - 1
    for _ in range(epochs):
        order = torch.randperm(count, generator=random)
        for start in range(0, count, _BATCH):
            batch = order[start : start + _BATCH]
            for optimiser in optimisers:
                optimiser.param_groups[0]["lr"] = _RATE * (1 - step / total)
                optimiser.zero_grad()
            rows = features[batch]
            dropped = torch.rand(rows.shape, generator=random) < _DROPPED
            logits = network(rows.masked_fill(dropped, empty))
            loss = _loss(logits, right[batch], None if goal is None else goal[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            for optimiser in optimisers:
                optimiser.step()
            step += 1
            advance(1)


def _loss(logits: Tensor, right: Tensor, goal: Tensor | None) -> Tensor:
    """Cross-entropy to the labels and, with a teacher, mostly to what it holds likely.

    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2: gradients of soft targets shrink with the
        square of the temperature, by which they are multiplied.
    """
    own = nn.functional.cross_entropy(logits, right)
    if goal is None:
        return own
    soft = nn.functional.cross_entropy(logits / _TEMPERATURE, (goal / _TEMPERATURE).softmax(dim=1))
    return _OWN * own + _TEMPERATURE**2 * soft
